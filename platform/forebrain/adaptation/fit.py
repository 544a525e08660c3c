"""Fitting an interface to a frozen backbone, or more of the model to one animal: the loop that matters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from forebrain.accelerate import accelerate
from forebrain.adaptation.start import StartName
from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import ConfigError, DivergenceError
from forebrain.machine import torch_threads
from forebrain.models.base import Interface, LossName, Model, SessionInput, SessionTarget
from forebrain.training.optimise import CLIP_NORM, ClippedAdamW, learning_rate_at

WEIGHT_DECAY = 1e-4
ROWS = 1024
# Units x windows of a step that one thread computes alone.
ROWS_OF_ONE_THREAD = 8192
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FitConfig:
    """The optimisation.

    Attributes:
        steps: optimiser steps.
        batch_size: windows a step. None: as many as make about 1,024 rows (units x windows), 1 to 64.
        learning_rate: peak learning rate of the interface.
        backbone_learning_rate: that of whatever is trained of the backbone.
        precision: dtype of the matrix products; weights and optimiser state are always fp32.
        seed: of the order of windows, and of what is drawn at random.
        start: where the interface begins: at random, at the mean of those that the backbone was trained with,
            or where regression on the unit's own statistics points. At random where the backbone has none.
        stack: weigh the model's forecast with regressions of the recording, see `scoring.stack`; never done
            under protocol poco.
    """

    steps: int = 200
    batch_size: int | None = None
    learning_rate: float = 3e-3
    backbone_learning_rate: float = 1e-3
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    start: StartName = "regression"
    stack: bool = True

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; expected {least} or more.")
        for name in ("learning_rate", "backbone_learning_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}; expected a positive number.")

    def windows_each_step(self, num_units: int) -> int:
        """The batch size for a recording of so many units."""
        return self.batch_size or min(64, max(1, ROWS // num_units))

    def few_threads(self, num_units: int) -> AbstractContextManager[None]:
        """One thread of torch while the block lasts, where steps on so many units are small.

        More threads wait for one another after each operation, by spinning, which takes many times as long
        wherever another program wants a core.
        """
        is_small = self.windows_each_step(num_units) * num_units <= ROWS_OF_ONE_THREAD
        return torch_threads(1) if is_small else nullcontext()

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def fit_interface(
    model: Model,
    interface: Interface,
    batches: Batches,
    config: FitConfig,
    loss: LossName = "relative",
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Trains the interface, and those parameters of the backbone that require a gradient.

    Args:
        model: the backbone; its mode, which decides about dropout, is left as it is.
        interface: changed in place.
        batches: context [B, C, N] and target [B, H, N], normalised, one a step.
        config: the optimisation.
        loss: what the backbone was trained with.
        after_step: is told the number of steps done, 1 to `config.steps`.

    Raises:
        DivergenceError: the loss is not finite.
    """
    of_backbone = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model = accelerate(model, "adapt", config.compute_dtype)
    groups = (interface.parameters(), config.learning_rate), (of_backbone, config.backbone_learning_rate)
    optimiser = ClippedAdamW(groups, WEIGHT_DECAY, CLIP_NORM)
    asked = itertools.islice(batches, config.steps)
    for step, (context, frames) in zip(range(config.steps), asked, strict=True):
        entry = SessionInput(context, interface)
        target = SessionTarget.of(entry, frames, loss).averaged()
        optimiser.clear_gradients()
        mean_loss = model.loss([entry], [target])
        mean_loss.backward()
        if not math.isfinite(mean_loss.item()):
            raise DivergenceError(f"step {step}: the loss is not finite. Lower the learning rate.")
        optimiser.step(learning_rate_at(step, 1.0, config.steps))
        after_step(step + 1)


def training_batches(windows: SessionWindows, batch_size: int, seed: int) -> Batches:
    """Training windows without end, in a random order, each once before any is used again."""
    rng = np.random.default_rng(seed)
    count = windows.num_windows(0, "train")
    waiting = np.zeros(0, np.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, rng.permutation(count)])
        chosen, waiting = waiting[:batch_size], waiting[batch_size:]
        context, target, _ = windows.read(0, "train", np.sort(chosen))
        yield torch.from_numpy(np.ascontiguousarray(context)), torch.from_numpy(target)


class WindowForecaster:
    """A model with one interface, for the scorer: (session 0, context [B, C, N]) -> [B, H, N]."""

    def __init__(self, model: Model, interface: Interface, config: FitConfig) -> None:
        self.interface = interface
        self.executor = accelerate(model, "train", config.compute_dtype)

    @torch.inference_mode()
    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(np.ascontiguousarray(context))
        was_training = self.executor.training
        (forecast,) = self.executor.eval().forecast([SessionInput(frames, self.interface)])
        self.executor.train(was_training)
        return forecast.float().numpy()
