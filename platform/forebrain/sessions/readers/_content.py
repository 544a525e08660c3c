"""The content of a file of arrays, and the sessions it makes: one set of rules for every format of arrays.

A reader lists the arrays of its file by name, as `Content`. Here one of them is chosen, its axes are told,
clocks among its columns are left out, and rate and frame times are looked for where they belong to it.

Arrays are named by their path, for example `data/traces`. Cells of a MATLAB file, and elements of its struct
arrays, share the path of what holds them: a path has one part, or as many as there are cells. The parts of a
path make traces in one of these ways:

- one matrix; an array of more axes, where names, lengths or the sidecar tell what they count;
- vectors of one length: one for each unit;
- matrices that agree in their number of units: trials, joined as segments;
- cells in rows and columns, whose axes the sidecar tells;
- vectors of times, one for each unit, where the sidecar states `bin_s`: counted in bins.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.clock import read_clock
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._common import (
    MIN_FRAMES,
    choose_frames_axis,
    could_be_traces,
    make_session,
)
from forebrain.sessions.readers._inputs import MAX_COLUMNS, Channel, EventTable, FrameSpans, with_channels
from forebrain.sessions.readers._names import (
    Role,
    depends_on_animal,
    is_stimulus,
    rank_of,
    role_of,
    words_of,
)
from forebrain.sessions.readers._selected import SelectedFrames, loaded_if_small
from forebrain.sessions.readers._spikes import ask_bin, binned
from forebrain.sessions.readers._time import (
    SECONDS_PER,
    chosen_rate,
    distance,
    ramps_in,
    rate_factor,
    rates_for,
    seconds,
    unit_in_name,
    unit_of,
)
from forebrain.sessions.repair import MAX_RATE_ERROR
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

_NUM_LISTED = 20
_LOOKED_AT_BYTES = 32 << 20  # of the first frames, in which clocks are looked for
_FRAMES_LOOKED_AT = 2048
_DIMENSIONS = {
    "frames": {"frame", "frames", "time", "t", "sample", "samples", "timepoints", "times", "num_times"},
    "units": {
        "unit",
        "units",
        "unit_id",
        "cell",
        "cells",
        "neuron",
        "neurons",
        "roi",
        "rois",
        "unit_ids",
        "num_rois",
    },
    "trials": {"trial", "trials", "repeat", "repeats", "repetition"},
    "sessions": {"session", "sessions", "day", "days"},
}
_ACCEPTED = {"iscell", "is_cell", "accepted", "cell_accepted", "isaccepted", "is_accepted", "goodcells"}


FieldOf = Callable[[int, int], Any]  # of a session's numbers of frames and units


@dataclass(frozen=True)
class StoredArray:
    """An array of a file, read when it is asked for.

    Attributes:
        shape: as the format's users see it.
        load: gives the array in that shape.
        frames: gives frames [T, N] by the axis of a matrix that counts them; lazily, where the file can.
        dims: names of the axes, where the format has them.
        attrs: what is said of the array, such as `units`.
    """

    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    frames: Callable[[int], FrameSource]
    dims: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def in_memory(cls, shape: Sequence[int], load: Callable[[], np.ndarray], **more: Any) -> StoredArray:
        return cls(tuple(shape), load, lambda frames_axis: load().T if frames_axis == 1 else load(), **more)

    @property
    def is_vector(self) -> bool:
        return len(self.shape) == 1 or (len(self.shape) == 2 and min(self.shape) <= 1)

    @property
    def is_empty(self) -> bool:
        return 0 in self.shape


@dataclass
class Content:
    """All that a file holds.

    Attributes:
        arrays: by name, the numeric array, or the arrays of the cells or struct elements of that name.
        cells: shape of the cell array a name stands for, where it has rows and columns.
        numbers: single numbers by name, attributes among them, in which rates are looked for.
        texts: lists of text by name, which may name the units.
        unreadable: what else there is by name, and why it cannot be read.
        is_one_table: whether the format holds one table, of any size, rather than a file of many things.
        notes: of the reader, for the metadata of each session.
        roles: what arrays are, where something else than their names says so.
    """

    arrays: dict[str, list[StoredArray]] = field(default_factory=dict)
    cells: dict[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    is_one_table: bool = False
    notes: dict[str, str] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)

    def role(self, name: str) -> Role:
        """The role of an array, as far as names tell."""
        return self.roles.get(name) or role_of(name)

    def add(self, name: str, array: StoredArray) -> None:
        self.arrays.setdefault(name, []).append(array)


def sessions_of(
    content: Content,
    path: Path,
    sidecar: Sidecar,
    *,
    named_by: Path | None = None,
    signals: Mapping[str, str] | None = None,
    fallback_signal: bool = True,
    fields_of: Mapping[str, FieldOf] | None = None,
) -> list[Session]:
    """The sessions that the arrays of a file make.

    Args:
        named_by: the path whose name is the recording's, where it is not `path`.
        signals: what the arrays of some names are.
        fallback_signal: whether another array's signal is its name.
        fields_of: of each session, further fields as functions of its number of frames and units.

    Raises:
        RecordingError: no arrays could be traces.
        RecordingQuestion: the sidecar must choose or tell more.
    """
    if sidecar.variable is not None:
        sidecar = replace(sidecar, variable=sidecar.variable.strip("/").replace(".", "/"))
    if sidecar.bin_s is not None and (events := _events(content, sidecar)):
        return [_binned(content, events, path, sidecar)]
    name = choose(content, path, sidecar)
    notes = {"variable": name, **content.notes, **_others(content, name)}
    signal = (signals or {}).get(name, name.rpartition("/")[2] if fallback_signal else "")
    found = _arranged(content, name, path, sidecar, notes)
    sessions = []
    for number, (traces, segment_ids) in enumerate(found):
        num_frames, num_units = traces.shape
        fields = {key: value(num_frames, num_units) for key, value in (fields_of or {}).items()}
        said = {**notes, **content.notes}
        identity_found = fields.pop("identity_found", None)
        traces, kept = _without_others(content, name, traces, path, said)
        if "unit_names" not in fields:
            fields["unit_names"] = _unit_names(content, name, num_units)
        for key in ("unit_names", "unit_positions"):
            if kept is not None and fields.get(key) is not None:
                fields[key] = _only(fields[key], kept)
        time_s = fields.pop("time_s", None)
        if time_s is None:
            time_s = _frame_times(content, name, num_frames, path, sidecar, said)
        rate_hz = _rate(content, name, num_frames, time_s, path, sidecar, said)
        session = make_session(
            named_by or path,
            sidecar,
            traces,
            rate_hz=rate_hz,
            signal=signal,
            identity_found=identity_found,
            metadata=said,
            time_s=time_s,
            segment_ids=segment_ids,
            **fields,
        )
        if len(found) == 1:
            session = with_channels(session, _inputs(content, name, num_frames))
            session = with_channels(session, _timed_inputs(content, name, session))
        if "subjects" in (sidecar.axes or ()):
            suffix = str(number + 1)
            session = replace(session, subject=session.subject + suffix, session=session.session + suffix)
        elif len(found) > 1:
            session = replace(session, session=f"{session.session}_{number + 1}")
        sessions.append(session)
    return sessions


def _only(values: Any, kept: np.ndarray) -> Any:
    return values[kept] if isinstance(values, np.ndarray) else tuple(values[unit] for unit in kept)


# Choosing an array.


def choose(content: Content, path: Path, sidecar: Sidecar) -> str:
    """Name of the array to read: the sidecar's `variable`, else the one that is likelier than all others.

    An array whose name says neural activity is likelier than one whose name says nothing; behaviour, clocks,
    statistics and the helper arrays of known tools are never taken unless the sidecar names them.

    Raises:
        RecordingError: there is none.
        RecordingQuestion: several are as likely.
    """
    if sidecar.variable is not None:
        return _named(content, sidecar.variable, path)
    candidates = {name: shape for name in content.arrays if (shape := shape_of(content, name))}
    if not (content.is_one_table and len(content.arrays) == 1):
        candidates = {name: shape for name, shape in candidates.items() if _is_large(shape)}
    active = [name for name in candidates if content.role(name) == "activity"]
    unnamed = [
        name
        for name in candidates
        if content.role(name) in ("unknown", "counter") and not _is_images(candidates[name])
    ]
    is_square = {name for name, shape in candidates.items() if len(set(shape)) == 1}  # rather correlations
    if not active:
        _refuse_unlikelier(content, candidates, path)
    likely = [name for name in active if name not in is_square]
    likely = likely or [name for name in unnamed if name not in is_square] or active + unnamed
    for rank in (0, 1, 2, 3):
        of_rank = [name for name in likely if rank_of(name) == rank]
        if len(of_rank) == 1 and (len(likely) == 1 or (rank < 2 and of_rank[0] not in is_square)):
            neuropil = f"{of_rank[0]}neu"
            if of_rank[0].rpartition("/")[2] == "F" and neuropil in content.arrays:
                likely = [of_rank[0], neuropil]
                candidates.setdefault(neuropil, shape_of(content, neuropil) or ())
                break
            return of_rank[0]
    if likely:
        listed = ", ".join(f"{name} {candidates[name]}" for name in likely[:_NUM_LISTED])
        raise RecordingQuestion(
            f"{path}: several arrays could be the traces: {listed}. Name one as variable in the sidecar.",
            {"variable": likely},
        )
    if events := _events(content, sidecar):
        name = next((name for name in events if content.role(name) == "activity"), next(iter(events)))
        ask_bin(path, name, sum(not part.is_empty for part in content.arrays[name]))
    raise RecordingError(_none(content, path))


def _refuse_unlikelier(content: Content, candidates: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Refuses to take an unnamed array where one that is called like activity cannot be read or is too
    small."""
    unread = [f"{name} {why}" for name, why in content.unreadable.items() if content.role(name) == "activity"]
    if unread and candidates:
        raise RecordingError(
            f"{path}: {'; '.join(unread[:6])}. It is called like activity, so no other array is taken in its "
            f"place; "
            "if another one is meant, name it as variable in the sidecar."
        )
    small = {
        name: shape
        for name, parts in content.arrays.items()
        if content.role(name) == "activity" and name not in candidates
        if (shape := shape_of(content, name) or parts[0].shape) and int(np.prod(shape)) > 1
    }
    unnamed = [name for name in candidates if content.role(name) in ("unknown", "counter")]
    if small and unnamed:
        listed = ", ".join(f"{name} {shape}" for name, shape in small.items())
        raise RecordingQuestion(
            f"{path}: {listed} is called like activity but is no matrix of frames and units; "
            f"{', '.join(unnamed)} may "
            "be one. Name the traces as variable in the sidecar.",
            {"variable": [*unnamed, *small]},
        )


