"""The parts that the readers of zarr stores share: walking a store, lazy frames, packed numbers, chunks that
are not there."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._content import Content, StoredArray
from forebrain.sessions.readers._packing import packing_of, unpacked
from forebrain.sessions.readers._selected import loaded_if_small
from forebrain.sessions.remote import absent_chunks, fetch_chunks, is_mirrored
from forebrain.sessions.session import FrameSource
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import zarr

_MARKERS = (".zgroup", ".zarray", "zarr.json")
_SPARSE_ZEROS = 0.5  # a writer that leaves out chunks of zeros writes such as are half zeros
_NUM_SAMPLED = 4
_MAX_TEXTS = 100_000
_BLOSC_HEADER = 16
MAX_AXES = 4


@dataclass(frozen=True, eq=False)
class ZarrFrames:
    """Frames [T, N] of one zarr array, read a slice at a time.

    Attributes:
        path: the array's folder.
        frames_axis: the array's axis that counts frames.
        shape: (T, N).
        packing: how the numbers are packed, as CF attributes.
        absent: of chunks that are not there and are missing values, the place in the grid of chunks.
        chunk_shape: of the array.
    """

    path: Path
    frames_axis: int
    shape: tuple[int, int]
    packing: Mapping[str, Any] = field(default_factory=dict)
    absent: tuple[tuple[int, ...], ...] = ()
    chunk_shape: tuple[int, ...] = ()

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        array = open_array(self.path)
        start, stop, _ = frames.indices(self.shape[0])
        where = [slice(0, length) for length in array.shape]
        where[self.frames_axis] = slice(start, stop)
        values = unpacked(read_array(self.path, array, where), self.packing)
        if self.absent:
            values = _without(values, self.absent, self.chunk_shape, where)
        return values.T if self.frames_axis else values[:, None] if values.ndim == 1 else values


def _without(
    values: np.ndarray, absent: tuple[tuple[int, ...], ...], chunk_shape: tuple[int, ...], where: list[slice]
) -> np.ndarray:
    """The values with NaN where a chunk is not there."""
    values = values.astype(np.result_type(values.dtype, np.float32))
    offsets = [part.start or 0 for part in where]
    for chunk in absent:
        place = []
        for number, length, offset, size in zip(chunk, chunk_shape, offsets, values.shape, strict=True):
            low, high = number * length - offset, (number + 1) * length - offset
            place.append(slice(min(max(low, 0), size), min(max(high, 0), size)))
        values[tuple(place)] = np.nan
    return values


def is_store(folder: Path) -> bool:
    return any((folder / marker).is_file() for marker in _MARKERS)


def open_array(path: Path) -> zarr.Array:
    """An array to read; its chunks through `read_array`, which fetches those that lie elsewhere."""
    import zarr

    return zarr.open_array(path, mode="r")


def read_array(path: Path, array: zarr.Array, where: Sequence[slice] | None = None) -> np.ndarray:
    """Values of an array, whole or the parts [start, stop) of each axis; chunks of a mirrored store are
    fetched.

    Raises:
        RecordingError: a chunk is cut off.
    """
    where = [slice(0, length) for length in array.shape] if where is None else where
    lengths = _chunk_shape(array)
    ranges = [range(part.start // n, -(-part.stop // n)) for part, n in zip(where, lengths, strict=True)]
    is_blosc = _is_blosc(array)
    if is_blosc or is_mirrored(path):
        names = [array.metadata.encode_chunk_key(chunk) for chunk in itertools.product(*ranges)]
        if is_mirrored(path):
            fetch_chunks(path, names)
        if is_blosc:
            _refuse_cut_chunks(path, names)
    return np.asarray(array[tuple(where)])


def _is_blosc(array: zarr.Array) -> bool:
    """Whether each chunk is one piece of Blosc."""
    metadata: dict[str, Any] = dict(array.metadata.to_dict())
    codec = metadata.get("compressor") or (metadata.get("codecs") or [{}])[-1]
    return isinstance(codec, dict) and "blosc" in (codec.get("id"), codec.get("name"))


def _refuse_cut_chunks(path: Path, names: Sequence[str]) -> None:
    """Refuses chunks that are shorter than they say: Blosc reads on in memory that is not theirs."""
    for name in names:
        file = path / name
        if not file.is_file():
            continue
        with file.open("rb") as stream:
            head = stream.read(_BLOSC_HEADER)
        stated = int.from_bytes(head[12:16], "little")
        if len(head) < _BLOSC_HEADER or stated > file.stat().st_size:
            raise RecordingError(
                f"{file}: the chunk has {file.stat().st_size} of {stated} bytes; it is cut off. Copy it "
                f"again."
            )


@dataclass(frozen=True, eq=False)
class ZarrTree:
    """The groups and arrays of a store by their path in it, each read from its own folder.

    One array that cannot be opened leaves the others as they are.

    Attributes:
        path: the store.
        metadata: of each group and array, as its JSON says, with `attributes`.
    """

    path: Path
    metadata: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, path: Path) -> ZarrTree:
        """Walks a store.

        Raises:
            RecordingError: metadata is no JSON, or an array would have to be unpickled.
        """
        found = dict(_walk(path, ""))
        for name, metadata in found.items():
            stored = {key: metadata.get(key) for key in ("compressor", "filters", "codecs")}
            if "pickle" in json.dumps(stored).lower():
                raise RecordingError(
                    f"{path}: array {name} is stored with pickle, which can run code and is never read. "
                    "Store it as numbers or text."
                )
        return cls(path, dict(sorted(found.items())))

    def at(self, name: str) -> Path:
        """The folder of a group or array."""
        return self.path / name if name else self.path

    def values(self, name: str) -> np.ndarray:
        """A whole array of few values."""
        return read_array(self.at(name), self.array(name))

    def is_array(self, name: str) -> bool:
        return "shape" in self.metadata.get(name, {})

    def attrs(self, name: str) -> Mapping[str, Any]:
        return self.metadata.get(name, {}).get("attributes", {})

    def array(self, name: str) -> zarr.Array:
        """An array to read.

        Raises:
            RecordingError: its codec is not installed, or its metadata are wrong.
        """
        try:
            return open_array(self.at(name))
        except Exception as error:  # zarr and numcodecs raise errors of many kinds
            raise RecordingError(f"{self.path}: array {name} {_why(error)}.") from error

    def texts(self, name: str) -> tuple[str, ...] | None:
        """The texts of an array of one chunk; None if it is none."""
        metadata = self.metadata.get(name, {})
        if "shape" not in metadata or int(np.prod(metadata["shape"])) > _MAX_TEXTS:
            return None
        try:
            values: np.ndarray | None = np.ravel(self.values(name))
        except (
            Exception
        ):  # zarr cannot open what hdmf-zarr wrote for zarr 2: objects with a number as fill value
            values = _objects(self.path / name, metadata)
        if values is None or not len(values) or values.dtype.kind not in "OUST":
            return None
        texts = [
            item.decode(errors="replace") if isinstance(item, bytes) else item for item in values.tolist()
        ]
        return tuple(texts) if all(isinstance(item, str) for item in texts) else None

    def stored(self, name: str, sidecar: Sidecar, notes: dict[str, str]) -> StoredArray:
        """An array of numbers as the content of a recording."""
        array = self.array(name)
        packing = _packing(array, self.attrs(name))

        def frames(axis: int) -> FrameSource:
            absent = _absent(self.at(name), array, packing, name, sidecar, notes)
            shape = (array.shape[axis], array.shape[1 - axis] if array.ndim == 2 else 1)
            return loaded_if_small(
                ZarrFrames(self.at(name), axis, shape, packing, absent, _chunk_shape(array))
            )

        def load() -> np.ndarray:
            from forebrain.sessions.readers._common import check_size

            check_size(array.nbytes, self.path)
            absent = _absent(self.at(name), array, packing, name, sidecar, notes)
            values = unpacked(read_array(self.at(name), array), packing)
            whole = [slice(0, length) for length in array.shape]
            return _without(values, absent, _chunk_shape(array), whole) if absent else values

        return StoredArray(
            tuple(array.shape), load, frames, _dims(array, self.attrs(name)), dict(self.attrs(name))
        )

    def content(self, sidecar: Sidecar) -> Content:
        """All that the store holds; arrays are read when they are asked for."""
        content = Content()
        for name, metadata in self.metadata.items():
            if "shape" not in metadata:
                content.numbers |= _numbers(f"{name}/" if name else "", self.attrs(name))
                continue
            kind = _kind(metadata)
            shape = tuple(metadata["shape"])
            if kind in "fiub" and len(shape) <= MAX_AXES and shape:
                try:
                    if int(np.prod(shape)) == 1:
                        content.numbers[name] = float(np.ravel(self.values(name))[0])
                    content.add(name, self.stored(name, sidecar, content.notes))
                except RecordingError as error:
                    content.unreadable[name] = str(error).partition(f"array {name} ")[2].rstrip(".")
            elif kind == "c":
                content.unreadable[name] = "holds complex numbers; save their real part or magnitude"
            elif kind in "OUS" and len(shape) == 1 and (texts := self.texts(name)) is not None:
                content.texts[name] = texts
        return content


def _walk(folder: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    metadata = _metadata(folder)
    if metadata is not None:
        yield name, metadata
        if "shape" in metadata:
            return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=True) and not entry.name.startswith("."):
            yield from _walk(folder / entry.name, f"{name}/{entry.name}" if name else entry.name)


def _metadata(folder: Path) -> dict[str, Any] | None:
    """The JSON of a group or array with its attributes; None if the folder is neither."""
    for marker in ("zarr.json", ".zarray", ".zgroup"):
        file = folder / marker
        if file.is_file():
            found = read_json(file)
            if marker != "zarr.json":
                attributes = folder / ".zattrs"
                found["attributes"] = read_json(attributes) if attributes.is_file() else {}
            return found
    return None


def read_json(file: Path) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        RecordingError: it is none.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise RecordingError(
            f"{file}: not valid JSON ({error}); the store is damaged. Copy it again."
        ) from error
    if not isinstance(found, dict):
        raise RecordingError(f"{file}: holds a {type(found).__name__}; the store is damaged. Copy it again.")
    return found


def _kind(metadata: Mapping[str, Any]) -> str:
    """The kind of an array's numbers, as NumPy has them."""
    stated = metadata.get("dtype", metadata.get("data_type"))
    if isinstance(stated, dict):
        stated = stated.get("name", "")
    try:
        return np.dtype(stated).kind
    except (TypeError, ValueError):
        return "O"


