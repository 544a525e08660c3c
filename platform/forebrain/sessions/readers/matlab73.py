"""MATLAB v7.3 files: HDF5 behind 512 bytes of text, each array stored with its axes reversed.

How arrays are named and what makes traces is told in `_content`. Axes are counted as MATLAB shows them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import check_size
from forebrain.sessions.readers._content import Content, StoredArray, sessions_of
from forebrain.sessions.readers._hdf5 import Hdf5Frames, linked_files, open_hdf5
from forebrain.sessions.readers._selected import loaded_if_small
from forebrain.sessions.readers.matlab import _OBJECT
from forebrain.sessions.readers.suite2p import arrays_as_folder
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import h5py

_BEHIND_TEXT = 512
_PLAIN_CLASSES = {
    b"double",
    b"single",
    b"logical",
    b"struct",
    b"cell",
    b"char",
    b"int8",
    b"int16",
    b"int32",
    b"int64",
    b"uint8",
    b"uint16",
    b"uint32",
    b"uint64",
    b"function_handle",
    b"canonical empty",
}

further_files = linked_files


def recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(_BEHIND_TEXT + 8)
    return head.startswith(b"MATLAB 7.3") or head[_BEHIND_TEXT:] == b"\x89HDF\r\n\x1a\n"


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads a file; one matrix lazily.

    Raises:
        RecordingError: it is damaged, or no array could be traces.
        RecordingQuestion: which array is meant, or what its axes count, cannot be told.
    """
    content = Content()
    try:
        with open_hdf5(path) as file:
            _collect(file, "", path, content)
            return arrays_as_folder(content, path, sidecar) or sessions_of(content, path, sidecar)
    except (OSError, RuntimeError, KeyError) as error:  # as h5py raises them on damaged files
        raise RecordingError(
            f"{path}: not readable as a MATLAB v7.3 file ({error}). It is damaged; copy it again from its "
            "source."
        ) from error


def _collect(item: h5py.Group | h5py.Dataset, name: str, path: Path, content: Content) -> None:
    import h5py

    kind = item.attrs.get("MATLAB_class", b"")
    if "MATLAB_object_decode" in item.attrs or (
        kind and kind not in _PLAIN_CLASSES and "MATLAB_sparse" not in item.attrs
    ):
        content.unreadable[name] = _OBJECT.format(kind.decode(errors="replace"))
    elif isinstance(item, h5py.Group):
        if "MATLAB_sparse" in item.attrs:
            content.add(name, _sparse_matrix(item, path))
            return
        for key in item:
            is_inside = isinstance(item.get(key, getlink=True), h5py.HardLink)
            if is_inside and not key.startswith("#"):
                _collect(item[key], f"{name}/{key}" if name else key, path, content)
    elif item.dtype == h5py.ref_dtype:  # cells, and fields of struct arrays
        references = item[()]
        if references.ndim == 2 and min(references.shape) > 1:
            content.cells[name] = references.shape[::-1]
        for reference in references.ravel():
            if reference:
                _collect(item.file[reference], name, path, content)
        if len(content.arrays.get(name, ())) != references.size:
            content.cells.pop(name, None)
    elif item.dtype.kind in "fiub" and kind != b"char":
        if item.size == 1:
            content.numbers.setdefault(name, float(np.ravel(item[()])[0]))
        is_empty = "MATLAB_empty" in item.attrs
        content.add(name, _empty() if is_empty else _stored_matrix(item, path))
    elif item.dtype.names == ("real", "imag") or item.dtype.kind == "c":
        content.unreadable[name] = "holds complex numbers; save their real part or magnitude"


def _stored_matrix(dataset: h5py.Dataset, path: Path) -> StoredArray:
    def load() -> np.ndarray:
        check_size(dataset.nbytes, path)
        return dataset[()].T

    def frames(axis: int) -> FrameSource:
        return loaded_if_small(Hdf5Frames.of(path, dataset, 1 - axis))

    return StoredArray(dataset.shape[::-1], load, frames)


def _sparse_matrix(group: h5py.Group, path: Path) -> StoredArray:
    shape = (int(group.attrs["MATLAB_sparse"]), len(group["jc"]) - 1)

    def load() -> np.ndarray:
        from scipy import sparse

        check_size(8 * shape[0] * shape[1], path)
        if "data" not in group:
            return np.zeros(shape)
        return sparse.csc_array((group["data"][()], group["ir"][()], group["jc"][()]), shape=shape).toarray()

    return StoredArray.in_memory(shape, load)


def _empty() -> StoredArray:
    return StoredArray.in_memory((0, 0), lambda: np.empty((0, 0)))