def _named(content: Content, wanted: str, path: Path) -> str:
    """The array the sidecar names: its path, or its last part where that is one array's only."""
    if wanted in content.arrays:
        return wanted
    if wanted in content.unreadable:
        raise RecordingError(f"{path}: {wanted} (the sidecar's variable) {content.unreadable[wanted]}.")
    ending = [name for name in content.arrays if name.endswith(f"/{wanted}")]
    if len(ending) == 1:
        return ending[0]
    there = {name: shape for name in content.arrays if (shape := shape_of(content, name))}
    listed = ", ".join(f"{name} {shape}" for name, shape in list(there.items())[:_NUM_LISTED])
    raise RecordingQuestion(
        f"{path}: no numeric array is called {wanted} (the sidecar's variable); it holds {listed or 'none'}.",
        {"variable": [name for name, shape in there.items() if _is_large(shape)]},
    )


def _none(content: Content, path: Path) -> str:
    """The message that nothing in a file could be traces, and what there is instead."""
    roles: dict[str, list[str]] = {}
    for name in content.arrays:
        shape = shape_of(content, name)
        if shape and _is_large(shape):
            roles.setdefault(_WORDS[content.role(name)], []).append(f"{name} {shape}")
        elif len(content.arrays[name]) == 1 and len(content.arrays[name][0].shape) == 1:
            roles.setdefault("arrays of one axis", []).append(f"{name} {content.arrays[name][0].shape}")
    told = [f"{', '.join(names[:6])} ({role})" for role, names in roles.items()]
    told += [f"{name} {why}" for name, why in list(content.unreadable.items())[:6]]
    return (
        f"{path}: holds no numeric array of two axes that could be traces"
        f"{'; there are ' + '; '.join(told) if told else ''}. If one of the arrays is the traces all the "
        f"same, name "
        "it as variable in the sidecar; else export the traces as a matrix."
    )


