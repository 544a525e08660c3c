"""MATLAB v7.3 files: HDF5 behind 512 bytes of text, each array stored with its axes reversed.

How arrays are named and what makes traces is told in `_mat`. `frames_axis` counts axes as MATLAB shows them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import check_size
from forebrain.sessions.readers._hdf5 import Hdf5Frames
from forebrain.sessions.readers._mat import Matrix, session_of
from forebrain.sessions.readers._selected import loaded_if_small
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import h5py

_BEHIND_TEXT = 512


def recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(_BEHIND_TEXT + 8)
    return head.startswith(b"MATLAB 7.3") or head[_BEHIND_TEXT:] == b"\x89HDF\r\n\x1a\n"


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads a file; one matrix lazily.

    Raises:
        RecordingError: it is damaged, or which array is meant cannot be told.
    """
    import h5py

    arrays: dict[str, list[Matrix]] = {}
    try:
        with h5py.File(path, "r") as file:
            _collect(file, "", path, arrays)
            return [session_of(arrays, path, sidecar)]
    except (OSError, RuntimeError, KeyError) as error:  # as h5py raises them on damaged files
        raise RecordingError(
            f"{path}: not readable as a MATLAB v7.3 file ({error}). It is damaged; copy it again from its "
            "source."
        ) from error


def _collect(item: h5py.Group | h5py.Dataset, name: str, path: Path, arrays: dict[str, list[Matrix]]) -> None:
    import h5py

    if isinstance(item, h5py.Group):
        if "MATLAB_sparse" in item.attrs:
            arrays.setdefault(name, []).append(_sparse_matrix(item, path))
            return
        for key in item:
            is_inside = isinstance(item.get(key, getlink=True), h5py.HardLink)
            if is_inside and not key.startswith("#"):
                _collect(item[key], f"{name}/{key}" if name else key, path, arrays)
    elif item.dtype == h5py.ref_dtype:  # cells, and fields of struct arrays
        for reference in item[()].ravel():
            if reference:
                _collect(item.file[reference], name, path, arrays)
    elif item.dtype.kind in "fiub" and item.attrs.get("MATLAB_class") != b"char":
        is_empty = "MATLAB_empty" in item.attrs
        arrays.setdefault(name, []).append(_empty() if is_empty else _stored_matrix(item, path))


def _stored_matrix(dataset: h5py.Dataset, path: Path) -> Matrix:
    def load() -> np.ndarray:
        check_size(dataset.nbytes, path)
        return dataset[()].T

    def frames(frames_axis: int) -> FrameSource:
        return loaded_if_small(Hdf5Frames.of(path, dataset, 1 - frames_axis))

    return Matrix(dataset.shape[::-1], load, frames)


def _sparse_matrix(group: h5py.Group, path: Path) -> Matrix:
    shape = (int(group.attrs["MATLAB_sparse"]), len(group["jc"]) - 1)

    def load() -> np.ndarray:
        from scipy import sparse

        check_size(8 * shape[0] * shape[1], path)
        if "data" not in group:
            return np.zeros(shape)
        return sparse.csc_array((group["data"][()], group["ir"][()], group["jc"][()]), shape=shape).toarray()

    return Matrix.in_memory(shape, load)


def _empty() -> Matrix:
    return Matrix.in_memory((0, 0), lambda: np.empty((0, 0)))
