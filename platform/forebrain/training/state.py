"""The state that training changes, in its portable form; and the interfaces, which belong to no strategy.

The portable form is tensors by name, one set for the backbone and one for each session, so any number of
workers can load it:

    <parameter>                        fp32 value
    <parameter>.exp_avg, .exp_avg_sq   moments of AdamW, and .max_exp_avg_sq with amsgrad
    <parameter>.step                   times the parameter was moved
    <any of these>[a:b]                rows a to b of it, where workers share it out by rows
    <any of these>(16,48)[a:b]         elements a to b of it, flattened, where they share it out otherwise;
                                       (16,48) is the shape of the whole

A worker writes what it has into files of its own, so nothing is sent to save a checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from forebrain.errors import CheckpointError
from forebrain.models.base import Interface
from forebrain.shards.order import OwnedSession, split_edge
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import ResolvedTraining
from forebrain.training.optimise import AdamW

PortableTensors = dict[str, Tensor]
# A session's own part of the model before training, of so many units: `Model.new_interface`.
NewInterface = Callable[[int, torch.Generator], Interface]

_RANGE = re.compile(r"(?P<name>.*?)(\((?P<shape>[\d,]*)\))?\[(?P<start>\d+):(?P<stop>\d+)\]", re.DOTALL)

# Keys of an optimiser's state that are carried from run to run.
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def derived_seed(*parts: object) -> int:
    """A seed for one random stream, from anything that has a stable text."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


def initial_interface(seed: int, owned: OwnedSession, new_interface: NewInterface) -> Interface:
    """A session's interface before training, the rows of the units owned; from (seed, session) alone."""
    whole = untrained_interface(seed, owned.session.id, owned.session.num_units, new_interface)
    if owned.is_split:
        whole.unit = nn.Parameter(whole.unit.detach()[owned.units].clone())
    return whole


def untrained_interface(seed: int, session: str, num_units: int, new_interface: NewInterface) -> Interface:
    """A session's whole interface before training."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "interface", session))
    return new_interface(num_units, generator)


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
        everything = [p for named in self._parameters.values() for p in named.values()]
        self._optimiser = AdamW(everything, config.weight_decay, config.amsgrad)

    def clear_gradients(self) -> None:
        self._optimiser.clear_gradients()

    def fill_gradients(self) -> None:
        """Gives interfaces that no window read a gradient of zero, so that they decay and move too."""
        self._optimiser.fill_gradients()

    def gradients(self) -> list[Tensor]:
        return self._optimiser.gradients

    def shared_gradients(self) -> list[Tensor]:
        """Gradients [d] to be summed over the workers: those of the vectors of the split sessions that this
        step reads, the same on every worker."""
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
                whole[name].is_smooth = own.is_smooth
        return whole

    @property
    def units(self) -> dict[str, tuple[int, int]]:
        """The units [start, stop) that this worker owns of each of its sessions."""
        return {name: (owned.start, owned.stop) for name, owned in self.owned.items()}

    @property
    def split_sessions(self) -> list[str]:
        return sorted(name for name, owned in self.owned.items() if owned.is_split)

    def step(self, learning_rate: float) -> None:
        """One optimiser step; interfaces without a gradient stay as they are."""
        self._optimiser.step(learning_rate)

    def export(self) -> PortableTensors:
        """Names are `<session id>:<parameter>`. Every worker exports its copy of a split session's vector."""
        tensors: PortableTensors = {}
        for session, named in self._parameters.items():
            own = self.owned[session]
            for name, tensor in export_parameters(self._optimiser, named).items():
                is_part = own.is_split and name.startswith("unit")
                of_units = f"[{own.start}:{own.stop}]" if is_part else ""
                tensors[f"{session}:{name}{of_units}"] = tensor
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads what any number of workers exported, not yet joined; sessions of other workers, and units of
        theirs, are passed over and may be missing.

        Raises:
            CheckpointError: a session is missing, or some of its units, or has another number of units.
        """
        for session, named in self._parameters.items():
            prefix, owned = f"{session}:", self.owned[session]
            own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
            own = joined(own, (owned.start, owned.stop))
            if owned.is_split:
                num_units = owned.session.num_units
                own = {
                    name: value[owned.units]
                    if name.startswith("unit") and value.ndim and len(value) == num_units
                    else value
                    for name, value in own.items()
                }
            load_parameters(self._optimiser, named, own, f"session {session}")


def file_of(kind: Literal["backbone", "interfaces"], rank: int) -> str:
    """The name of a worker's file in a checkpoint."""
    return f"{kind}-{rank:05d}.safetensors"


