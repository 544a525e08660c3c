"""minian: a folder of zarr stores (C.zarr, A.zarr, ...) or one store that holds C; and any other zarr store.

minian's C [unit_id, frame] is the calcium of each unit, denoised; A [unit_id, height, width] its footprint.
Frame times are read from `neural_timestamp.csv` beside the folder (columns `frame`, `timestamp_first`), where
there is one.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import (
    choose_frames_axis,
    choose_variable,
    could_be_traces,
    make_session,
)
from forebrain.sessions.readers._selected import loaded_if_small
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import zarr

_TRACES = "C"
_FOOTPRINTS = "A"
_SIGNALS = {_TRACES: "C (minian CNMF)"}
_MARKERS = (".zgroup", ".zarray", "zarr.json")
_TIMES = "neural_timestamp.csv"


def recognises(path: Path) -> bool:
    return path.is_dir() and (_is_store(path / f"{_TRACES}.zarr") or _is_store(path))


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one recording.

    Raises:
        RecordingError: no array could be traces, or the sidecar must choose one or tell frames from units.
    """
    import zarr

    store = _store_of(path, sidecar.variable or _TRACES)
    root = zarr.open(store, mode="r")
    arrays = {"": root} if isinstance(root, zarr.Array) else _arrays_of(root)
    _refuse_pickles(arrays, store)
    name = _chosen(arrays, path, sidecar)
    notes = {"variable": name}
    frames_axis = _frames_axis(arrays, name, path, sidecar, notes)
    num_frames, num_units = arrays[name].shape[frames_axis], arrays[name].shape[1 - frames_axis]
    traces = ZarrFrames(store / name, frames_axis, (num_frames, num_units))
    return [
        make_session(
            _named_folder(path),
            sidecar,
            loaded_if_small(traces),
            signal=_SIGNALS.get(name, name) or None,
            time_s=_frame_times(path, arrays, num_frames),
            unit_names=_unit_names(arrays, num_units),
            unit_positions=_unit_positions(path, arrays, num_units),
            metadata=notes,
        )
    ]


@dataclass(frozen=True)
class ZarrFrames:
    """Frames [T, N] of one zarr array, read a slice at a time.

    Attributes:
        path: the array's folder.
        frames_axis: the array's axis that counts frames.
        shape: (T, N).
    """

    path: Path
    frames_axis: int
    shape: tuple[int, int]

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        import zarr

        array = zarr.open_array(self.path, mode="r")
        return np.asarray(array[:, frames]).T if self.frames_axis else np.asarray(array[frames])


def _is_store(folder: Path) -> bool:
    return any((folder / marker).is_file() for marker in _MARKERS)


def _store_of(path: Path, name: str) -> Path:
    """The store that holds an array: its own in a folder of stores, else the path itself."""
    if _is_store(path):
        return path
    store = path / f"{name}.zarr"
    if not _is_store(store):
        there = ", ".join(sorted(entry.stem for entry in path.glob("*.zarr")))
        raise RecordingError(f"{path}: holds no {name}.zarr (the sidecar's variable); it holds {there}.")
    return store


def _arrays_of(group: zarr.Group) -> dict[str, zarr.Array]:
    """Every array at and below a group by its path there."""
    import zarr

    found = {name: item for name, item in group.members(max_depth=None) if isinstance(item, zarr.Array)}
    return dict(sorted(found.items()))


def _refuse_pickles(arrays: Mapping[str, zarr.Array], store: Path) -> None:
    """Raises RecordingError if reading an array could run code that its file brings; no chunk is read."""
    for name, array in arrays.items():
        metadata = array.metadata.to_dict()
        codecs = (metadata.get(key) for key in ("compressor", "filters", "codecs"))
        if any("pickle" in str(codec).lower() for codec in codecs):
            raise RecordingError(
                f"{store}: array {name} is stored with pickle, which can run code and is never read. "
                "Store it as numbers or text."
            )


