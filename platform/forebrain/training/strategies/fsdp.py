"""PyTorch's own sharing out of weights, gradients and optimiser state (FSDP2).

The backbone is one unit: small enough to be fetched in one message, and its weights may then be read
anywhere.
"""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from forebrain.models.base import Model, SessionInput, SessionTarget
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import ResolvedTraining
from forebrain.training.optimise import AdamW, clip, sum_of_squares
from forebrain.training.state import (
    PortableTensors,
    check_parameters,
    moments_of,
    portable,
)
from forebrain.training.strategies.base import Strategy


class FullyShared(Strategy):
    """Training by FSDP2; see the module. Arguments as in `build_strategy`."""

    lockstep = True

    def __init__(
        self, backbone: Model, executor: Model, config: ResolvedTraining, group: WorkerGroup
    ) -> None:
        self._group = group
        self._replica = copy.deepcopy(executor)
        device = next(backbone.parameters()).device.type
        self._mesh = init_device_mesh(device, (dist.get_world_size(),))
        self._executor: FSDPModule = fully_shard(executor, mesh=self._mesh)
        # Errors are summed over workers, not averaged.
        self._executor.set_gradient_divide_factor(1.0)
        self._executor.set_force_sum_reduction_for_comms(True)
        self._parameters = {name: _shared(each) for name, each in backbone.named_parameters()}
        self._optimiser = AdamW(backbone.parameters(), config.weight_decay, config.amsgrad)

    def forward(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        executor: Any = self._executor
        return executor.train()(inputs, targets)

    def backward(self, error: Tensor, is_last: bool) -> None:
        self._executor.set_requires_gradient_sync(is_last)
        error.backward()

    def reduce(self, totals: Tensor) -> None:
        self._group.sum_tensors([totals])

    def step(self, learning_rate: float, clip_norm: float, besides: Tensor | None = None) -> Tensor:
        gradients = self._own_gradients()
        square = sum_of_squares(gradients)
        self._group.sum_tensors([square])
        norm = (square if besides is None else square + besides).sqrt()
        clip(gradients, norm, clip_norm)
        self._optimiser.step(learning_rate)
        self._optimiser.clear_gradients()
        return norm

    @torch.no_grad()
    def replica(self) -> Model:
        executor: Any = self._executor
        executor.unshard()
        weights = dict(executor.named_parameters())
        for name, parameter in self._replica.named_parameters():
            parameter.copy_(weights[name])
        executor.reshard()
        return self._replica

    @torch.no_grad()
    def export(self) -> PortableTensors:
        tensors: PortableTensors = {}
        for name, parameter in self._parameters.items():
            rows, size = len(parameter), self._group.size
            # As torch.chunk shares them out.
            start = min(self._group.rank * math.ceil(rows / size), rows)
            own = f"[{start}:{start + len(parameter.to_local())}]"
            for moment, value in {"": parameter, **self._optimiser.state.get(parameter, {})}.items():
                key = f"{name}.{moment}" if moment else name
                if not isinstance(value, DTensor):
                    if self._group.is_first:
                        tensors[key] = portable(value)
                elif value.to_local().numel():
                    tensors[key + own] = portable(value.to_local())
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        check_parameters({name: each.shape for name, each in self._parameters.items()}, tensors, "backbone")
        for name, parameter in self._parameters.items():
            parameter.copy_(_shared_like(parameter, tensors[name]))
            moments = moments_of(name, tensors)
            if moments:
                self._optimiser.state[parameter] = {
                    moment: _shared_like(parameter, value)
                    if value.shape == parameter.shape
                    else value.clone()
                    for moment, value in moments.items()
                }

    def close(self) -> None:
        # DTensor's caches, which nothing empties, keep the mesh, and it would keep the group.
        getattr(self._mesh, "_pg_registry", {}).clear()
        # Parameters and their hooks hold the group too.
        self.__dict__.clear()
        gc.collect()

    def _own_gradients(self) -> list[Tensor]:
        """This worker's part of every gradient, zero where no window reached it."""
        self._optimiser.fill_gradients()
        return [_shared(each.grad).to_local() for each in self._parameters.values()]


def _shared(tensor: Tensor | None) -> DTensor:
    assert isinstance(tensor, DTensor)
    return tensor


def _shared_like(parameter: DTensor, value: Tensor) -> DTensor:
    """This worker's part of a value that every worker has."""
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