def _why(error: Exception) -> str:
    text = str(error)
    if "odec" in text:
        return f"cannot be decoded ({text}); the package that brings the codec is not installed"
    return f"cannot be read ({type(error).__name__}: {text})"


def _packing(array: zarr.Array, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """How an array is packed. In format 2 xarray keeps `_FillValue` as the array's own fill value."""
    is_by_xarray = array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in attrs
    fill = array.fill_value if is_by_xarray else None
    if fill is not None and (np.ndim(fill) or fill == 0):
        fill = None  # what writers put there that know no missing values
    return packing_of(attrs, np.dtype(array.dtype), fill)


def _dims(array: zarr.Array, attrs: Mapping[str, Any]) -> tuple[str, ...]:
    names = attrs.get("_ARRAY_DIMENSIONS") or getattr(array.metadata, "dimension_names", None) or ()
    return tuple(map(str, names)) if len(names) == array.ndim and all(names) else ()


def _chunk_shape(array: zarr.Array) -> tuple[int, ...]:
    """The shape of one object of the store: a chunk, or a shard of several chunks."""
    return tuple(array.shards or array.chunks)


def _absent(
    path: Path,
    array: zarr.Array,
    packing: Mapping[str, Any],
    name: str,
    sidecar: Sidecar,
    notes: dict[str, str],
) -> tuple[tuple[int, ...], ...]:
    """The chunks that are not there and hold missing values; what was found is told in `notes`.

    Raises:
        RecordingError: not one chunk is there.
    """
    lengths = _chunk_shape(array)
    grid = tuple(-(-size // length) for size, length in zip(array.shape, lengths, strict=True))
    names = {array.metadata.encode_chunk_key(chunk): chunk for chunk in np.ndindex(*grid)}
    away = absent_chunks(path, list(names)) if is_mirrored(path) else names.keys() - _file_names(path)
    if away is None:
        notes["missing_chunks_note"] = f"{len(names)} chunks of {name} are too many to ask a server for each"
        return ()
    absent = [chunk for key, chunk in names.items() if key in away]
    present = [chunk for key, chunk in names.items() if key not in away]
    if not absent:
        return ()
    if not present:
        raise RecordingError(
            f"{path}: none of the {len(absent)} chunks of {name or 'the array'} is there. Copy the whole "
            f"store."
        )
    fill = array.fill_value
    is_missing, why = True, "their fill value says so"
    if sidecar.absent_chunks is not None:
        is_missing, why = sidecar.absent_chunks == "missing", "the sidecar says so"
    elif "_FillValue" not in packing and (fill is None or fill == 0):
        zeros = _zeros(path, array, present, lengths)
        is_missing = zeros < _SPARSE_ZEROS
        why = (
            f"{zeros:.0%} of the values that are there are zero; settle it by absent_chunks: zeros or "
            f"missing in the "
            "sidecar"
        )
    notes["missing_chunks"] = (
        f"{len(absent)} of {len(absent) + len(present)} chunks of {name or 'the array'} are not in the store "
        f"and count "
        f"as {'missing values' if is_missing else 'zeros'} ({why})"
    )
    return tuple(absent) if is_missing else ()


def _file_names(path: Path) -> set[str]:
    """The names of all files below an array's folder."""
    found = set()
    for folder, _, files in os.walk(path):
        inner = os.path.relpath(folder, path)
        found |= {name if inner == "." else f"{inner}/{name}".replace(os.sep, "/") for name in files}
    return found


def _zeros(path: Path, array: zarr.Array, present: list[tuple[int, ...]], lengths: tuple[int, ...]) -> float:
    """The part of zeros in a few of the chunks that are there."""
    sampled = present[:: max(1, len(present) // _NUM_SAMPLED)][:_NUM_SAMPLED]
    parts = []
    for chunk in sampled:
        where = [
            slice(i * n, min((i + 1) * n, size))
            for i, n, size in zip(chunk, lengths, array.shape, strict=True)
        ]
        parts.append(float((read_array(path, array, where) == 0).mean()))
    return float(np.mean(parts))


def _numbers(prefix: str, attrs: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}{key}": float(value)
        for key, value in attrs.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _objects(path: Path, metadata: Mapping[str, Any]) -> np.ndarray | None:
    """Objects of a format 2 array of one chunk, decoded by numcodecs alone; never a pickle."""
    import numcodecs

    if is_mirrored(path):
        fetch_chunks(path, ["0" if len(metadata["shape"]) < 2 else "0.0"])
    chunk = next((path / name for name in ("0", "0.0") if (path / name).is_file()), None)
    if chunk is None or metadata.get("zarr_format") != 2:
        return None
    try:
        data: Any = chunk.read_bytes()
        codecs = [*(metadata.get("filters") or []), *filter(None, [metadata.get("compressor")])]
        for config in reversed(codecs):
            data = numcodecs.get_codec(dict(config)).decode(data)
        return np.ravel(np.asarray(data, dtype=object))
    except Exception:  # what numcodecs raises on damaged chunks; texts are no part of the traces
        return None
