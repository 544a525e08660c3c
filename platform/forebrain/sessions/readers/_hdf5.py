"""What the readers of HDF5 files share: lazy frames, walking a file, single values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import h5py

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Hdf5Frames:
    """Frames [T, N] of one HDF5 data set, read a slice at a time; the file is opened for each.

    Attributes:
        path: the file.
        name: path of the data set in the file.
        frames_axis: the data set's axis that counts frames, 0 or 1.
        shape: (T, N).
    """

    path: Path
    name: str
    frames_axis: int
    shape: tuple[int, int]

    @classmethod
    def of(cls, path: Path, dataset: h5py.Dataset, frames_axis: int) -> Hdf5Frames:
        return cls(
            path, dataset.name, frames_axis, (dataset.shape[frames_axis], dataset.shape[1 - frames_axis])
        )

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        import h5py

        with h5py.File(self.path, "r") as file:
            dataset = file[self.name]
            return dataset[:, frames].T if self.frames_axis else dataset[frames]


def has_hdf5_signature(path: Path) -> bool:
    """Whether a file begins as HDF5 does, be it whole or damaged (MATLAB's begin with 512 bytes of text)."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_SIGNATURE)) == _SIGNATURE


def holds(path: Path, test: Callable[[h5py.File], bool]) -> bool:
    """Whether a file is HDF5 and passes a test; a damaged one does not; the reader `hdf5` tells why."""
    import h5py

    if not has_hdf5_signature(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return test(file)
    except (OSError, RuntimeError, KeyError, ValueError):  # h5py raises all of these on damaged files
        return False


def items_of(group: h5py.Group) -> dict[str, h5py.Group | h5py.Dataset]:
    """All that lies below a group by its path there, each item once; soft and external links are left out."""
    found: dict[str, h5py.Group | h5py.Dataset] = {}
    group.visititems(found.__setitem__)
    return found


def is_matrix(item: Any) -> bool:
    """Whether an item of a file is a data set of numbers with two axes."""
    return getattr(item, "ndim", 0) == 2 and item.dtype.kind in "iuf" and item.size > 0


def text_of(group: h5py.Group, name: str) -> str | None:
    """A scalar text of the file; None where it is absent or no text."""
    item = group.get(name)
    if getattr(item, "shape", None) != ():
        return None
    value = item[()]
    return value.decode(errors="replace") if isinstance(value, bytes) else None


def number_of(group: h5py.Group, name: str) -> float | None:
    """The positive number of a data set with one value; None where there is none."""
    item = group.get(name)
    if getattr(item, "size", 0) != 1 or item.dtype.kind not in "iuf":
        return None
    value = float(np.ravel(item[()])[0])
    return value if np.isfinite(value) and value > 0 else None
