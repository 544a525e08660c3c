"""Every worker holds the whole backbone; its gradients are summed in one message a step (DDP).

A single process is a group of one. A backbone is small (1 M parameters, 4 MB), so one message after the
backward pass beats buckets that overlap with it, and it carries the loss and the workers' flags too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from forebrain.models.base import Model, SessionInput, SessionTarget
from forebrain.training.adamw import AdamW
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import ResolvedTraining
from forebrain.training.state import (
    PortableTensors,
    export_parameters,
    load_parameters,
)
from forebrain.training.strategies.base import Strategy


class Replicated(Strategy):
    """See the module; arguments as in `build_strategy`."""

    def __init__(
        self, backbone: Model, executor: Model, config: ResolvedTraining, group: WorkerGroup
    ) -> None:
        self._executor, self._group = executor, group
        self._parameters = dict(backbone.named_parameters())
        self._optimiser = AdamW(self._parameters.values(), config.weight_decay, config.amsgrad)

    def forward(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        return self._executor.train().loss(inputs, targets)

    def backward(self, error: Tensor, is_last: bool) -> None:
        if error.requires_grad:  # else there is nothing to train, as in copy
            error.backward()

    def reduce(self, totals: Tensor) -> None:
        self._group.sum_tensors([*self._gradients(), totals])

    def step(self, learning_rate: float, clip_norm: float, besides: Tensor | None = None) -> Tensor:
        gradients = self._gradients()
        square = sum_of_squares(gradients)
        norm = (square if besides is None else square + besides).sqrt()
        if gradients:
            torch._foreach_mul_(gradients, clip_factor(norm, clip_norm))
        self._optimiser.step(learning_rate)
        self._optimiser.clear_gradients()
        return norm

    def replica(self) -> Model:
        return self._executor

    def export(self) -> PortableTensors:
        return export_parameters(self._optimiser, self._parameters) if self._group.is_first else {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        load_parameters(self._optimiser, self._parameters, tensors, "backbone")

    def _gradients(self) -> list[Tensor]:
        """A gradient for every parameter, zero where no window reached it."""
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in self._parameters.values() if p.grad is not None]


def sum_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Over all values of all tensors, a scalar."""
    if not tensors:  # of a model that belongs to sessions altogether
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(list(tensors))).square().sum()


def clip_factor(norm: Tensor, clip_norm: float) -> Tensor:
    """What gradients of this norm are multiplied with so that it is at most `clip_norm`."""
    return (clip_norm / (norm + 1e-6)).clamp(max=1.0)
