"""What training changes, in its portable form; and the interfaces, which belong to no strategy.

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
from forebrain.shards.order import OrderedSession
from forebrain.training.config import ResolvedTraining

PortableTensors = dict[str, Tensor]


# Keys of an optimiser's state that are carried from run to run.
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def derived_seed(*parts: object) -> int:
    """A seed for one random stream, from anything that has a stable text."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


def initial_interface(seed: int, session: str, num_units: int, width: int) -> Interface:
    """A session's embeddings before training, from (seed, session) alone."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "interface", session))
    return Interface(num_units, width, generator)


class Interfaces:
    """The embeddings of the sessions this worker owns, and their optimiser; they never cross the network.

    Args:
        sessions: sessions this worker reads.
        width: of the embeddings.
        config: the optimisation.
        seed: the run's seed.
        device: where they live.
    """

    def __init__(
        self,
        sessions: Iterable[OrderedSession],
        width: int,
        config: ResolvedTraining,
        seed: int,
        device: torch.device,
    ) -> None:
        self.of_session = {
            session.id: initial_interface(seed, session.id, session.num_units, width).to(device)
            for session in sessions
        }
        self._parameters = {
            session: dict(interface.named_parameters()) for session, interface in self.of_session.items()
        }
        self._all = [p for named in self._parameters.values() for p in named.values()]
        self._optimiser = adamw(self._all, config) if self._all else None

    def clear_gradients(self) -> None:
        for parameter in self._all:
            parameter.grad = None

    def fill_gradients(self) -> None:
        """Gives interfaces that no window read a gradient of zero, so that they decay and move too."""
        for parameter in self._all:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self._all if p.grad is not None]

    def step(self, learning_rate: float) -> None:
        """One optimiser step; interfaces without a gradient stay as they are."""
        if self._optimiser is not None:
            set_learning_rate(self._optimiser, learning_rate)
            self._optimiser.step()

    def export(self) -> PortableTensors:
        """Names are `<session id>:<parameter>`."""
        tensors: PortableTensors = {}
        for session, named in self._parameters.items():
            assert self._optimiser is not None
            exported = export_parameters(self._optimiser, named)
            tensors |= {f"{session}:{name}": tensor for name, tensor in exported.items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads what any number of workers exported; sessions of other workers are passed over."""
        for session, named in self._parameters.items():
            prefix = f"{session}:"
            own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            assert self._optimiser is not None
            load_parameters(self._optimiser, named, own, f"session {session}")


def adamw(parameters: Iterable[nn.Parameter], config: ResolvedTraining) -> torch.optim.AdamW:
    """The optimiser of backbones and interfaces."""
    return torch.optim.AdamW(
        list(parameters),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        amsgrad=config.amsgrad,
        fused=True,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = learning_rate


def export_parameters(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> PortableTensors:
    """Parameters and their moments as the portable form, on the CPU and not aliased."""
    tensors: PortableTensors = {}
    for name, parameter in parameters.items():
        tensors[name] = parameter.detach().float().cpu().clone()
        for moment, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{name}.{moment}"] = value.detach().float().cpu().clone()
    return tensors


@torch.no_grad()
def load_parameters(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    where: str,
) -> None:
    """Sets parameters and moments from the portable form.

    Raises:
        CheckpointError: a parameter is missing or has another shape.
    """
    check_parameters({name: parameter.shape for name, parameter in parameters.items()}, tensors, where)
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
        moments = moments_of(name, tensors)
        if moments:
            optimiser.state[parameter] = {
                key: value.clone().to(parameter.device) for key, value in moments.items()
            }


def check_parameters(shapes: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises CheckpointError if a parameter is missing in the portable form or has another shape there."""
    for name, shape in shapes.items():
        stored = tensors.get(name)
        if stored is None or stored.shape != shape:
            found = "nothing" if stored is None else f"shape {tuple(stored.shape)}"
            raise CheckpointError(
                f"{where}: the checkpoint holds {found} for {name}; this model expects "
                f"{tuple(shape)}. It belongs to another model or data set."
            )


def moments_of(name: str, tensors: Mapping[str, Tensor]) -> PortableTensors:
    """A parameter's optimiser state in the portable form; empty before the first step."""
    found = {moment: tensors.get(f"{name}.{moment}") for moment in MOMENTS}
    return {moment: value for moment, value in found.items() if value is not None}
