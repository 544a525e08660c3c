"""Everything that training changes: backbone, interfaces, their moments, the step; and its portable form.

The portable form is tensors by name, one set for the backbone and one for each session, so any number of
workers can load it:

    <parameter>                        fp32 value
    <parameter>.exp_avg, .exp_avg_sq   moments of AdamW, and .max_exp_avg_sq with amsgrad
    <parameter>.step                   times the parameter was moved
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from forebrain.errors import CheckpointError
from forebrain.models.contract import Interface
from forebrain.models.poco import Poco
from forebrain.shards.order import OrderedSession
from forebrain.training.config import ResolvedTraining

PortableTensors = dict[str, Tensor]


def derived_seed(*parts: object) -> int:
    """A seed for one random stream, from anything that has a stable text."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


def initial_interface(seed: int, session: str, num_units: int, width: int) -> Interface:
    """A session's embeddings before training, from (seed, session) alone."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "interface", session))
    return Interface(num_units, width, generator)


class TrainingState:
    """A backbone, the interfaces of the sessions this worker owns, and their optimisers.

    Args:
        backbone: the model, already on its device.
        sessions: sessions this worker reads.
        config: the optimisation.
        seed: the run's seed.
    """

    def __init__(
        self,
        backbone: Poco,
        width: int,
        sessions: Iterable[OrderedSession],
        config: ResolvedTraining,
        seed: int,
    ) -> None:
        device = next(backbone.parameters()).device
        self.step = 0
        self.backbone = backbone
        self.interfaces = {
            session.id: initial_interface(seed, session.id, session.num_units, width).to(device)
            for session in sessions
        }
        self.backbone_parameters = dict(backbone.named_parameters())
        self.interface_parameters = {
            session: dict(interface.named_parameters()) for session, interface in self.interfaces.items()
        }
        self.backbone_optimiser = _adamw(self.backbone_parameters.values(), config)
        of_sessions = [p for named in self.interface_parameters.values() for p in named.values()]
        self.interface_optimiser = _adamw(of_sessions, config) if of_sessions else None

    @property
    def optimisers(self) -> list[torch.optim.Optimizer]:
        return [self.backbone_optimiser, *([self.interface_optimiser] if self.interface_optimiser else [])]

    def clear_gradients(self) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)

    def backbone_gradients(self) -> list[Tensor]:
        """A gradient for every parameter of the backbone, zero where no window reached it."""
        for parameter in self.backbone_parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in self.backbone_parameters.values() if p.grad is not None]

    def interface_gradients(self) -> list[Tensor]:
        return [
            p.grad
            for named in self.interface_parameters.values()
            for p in named.values()
            if p.grad is not None
        ]

    def fill_interface_gradients(self) -> None:
        """Gives interfaces that no window read a gradient of zero, so that they decay and move too."""
        for named in self.interface_parameters.values():
            for parameter in named.values():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def apply(self, learning_rate: float) -> None:
        """One optimiser step; interfaces without a gradient stay as they are."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            optimiser.step()
        self.step += 1

    def export_backbone(self) -> PortableTensors:
        return _export(self.backbone_optimiser, self.backbone_parameters)

    def export_interfaces(self) -> PortableTensors:
        """Names are `<session id>:<parameter>`."""
        tensors: PortableTensors = {}
        for session, named in self.interface_parameters.items():
            assert self.interface_optimiser is not None
            exported = _export(self.interface_optimiser, named)
            tensors |= {f"{session}:{name}": tensor for name, tensor in exported.items()}
        return tensors

    def load_backbone(self, tensors: Mapping[str, Tensor]) -> None:
        _load(self.backbone_optimiser, self.backbone_parameters, tensors, "backbone")

    def load_interfaces(self, tensors: Mapping[str, Tensor]) -> None:
        for session, named in self.interface_parameters.items():
            prefix = f"{session}:"
            own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            assert self.interface_optimiser is not None
            _load(self.interface_optimiser, named, own, f"session {session}")


def _adamw(parameters: Iterable[nn.Parameter], config: ResolvedTraining) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        list(parameters),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        amsgrad=config.amsgrad,
        fused=True,
    )


def _export(optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> PortableTensors:
    tensors: PortableTensors = {}
    for name, parameter in parameters.items():
        tensors[name] = parameter.detach().float().cpu().clone()
        for moment, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{name}.{moment}"] = value.detach().float().cpu().clone()
    return tensors


@torch.no_grad()
def _load(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    where: str,
) -> None:
    for name, parameter in parameters.items():
        stored = tensors.get(name)
        if stored is None or stored.shape != parameter.shape:
            found = "nothing" if stored is None else f"shape {tuple(stored.shape)}"
            raise CheckpointError(
                f"{where}: the checkpoint holds {found} for {name}; this model expects "
                f"{tuple(parameter.shape)}. It belongs to another model or data set."
            )
        parameter.copy_(stored)
        prefix = f"{name}."
        moments = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        moments = {key: value for key, value in moments.items() if key in _MOMENTS}
        if moments:
            optimiser.state[parameter] = {
                key: value.clone().to(parameter.device) for key, value in moments.items()
            }


_MOMENTS = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
