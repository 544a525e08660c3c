"""The parts that the readers of HDF5 files share: opening, lazy frames, walking a file, single values."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._content import Content, StoredArray
from forebrain.sessions.readers._packing import packing_of, unpacked
from forebrain.sessions.readers._selected import loaded_if_small
from forebrain.sessions.session import FrameSource

if TYPE_CHECKING:
    import h5py

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Filters that are not part of HDF5, by their registered numbers.
_PLUGINS = {
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "Bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32017: "SZ",
    32019: "JPEG",
    32022: "FCIDECOMP",
    32026: "Blosc2",
    32028: "SPERR",
    307: "BZip2",
}
MAX_AXES = 4


@dataclass(frozen=True, eq=False)
class Hdf5Frames:
    """Frames [T, N] of one HDF5 data set, read a slice at a time; the file is opened for each.

    Attributes:
        path: the file.
        name: path of the data set in the file.
        frames_axis: the data set's axis that counts frames, 0 or 1.
        shape: (T, N).
        packing: how the numbers are packed, as CF attributes.
    """

    path: Path
    name: str
    frames_axis: int
    shape: tuple[int, int]
    packing: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, dataset: h5py.Dataset, frames_axis: int) -> Hdf5Frames:
        """The frames of a data set, which a link may have led to in another file; with one axis, of one
        unit."""
        check_storage(dataset, path)
        shape = (dataset.shape[frames_axis], dataset.shape[1 - frames_axis] if dataset.ndim == 2 else 1)
        packing = packing_of(dataset.attrs, dataset.dtype)
        return cls(file_of(dataset, path), dataset.name, frames_axis, shape, packing)

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        with open_hdf5(self.path) as file:
            return self.read(file, frames)

    def read(self, file: h5py.File, frames: slice) -> np.ndarray:
        """Frames from the file while it is open."""
        dataset = file[self.name]
        values = dataset[:, frames].T if self.frames_axis else dataset[frames]
        values = unpacked(values, self.packing)
        return values[:, None] if values.ndim == 1 else values


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read, on disk or, by a path that has `open_remote`, elsewhere."""
    import h5py

    open_remote = getattr(path, "open_remote", None)
    if open_remote is None:
        with h5py.File(path, "r") as file:
            yield file
        return
    with open_remote() as stream, h5py.File(stream, "r") as file:
        yield file


def file_of(item: h5py.Group | h5py.Dataset, path: Path) -> Path:
    """The file that an item lies in: `path`, or another one where an external link led there."""
    if hasattr(path, "open_remote"):
        return path
    other = Path(item.file.filename)
    return path if other == path or (other.exists() and other.samefile(path)) else other


def check_storage(dataset: h5py.Dataset, path: Path) -> None:
    """Refuses data whose compression needs a plugin that is not there, or that lie in a file that is not
    there.

    Raises:
        RecordingError: naming the compression and the package that brings it, or the file.
    """
    import h5py

    if dataset.is_virtual and not hasattr(path, "open_remote"):
        folder = Path(dataset.file.filename).parent
        files = {source.file_name for source in dataset.virtual_sources()} - {"."}
        gone = sorted(name for name in files if not (folder / name).exists())
        if gone:
            raise RecordingError(
                f"{path}: {dataset.name} is put together of other files, and {', '.join(gone[:5])} is not "
                f"there. Copy "
                "all of them."
            )

    pipeline = dataset.id.get_create_plist()
    for number in range(pipeline.get_nfilters()):
        code, _, _, name = pipeline.get_filter(number)
        if h5py.h5z.filter_avail(code):
            continue
        with contextlib.suppress(ImportError):
            import hdf5plugin  # noqa: F401 - it registers its filters

            if h5py.h5z.filter_avail(code):
                continue
        known = _PLUGINS.get(code) or (name.decode(errors="replace") if name else "") or "an unknown filter"
        raise RecordingError(
            f"{path}: {dataset.name} is compressed by {known} (HDF5 filter {code}), whose plugin is not "
            f"installed. "
            "The file is whole: `pip install hdf5plugin` brings the usual ones, or write it again with gzip."
        )


def has_hdf5_signature(path: Path) -> bool:
    """Whether a file begins as HDF5 does, be it whole or damaged (MATLAB's begin with 512 bytes of text)."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_SIGNATURE)) == _SIGNATURE


def holds(path: Path, test: Callable[[h5py.File], bool]) -> bool:
    """Whether a file is HDF5 and passes a test; a damaged one does not; the reader `hdf5` tells why."""
    if not has_hdf5_signature(path):
        return False
    try:
        with open_hdf5(path) as file:
            return test(file)
    except (OSError, RuntimeError, KeyError, ValueError):  # h5py raises all of these on damaged files
        return False


def items_of(group: h5py.Group) -> dict[str, h5py.Group | h5py.Dataset]:
    """All that lies below a group by its path there, each item once; soft and external links are left out."""
    found: dict[str, h5py.Group | h5py.Dataset] = {}
    group.visititems(found.__setitem__)
    return found


def broken_links(file: h5py.Group) -> dict[str, str]:
    """Links that lead nowhere by their path, and what they name."""
    import h5py

    found: dict[str, str] = {}
    for name, item in {"": file, **items_of(file)}.items():
        if not isinstance(item, h5py.Group):
            continue
        for key in item:
            link = item.get(key, getlink=True)
            if isinstance(link, h5py.HardLink):
                continue
            try:
                item[key]
            except (KeyError, OSError):
                at = f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else link.path
                found[f"{name}/{key}" if name else key] = f"is a link to {at}, which is not there"
    return found


def linked_items(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Data sets that soft and external links lead to, by the links' paths, where nothing else leads to
    them."""
    import h5py

    items = items_of(group)
    there = {(item.file.filename, item.name) for item in items.values()}
    found: dict[str, h5py.Dataset] = {}
    for name, item in {"": group, **items}.items():
        if not isinstance(item, h5py.Group):
            continue
        for key in item:
            if isinstance(item.get(key, getlink=True), h5py.HardLink):
                continue
            with contextlib.suppress(KeyError, OSError):
                target = item[key]
                if isinstance(target, h5py.Dataset) and (target.file.filename, target.name) not in there:
                    found[f"{name}/{key}" if name else key] = target
    return found


