"""Any other HDF5 file: one matrix in it is the traces; the sidecar's `variable` names it among several.

The sidecar's `time_column` may name a data set of frame times in seconds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import (
    RATE_NAMES,
    choose_frames_axis,
    choose_variable,
    could_be_traces,
    make_session,
)
from forebrain.sessions.readers._hdf5 import Hdf5Frames, has_hdf5_signature, is_matrix, items_of, number_of
from forebrain.sessions.readers._selected import loaded_if_small
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import h5py


def recognises(path: Path) -> bool:
    return has_hdf5_signature(path)


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one matrix of the file.

    Raises:
        RecordingError: the file is damaged, no matrix could be traces, or the sidecar must choose one.
    """
    import h5py

    with h5py.File(path, "r") as file:
        matrices = {name: item.shape for name, item in items_of(file).items() if is_matrix(item)}
        if sidecar.variable is None:
            matrices = {name: shape for name, shape in matrices.items() if could_be_traces(shape)}
        else:
            sidecar = replace(sidecar, variable=sidecar.variable.strip("/"))
        name = choose_variable(matrices, path, sidecar)
        notes = {"variable": name}
        frames_axis = choose_frames_axis(matrices[name], path, sidecar, notes)
        traces = Hdf5Frames.of(path, file[name], frames_axis)
        time_s = _frame_times(file, traces.shape[0], path, sidecar)
        rate_hz = sidecar.rate_hz or _rate(file, name, path)
    return [
        make_session(
            path,
            sidecar,
            loaded_if_small(traces),
            rate_hz=rate_hz,
            signal=name.rpartition("/")[2],
            time_s=time_s,
            metadata=notes,
        )
    ]


def _frame_times(file: h5py.File, num_frames: int, path: Path, sidecar: Sidecar) -> np.ndarray | None:
    """float64 [T], seconds; None unless the sidecar names them."""
    if sidecar.time_column is None:
        return None
    item = file.get(sidecar.time_column)
    if getattr(item, "shape", None) not in ((num_frames,), (num_frames, 1), (1, num_frames)):
        found = "is not there" if item is None else f"has shape {getattr(item, 'shape', 'of a group')}"
        raise RecordingError(
            f"{path}: {sidecar.time_column} (the sidecar's time_column) {found}; expected a time for each of "
            f"{num_frames} frames."
        )
    return np.asarray(item[()], np.float64).ravel()


def _rate(file: h5py.File, name: str, path: Path) -> float | None:
    """Frames a second, as a number or attribute of a known name states it; None where nothing does.

    Raises:
        RecordingError: two places state different rates.
    """
    stated = {}
    dataset = file[name]
    for group in (file, dataset.parent, dataset):
        for key in RATE_NAMES:
            value = group.attrs.get(key)
            if isinstance(value, int | float | np.number) and np.isfinite(value) and value > 0:
                stated[f"{group.name} attribute {key}"] = float(value)
            if group is not dataset and (number := number_of(group, key)) is not None:
                stated[f"{group.name}/{key}"] = number
    if len(set(stated.values())) > 1:
        listed = ", ".join(f"{place} says {value:g}" for place, value in stated.items())
        raise RecordingError(f"{path}: different rates are stated: {listed}. State rate_hz in the sidecar.")
    return next(iter(stated.values()), None)