_WORDS = {
    "behaviour": "behaviour or stimulus, by the name",
    "clock": "times, by the name",
    "counter": "unnamed",
    "helper": "a helper array or statistic, by the name",
    "activity": "activity",
    "unknown": "unnamed",
}


def _others(content: Content, chosen: str) -> dict[str, str]:
    """The note of what else lies in the file that could be of interest; empty where nothing does."""
    found = []
    for name in content.arrays:
        shape = shape_of(content, name)
        if name != chosen and shape and _is_large(shape):
            found.append(f"{name} {shape}: {_WORDS[content.role(name)]}")
    return {"also_in_the_file": "; ".join(found[:_NUM_LISTED])} if found else {}


def _is_images(shape: tuple[int, ...]) -> bool:
    """Whether an array is rather a stack of pictures: of three axes or more, the two longest of one
    length."""
    return len(shape) > 2 and sorted(shape)[-1] == sorted(shape)[-2]


def _is_large(shape: tuple[int, ...]) -> bool:
    if len(shape) == 2:
        return could_be_traces(shape)
    return len(shape) in (3, 4) and max(shape) >= MIN_FRAMES and sorted(shape)[-2] > 1


def shape_of(content: Content, name: str) -> tuple[int, ...] | None:
    """Shape of the traces that the arrays of one name make, axes as stored; None if they make none."""
    parts = [part for part in content.arrays[name] if not part.is_empty]
    if not parts:
        return None
    if len(content.arrays[name]) == 1:
        return parts[0].shape if len(parts[0].shape) > 1 else None
    cells = content.cells.get(name, ())
    if len(cells) > 1:
        lengths = {len(part.shape) for part in parts}
        if len(lengths) > 1:
            return None
        inner = (max(max(part.shape) for part in parts),) if parts[0].is_vector else parts[0].shape
        return (*cells, *inner)
    if any(len(part.shape) != 2 for part in parts):
        same = {part.shape for part in parts}
        return (len(parts), *same.pop()) if len(same) == 1 and len(parts[0].shape) < 4 else None
    if all(part.is_vector for part in parts):
        lengths = {max(part.shape) for part in parts}
        return (len(parts), lengths.pop()) if len(lengths) == 1 else None
    rows, columns = {part.shape[0] for part in parts}, {part.shape[1] for part in parts}
    if len(rows) == 1:
        return rows.pop(), sum(part.shape[1] for part in parts)
    if len(columns) == 1:
        return sum(part.shape[0] for part in parts), columns.pop()
    return (len(parts), *parts[0].shape)  # sessions of other units and frames each


