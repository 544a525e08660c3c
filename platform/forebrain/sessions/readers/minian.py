"""minian: a folder of zarr stores (C.zarr, A.zarr, ...) or one store that holds C; and any other zarr store.

minian's C [unit_id, frame] is the calcium of each unit, denoised; A [unit_id, height, width] its footprint.
Frame times are read from `neural_timestamp.csv` beside the folder (columns `frame`, `timestamp_first`), where
there is one.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._content import Content, choose, sessions_of, shape_of
from forebrain.sessions.readers._selected import SelectedFrames, loaded_if_small
from forebrain.sessions.readers._zarr import ZarrTree, is_store, open_array, read_array
from forebrain.sessions.readers.suite2p import arrays_as_folder
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_TRACES = "C"
_FOOTPRINTS = "A"
_SIGNALS = {_TRACES: "C (minian CNMF)"}
_TIMES = "neural_timestamp.csv"
_LABELS = "unit_labels"


def recognises(path: Path) -> bool:
    return path.is_dir() and (is_store(path / f"{_TRACES}.zarr") or is_store(path))


def further_files(path: Path) -> list[Path]:
    """The table of frame times, where it does not lie in the folder itself."""
    file = _times_of(path)
    return [] if file is None or file.parent == path else [file]


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one recording.

    Raises:
        RecordingError: no array could be traces.
        RecordingQuestion: the sidecar must choose one or tell frames from units.
    """
    store = _store_of(path, sidecar.variable or _TRACES)
    tree = ZarrTree.of(store)
    content = tree.content(sidecar)
    if "" in content.arrays and sidecar.variable is not None and sidecar.variable not in content.arrays:
        sidecar = replace(sidecar, variable="")  # the array is the store
    if found := arrays_as_folder(content, path, sidecar):
        return found
    name = _chosen(content, path, sidecar)
    array = content.arrays[name][0]
    if not set(array.dims) & {"frame", "frames", "time"}:
        _tell_axes(content, name)
    beside = {key: value for key, value in content.arrays.items() if "/" not in key}

    def values_of(key: str, length: int) -> list[Any] | None:
        """The values of an array of one axis beside the traces; None where it does not fit."""
        parts = beside.get(key)
        return parts[0].load().tolist() if parts and parts[0].shape == (length,) else None

    def unit_names(num_frames: int, num_units: int) -> tuple[str, ...] | None:
        ids = values_of("unit_id", num_units)
        return None if ids is None else tuple(f"u{unit}" for unit in ids)

    def unit_positions(num_frames: int, num_units: int) -> np.ndarray | None:
        return _unit_positions(path, content, unit_names(num_frames, num_units), num_units, sidecar)

    def time_s(num_frames: int, num_units: int) -> np.ndarray | None:
        return _frame_times(path, values_of("frame", num_frames), num_frames, content.notes)

    sessions = sessions_of(
        content,
        path,
        replace(sidecar, variable=name),
        named_by=named_by(path),
        signals={**_SIGNALS, "": ""},
        fields_of={"unit_names": unit_names, "unit_positions": unit_positions, "time_s": time_s},
    )
    return [_without_rejected(session, values_of, _LABELS in beside, path) for session in sessions]


def _without_rejected(
    session: Session, values_of: Callable[[str, int], list[Any] | None], has_labels: bool, path: Path
) -> Session:
    """The session without the units that were given the label -1 in minian's viewer."""
    labels = values_of(_LABELS, session.num_units)
    if labels is None and has_labels:
        words = f"{_LABELS} does not fit {session.num_units} units and was passed over"
        return replace(session, metadata={**session.metadata, "cells": words})
    if labels is None:
        return session
    kept = np.flatnonzero(np.asarray(labels) >= 0)
    words = f"{kept.size} of {session.num_units} ROIs are cells ({_LABELS} is not -1)"
    merged = len(labels) - len(set(labels)) - max(0, (np.asarray(labels) < 0).sum() - 1)
    if merged > 0:
        words += f"; {merged} share the label of another, to be merged, and are read by themselves"
    if not kept.size:
        raise RecordingError(f"{path}: {words}. Label the units again, or remove {_LABELS}.")
    notes = {**session.metadata, "cells": words}
    if kept.size == session.num_units:
        return replace(session, metadata=notes)
    names, positions = session.unit_names, session.unit_positions
    return replace(
        session,
        traces=loaded_if_small(SelectedFrames(session.traces, kept)),
        unit_names=None if names is None else tuple(names[unit] for unit in kept),
        unit_positions=None if positions is None else positions[kept],
        metadata=notes,
    )


