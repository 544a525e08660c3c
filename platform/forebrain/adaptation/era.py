"""The rival that a program search for ZAPBench found: a shared perceptron of each unit with one pooled state.

It reads a unit's past relative to its last frame, the mean and deviation of that window, who the unit is (its
loadings on the recording's principal components) and one vector that pools the whole population, and
forecasts how far the unit goes from its last frame. It is trained from scratch on one recording, by absolute
errors.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import DivergenceError
from forebrain.scoring.evaluate import evaluate
from forebrain.scoring.ridge import principal_components

NUM_LOADINGS = 16
HIDDEN = 256
STATE = 16
WEIGHT_DECAY = 1e-4
VALIDATION_WINDOWS = 128


class Era(nn.Module):
    """f[n] = last[n] + W2 ReLU(W1 [past[n] - last[n], mean[n], deviation[n], loadings[n], state]).

    The state is the mean over units of ReLU(W3 [past[n] - last[n], loadings[n]]).

    Args:
        context, horizon: C and H, frames.
        loadings: float32 [N, k], of the recording's units.
    """

    loadings: Tensor

    def __init__(self, context: int, horizon: int, loadings: Tensor) -> None:
        super().__init__()
        num_loadings = loadings.shape[1]
        # Loadings of unit length are small in large populations; here a typical one is 1.
        self.register_buffer("loadings", loadings * len(loadings) ** 0.5)
        self.state = nn.Linear(context + num_loadings, STATE)
        self.hidden = nn.Linear(context + 2 + num_loadings + STATE, HIDDEN)
        self.out = nn.Linear(HIDDEN, horizon)

    def forward(self, context: Tensor) -> Tensor:
        """Forecasts [B, H, N] from contexts [B, C, N]."""
        last = context[:, -1:]
        past = (context - last).mT  # [B, N, C]
        who = self.loadings.expand(len(context), -1, -1)
        state = torch.relu(self.state(torch.cat([past, who], dim=2))).mean(dim=1, keepdim=True)
        moments = torch.stack([context.mean(dim=1), context.std(dim=1, correction=0)], dim=2)
        features = torch.cat([past, moments, who, state.expand(-1, past.shape[1], -1)], dim=2)
        departure: Tensor = self.out(torch.relu(self.hidden(features))).mT
        return last + departure


@dataclass(frozen=True, eq=False)
class FittedEra:
    """A trained Era, for the scorer: (session 0, context [B, C, N]) -> forecast [B, H, N].

    Attributes:
        model: at its best step.
        score_by_step: (steps done, score on the validation part), in order.
    """

    model: Era
    score_by_step: tuple[tuple[int, float], ...]

    @torch.inference_mode()
    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        forecast: np.ndarray = self.model(torch.from_numpy(np.ascontiguousarray(context))).numpy()
        return forecast


def fit_era(
    windows: SessionWindows,
    steps: int = 400,
    rows: int = 2048,
    learning_rate: float = 1e-3,
    score_every: int = 50,
    seed: int = 0,
) -> FittedEra:
    """Trains on the training part of one recording, and keeps the step that the validation part likes best.

    Args:
        windows: of the recording.
        steps: optimiser steps.
        rows: units x windows of a step.
        learning_rate: peak; falls by a cosine to a tenth.
        score_every: steps between scores on the validation part.
        seed: of the weights and the order of windows.

    Raises:
        DivergenceError: the loss is not finite.
    """
    loadings = torch.from_numpy(principal_components(windows, count=NUM_LOADINGS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Era(windows.context, windows.horizon, loadings)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng(seed)
    batch_size = max(1, rows // windows.sessions[0].num_units)
    curve: list[tuple[int, float]] = []
    best = copy.deepcopy(model.state_dict())
    for step in range(steps + 1):
        if step % score_every == 0 or step == steps:
            evaluation = evaluate(
                {"era": FittedEra(model, ())},
                windows,
                "validation",
                windows_per_session=VALIDATION_WINDOWS,
                seed=seed,
            )
            score = evaluation.summary("era").value("score")
            if not curve or score > max(known for _, known in curve):
                best = copy.deepcopy(model.state_dict())
            curve.append((step, score))
        if step == steps:
            break
        chosen = np.sort(rng.integers(windows.num_windows(0, "train"), size=batch_size))
        context, target, _ = windows.read(0, "train", chosen)
        forecast = model(torch.from_numpy(np.ascontiguousarray(context)))
        loss = nn.functional.l1_loss(forecast, torch.from_numpy(np.ascontiguousarray(target)))
        if not math.isfinite(loss.item()):
            raise DivergenceError(f"era, step {step}: the loss is not finite. Lower the learning rate.")
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        optimiser.step()
    model.load_state_dict(best)
    return FittedEra(model.eval().requires_grad_(False), tuple(curve))
