"""Session: one recording of one animal, the unit in which data enters the platform."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from forebrain.errors import RecordingError
from forebrain.notebook import facts
from forebrain.sessions.arrays import as_matrix, column_names, frame_times, unmasked
from forebrain.sessions.inputs import INPUT_KINDS, SPLIT_PARTS, Input, InputKind, columns_of, kind_of
from forebrain_registry.lines import composed, one_line
from forebrain_registry.storage import partial_beside, path_here

Range = tuple[int, int]  # frames [start, stop)
# Keys of metadata that tell what a reader guessed.
READER_NOTES = ("identity_note", "orientation_note", "rate_note", "arrival_note", "record_note")
# Keys of metadata that tell what a reader took of the numbers, and left, with how a person is told.
READING_NOTES = {
    "cells": "cells: {}",
    "cells_note": "{}",
    "cells_left_out": "{}",
    "rois_note": "{}",
    "traces": "{}",
    "neuropil": "neuropil: {}",
    "clocks_left_out": "{}",
    "times_note": "{}",
    "bins_note": "{}",
    "unheeded": "not heeded, since it means nothing in this format: {}",
}
# What `identity_from` in metadata says of names that are those of files and folders.
FOLDERS_NAME, FILES_NAME = "the folder's name", "the file's name"

_ONE_AXIS = ("segment_ids", "conditions", "time_s", "split", "repetition")


class FrameSource(Protocol):
    """Frames that can be read a slice at a time: a NumPy array, a memory map, an HDF5 or zarr array.

    `shape` is (T, N); `source[start:stop]` gives an array [stop - start, N]. A recording larger than
    memory is a source that reads only the frames asked for.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, frames: slice, /) -> Any: ...