def from_files(
    kind: Literal["backbone", "interfaces"], contents: Mapping[str, bytes], joins: bool = True
) -> PortableTensors:
    """The tensors of the backbone, or of interfaces, in the files of a checkpoint.

    Args:
        kind: of the two.
        contents: the files.
        joins: whether to put ranges together.

    Raises:
        CheckpointError: a range is missing.
    """
    tensors: PortableTensors = {}
    for name, data in contents.items():
        if name.startswith(kind):
            tensors |= load_tensors(data)
    return joined(tensors) if joins else tensors


def name_of_range(name: str, shape: torch.Size, start: int, count: int) -> str:
    """The portable form's name of elements [start, start + count) of a tensor of this shape, flattened."""
    return f"{name}({','.join(map(str, shape))})[{start}:{start + count}]"


def joined(tensors: Mapping[str, Tensor], rows: tuple[int, int] | None = None) -> PortableTensors:
    """Puts the ranges that several workers exported together.

    Args:
        tensors: whole ones and ranges by name.
        rows: of those that are there in ranges of rows, only these are wanted, [start, stop).

    Raises:
        CheckpointError: a range is missing.
    """
    whole: PortableTensors = {}
    ranges: dict[str, list[tuple[int, int, Tensor]]] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        found = _RANGE.fullmatch(name)
        if found is None:
            whole[name] = tensor
            continue
        ranges.setdefault(found["name"], []).append((int(found["start"]), int(found["stop"]), tensor))
        if found["shape"] is not None:
            shapes[found["name"]] = [int(size) for size in found["shape"].split(",") if size]
    for name, parts in ranges.items():
        parts.sort(key=lambda part: part[0])
        shape = shapes.get(name)
        first, last = rows or (0, parts[-1][1] if shape is None else math.prod(shape))
        wanted = [part for part in parts if part[0] < last and first < part[1]]
        starts = [max(first, start) for start, _, _ in wanted]
        stops = [min(last, stop) for _, stop, _ in wanted]
        if [first, *stops] != [*starts, last]:
            raise CheckpointError(
                f"{name}: the checkpoint holds {'rows' if shape is None else 'elements'} "
                f"{', '.join(f'{a} to {b}' for a, b, _ in parts)}; expected all of {first} to {last}. "
                "Not all workers' files are there, or they belong to another model or data set."
            )
        pieces = [
            tensor[start - offset : stop - offset] if tensor.ndim else tensor
            for start, stop, (offset, _, tensor) in zip(starts, stops, wanted, strict=True)
        ]
        together = torch.cat(pieces) if pieces[0].ndim else pieces[0]
        whole[name] = together if shape is None else together.view(shape)
    return whole


def export_parameters(optimiser: AdamW, parameters: Mapping[str, nn.Parameter]) -> PortableTensors:
    """Parameters and their moments as the portable form, on the CPU and not aliased."""
    tensors: PortableTensors = {}
    for name, parameter in parameters.items():
        tensors[name] = portable(parameter)
        for moment, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{name}.{moment}"] = portable(value)
    return tensors


def portable(value: Tensor) -> Tensor:
    """A copy on the CPU, fp32."""
    return value.detach().to("cpu", torch.float32, copy=True)


@torch.no_grad()
def load_parameters(
    optimiser: AdamW,
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
