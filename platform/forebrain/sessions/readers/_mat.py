"""The arrays of a MATLAB file, of either generation, and the session they make.

Arrays are named by their path through structs, for example `data/traces`. Cells and elements of struct
arrays share the path of what holds them: a path has one array, or as many as there are cells. The arrays of a
path make traces in one of four ways:

- one matrix;
- vectors of one length: one for each unit;
- matrices that agree in their number of units: trials, joined as segments;
- vectors of times, one for each unit, where the sidecar states `bin_s`: counted in bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import (
    RATE_NAMES,
    choose_frames_axis,
    choose_variable,
    could_be_traces,
    make_session,
)
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar


@dataclass(frozen=True)
class Matrix:
    """An array of a file, read when it is asked for.

    Attributes:
        shape: as MATLAB shows it.
        load: gives the array in that shape.
        frames: gives frames [T, N] by the axis of the shape that counts them; lazily, where the file can.
    """

    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    frames: Callable[[int], FrameSource]

    @classmethod
    def in_memory(cls, shape: tuple[int, ...], load: Callable[[], np.ndarray]) -> Matrix:
        return cls(shape, load, lambda frames_axis: load().T if frames_axis == 1 else load())

    @property
    def is_vector(self) -> bool:
        return len(self.shape) == 2 and min(self.shape) <= 1


Arrays = Mapping[str, Sequence[Matrix]]


def session_of(arrays: Arrays, path: Path, sidecar: Sidecar) -> Session:
    """The session that the arrays of a file make.

    Raises:
        RecordingError: no arrays could be traces, or the sidecar must choose or tell more.
    """
    if sidecar.variable is not None:
        sidecar = replace(sidecar, variable=sidecar.variable.strip("/").replace(".", "/"))
    if sidecar.bin_s is not None:
        return _binned(arrays, path, sidecar)
    candidates = {
        name: shape
        for name, matrices in arrays.items()
        if (shape := _shape_of_traces(matrices)) and (name == sidecar.variable or could_be_traces(shape))
    }
    if not candidates and (events := _events(arrays)) and sidecar.variable is None:
        name, shape = next(iter(events.items()))
        raise RecordingError(
            f"{path}: holds no matrix, but {shape[0]} vectors of different lengths in {name}, like spike "
            "times. State bin_s, a bin's width in seconds, in the sidecar to count them."
        )
    name = choose_variable(candidates, path, sidecar)
    matrices = arrays[name]
    segment_ids = None
    notes = {"variable": name}
    traces: FrameSource
    if len(matrices) == 1:
        traces = matrices[0].frames(choose_frames_axis(matrices[0].shape, path, sidecar, notes))
    elif matrices[0].is_vector:
        traces = np.stack([matrix.load().ravel() for matrix in matrices], axis=1)
    else:
        traces, segment_ids = _joined(matrices, path, sidecar, notes)
    return make_session(
        path,
        sidecar,
        traces,
        rate_hz=_rate(arrays),
        signal=name.rpartition("/")[2],
        segment_ids=segment_ids,
        metadata=notes,
    )


def _shape_of_traces(matrices: Sequence[Matrix]) -> tuple[int, ...] | None:
    """Shape of the traces that arrays of one path make, axes as stored; None if they make none."""
    shapes = [matrix.shape for matrix in matrices]
    if len(shapes) == 1:
        return shapes[0]
    if any(len(shape) != 2 for shape in shapes):
        return None
    if all(matrix.is_vector for matrix in matrices):
        lengths = {max(shape) if min(shape) else 0 for shape in shapes}
        return (len(shapes), lengths.pop()) if len(lengths) == 1 else None
    rows, columns = {shape[0] for shape in shapes}, {shape[1] for shape in shapes}
    if len(rows) == 1:
        return rows.pop(), sum(shape[1] for shape in shapes)
    return (sum(shape[0] for shape in shapes), columns.pop()) if len(columns) == 1 else None


def _joined(
    matrices: Sequence[Matrix], path: Path, sidecar: Sidecar, notes: dict[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Trials one after the other, [T, N], and their segment ids [T]."""
    shapes = np.array([matrix.shape for matrix in matrices])
    is_one_length = [len(set(shapes[:, axis])) == 1 for axis in (0, 1)]
    frames_axis = (
        choose_frames_axis(matrices[0].shape, path, sidecar, notes)
        if all(is_one_length)
        else int(is_one_length[0])
    )
    trials = [matrix.load().T if frames_axis == 1 else matrix.load() for matrix in matrices]
    segment_ids = np.repeat(np.arange(len(trials), dtype=np.int32), [len(trial) for trial in trials])
    return np.concatenate(trials), segment_ids


def _events(arrays: Arrays) -> dict[str, tuple[int, int]]:
    """Paths that hold vectors of different lengths: the number of vectors that are not empty, the longest."""
    found = {}
    for name, matrices in arrays.items():
        lengths = [max(matrix.shape) for matrix in matrices if min(matrix.shape) > 0]
        if all(matrix.is_vector for matrix in matrices) and len(set(lengths)) > 1:
            found[name] = (len(lengths), max(lengths))
    return found


def _binned(arrays: Arrays, path: Path, sidecar: Sidecar) -> Session:
    """Counts of events in bins of `bin_s` from the first event on; a last, incomplete bin is left out."""
    assert sidecar.bin_s is not None
    candidates = _events(arrays)
    if sidecar.variable is not None and sidecar.variable in arrays:
        candidates |= {sidecar.variable: (len(arrays[sidecar.variable]), 0)}
    name = choose_variable(candidates, path, sidecar)
    units = [matrix.load().ravel() for matrix in arrays[name] if min(matrix.shape) > 0]
    first, last = min(times.min() for times in units), max(times.max() for times in units)
    num_bins = int(np.floor((last - first) / sidecar.bin_s + 1e-9))
    edges = first + sidecar.bin_s * np.arange(num_bins + 1)
    counts = [np.histogram(times[times < edges[-1]], edges)[0] for times in units]
    return make_session(
        path,
        sidecar,
        np.stack(counts, axis=1).astype(np.float32),
        rate_hz=1 / sidecar.bin_s,
        signal="spike_counts",
        time_s=edges[:-1],
        metadata={"variable": name, "bins_note": f"events counted in bins of {sidecar.bin_s:g} s"},
    )


def _rate(arrays: Arrays) -> float | None:
    """Frames a second, where the file holds one number of a known name."""
    rates = {
        float(matrices[0].load().ravel()[0])
        for name, matrices in arrays.items()
        if name.rpartition("/")[2].lower() in RATE_NAMES and [matrix.shape for matrix in matrices] == [(1, 1)]
    }
    return rates.pop() if len(rates) == 1 else None
