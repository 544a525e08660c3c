"""Training on one recording: the interface alone, or more, as the mode says. The best step is kept."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from forebrain.adaptation.fit import FitConfig, WindowForecaster, fit_interface, training_batches
from forebrain.adaptation.pretrained import Pretrained
from forebrain.adaptation.recording import Prepared
from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import AdaptationError
from forebrain.models.base import Interface, Model
from forebrain.scoring.evaluate import evaluate

# The validation part is scored after some of the steps, on so many windows; on fewer of very many units.
VALIDATION_WINDOWS = 128
VALIDATION_ROWS = 500_000
EARLY_STEPS = (0, 1, 5, 20)
SCORE_EVERY = 50
Mode = Literal["embeddings", "forecaster", "full", "scratch", "none"]


def default_mode(model: Model, minutes: float | None) -> Mode:
    """What is trained where nobody says: the embeddings, if the model has any; of some minutes nothing, since
    there is too little to choose a step by."""
    return "embeddings" if minutes is None and knows_units(model) else "none"


def knows_units(model: Model) -> bool:
    """Whether the model's session interface holds anything."""
    return model.new_interface(1).unit.numel() > 0


@dataclass(frozen=True, eq=False)
class Trained:
    """A model fitted to one animal.

    Attributes:
        model, interface: as they were at the best step.
        score_by_step: (steps done, score on the validation part), in order.
        best_step: the step with the best of these scores.
        seconds: of the steps alone, without scoring.
    """

    model: Model
    interface: Interface
    score_by_step: tuple[tuple[int, float], ...]
    best_step: int
    seconds: float


def train(
    backbone: Pretrained,
    prepared: Prepared,
    mode: Mode,
    config: FitConfig,
    start: Interface | None = None,
    after_step: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains what a mode trains on a prepared recording, and keeps the step that validation likes best.

    Args:
        backbone: stays as it is, whatever the mode.
        prepared: the recording.
        mode: what is trained. `embeddings`: the interface alone. `forecaster`: also the forecaster that FiLM
            modulates. `full`: everything. `scratch`: everything, from random weights. `none`: nothing.
        config: the optimisation.
        start: the interface to begin with, changed in place; None for the backbone's own choice.
        after_step: is told the number of steps done.

    Raises:
        AdaptationError: the mode trains nothing of this model, or nothing moves in the validation part.
    """
    model = _model(backbone, mode, config.seed)
    windows = prepared.windows
    interface = start or _start(backbone, model, windows, mode, config)
    interface.is_smooth = windows.sessions[0].is_smooth
    if mode == "embeddings" and not interface.unit.numel():
        raise AdaptationError(
            f"{backbone.origin}: {model.config.title} knows nothing of single units, so there are no "
            "embeddings to fit; choose mode none or full."
        )
    limit = windows_to_score(prepared, VALIDATION_WINDOWS, VALIDATION_ROWS)
    steps = 0 if mode == "none" else config.steps
    due = {*EARLY_STEPS, *range(0, steps, SCORE_EVERY), steps}
    curve: list[tuple[int, float]] = []
    best: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
    scoring_s = 0.0

    def score_if_due(step: int) -> None:
        nonlocal best, scoring_s
        after_step(step)
        if step not in due:
            return
        began = time.perf_counter()
        score = evaluate(
            {"model": WindowForecaster(model, interface, config)},
            windows, "validation", windows_per_session=limit, seed=config.seed,
        ).summary("model").value("score")  # fmt: skip
        if steps and not math.isfinite(score):
            raise AdaptationError(
                f"session {prepared.session.id}: nothing moves in its validation part, so no step can be "
                "told to be the best. Give a longer recording, or --mode none to take no step."
            )
        if not curve or score > max(known for _, known in curve):
            best = copy.deepcopy(_trainable(model)), copy.deepcopy(interface.state_dict())
        curve.append((step, score))
        scoring_s += time.perf_counter() - began

    score_if_due(0)
    scoring_s, began = 0.0, time.perf_counter()
    torch.manual_seed(config.seed)  # dropout
    fit_interface(
        model,
        interface,
        training_batches(windows, config.windows_each_step(interface.unit.shape[0]), config.seed),
        replace(config, steps=steps),
        backbone.description.loss,
        score_if_due,
    )
    seconds = time.perf_counter() - began - scoring_s
    model.load_state_dict(best[0], strict=False)
    interface.load_state_dict(best[1])
    return Trained(model, interface, tuple(curve), max(curve, key=lambda one: one[1])[0], seconds)


def windows_to_score(prepared: Prepared, most: int, rows: int) -> int:
    """How many windows to score: `most`, or as many as make so many rows (units x windows), at least 8."""
    return max(8, min(most, rows // prepared.session.num_units))


def _start(
    backbone: Pretrained, model: Model, windows: SessionWindows, mode: Mode, config: FitConfig
) -> Interface:
    """Where the interface begins; random weights know nothing of trained interfaces."""
    num_units = windows.sessions[0].num_units
    interface = model.new_interface(num_units, torch.Generator().manual_seed(config.seed))
    if backbone.start is not None and mode != "scratch" and config.start != "random":
        # Statistics of units are those of windows.
        name = config.start if windows.num_windows(0, "train") else "mean"
        backbone.start.fill(interface, name, windows)
    return interface


def _model(backbone: Pretrained, mode: Mode, seed: int) -> Model:
    """The model that a mode begins with; parameters that it trains require a gradient."""
    if mode in ("embeddings", "none"):
        return backbone.model
    if mode == "scratch":
        torch.manual_seed(seed)
        return backbone.description.model.build().train()
    model = copy.deepcopy(backbone.model).train()
    trained = model if mode == "full" else getattr(model, "forecaster", None)
    if not isinstance(trained, torch.nn.Module):
        raise AdaptationError(
            f"{backbone.origin}: {model.config.title} has no forecaster apart from the rest; "
            "choose another mode."
        )
    trained.requires_grad_(True)
    return model


def _trainable(model: Model) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