@dataclass(frozen=True, eq=False, repr=False)
class Session:
    """One recording of one animal: T frames of N units, with what is known about them.

    Identity is (dataset, subject, session), and `id` joins the three; accents are part of their letters in
    it (`composed`), however they were written. Optional fields are None where the
    recording does not tell. Shapes are checked on construction; values are not (that is `repair`'s work,
    which can say what it did), because traces may be larger than memory.

    Attributes:
        traces: [T, N] activity in the recording's own units, read slice by slice.
        rate_hz: frames a second, None where unknown (usable with a warning; resampling is refused).
        species: for example `zebrafish`, `celegans`, `mouse`.
        subject: the animal.
        session: the recording, unique within dataset and subject.
        dataset: sessions of one lab and protocol share this name.
        signal: what the numbers are, for example `dff`, `denoised_dff`, `calcium_events`.
        segment_ids: int32 [T]; a window never crosses a change of value (trials, gaps). None: one segment.
        conditions: int32 [T], the experimental condition of each frame, a position in `condition_names` or -1
            for none; a window never crosses a change of it either.
        condition_names: what the conditions are called.
        time_s: float64 [T], seconds, where the recording states a time for each frame.
        unit_names: N names.
        unit_positions: float32 [N, 2 or 3].
        brain_regions: N region names.
        stimulus, stimulus_names: float32 [T, C] and its C channel names: inputs that can be planned.
        behaviour, behaviour_names: float32 [T, K] and its K channel names: inputs that cannot.
        input_kinds: by a channel's name, `event`, `level` or `pattern`; the values tell it where it is not
            stated.
        input_units: by a channel's name, its unit of measurement, where it is known.
        split: integers [T], where the recording assigns its frames to parts: 0 train, 1 validation, 2 test,
            -1 none.
        repetition: int32 [T], which repetition of its condition each frame is of, where conditions repeat.
        metadata: anything else, as text (`licence`, `citation`, `note`, `original_file`, ...).

    Raises:
        RecordingError: a shape does not fit, a rate is impossible, an identity is empty.
    """

    traces: FrameSource
    rate_hz: float | None
    species: str
    subject: str
    session: str
    dataset: str
    signal: str = "unknown"
    segment_ids: np.ndarray | None = None
    conditions: np.ndarray | None = None
    condition_names: tuple[str, ...] | None = None
    time_s: np.ndarray | None = None
    unit_names: tuple[str, ...] | None = None
    unit_positions: np.ndarray | None = None
    brain_regions: tuple[str, ...] | None = None
    stimulus: np.ndarray | None = None
    stimulus_names: tuple[str, ...] | None = None
    behaviour: np.ndarray | None = None
    behaviour_names: tuple[str, ...] | None = None
    input_kinds: Mapping[str, InputKind] = field(default_factory=dict)
    input_units: Mapping[str, str] = field(default_factory=dict)
    split: np.ndarray | None = None
    repetition: np.ndarray | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("species", "subject", "session", "dataset"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise RecordingError(f"{name} is {value!r}; expected a name. Give it in the sidecar file.")
            object.__setattr__(self, name, one_line(composed(value)))  # it stands in lines and tables
        where = f"session {self.id}"
        if len(self.traces.shape) != 2:
            raise RecordingError(
                f"{where}: traces have shape {tuple(self.traces.shape)}; expected two axes, [frames, units]."
            )
        num_frames, num_units = self.traces.shape
        if num_frames == 0 or num_units == 0:
            raise RecordingError(f"{where}: traces are empty ({num_frames} frames x {num_units} units).")
        if self.rate_hz is not None and not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise RecordingError(f"{where}: rate_hz is {self.rate_hz}; expected a positive number or none.")
        for name, length in {
            "segment_ids": num_frames,
            "conditions": num_frames,
            "time_s": num_frames,
            "unit_names": num_units,
            "unit_positions": num_units,
            "brain_regions": num_units,
            "stimulus": num_frames,
            "behaviour": num_frames,
            "split": num_frames,
            "repetition": num_frames,
        }.items():
            value = getattr(self, name)
            if value is not None and len(value) != length:
                what = "one a frame" if length == num_frames else "one a unit"
                raise RecordingError(
                    f"{where}: {name} has {len(value)} entries; expected {length}, {what}. Bring it to as "
                    "many, or leave it out."
                )
            if name in _ONE_AXIS and value is not None and np.ndim(value) != 1:
                raise RecordingError(
                    f"{where}: {name} has shape {np.shape(value)}; expected ({num_frames},), one a frame."
                )
        for name in ("stimulus", "behaviour"):
            channels, names = getattr(self, name), getattr(self, f"{name}_names")
            if channels is not None and (channels.ndim != 2 or len(names or ()) != channels.shape[1]):
                raise RecordingError(
                    f"{where}: {name} has shape {channels.shape} and {len(names or ())} names; "
                    "expected [frames, channels] and a name for each channel."
                )
        self._check_inputs(where)

    def _check_inputs(self, where: str) -> None:
        names = self._input_names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RecordingError(
                f"{where}: several channels of stimulus and behaviour are called {', '.join(twice)}; "
                "expected a name of its own for each."
            )
        for key in ("input_kinds", "input_units"):
            if unknown := sorted(set(getattr(self, key)) - set(names)):
                raise RecordingError(
                    f"{where}: {key} speaks of {', '.join(unknown)}; expected names of its inputs "
                    f"({', '.join(names) or 'it has none'})."
                )
        if wrong := sorted({str(kind) for kind in self.input_kinds.values()} - set(INPUT_KINDS)):
            raise RecordingError(
                f"{where}: input_kinds has {', '.join(wrong)}; expected {', '.join(INPUT_KINDS)}."
            )
        if self.split is not None:
            found = np.unique(self.split)
            if not np.isin(found, range(-1, len(SPLIT_PARTS))).all():
                raise RecordingError(
                    f"{where}: split has the values {found.tolist()[:10]}; expected 0 (train), 1 "
                    "(validation), 2 (test) and -1 (none)."
                )

    @property
    def _input_names(self) -> tuple[str, ...]:
        return (*(self.stimulus_names or ()), *(self.behaviour_names or ()))

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The channels of `stimulus`, which can be planned, then those of `behaviour`, which cannot."""
        return tuple(
            Input(
                name,
                self.input_kinds.get(name) or kind_of(channels[:, column]),
                self.input_units.get(name, ""),
                can_be_planned,
            )
            for channels, names, can_be_planned in (
                (self.stimulus, self.stimulus_names, True),
                (self.behaviour, self.behaviour_names, False),
            )
            if channels is not None
            for column, name in enumerate(names or ())
        )

    def input_values(self, names: Sequence[str]) -> np.ndarray:
        """The values of inputs, float32 [T, D], in the order of `names`.

        Args:
            names: of inputs; the name of a pattern stands for all its targets.

        Raises:
            RecordingError: there is no such input, or one is named twice.
        """
        columns = columns_of(self.inputs, names, f"session {self.id}")
        members = [values for values in (self.stimulus, self.behaviour) if values is not None]
        if not members:
            return np.zeros((self.num_frames, 0), np.float32)
        return np.concatenate(members, axis=1)[:, columns].astype(np.float32)

    @property
    def id(self) -> str:
        """`dataset/subject/session`, the name people read."""
        return f"{self.dataset}/{self.subject}/{self.session}"

    @property
    def key(self) -> str:
        """The id as a file name: only letters, digits, `_` and `-`, unique even where slugs collide."""
        return session_key(self.id)

    @property
    def num_frames(self) -> int:
        return self.traces.shape[0]

    @property
    def num_units(self) -> int:
        return self.traces.shape[1]

    @property
    def segments(self) -> list[Range]:
        """The unbroken stretches [start, stop), in order; no window crosses from one to the next."""
        is_edge = np.zeros(self.num_frames - 1, bool)
        for labels in (self.segment_ids, self.conditions):
            if labels is not None:
                is_edge |= np.diff(labels) != 0
        edges = np.flatnonzero(is_edge) + 1
        return list(itertools.pairwise([0, *edges.tolist(), self.num_frames]))

    @property
    def condition_ranges(self) -> dict[str, list[Range]]:
        """The frames [start, stop) of each condition, in order, cut as the segments are."""
        ranges: dict[str, list[Range]] = {name: [] for name in self.condition_names or ()}
        if self.conditions is not None and self.condition_names is not None:
            for start, stop in self.segments:
                if self.conditions[start] >= 0:
                    ranges[self.condition_names[self.conditions[start]]].append((start, stop))
        return ranges

    def __repr__(self) -> str:
        return f"{self.id}: {', '.join(value for _, value in self._facts())}"

    def _repr_html_(self) -> str:
        return facts(self.id, self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        """What it is, for people."""
        length = "" if self.rate_hz is None else f" ({self.num_frames / self.rate_hz:,.4g} s)"
        rate = "rate not known" if self.rate_hz is None else f"{self.rate_hz:.4g} Hz"
        found = [
            ("frames", f"{self.num_frames:,} frames{length}"),
            ("units", f"{self.num_units:,} units"),
            ("rate", rate),
            ("species", self.species),
            ("signal", self.signal),
        ]
        if len(self.segments) > 1:
            found.append(("segments", f"{len(self.segments)} segments"))
        return [(name, value) for name, value in found if value != "unknown"]

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop) as float32 [stop - start, N]."""
        return np.ascontiguousarray(self.traces[start:stop], dtype=np.float32)

    @classmethod
    def from_array(
        cls,
        traces: Any,
        rate_hz: float | None = None,
        *,
        species: str = "unknown",
        subject: str | None = None,
        session: str | None = None,
        dataset: str = "unknown",
        unit_names: Sequence[str] | None = None,
        **more: Any,
    ) -> Session:
        """A recording that is in memory already.

        Args:
            traces: [T frames, N units], in the recording's own units of measurement: a NumPy array, a pandas
                DataFrame (its columns name the units; an index of dates or time differences tells the times
                of the frames), an xarray DataArray (names) or a pynapple TsdFrame (columns and times).
            rate_hz: frames a second. None: by the frames' times, where there are any.
            species, subject, session, dataset: whose recording it is. Not given, it cannot be told whether a
                backbone has seen this animal.
            unit_names: N names, in place of those of the columns.
            **more: further attributes, such as `signal` or `brain_regions`. `stimulus` and `behaviour` may be
                tables as `traces` may, whose columns name them, or of one channel.

        Raises:
            RecordingError: it is no table of numbers, or an attribute does not fit.
        """
        known = dict(more)
        if unit_names is None:
            unit_names = column_names(traces)
        if known.get("time_s") is None and (time_s := frame_times(traces)) is not None:
            known["time_s"] = time_s
        for member in ("stimulus", "behaviour"):
            if (channels := known.get(member)) is not None:
                is_table = getattr(channels, "ndim", 2) == 2
                if known.get(f"{member}_names") is None and is_table and (names := column_names(channels)):
                    known[f"{member}_names"] = tuple(names)
                values = unmasked(channels).astype(np.float32, copy=False)
                known[member] = values[:, None] if values.ndim == 1 else values
        if subject is None or session is None:
            note = {"identity_note": "identity not given: the recording is an array without a name"}
            known["metadata"] = {**note, **known.get("metadata", {})}
        return cls(
            as_matrix(traces),
            rate_hz,
            species,
            subject or "unnamed",
            session or "array",
            dataset,
            unit_names=None if unit_names is None else tuple(map(str, unit_names)),
            **known,
        )

    def save(self, path: str | Path) -> None:
        """Writes one .npz without pickle, which `load` reads back."""
        arrays: dict[str, np.ndarray] = {"traces": self.frames(0, self.num_frames)}
        header: dict[str, Any] = {"format": _FORMAT}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "traces" or value is None:
                continue
            if isinstance(value, np.ndarray):
                arrays[item.name] = value
            else:
                header[item.name] = dict(value) if isinstance(value, Mapping) else value
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        path = path_here(path)
        temporary = partial_beside(path)
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Session:
        """Reads what `save` wrote.

        Raises:
            RecordingError: the file is not a saved session, or of another format version.
        """
        with np.load(path_here(path), allow_pickle=False) as archive:
            if "header" not in archive.files:
                raise RecordingError(f"{path}: not written by Session.save (it has no header).")
            header = json.loads(archive["header"].tobytes())
            if header.pop("format", None) != _FORMAT:
                raise RecordingError(f"{path}: not a saved session of format {_FORMAT}.")
            arrays = {name: archive[name] for name in archive.files if name != "header"}
        for name, value in header.items():
            if isinstance(value, list):
                header[name] = tuple(value)
        return cls(**arrays, **{"rate_hz": None, **header})  # fields without a value are not saved


_FORMAT = "forebrain-session-1"
_FRAMES_AT_ONCE = 1 << 14
START_FRAMES = 64  # that tell of two recordings whether one goes on from the other


class Numbers(NamedTuple):
    """Hashes by which a recording is found again, whatever it is called.

    Attributes:
        whole: of all its traces.
        start: of the first START_FRAMES frames; empty where there are fewer, or nothing changes in them.
    """

    whole: str
    start: str = ""


class NumbersDigest:
    """Makes `Numbers` of a session's frames, which are added in order."""

    def __init__(self, session: Session) -> None:
        self._whole = hashlib.sha256(str((session.num_frames, session.num_units)).encode())
        self._start = np.empty((0, session.num_units), np.float32)

    def add(self, frames: np.ndarray) -> None:
        """float32 [T, N]."""
        self._whole.update(np.ascontiguousarray(frames).data)
        if len(self._start) < START_FRAMES:
            self._start = np.concatenate([self._start, frames[: START_FRAMES - len(self._start)]])

    @property
    def numbers(self) -> Numbers:
        """Of the frames so far."""
        start, tells = self._start, len(self._start) == START_FRAMES and (self._start != self._start[0]).any()
        return Numbers(self._whole.hexdigest(), hashlib.sha256(start.data).hexdigest() if tells else "")


def other_animal(session: Session, dataset: str, subject: str) -> str | None:
    """A sentence that tells of a recording of another animal, by name, than was adapted to; None where
    nothing tells it."""
    animal, own = composed(f"{session.dataset}/{session.subject}"), composed(f"{dataset}/{subject}")
    if animal == own or "identity_note" in session.metadata:
        return None
    return f"The recording is of {animal}, and {own} was adapted to: its units must be the same cells."


def numbers_of(session: Session) -> Numbers:
    """Of a session's traces, which may be larger than memory."""
    digest = NumbersDigest(session)
    for start in range(0, session.num_frames, _FRAMES_AT_ONCE):
        digest.add(session.frames(start, min(start + _FRAMES_AT_ONCE, session.num_frames)))
    return digest.numbers


def twins(contents: Iterable[tuple[str, Numbers]]) -> Iterator[str]:
    """A line for each session that holds the numbers of another, or begins with them: one recording, perhaps,
    under two names, or saved again as it grew.

    Args:
        contents: ids of sessions, each with its numbers.
    """
    wholes: dict[str, str] = {}
    starts: dict[str, str] = {}
    for session_id, (whole, start) in contents:
        same = wholes.setdefault(whole, session_id)
        began = starts.setdefault(start, session_id) if start else session_id
        if same != session_id:
            found = f"holds the same numbers as {same}. If it is one recording under two names"
        elif began != session_id:
            found = f"begins with the same numbers as {began}. If it is one recording, saved as it grew"
        else:
            continue
        yield (
            f"{session_id}: {found}, leave one out: it counts twice, and what was trained on would be scored "
            "as if new."
        )


def fits(name: str, pattern: str) -> bool:
    """Whether a session's or animal's name is the one given, or like it; * stands for anything."""
    name, pattern = composed(name), composed(pattern)
    # An id may hold brackets, which are not meant as a pattern's.
    return name == pattern or fnmatchcase(name, pattern)


def session_key(session_id: str) -> str:
    """A session's id as a file name and WebDataset key (a dot in a key would merge samples)."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", session_id)[:80]
    return f"{slug}-{hashlib.sha256(session_id.encode()).hexdigest()[:8]}"