def linked_files(path: Path) -> list[Path]:
    """The other files that an HDF5 file's numbers may lie in: those that its external links lead to, that
    its data sets are put together of or keep their bytes in, and what these name in turn; sorted, without
    those that are not there. None of a folder, of a damaged file or of one elsewhere."""
    if hasattr(path, "open_remote") or not path.is_file():
        return []
    start = path.resolve()
    found, todo = {start}, [start]
    while todo:
        with contextlib.suppress(OSError, RuntimeError, KeyError, ValueError), open_hdf5(todo.pop()) as file:
            for other in {each.resolve() for each in _named_files(file) if each.is_file()} - found:
                found.add(other)
                todo.append(other)
    return sorted(found - {start})


def _named_files(file: h5py.File) -> Iterator[Path]:
    """The files that a file names; some may not be there."""
    import h5py

    folder = Path(file.filename).parent
    for item in {"": file, **items_of(file)}.values():
        if isinstance(item, h5py.Group):
            for key in item:
                if isinstance(item.get(key, getlink=True), h5py.ExternalLink):
                    with contextlib.suppress(KeyError, OSError):
                        yield Path(item[key].file.filename)
            continue
        if item.is_virtual:
            for source in item.virtual_sources():
                yield from _matching(folder, source.file_name)
        for name, *_ in item.external or ():
            yield from (folder / name, Path(name))


def _matching(folder: Path, name: str) -> Iterator[Path]:
    """The files of a virtual data set's source, whose name may count with %b."""
    if "%" not in name:
        yield folder / name
        return
    pattern = re.sub(r"%\d*b", "*", glob.escape(name)).replace("%%", "%")
    yield from map(Path, glob.glob(os.path.join(glob.escape(str(folder)), pattern)))  # noqa: PTH118, PTH207


def content_of(file: h5py.File, path: Path) -> Content:
    """The arrays, numbers and texts of a file; arrays are read when they are asked for."""
    import h5py

    content = Content()
    content.unreadable |= broken_links(file)
    content.numbers |= _numbers_of("", file)
    for name, item in {**items_of(file), **linked_items(file)}.items():
        if isinstance(item, h5py.Group):
            content.numbers |= _numbers_of(f"{name}/", item)
        elif item.shape is None:
            continue
        elif item.dtype.names:
            content.unreadable[name] = _why_compound(item)
        elif item.dtype.kind == "c":
            content.unreadable[name] = "holds complex numbers; save their real part or magnitude"
        elif item.dtype.kind in "fiub":
            if item.shape == () or item.size == 1:
                content.numbers[name] = float(np.ravel(item[()])[0])
            elif item.ndim <= MAX_AXES:
                content.add(name, stored(item, path))
        elif (
            h5py.check_string_dtype(item.dtype) is not None and item.ndim == 1 and 0 < item.size <= 1_000_000
        ):
            content.texts[name] = tuple(item.asstr(errors="replace")[()].tolist())
    return content


def stored(dataset: h5py.Dataset, path: Path) -> StoredArray:
    """A data set as an array that is read when it is asked for."""
    packing = packing_of(dataset.attrs, dataset.dtype)
    place, name = file_of(dataset, path), dataset.name

    def load() -> np.ndarray:
        from forebrain.sessions.readers._common import check_size

        check_storage(dataset, path)
        check_size(dataset.nbytes, path)
        with open_hdf5(place) as file:
            return unpacked(file[name][()], packing)

    def frames(axis: int) -> FrameSource:
        return loaded_if_small(Hdf5Frames.of(path, dataset, axis))

    return StoredArray(dataset.shape, load, frames, _dims_of(dataset), dict(dataset.attrs))


def _dims_of(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Names of the axes as netCDF keeps them: of the scale that each axis is joined to, or its label."""
    names = []
    for dim in dataset.dims:
        scale = next((dim[key] for key in range(len(dim))), None)
        names.append(dim.label or ("" if scale is None else scale.name.rpartition("/")[2]))
    return tuple(names) if all(names) else ()


def _numbers_of(prefix: str, group: h5py.Group) -> dict[str, float]:
    found = {}
    for key, value in group.attrs.items():
        if isinstance(value, int | float | np.number) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
        elif isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "fiu":
            found[f"{prefix}{key}"] = float(value.ravel()[0])
    return found


def _why_compound(item: h5py.Dataset) -> str:
    if set(item.dtype.names) == {"real", "imag"}:
        return "holds complex numbers; save their real part or magnitude"
    return (
        "is a table of compound values, as pandas writes it with DataFrame.to_hdf(format='table'); write the "
        "frame "
        "with to_csv or to_parquet instead"
    )


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
