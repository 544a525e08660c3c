"""DeepSpeed ZeRO: workers share out the optimiser's state (1), gradients too (2), weights too (3).

DeepSpeed reduces gradients in the order in which a backward pass forms them, and trusts that to be the same
on every worker. Here workers read different sessions, so the whole backbone is one module to DeepSpeed, and
all its gradients arrive at the end of the backward pass, in one fixed order. That also lets the model read
any weight anywhere while stage 3 shares them out.
"""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from forebrain.errors import CheckpointError, ConfigError
from forebrain.models.base import Model, SessionInput, SessionTarget
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import ResolvedTraining
from forebrain.training.state import (
    PortableTensors,
    check_parameters,
    name_of_range,
    portable,
)
from forebrain.training.strategies.base import Strategy
from forebrain.training.strategies.deepspeed_config import STAGES, deepspeed_config


class Zero(Strategy):
    """Training by DeepSpeed's ZeRO; see the module. Arguments as in `build_strategy`."""

    lockstep = True

    def __init__(
        self, backbone: Model, executor: Model, config: ResolvedTraining, group: WorkerGroup
    ) -> None:
        self._group = group
        self._stage = STAGES[config.strategy]
        # Stage 3 takes the weights away between steps, so forecasts of one worker need a copy of them.
        self._replica = copy.deepcopy(executor) if self._stage == 3 else executor
        self._parameters = dict(backbone.named_parameters())
        # DeepSpeed shares out the state of one of PyTorch's own.
        self._adamw = torch.optim.AdamW(
            self._parameters.values(), weight_decay=config.weight_decay, amsgrad=config.amsgrad, fused=True
        )
        device = next(backbone.parameters()).device
        self._engine = _engine(_Whole(executor), self._adamw, deepspeed_config(config), device)
        self._names_of_moments = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if config.amsgrad else []))
        self._check(None, dict(zip(self._parameters, self._replica.parameters(), strict=True)))

    def forward(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        return self._engine(inputs, targets)

    def backward(self, error: Tensor, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(error, scale_wrt_gas=False)

    def reduce(self, totals: Tensor) -> None:
        self._group.sum_tensors([totals])

    def step(self, learning_rate: float, clip_norm: float, besides: Tensor | None = None) -> Tensor:
        assert besides is None, "the config refuses joint clipping"
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        # Infinite where it was not finite; DeepSpeed has left the step out then.
        return torch.as_tensor(self._engine.get_global_grad_norm())

    @torch.no_grad()
    def replica(self) -> Model:
        if self._stage == 3:
            weights = self._gathered(None)
            for value, parameter in zip(weights.values(), self._replica.parameters(), strict=True):
                parameter.copy_(value)
        return self._replica

    def export(self) -> PortableTensors:
        tensors: PortableTensors = {}
        states = list(self._adamw.state.values())
        for moment in (None, *(self._names_of_moments if states else ())):
            for name, (start, values) in self._own(moment).items():
                key = name if moment is None else f"{name}.{moment}"
                shape = _full_shape(self._parameters[name])
                tensors[name_of_range(key, shape, start, len(values))] = portable(values)
        if states and self._group.is_first:
            tensors |= {f"{name}.step": portable(states[0]["step"]) for name in self._parameters}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        check_parameters(
            {name: _full_shape(parameter) for name, parameter in self._parameters.items()},
            tensors,
            "backbone",
        )
        self._take_over(None, tensors)
        steps = {float(value) for name, value in tensors.items() if name.endswith(".step")}
        if len(steps) > 1:
            raise CheckpointError(
                f"backbone: the checkpoint's weights were moved {sorted(steps)} times; DeepSpeed expects one "
                "number of steps for all. Go on under training.strategy ddp."
            )
        if steps:
            self._start_moments(steps.pop())
            for moment in self._names_of_moments:
                self._take_over(moment, {name: tensors[f"{name}.{moment}"] for name in self._parameters})

    def close(self) -> None:
        import deepspeed.comm
        from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
        from deepspeed.utils import groups

        self._engine.destroy()
        # Stage 3 leaves the module here, and with it all of its own.
        FWD_MODULE_STACK.clear()
        _forget_traces()
        deepspeed.comm.destroy_process_group(groups._get_data_parallel_group())
        # Parameters and their hooks hold the group too.
        self.__dict__.clear()
        gc.collect()

    def _start_moments(self, step: float) -> None:
        """Gives the optimiser the state that its first step would have formed."""
        optimiser = self._engine.optimizer
        if self._stage == 3:
            flat_parts = optimiser.fp32_partitioned_groups_flat
        else:
            flat_parts = [part for entry in self._adamw.param_groups for part in entry["params"]]
        for part in flat_parts:
            self._adamw.state[part] = {
                "step": torch.tensor(step, device=part.device),
                **{moment: torch.zeros_like(part) for moment in self._names_of_moments},
            }
        if self._stage < 3:
            optimiser._lazy_init_hp_params_optimizer_state()

    def _own(self, moment: str | None) -> dict[str, tuple[int, Tensor]]:
        """This worker's ranges of the weights, or of a moment, by parameter.

        Returns:
            Where each begins in the flattened tensor, and its fp32 values [n], which are DeepSpeed's own.
        """
        found = {}
        for name, parameter in self._parameters.items():
            if self._stage == 3:
                part = parameter._z3_optimizer.get_local_fp32_param(parameter, moment)  # type: ignore[attr-defined]
                # Workers have as many elements each, and the last ones what fills them up.
                num_elements = _full_shape(parameter).numel()
                start = min(self._group.rank * len(part), num_elements)
                part = part[: num_elements - start]
            else:
                own = parameter._hp_mapping  # type: ignore[attr-defined]
                if own is None:
                    continue
                start, part = own.lp_fragment_address.start, own.get_hp_fragment(moment)
            if len(part):
                found[name] = start, part
        return found

    def _gathered(self, moment: str | None) -> dict[str, Tensor]:
        """The weights, or a moment, whole on every worker."""
        whole = {
            name: torch.zeros(_full_shape(each), device=each.device)
            for name, each in self._parameters.items()
        }
        for name, (start, values) in self._own(moment).items():
            whole[name].view(-1)[start : start + len(values)] = values.detach()
        # Every element is one worker's, so the sum is its value.
        self._group.sum_tensors(list(whole.values()))
        return whole

    @torch.no_grad()
    def _take_over(self, moment: str | None, tensors: Mapping[str, Tensor]) -> None:
        """Takes over this worker's ranges of the weights, or of a moment, from whole ones.

        Raises:
            CheckpointError: DeepSpeed keeps its state in another way than is expected here.
        """
        for name, (start, values) in self._own(moment).items():
            values.copy_(tensors[name].flatten()[start : start + len(values)])
            if self._stage == 3 and moment is None:
                self._parameters[name].ds_tensor[: len(values)].copy_(values)  # type: ignore[attr-defined]
        if self._stage < 3 and moment is None:
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[name])
        self._check(moment, tensors)

    def _check(self, moment: str | None, expected: Mapping[str, Tensor]) -> None:
        """Raises CheckpointError if the workers' ranges together are not what they should be."""
        for name, value in self._gathered(moment).items():
            if not torch.equal(value, expected[name].to(value.device)):
                raise CheckpointError(
                    f"backbone: {moment or 'the value'} of {name}, put together from the workers' parts, is "
                    "not what was given to DeepSpeed; this release of it keeps its state in another way. "
                    "Use training.strategy ddp or fsdp."
                )


class _Whole(nn.Module):
    """A model as one module without submodules, whose gradients all arrive together."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._names = [name for name, _ in model.named_parameters()]
        self._model = [model]  # in a list, so that it is no submodule
        for name, parameter in model.named_parameters():
            self.register_parameter(_flat(name), parameter)

    def forward(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        weights = _Together.apply(*(getattr(self, _flat(name)) for name in self._names))
        named = dict(zip(self._names, weights, strict=True))
        return functional_call(self._model[0].train(), named, (inputs, targets))


class _Together(torch.autograd.Function):
    """Tensors as they are; its backward pass runs when the gradients of all of them are whole.

    DeepSpeed averages over workers what is to be summed, so they are multiplied by the number of workers;
    here, where those of the interfaces do not pass.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient * dist.get_world_size() for gradient in gradients)