def _store_of(path: Path, name: str) -> Path:
    """The store that holds an array: its own in a folder of stores, else the path itself."""
    if is_store(path):
        return path
    store = path / f"{name}.zarr"
    if not is_store(store):
        there = sorted(entry.stem for entry in path.glob("*.zarr"))
        raise RecordingQuestion(
            f"{path}: holds no {name}.zarr (the sidecar's variable); it holds {', '.join(there)}.",
            {"variable": there},
        )
    return store


def _chosen(content: Content, path: Path, sidecar: Sidecar) -> str:
    """The sidecar's `variable`, else C, else what is likeliest of all arrays."""
    if sidecar.variable is None and _TRACES in content.arrays and len(shape_of(content, _TRACES) or ()) == 2:
        return _TRACES
    if sidecar.variable is None and list(content.arrays) == [""]:
        return ""
    return choose(content, path, sidecar)


def _tell_axes(content: Content, name: str) -> None:
    """Names the axes of an array by the lengths of minian's coordinates, where those tell."""
    array = content.arrays[name][0]
    if len(array.shape) != 2:
        return
    fitting = {
        axis
        for axis in (0, 1)
        for coordinate, its_axis in (("frame", axis), ("unit_id", 1 - axis))
        if coordinate in content.arrays and content.arrays[coordinate][0].shape == (array.shape[its_axis],)
    }
    if len(fitting) == 1:
        axis = fitting.pop()
        dims = ("frame", "unit_id") if axis == 0 else ("unit_id", "frame")
        content.arrays[name] = [replace(array, dims=dims)]


def _unit_positions(
    path: Path, content: Content, names: tuple[str, ...] | None, num_units: int, sidecar: Sidecar
) -> np.ndarray | None:
    """float32 [N, 2]: centres of the footprints, row and column; None without footprints of these units."""
    store = path / f"{_FOOTPRINTS}.zarr"
    beside = ZarrTree.of(store).content(sidecar) if is_store(store) else content
    parts = beside.arrays.get(_FOOTPRINTS)
    if not parts or len(parts[0].shape) != 3 or parts[0].shape[0] != num_units:
        return None
    ids = beside.arrays.get("unit_id")
    if (None if ids is None else tuple(f"u{unit}" for unit in ids[0].load().tolist())) != names:
        return None
    place = store / _FOOTPRINTS if is_store(store) else path / _FOOTPRINTS
    footprints = open_array(place)
    positions = np.zeros((num_units, 2), np.float32)
    for unit in range(num_units):
        where = [slice(unit, unit + 1), *(slice(0, length) for length in footprints.shape[1:])]
        weights = np.nan_to_num(np.asarray(read_array(place, footprints, where)[0], np.float64))
        total = weights.sum() or np.nan
        rows, columns = np.arange(weights.shape[0]), np.arange(weights.shape[1])
        positions[unit] = weights.sum(axis=1) @ rows / total, weights.sum(axis=0) @ columns / total
    return positions


def _times_of(path: Path) -> Path | None:
    """The table of frame times in a folder, or else beside or above it."""
    folders = (path, *path.absolute().parents[:2])
    return next((folder / _TIMES for folder in folders if (folder / _TIMES).is_file()), None)


def _frame_times(
    path: Path, frames: list[Any] | None, num_frames: int, notes: dict[str, str]
) -> np.ndarray | None:
    """float64 [T], seconds, of the frames that minian kept; None without a file of them.

    Raises:
        RecordingError: the file misses a frame or is no table of times.
    """
    file = _times_of(path)
    if file is None:
        return None
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            times = {int(row["frame"]): float(row["timestamp_first"]) for row in csv.DictReader(stream)}
        kept = range(num_frames) if frames is None else frames
        time_s = np.array([times[frame] for frame in kept], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordingError(
            f"{file}: does not give a time for each frame ({error!r}); expected columns frame and "
            "timestamp_first. Mend or remove it."
        ) from error
    notes["rate_from"] = f"the frame times in {file.name}"
    return time_s


def named_by(path: Path) -> Path:
    """The path that names the recording: folders are often called `minian` or `neural_data` themselves."""
    resolved = path.absolute()
    folder = resolved.parent if resolved.name == f"{_TRACES}.zarr" else resolved
    return folder.parent if folder.name in ("minian", "neural_data") else folder