def _chosen(arrays: Mapping[str, zarr.Array], path: Path, sidecar: Sidecar) -> str:
    """The sidecar's `variable`, else C, else the only matrix that could be traces."""
    shapes = {
        name: array.shape for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "iuf"
    }
    if sidecar.variable is None:
        if _TRACES in shapes:
            return _TRACES
        shapes = {name: shape for name, shape in shapes.items() if could_be_traces(shape)}
    return choose_variable(shapes, path, sidecar)


def _frames_axis(
    arrays: Mapping[str, zarr.Array], name: str, path: Path, sidecar: Sidecar, notes: dict[str, str]
) -> int:
    """By the names of the axes, else by the lengths of the coordinates, else the longer axis."""
    array = arrays[name]
    if sidecar.frames_axis is not None:
        return sidecar.frames_axis
    axes = array.attrs.get("_ARRAY_DIMENSIONS") or getattr(array.metadata, "dimension_names", None)
    if isinstance(axes, list | tuple) and "frame" in axes:
        return axes.index("frame")
    fitting = {
        axis
        for axis in (0, 1)
        for coordinate, its_axis in (("frame", axis), ("unit_id", 1 - axis))
        if coordinate in arrays and arrays[coordinate].shape == (array.shape[its_axis],)
    }
    return fitting.pop() if len(fitting) == 1 else choose_frames_axis(array.shape, path, sidecar, notes)


def _unit_names(arrays: Mapping[str, zarr.Array], num_units: int) -> tuple[str, ...] | None:
    ids = arrays.get("unit_id")
    if ids is None or ids.shape != (num_units,):
        return None
    return tuple(f"u{unit}" for unit in np.asarray(ids[:]).tolist())


def _unit_positions(path: Path, arrays: Mapping[str, zarr.Array], num_units: int) -> np.ndarray | None:
    """float32 [N, 2]: centres of the footprints, row and column; None without footprints of these units."""
    import zarr

    store = path / f"{_FOOTPRINTS}.zarr"
    beside = _arrays_of(zarr.open_group(store, mode="r")) if _is_store(store) else arrays
    _refuse_pickles(beside, store)
    footprints = beside.get(_FOOTPRINTS)
    if footprints is None or footprints.ndim != 3 or footprints.shape[0] != num_units:
        return None
    if _unit_names(beside, num_units) != _unit_names(arrays, num_units):
        return None
    positions = np.zeros((num_units, 2), np.float32)
    for unit in range(num_units):
        weights = np.nan_to_num(np.asarray(footprints[unit], np.float64))
        total = weights.sum() or np.nan
        rows, columns = np.arange(weights.shape[0]), np.arange(weights.shape[1])
        positions[unit] = weights.sum(axis=1) @ rows / total, weights.sum(axis=0) @ columns / total
    return positions


def _frame_times(path: Path, arrays: Mapping[str, zarr.Array], num_frames: int) -> np.ndarray | None:
    """float64 [T], seconds, of the frames that minian kept; None without a file of them.

    Raises:
        RecordingError: the file misses a frame or is no table of times.
    """
    file = next(
        (folder / _TIMES for folder in (path, *path.absolute().parents[:2]) if (folder / _TIMES).is_file()),
        None,
    )
    if file is None:
        return None
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            times = {int(row["frame"]): float(row["timestamp_first"]) for row in csv.DictReader(stream)}
        frames = arrays.get("frame")
        kept = range(num_frames) if frames is None else np.asarray(frames[:]).tolist()
        time_s = np.array([times[frame] for frame in kept], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordingError(
            f"{file}: does not give a time for each frame ({error!r}); expected columns frame and "
            "timestamp_first. Mend or remove it."
        ) from error
    return time_s


def _named_folder(path: Path) -> Path:
    """The path that names the recording: folders are often called `minian` or `neural_data` themselves."""
    resolved = path.absolute()
    folder = resolved.parent if resolved.name == f"{_TRACES}.zarr" else resolved
    return folder.parent if folder.name in ("minian", "neural_data") else folder
