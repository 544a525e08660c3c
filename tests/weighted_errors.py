"""What `model(inputs, targets)` must return, and targets to ask it with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forebrain.models.base import SessionInput, SessionTarget


def targets_of(inputs: Sequence[SessionInput], horizon: int) -> list[SessionTarget]:
    """Random targets and weights."""
    shapes = [(len(entry.context), horizon, entry.num_forecast) for entry in inputs]
    return [
        SessionTarget(torch.randn(shape).to(entry.context), torch.rand(shape)[:, :1].to(entry.context))
        for entry, shape in zip(inputs, shapes, strict=True)
    ]


def error_of(forecasts: Sequence[Tensor], targets: Sequence[SessionTarget]) -> Tensor:
    """Squared errors, weighted and summed."""
    errors = [
        (target.weight * (forecast.to(target.frames) - target.frames) ** 2).sum()
        for forecast, target in zip(forecasts, targets, strict=True)
    ]
    return torch.stack(errors).sum()
