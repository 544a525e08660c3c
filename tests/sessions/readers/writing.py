"""Small recordings as labs' tools write them, for tests of what is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers import find_recordings, open_recording
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar


def bare_nwb(path: Path) -> h5py.File:
    """An NWB file with no more than the attributes that make it one: pynwb refuses what is put into it."""
    file = h5py.File(path, "w")
    file.attrs["nwb_version"], file.attrs["neurodata_type"], file.attrs["namespace"] = (
        "2.8.0",
        "NWBFile",
        "core",
    )
    return file


def put_series(
    group: h5py.Group,
    name: str,
    data: np.ndarray | None,
    kind: str,
    rate_hz: float | None = None,
    **attrs: Any,
) -> h5py.Group:
    """A TimeSeries, or one of its kinds, by hand."""
    series = group.require_group(name)
    series.attrs["neurodata_type"], series.attrs["namespace"] = kind, "core"
    if data is not None:
        dataset = series.create_dataset("data", data=data)
        for key, value in {"conversion": 1.0, "unit": "n.a.", **attrs}.items():
            dataset.attrs[key] = value
    if rate_hz is not None:
        start = series.create_dataset("starting_time", data=0.0)
        start.attrs["rate"], start.attrs["unit"] = rate_hz, "seconds"
    return series


def matlab73(path: Path) -> h5py.File:
    """A MATLAB v7.3 file to fill; `stamped` makes it whole once it is closed."""
    return h5py.File(path, "w", userblock_size=512)


def stamped(path: Path) -> Path:
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2024 HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(head.ljust(124, b" ") + b"\x00\x02IM")
    return path


def cells(*shape: int, of: Any) -> np.ndarray:
    """A MATLAB cell array; `of` gives the content of a cell by its place."""
    array = np.empty(shape, object)
    for place in np.ndindex(*shape):
        array[place] = of(*place)
    return array


def read_one(path: Path, **said: Any) -> Session:
    (session,) = open_recording(path, Sidecar(**said))
    return session


def read_all(folder: Path) -> tuple[list[Session], list[str]]:
    """All sessions found under a folder, and the errors of what cannot be read."""
    sessions: list[Session] = []
    errors: list[str] = []
    try:
        found = find_recordings([folder])
    except RecordingError as error:
        return [], [str(error)]
    for path in found:
        try:
            sessions += open_recording(path)
        except RecordingError as error:
            errors.append(str(error))
    return sessions, errors


def assert_values(session: Session, expected: np.ndarray, **tolerance: float) -> None:
    """That the whole session holds these values, float32, NaN where they are NaN."""
    got = session.frames(0, session.num_frames)
    np.testing.assert_allclose(got, expected.astype(np.float32), **{"rtol": 1e-6, **tolerance})
