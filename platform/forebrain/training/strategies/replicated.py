"""Every worker holds the whole backbone; its gradients are summed in one message a step (DDP).

A single process is a group of one. A backbone is small (1 M parameters, 4 MB), so one message after the
backward pass beats buckets that overlap with it, and it carries the loss and the workers' flags too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from forebrain.models.base import Model, SessionInput, SessionTarget
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import ResolvedTraining
from forebrain.training.optimise import AdamW, clip, sum_of_squares
from forebrain.training.state import (
    PortableTensors,
    export_parameters,
    load_parameters,
)
from forebrain.training.strategies.base import Strategy


class Replicated(Strategy):
    """The whole backbone on every worker; see the module. Arguments as in `build_strategy`."""

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
        # Every parameter has one, so that the message is the same on every worker.
        self._optimiser.fill_gradients()
        self._group.sum_tensors([*self._optimiser.gradients, totals])

    def step(self, learning_rate: float, clip_norm: float, besides: Tensor | None = None) -> Tensor:
        gradients = self._optimiser.gradients
        square = sum_of_squares(gradients)
        norm = (square if besides is None else square + besides).sqrt()
        clip(gradients, norm, clip_norm)
        self._optimiser.step(learning_rate)
        self._optimiser.clear_gradients()
        return norm

    def replica(self) -> Model:
        return self._executor

    def export(self) -> PortableTensors:
        return export_parameters(self._optimiser, self._parameters) if self._group.is_first else {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        load_parameters(self._optimiser, self._parameters, tensors, "backbone")