def _engine(
    module: nn.Module, optimiser: torch.optim.Optimizer, config: dict[str, Any], device: torch.device
) -> Any:
    # DeepSpeed reads these when it is first imported.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    if device.type == "cuda":
        os.environ["LOCAL_RANK"] = str(device.index or 0)
    os.environ.setdefault("LOCAL_RANK", "0")
    try:
        import deepspeed
        from deepspeed.comm.torch import TorchBackend
        from deepspeed.ops import __compatible_ops__
    except ImportError as error:
        raise ConfigError(
            "training.strategy is zero1, zero2 or zero3 and DeepSpeed is not installed; "
            "in the repository: pip install '.[cluster]'. Or use training.strategy ddp or fsdp."
        ) from error
    # It would be compiled at the start, for minutes, and a backbone's messages are too few to gain from it.
    __compatible_ops__["deepspeed_shm_comm"] = False
    for method in (TorchBackend.barrier, TorchBackend.monitored_barrier):
        # Default arguments hold the group that existed when DeepSpeed was imported, and keep its threads.
        method.__defaults__ = tuple(
            None if isinstance(each, dist.ProcessGroup) else each for each in method.__defaults__ or ()
        )
    deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False)
    check_config(config)
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimiser, config=config, dist_init_required=False
    )
    return engine


def _forget_traces() -> None:
    """Empties the cache of a method of DeepSpeed's, which keeps every engine of stage 3, and its group."""
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Traced

    cached = vars(Traced).get("_PartitionedParameterCoordinator__params_to_release")
    for cell in getattr(cached, "__closure__", None) or ():
        if hasattr(cell.cell_contents, "cache_clear"):
            cell.cell_contents.cache_clear()


def check_config(config: dict[str, Any]) -> None:
    """Raises ConfigError if DeepSpeed refuses a config."""
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig(copy.deepcopy(config))
    except (ValueError, AssertionError, TypeError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"training.deepspeed: DeepSpeed refuses it: {why}") from error


def _flat(name: str) -> str:
    return name.replace(".", "/")


def _full_shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
