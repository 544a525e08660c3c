"""netCDF of the classic formats, opened by scipy; netCDF 4 is HDF5 and read as such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._content import Content, StoredArray, sessions_of
from forebrain.sessions.readers._packing import packing_of, unpacked
from forebrain.sessions.readers._selected import loaded_if_small
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

MAX_AXES = 4


@dataclass(frozen=True, eq=False)
class NetcdfFrames:
    """Frames [T, N] of one variable, read a slice at a time.

    Attributes:
        path: the file.
        name: of the variable.
        frames_axis: its axis that counts frames.
        shape: (T, N).
        packing: how the numbers are packed, as CF attributes.
    """

    path: Path
    name: str
    frames_axis: int
    shape: tuple[int, int]
    packing: Mapping[str, Any]

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        where = (slice(None), frames) if self.frames_axis else (frames, slice(None))
        values = unpacked(_read(self.path, self.name, where), self.packing)
        return values.T if self.frames_axis else values


def recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) in (b"CDF\x01", b"CDF\x02")


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one variable of the file.

    Raises:
        RecordingError: the file is damaged, or no variable could be traces.
        RecordingQuestion: the sidecar must choose one, or tell its axes or rate.
    """
    from scipy import io

    content = Content()
    try:
        with io.netcdf_file(path, "r", mmap=False) as file:
            for key, value in file._attributes.items():
                if isinstance(value, int | float | np.number):
                    content.numbers[key] = float(value)
            for name, variable in file.variables.items():
                _add(content, name, variable, path)
    except Exception as error:  # scipy raises errors of many kinds on damaged files
        raise RecordingError(
            f"{path}: not readable as netCDF ({type(error).__name__}: {error}). It is damaged; copy it again."
        ) from error
    return sessions_of(content, path, sidecar)


def _add(content: Content, name: str, variable: Any, path: Path) -> None:
    shape, dtype = tuple(variable.shape), variable.data.dtype.newbyteorder("=")
    if dtype.kind not in "iuf":
        return
    if int(np.prod(shape)) == 1:
        content.numbers[name] = float(np.ravel(variable.data)[0])
    if not shape or len(shape) > MAX_AXES:
        return
    packing = packing_of(variable._attributes, dtype)

    def load() -> np.ndarray:
        return unpacked(_read(path, name, (slice(None),) * len(shape)), packing)

    def frames(axis: int) -> FrameSource:
        return loaded_if_small(NetcdfFrames(path, name, axis, (shape[axis], shape[1 - axis]), packing))

    content.add(
        name, StoredArray(shape, load, frames, tuple(variable.dimensions), dict(variable._attributes))
    )


def whole_records(path: Path) -> Any:
    """The file, opened by scipy, with as many of its records as lie there: a power cut may leave fewer than
    are counted. `num_counted` and `num_bytes`, those of all that is counted, are its attributes."""
    from scipy import io

    class Whole(io.netcdf_file):
        def __init__(self) -> None:
            self.__dict__["begin"] = path.stat().st_size
            super().__init__(path, "r", mmap=True)

        @property
        def num_counted(self) -> int:
            return int(self.__dict__["_recs"])

        @property
        def num_bytes(self) -> int:
            return int(self.begin + self.num_counted * self._recsize)

        @property
        def _recs(self) -> int:
            there = path.stat().st_size - self.begin
            return min(self.num_counted, max(0, there) // self._recsize) if self._recsize else 0

        def _read_var(self) -> Any:
            found = super()._read_var()
            if found[2] and found[2][0] is None:  # has records
                self.__dict__["begin"] = min(self.begin, found[7])
            return found

    return Whole()


def _read(path: Path, name: str, where: tuple[slice, ...]) -> np.ndarray:
    with whole_records(path) as file:
        values = np.array(file.variables[name].data[where])
        # scipy warns of arrays that outlive the file's map; the copy above does not need it.
    return values.astype(values.dtype.newbyteorder("="))
