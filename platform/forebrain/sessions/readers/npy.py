"""One NumPy array, usually [frames, units] or [units, frames]; rate and identity come from a sidecar.

The file's name says what the array is: one called like behaviour, a clock, or a helper array of a known tool
(`iscell.npy`, `channel_positions.npy`) is no recording unless the sidecar's `variable` names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._content import Content, StoredArray, sessions_of
from forebrain.sessions.readers._names import role_of_file
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar


@dataclass(frozen=True)
class NpyFrames:
    """Frames of a .npy file, opened when they are asked for: it travels between processes by its path.

    Attributes:
        path: the file.
        frames_axis: the array's axis that counts frames, 0 or 1.
        shape: (T, N).
    """

    path: Path
    frames_axis: int
    shape: tuple[int, int]

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return np.array(array[:, frames].T if self.frames_axis else array[frames])


def recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(6) == b"\x93NUMPY"


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads an array, lazily.

    Raises:
        RecordingError: it is cut off, or no array of numbers.
        RecordingQuestion: what its axes count cannot be told.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise RecordingError(
            f"{path}: cannot be read ({error}). It is cut off, or holds Python objects, which are never "
            "loaded; save a plain array of numbers."
        ) from error
    if array.dtype.kind not in "fiub":
        kind = "complex numbers" if array.dtype.kind == "c" else f"values of type {array.dtype}"
        raise RecordingError(f"{path}: holds {kind}; expected numbers, real ones.")

    def frames(axis: int) -> NpyFrames:
        return NpyFrames(path, axis, (array.shape[axis], array.shape[1 - axis]))

    content = Content(is_one_table=True)
    content.roles[path.stem] = role_of_file(path.stem)
    content.add(path.stem, StoredArray(array.shape, lambda: np.array(array), frames))
    return sessions_of(content, path, sidecar, signals={path.stem: ""})