# Telling axes.

Arranged = list[
    tuple[FrameSource, np.ndarray | None]
]  # of each session its traces [T, N] and segment ids [T]


def _arranged(content: Content, name: str, path: Path, sidecar: Sidecar, notes: dict[str, str]) -> Arranged:
    parts = content.arrays[name]
    empty = [number + 1 for number, part in enumerate(parts) if part.is_empty]
    if empty and len(parts) > 1 and len(content.cells.get(name, ())) < 2:
        parts = [part for part in parts if not part.is_empty]
        notes["cells_left_out"] = f"cells {', '.join(map(str, empty))} of {name} are empty and were left out"
    cells = content.cells.get(name, ()) or ((len(parts),) if len(parts) > 1 else ())
    num_axes = len(cells) + (1 if parts[0].is_vector and cells else len(parts[0].shape))
    if sidecar.axes is not None and (cells or len(sidecar.axes) != 2):
        if len(sidecar.axes) != num_axes:
            raise RecordingError(
                f"{path}: the sidecar's axes are {list(sidecar.axes)}, but {name} has {num_axes} axes, "
                f"{_sizes(cells, parts)}; expected as many names."
            )
        notes["axis_from"] = "the sidecar"
        said = tuple("sessions" if axis == "subjects" else axis for axis in sidecar.axes)
        return _by_axes(parts, cells, said, path)
    if num_axes == 2 and not cells:
        return [(_matrix(content, name, parts[0], path, sidecar, notes), None)]
    if not cells:
        axes = _axes_by_dims(parts[0])
        if axes is None:
            _ask_axes(path, name, cells, parts)
        notes["axis_from"] = f"the names of the axes: {', '.join(parts[0].dims)}"
        return _by_axes(parts, cells, axes, path)
    if len(cells) > 1 or any(len(part.shape) > 2 for part in parts):
        _ask_axes(path, name, cells, parts)
    if all(part.is_vector for part in parts):
        notes["axis_from"] = "the cells: a vector for each unit"
        return [(np.stack([part.load().ravel() for part in parts], axis=1), None)]
    return [_joined(parts, name, path, sidecar, notes)]


def _matrix(
    content: Content, name: str, part: StoredArray, path: Path, sidecar: Sidecar, notes: dict[str, str]
) -> FrameSource:
    """One matrix as [T, N]: by the names of its axes, else by what lies beside it, else by its lengths."""
    frames_axis = None
    if sidecar.frames_axis is None and sidecar.axes is None:
        if (axes := _axes_by_dims(part)) is not None:
            frames_axis = axes.index("frames")
            notes["axis_from"] = f"the names of the axes: {', '.join(part.dims)}"
        elif part.shape[0] != part.shape[1]:
            fitting = {
                axis
                for axis in (0, 1)
                for clock in _clocks(content, name)
                if content.arrays[clock][0].shape and max(content.arrays[clock][0].shape) == part.shape[axis]
            }
            names = [
                texts
                for other, texts in content.texts.items()
                if distance(other, name) == 0 and len(texts) > 1
            ]
            fitting |= {1 - axis for axis in (0, 1) for texts in names if len(texts) == part.shape[axis]}
            if len(fitting) == 1:
                frames_axis = fitting.pop()
                notes["axis_from"] = "the lengths of what lies beside it (frame times, or names of units)"
    if frames_axis is None:
        frames_axis = choose_frames_axis(part.shape, path, sidecar, notes)
    return part.frames(frames_axis)


def _axes_by_dims(part: StoredArray) -> tuple[str, ...] | None:
    """The thing that each axis counts, told by its name; None unless all are told."""
    axes = []
    for dim in part.dims:
        found = [axis for axis, names in _DIMENSIONS.items() if dim.lower() in names]
        axes.append(found[0] if found else "")
    if len(axes) == 2 and axes.count("") == 1 and len(set(axes) & {"frames", "units"}) == 1:
        axes = ["units" if axis == "" and "frames" in axes else axis or "frames" for axis in axes]
    told = len(axes) == len(part.shape) and len(set(axes)) == len(axes)
    return tuple(axes) if told and {"units", "frames"} <= set(axes) and "" not in axes else None


