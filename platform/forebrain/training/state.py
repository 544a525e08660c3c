"""What training changes, in its portable form; and the interfaces, which belong to no strategy.

The portable form is tensors by name, one set for the backbone and one for each session, so any number of
workers can load it:

    <parameter>                        fp32 value
    <parameter>.exp_avg, .exp_avg_sq   moments of AdamW, and .max_exp_avg_sq with amsgrad
    <parameter>.step                   times the parameter was moved
    <any of these>[a:b]                rows a to b of it, where the session's units are split over workers
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from forebrain.errors import CheckpointError
from forebrain.models.contract import Interface
from forebrain.shards.order import OwnedSession, split_edge
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import ResolvedTraining

PortableTensors = dict[str, Tensor]
# A session's own part of the model before training, of so many units: `Model.new_interface`.
NewInterface = Callable[[int, torch.Generator], Interface]

_RANGE = re.compile(r"(?P<name>.*)\[(?P<start>\d+):(?P<stop>\d+)\]", re.DOTALL)

# Keys of an optimiser's state that are carried from run to run.
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def derived_seed(*parts: object) -> int:
    """A seed for one random stream, from anything that has a stable text."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


def initial_interface(seed: int, owned: OwnedSession, new_interface: NewInterface) -> Interface:
    """A session's interface before training, the rows of the units owned; from (seed, session) alone."""
    session = owned.session
    generator = torch.Generator().manual_seed(derived_seed(seed, "interface", session.id))
    whole = new_interface(session.num_units, generator)
    if owned.is_split:
        whole.unit = nn.Parameter(whole.unit.detach()[owned.units].clone())
    return whole


class Interfaces:
    """The interfaces of the sessions this worker owns, and their optimiser; they never cross the network.

    Of a session that is split over the workers each has its own units' rows and a copy of the session's
    vector, whose gradient is summed over the workers.

    Args:
        sessions: what this worker owns.
        new_interface: what the model makes of a number of units.
        config: the optimisation.
        seed: the run's seed.
        device: where they live.
    """

    def __init__(
        self,
        sessions: Iterable[OwnedSession],
        new_interface: NewInterface,
        config: ResolvedTraining,
        seed: int,
        device: torch.device,
    ) -> None:
        self.owned = {owned.session.id: owned for owned in sessions}
        self.of_session = {
            session: initial_interface(seed, owned, new_interface).to(device)
            for session, owned in self.owned.items()
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

    def shared_gradients(self) -> list[Tensor]:
        """Those among the gradients that are to be summed over the workers, [d] each, for the split sessions
        that this step reads: the same ones on every worker."""
        shared = (self.of_session[name].session.grad for name in self.split_sessions)
        return [grad for grad in shared if grad is not None]

    def whole(self, group: WorkerGroup) -> dict[str, Interface]:
        """Every session's whole interface on one worker: its owner or, where it is split, each in turn.

        Collective. A worker is given 4 N d bytes for a split session of N units, of one for each worker.
        """
        whole = {name: own for name, own in self.of_session.items() if not self.owned[name].is_split}
        for number, name in enumerate(self.split_sessions):
            own, num_units = self.of_session[name], self.owned[name].session.num_units
            edges = [split_edge(num_units, rank, group.size) for rank in range(group.size + 1)]
            sizes = [stop - start for start, stop in itertools.pairwise(edges)]
            unit = group.gather_rows(own.unit.detach(), sizes, to=number % group.size)
            if unit is not None:
                whole[name] = Interface(0, unit.shape[1])
                whole[name].unit, whole[name].session = nn.Parameter(unit), own.session
        return whole

    @property
    def split_sessions(self) -> list[str]:
        return sorted(name for name, owned in self.owned.items() if owned.is_split)

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
            own = self.owned[session]
            for name, tensor in export_parameters(self._optimiser, named).items():
                if not own.is_split:
                    tensors[f"{session}:{name}"] = tensor
                elif name.startswith("unit"):
                    tensors[f"{session}:{name}[{own.start}:{own.stop}]"] = tensor
                elif own.start == 0:  # the copies are equal
                    tensors[f"{session}:{name}"] = tensor
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads what any number of workers exported, joined; sessions of other workers are passed over.

        Raises:
            CheckpointError: a session is missing, or has another number of units.
        """
        for session, named in self._parameters.items():
            prefix, owned = f"{session}:", self.owned[session]
            own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            if owned.is_split:
                if "unit" in own and len(own["unit"]) != owned.session.num_units:
                    raise CheckpointError(
                        f"session {session}: the checkpoint holds {len(own['unit'])} units; expected "
                        f"{owned.session.num_units}. It belongs to another data set."
                    )
                own = {
                    name: value[owned.units] if name.startswith("unit") and value.ndim else value
                    for name, value in own.items()
                }
            assert self._optimiser is not None
            load_parameters(self._optimiser, named, own, f"session {session}")


def joined(tensors: Mapping[str, Tensor]) -> PortableTensors:
    """Puts the ranges `<name>[a:b]` that several workers exported together.

    Raises:
        CheckpointError: a range is missing.
    """
    whole: PortableTensors = {}
    ranges: dict[str, list[tuple[int, int, Tensor]]] = {}
    for name, tensor in tensors.items():
        found = _RANGE.fullmatch(name)
        if found is None:
            whole[name] = tensor
        else:
            ranges.setdefault(found["name"], []).append((int(found["start"]), int(found["stop"]), tensor))
    for name, parts in ranges.items():
        parts.sort(key=lambda part: part[0])
        starts, stops, pieces = zip(*parts, strict=True)
        if starts != (0, *stops[:-1]):
            raise CheckpointError(
                f"{name}: the checkpoint holds rows {', '.join(f'{a} to {b}' for a, b, _ in parts)}, with "
                "others missing; not all workers' files are there."
            )
        whole[name] = torch.cat(pieces) if pieces[0].ndim else pieces[0]
    return whole


def adamw(parameters: Iterable[nn.Parameter], config: ResolvedTraining) -> torch.optim.AdamW:
    """The optimiser of backbones and interfaces."""
    return torch.optim.AdamW(
        [{"params": list(parameters)}],  # a group, because there may be none
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