def _sizes(cells: tuple[int, ...], parts: Sequence[StoredArray]) -> str:
    inner = (max(parts[0].shape),) if parts[0].is_vector and cells else parts[0].shape
    of_cells = f"cells {' x '.join(map(str, cells))} of " if cells else ""
    return f"{of_cells}{' x '.join(map(str, inner))}"


def _ask_axes(path: Path, name: str, cells: tuple[int, ...], parts: Sequence[StoredArray]) -> NoReturn:
    """Raises the question what each axis counts."""
    inner = (max(parts[0].shape),) if parts[0].is_vector and cells else parts[0].shape
    sizes = (*cells, *inner)
    words = {2: "two axes", 3: "three axes", 4: "four axes"}.get(len(sizes), f"{len(sizes)} axes")
    if len(sizes) == 2:
        others: list[tuple[str, ...]] = [("units", "frames"), ("frames", "units")]
    elif len(sizes) == 3:
        others = [
            order
            for third in ("trials", "sessions")
            for order in itertools.permutations(("units", "frames", third))
        ]
    else:
        others = list(itertools.permutations(("units", "frames", "trials", "sessions")))[
            : 24 * (len(sizes) == 4)
        ]
    if parts[0].is_vector and cells:
        others = [order for order in others if order[-1] == "frames"]
    longest = int(np.argmax(sizes))
    others.sort(
        key=lambda order: (
            bool(cells)
            and len({"units", "frames"} & set(order[len(cells) :])) < min(2, len(sizes) - len(cells)),
            "sessions" in order and len(sizes) == 3,
            order.index("frames") != longest,
        )
    )
    example = f"axes: [{', '.join(others[0])}]" if others else "a matrix of frames and units instead"
    raise RecordingQuestion(
        f"{path}: {name} has {words}, {_sizes(cells, parts)}, and nothing tells what each counts: units, "
        f"frames, "
        f"trials or sessions. State axes in the sidecar, for example {example}; trials become segments, "
        f"sessions "
        "recordings of their own.",
        {"axes": [list(order) for order in others]},
    )


def _by_axes(
    parts: Sequence[StoredArray], cells: tuple[int, ...], axes: tuple[str, ...], path: Path
) -> Arranged:
    """Traces by what each axis counts: those of the cells first, then those of what lies in a cell."""
    inner_axes = axes[len(cells) :]
    vectors: dict[tuple[int, int], dict[int, np.ndarray]] = {}
    for position, part in zip(np.ndindex(*cells[::-1]) if cells else [()], parts, strict=True):
        at = dict(
            zip(axes, position[::-1], strict=False)
        )  # cells are listed column by column, as MATLAB counts
        if part.is_empty:
            continue
        array = part.load()
        array = array.ravel() if len(inner_axes) == 1 else array
        if array.ndim != len(inner_axes):
            raise RecordingError(f"{path}: a cell has shape {part.shape}; expected {len(inner_axes)} axes.")
        order = [
            inner_axes.index(axis) for axis in ("sessions", "trials", "frames", "units") if axis in inner_axes
        ]
        array = array.transpose(order)
        for missing, axis in enumerate(("sessions", "trials")):
            if axis not in inner_axes:
                array = np.expand_dims(array, missing)
        if "units" not in inner_axes:
            array = array[..., None]
        for session, trial in np.ndindex(*array.shape[:2]):
            key = (session + at.get("sessions", 0), trial + at.get("trials", 0))
            vectors.setdefault(key, {})[at.get("units", -1)] = array[session, trial]
    sessions: dict[int, list[np.ndarray]] = {}
    for (session, _), by_unit in sorted(vectors.items()):
        blocks = [by_unit[unit] for unit in sorted(by_unit)]
        if len({len(block) for block in blocks}) > 1:
            raise RecordingError(f"{path}: units of one trial have different lengths; expected the same.")
        sessions.setdefault(session, []).append(np.concatenate(blocks, axis=1))
    found: Arranged = []
    for trials in sessions.values():
        if len({trial.shape[1] for trial in trials}) > 1:
            counts = sorted({trial.shape[1] for trial in trials})
            raise RecordingError(
                f"{path}: trials have {counts} units; expected the same in all of a session."
            )
        lengths = [len(trial) for trial in trials]
        ids = np.repeat(np.arange(len(trials), dtype=np.int32), lengths) if len(trials) > 1 else None
        found.append((np.concatenate(trials), ids))
    return found


def _joined(
    parts: Sequence[StoredArray], name: str, path: Path, sidecar: Sidecar, notes: dict[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Trials one after the other, [T, N], and their segment ids [T]."""
    shapes = np.array([part.shape for part in parts])
    is_one_length = [len(set(shapes[:, axis])) == 1 for axis in (0, 1)]
    if not any(is_one_length):
        _ask_axes(path, name, (len(parts),), parts)
    if all(is_one_length) or sidecar.frames_axis is not None:
        frames_axis = choose_frames_axis(parts[0].shape, path, sidecar, notes)
    else:
        frames_axis = int(is_one_length[0])
        # What all parts have in common may as well be their frames: planes or sessions of other units each.
        if shapes[:, frames_axis].sum() < 2 * shapes[0, 1 - frames_axis]:
            _ask_axes(path, name, (len(parts),), parts)
        notes["axis_from"] = f"the cells: all have {shapes[0, 1 - frames_axis]} units"
    trials = [part.load().T if frames_axis == 1 else part.load() for part in parts]
    segment_ids = np.repeat(np.arange(len(trials), dtype=np.int32), [len(trial) for trial in trials])
    return np.concatenate(trials), segment_ids


# Inputs beside the traces.


def _inputs(content: Content, name: str, num_frames: int) -> Iterator[Channel]:
    """What is called like stimulus or behaviour and has a value for each frame."""
    found: dict[str, np.ndarray] = {}
    for other, parts in content.arrays.items():
        shape = parts[0].shape
        if other == name or len(parts) > 1 or content.role(other) != "behaviour" or num_frames not in shape:
            continue
        if len(shape) == 1 or (len(shape) == 2 and shape[0] != shape[1] and min(shape) <= MAX_COLUMNS):
            values = np.asarray(parts[0].load(), np.float64)
            found[other] = values.reshape(num_frames, -1) if shape[0] == num_frames else values.T
    lasts = [other.rpartition("/")[2] for other in found]
    for other, values in found.items():
        last = other.rpartition("/")[2]
        called = other if lasts.count(last) > 1 else last
        planned = is_stimulus(other)
        for column, channel in enumerate(values.T):
            label = called if values.shape[1] == 1 else f"{called}/{column}"
            yield Channel(label, channel.astype(np.float32), planned, origin=other)


_BEGINS = {"time", "times", "t", "onset", "onsets", "on", "start", "starts", "timestamp", "timestamps"}
_ENDS = {"offset", "offsets", "off", "stop", "stops", "end", "ends"}
_MIN_WITHIN = 0.9  # of the times of events that lie within the recording


def _timed_inputs(content: Content, name: str, session: Session) -> Iterator[Channel]:
    """What is called like times of a stimulus or of behaviour (`odor_times`, `tone_onset` with `tone_offset`)
    and lies within the recording."""
    spans = FrameSpans.of(session)
    taken = {each.name for each in session.inputs}
    begins: dict[str, tuple[str, np.ndarray]] = {}
    ends: dict[str, np.ndarray] = {}
    for other, parts in content.arrays.items():
        words = set(words_of(other))
        is_told = is_stimulus(other) or depends_on_animal(other)
        if spans is None or not (is_told and words & (_BEGINS | _ENDS)) or other == name or len(parts) > 1:
            continue
        if not parts[0].is_vector or parts[0].is_empty or session.num_frames in parts[0].shape:
            continue
        times = np.asarray(parts[0].load(), np.float64).ravel() * SECONDS_PER[unit_in_name(other) or "s"]
        within = (times >= spans.start[0]) & (times <= spans.stop[-1])
        if (np.diff(times) < 0).any() or within.mean() < _MIN_WITHIN:
            continue
        called = "_".join(word for word in words_of(other) if word not in {*_BEGINS, *_ENDS, *SECONDS_PER})
        if words & _ENDS:
            ends[called] = times
        else:
            begins[called] = other, times
    for called, (other, start) in begins.items():
        stop = ends.get(called)
        stop = stop if stop is not None and len(stop) == len(start) and (stop >= start).all() else None
        called = other if called in taken else called
        table = EventTable(called, start, stop, False, planned=is_stimulus(other), origin=other)
        yield from table.at(spans, []) if spans is not None else ()


# Leaving out what is no unit.


def _without_others(
    content: Content, name: str, traces: FrameSource, path: Path, notes: dict[str, str]
) -> tuple[FrameSource, np.ndarray | None]:
    """Traces without clocks and without the cells that were rejected; and the columns kept, None for all."""
    num_units = traces.shape[1]
    is_kept = np.ones(num_units, bool)
    accepted = accepted_of(content, name, num_units, notes)
    if accepted is not None:
        if not accepted.any():
            raise RecordingError(f"{path}: {notes['cells']}. Curate the recording, or name another variable.")
        is_kept &= accepted
    ramps = clocks_among(traces)
    if ramps.size:
        if ramps.size == num_units:
            raise RecordingError(
                f"{path}: all {num_units} columns of {name} grow evenly, like clocks or counters; expected "
                f"the "
                "traces of units."
            )
        is_kept[ramps] = False
        notes["clocks_left_out"] = (
            f"{_columns(ramps)} of {name} grow evenly, like a clock or counter, and were left out"
            f"{_as_rate(traces, ramps)}"
        )
    kept = np.flatnonzero(is_kept)
    if kept.size == num_units:
        return traces, None
    if isinstance(traces, np.ndarray):
        return traces[:, kept], kept
    return loaded_if_small(SelectedFrames(traces, kept)), kept


def clocks_among(traces: FrameSource) -> np.ndarray:
    """int64, the columns that grow evenly, judged by the first frames."""
    num_frames, num_units = traces.shape
    looked_at = min(num_frames, _FRAMES_LOOKED_AT, max(64, _LOOKED_AT_BYTES // (8 * num_units)))
    return ramps_in(np.asarray(traces[0:looked_at]))


def _columns(columns: np.ndarray) -> str:
    listed = ", ".join(map(str, columns[:10].tolist()))
    return f"column{'s' * (columns.size > 1)} {listed}{' and more' * (columns.size > 10)} (from 0)"


def _as_rate(traces: FrameSource, ramps: np.ndarray) -> str:
    clock = read_clock(np.asarray(traces[0 : min(traces.shape[0], _FRAMES_LOOKED_AT)])[:, ramps[0]])
    if clock is None or abs(clock.interval_s - 1) < 1e-6:
        return ""
    return f"; if it counts seconds the rate is {clock.rate_hz:.4g} Hz: state rate_hz in the sidecar"


def accepted_of(content: Content, name: str, num_units: int, notes: dict[str, str]) -> np.ndarray | None:
    """bool [N], the units that an array beside the traces, such as `iscell`, calls cells; None without
    one."""
    for other, parts in content.arrays.items():
        if (
            other.rpartition("/")[2].lower() not in _ACCEPTED
            or distance(other, name) is None
            or len(parts) > 1
        ):
            continue
        flags = parts[0].load()
        if flags.ndim == 2:
            flags = flags.ravel() if 1 in flags.shape else flags[:, 0] if flags.shape[0] >= 2 else flags[0]
            if len(flags) != num_units and parts[0].shape[-1] == num_units:
                flags = parts[0].load()[0]
        if flags.ndim != 1 or len(flags) != num_units:
            notes["cells"] = (
                f"{other} has shape {parts[0].shape}, which does not fit {num_units} units; passed over"
            )
            continue
        accepted = flags > 0.5
        notes["cells"] = f"{int(accepted.sum())} of {num_units} ROIs are cells ({other})"
        return accepted
    return None


def _unit_names(content: Content, name: str, num_units: int) -> tuple[str, ...] | None:
    """Names beside the traces, one for each unit, where one list alone could be that."""
    fitting = {
        texts
        for other, texts in content.texts.items()
        if len(texts) == num_units
        and len(set(texts)) == num_units
        and distance(other, name) == 0
        and set(words_of(other))
        & {"unit", "units", "cell", "cells", "neuron", "neurons", "roi", "rois", "names", "ids", "items"}
    }
    return fitting.pop() if len(fitting) == 1 else None


# Rate and frame times.


def _clocks(content: Content, name: str) -> list[str]:
    """Vectors that are called like times and belong to the traces, the nearest first."""
    found = [
        (far, other)
        for other, parts in content.arrays.items()
        if other != name
        and len(parts) == 1
        and parts[0].is_vector
        and content.role(other) == "clock"
        and rate_factor(other) is None
        and (far := distance(other, name)) is not None
    ]
    return [other for _, other in sorted(found, key=lambda item: item[0])]


def _frame_times(
    content: Content, name: str, num_frames: int, path: Path, sidecar: Sidecar, notes: dict[str, str]
) -> np.ndarray | None:
    """float64 [T], seconds: those the sidecar names, else those that fit the traces; None without."""
    if sidecar.time_column is not None:
        wanted = sidecar.time_column.strip("/").replace(".", "/")
        parts = content.arrays.get(wanted, [])
        if len(parts) != 1 or parts[0].shape not in ((num_frames,), (num_frames, 1), (1, num_frames)):
            found = "is not there" if not parts else f"has shape {parts[0].shape}"
            raise RecordingError(
                f"{path}: {sidecar.time_column} (the sidecar's time_column) {found}; expected a time for "
                f"each of "
                f"{num_frames} frames."
            )
        return seconds(
            parts[0].load(), wanted, unit_of(wanted, parts[0].attrs, sidecar), path, notes, sidecar
        )
    clocks = [other for other in _clocks(content, name) if max(content.arrays[other][0].shape) == num_frames]
    usable: list[tuple[str, np.ndarray]] = []
    nearest = None
    for other in clocks:
        values = np.asarray(content.arrays[other][0].load(), np.float64).ravel()
        clock = read_clock(values)
        far = distance(other, name)
        is_counter = clock is not None and abs(clock.interval_s - 1) < 1e-9 and bool((values % 1 == 0).all())
        if clock is None or is_counter or clock.breaks.size > num_frames // 8 or nearest not in (None, far):
            continue
        nearest = far
        usable.append((other, values))
    if not usable:
        _note_other_lengths(content, name, num_frames, notes)
        return None
    rates = {round(np.log(clock.rate_hz), 2) for _, values in usable if (clock := read_clock(values))}
    if len(rates) > 1 and sidecar.rate_hz is None:
        listed = ", ".join(other for other, _ in usable)
        raise RecordingQuestion(
            f"{path}: {listed} could each be the frame times of {name}, and they tell different rates. Name "
            f"one as "
            "time_column in the sidecar.",
            {"time_column": [other for other, _ in usable]},
        )
    other, values = usable[0]
    return seconds(
        values, other, unit_of(other, content.arrays[other][0].attrs, sidecar), path, notes, sidecar
    )


def _note_other_lengths(content: Content, name: str, num_frames: int, notes: dict[str, str]) -> None:
    near = [
        f"{other} ({length})"
        for other in _clocks(content, name)
        if (length := max(content.arrays[other][0].shape)) != num_frames and abs(length - num_frames) <= 2
    ]
    if near:
        notes["times_note"] = (
            f"{', '.join(near)} may be frame times, but there are {num_frames} frames: left out"
        )


def _rate(
    content: Content,
    name: str,
    num_frames: int,
    time_s: np.ndarray | None,
    path: Path,
    sidecar: Sidecar,
    notes: dict[str, str],
) -> float | None:
    """Frames a second, where a number that belongs to the traces states them."""
    if sidecar.rate_hz is not None:
        return None
    stated = chosen_rate(rates_for(content.numbers, name), path)
    if stated is None:
        return None
    if time_s is not None and not _is_surely_the_recordings(stated.where):
        # The times are measured; a bare `fs` beside them may be another device's.
        clock = read_clock(time_s)
        if clock is not None and abs(clock.rate_hz / stated.rate_hz - 1) > MAX_RATE_ERROR:
            notes["rate_note"] = (
                f"{stated.where} says {stated.rate_hz:.4g} Hz but the frame times say {clock.rate_hz:.4g} "
                "Hz; these count, since the other may be another device's, and rate_hz in a sidecar corrects "
                "it"
            )
        return None
    folder = stated.where.rpartition("/")[0]
    longer = [
        other
        for other, parts in content.arrays.items()
        if other.rpartition("/")[0] == folder
        and len(parts) == 1
        and parts[0].is_vector
        and max(parts[0].shape, default=0) > 1.5 * num_frames
        and content.role(other) in ("behaviour", "unknown", "counter")
    ]
    if longer and not _is_surely_the_recordings(stated.where):
        raise RecordingQuestion(
            f"{path}: {stated.where} says {stated.rate_hz:g} Hz, but it lies beside {longer[0]}, which has "
            f"more "
            f"samples than {name} has frames, so it may be the rate of that. State rate_hz in the sidecar.",
            {"rate_hz": [stated.rate_hz]},
        )
    notes["rate_from"] = stated.where
    return stated.rate_hz


def _is_surely_the_recordings(name: str) -> bool:
    of_imaging = {
        "imaging",
        "frame",
        "volume",
        "scan",
        "scope",
        "miniscope",
        "microscope",
        "fps",
        "framerate",
        "fr",
    }
    return bool(set(words_of(name)) & of_imaging)


# Spike times.


def _events(content: Content, sidecar: Sidecar) -> dict[str, list[StoredArray]]:
    """Names that hold vectors of different lengths, as spike times do; of one where the sidecar says so."""
    found = {}
    for name, parts in content.arrays.items():
        lengths = {max(part.shape) for part in parts if not part.is_empty}
        is_named = sidecar.variable is not None and name == sidecar.variable and sidecar.bin_s is not None
        is_uneven = (len(lengths) > 1 and len(parts) > 1) or (is_named and bool(lengths))
        is_of_vectors = all(part.is_vector for part in parts if not part.is_empty)
        if is_uneven and is_of_vectors and len(content.cells.get(name, ())) < 2:
            found[name] = parts
    if sidecar.variable is not None:
        return {name: parts for name, parts in found.items() if name == sidecar.variable}
    named = {name: parts for name, parts in found.items() if content.role(name) == "activity"}
    plain = {name: parts for name, parts in found.items() if content.role(name) != "behaviour"}
    return named or plain or found


def _binned(content: Content, events: dict[str, list[StoredArray]], path: Path, sidecar: Sidecar) -> Session:
    if len(events) > 1:
        raise RecordingQuestion(
            f"{path}: several arrays could be the spike times: {', '.join(events)}. Name one as variable in "
            f"the "
            "sidecar.",
            {"variable": list(events)},
        )
    name, parts = next(iter(events.items()))
    units = [part.load().ravel() for part in parts if not part.is_empty]
    return binned(path, sidecar, units, metadata={"variable": name, **content.notes})
