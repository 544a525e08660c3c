"""NumPy archives: the normalized layout, what `Session.save` writes, and any other that holds one array.

Normalized layout: `traces` [T, N] and any of `fs` (Hz, nan where unknown), `species`, `subject`, `session`,
`source` (the dataset), `signal`, `segment_id` [T], `time` [T] (s), `unit_names` [N], `unit_positions` [N, 2]
or [N, 3], `brain_region` (one or [N]), `stimulus` [T, C], `stimulus_names`, `stimulus_kinds` (event, level,
pattern) and `stimulus_units` [C], `behaviour` [T, K] with the same, `split` [T] (0 train, 1 validation,
2 test), `valid_frames` [2] (others belong to no part of the split), `repetition` [T], `original_file`,
`note`, `fs_note`, `licence`, `citation`. Other keys are passed over.
"""

from __future__ import annotations

import functools
import itertools
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._common import (
    check_size,
    labels_of,
    make_session,
    notes_of,
    oriented,
    unheeded,
)
from forebrain.sessions.readers._content import Content, StoredArray, sessions_of
from forebrain.sessions.readers._inputs import planned_by_name
from forebrain.sessions.readers._time import SECONDS_PER
from forebrain.sessions.readers.suite2p import arrays_as_folder
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_IDENTITY = {"dataset": "source", "subject": "subject", "session": "session", "species": "species"}
_METADATA = ("original_file", "note", "fs_note", "licence", "citation")
_NAMES = ("unit_names", "stimulus_names", "behaviour_names")
# Words about each channel, by the field of the session that holds them.
_OF_CHANNELS = {
    "input_kinds": ("stimulus_kinds", "behaviour_kinds"),
    "input_units": ("stimulus_units", "behaviour_units"),
}
_ARRAYS = {
    "segment_id": "segment_ids",
    "time": "time_s",
    "unit_positions": "unit_positions",
    "stimulus": "stimulus",
    "behaviour": "behaviour",
    "split": "split",
    "repetition": "repetition",
}
_OF_FRAMES = {"segment_id", "time", "split", "repetition"}  # a value each
# Keys of the sidecar that mean nothing in the layout, and those besides that mean nothing in a saved session.
_NOT_IN_LAYOUT = (
    "columns", "rows", "header", "decimal", "time_column", "segment_column", "bin_s", "sampling_rate_hz",
    "absent_chunks",
)  # fmt: skip
_NOT_IN_SAVED = ("variable", "frames_axis", "axes", "time_unit", *_NOT_IN_LAYOUT)
# The rate's name in the layout, and in sidecars.
_RATES = ("fs", "rate_hz")
_KNOWN = {
    "traces", *_RATES, "signal", "brain_region", "valid_frames", *_IDENTITY.values(), *_METADATA, *_NAMES,
    *_ARRAYS, *itertools.chain(*_OF_CHANNELS.values()),
}  # fmt: skip
_SPARSE = {"data", "indices", "indptr", "shape", "format"}  # scipy.sparse.save_npz

Header = tuple[tuple[int, ...], np.dtype]


def recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return False
    if path.suffix.lower() == ".npz":
        return True  # if it is damaged, `read` says so
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads an archive.

    Raises:
        RecordingError: it is cut off, larger than memory should hold, or which array is meant cannot be told.
    """
    headers = _headers(path)
    if "header" in headers:
        return [_under(sidecar, Session.load(path), path)]
    if headers.keys() >= _SPARSE:
        notes: dict[str, str] = {}
        return [make_session(path, sidecar, oriented(_sparse(path), path, sidecar, notes), metadata=notes)]
    with np.load(path, allow_pickle=False) as archive:
        if sidecar.variable in (None, "traces") and "traces" in headers:
            # Pickled objects could run code, so they stay unread.
            readable = {name for name, (_, dtype) in headers.items() if not dtype.hasobject}
            session = _from_layout(
                {name: archive[name] for name in _KNOWN & readable},
                path,
                sidecar,
                _KNOWN & headers.keys() - readable,
            )
            return [session]
        # An archive entry is read when it is asked for; pickled objects could run code and stay unread.
        content = Content()
        for name, (shape, dtype) in headers.items():
            if dtype.kind in "fiub" and shape in ((), (1,)):
                content.numbers[name] = float(archive[name].ravel()[0])
            elif dtype.kind in "fiub":
                content.add(name, StoredArray.in_memory(shape, functools.partial(_array, path, name)))
            elif dtype.kind in "US" and len(shape) == 1 and shape[0] > 1:
                content.texts[name] = tuple(_texts(archive[name]))
            elif dtype.kind == "c":
                content.unreadable[name] = "holds complex numbers; save their real part or magnitude"
            elif dtype.hasobject:
                content.unreadable[name] = (
                    "is pickled, which could run code, and so never read; save plain numbers"
                )
        return arrays_as_folder(content, path, sidecar) or sessions_of(
            content, path, sidecar, fallback_signal=False
        )


def _array(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        return archive[name]


def _headers(path: Path) -> dict[str, Header]:
    """Shape and type of each array, without its data."""
    if not zipfile.is_zipfile(path):
        raise RecordingError(f"{path}: the archive is cut off; copy it again from its source.")
    headers = {}
    with zipfile.ZipFile(path) as archive:
        check_size(sum(member.file_size for member in archive.infolist()), path)
        for member in archive.infolist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read_header = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read_header(stream)
            headers[member.filename.removesuffix(".npy")] = (shape, dtype)
    return headers


def _from_layout(values: Mapping[str, np.ndarray], path: Path, sidecar: Sidecar, unread: set[str]) -> Session:
    if "traces" not in values or values["traces"].dtype.kind not in "fiub":
        raise RecordingError(f"{path}: traces holds no numbers; save it as a float array [frames, units].")
    traces = values["traces"]
    if traces.ndim == 2 and _frames_axis(values, path, sidecar) == 1:
        traces = traces.T
    metadata = {key: text for key in _METADATA if (text := _text(values, key))}
    fields: dict[str, Any] = {
        field: _as_stated(key, values[key], path) for key, field in _ARRAYS.items() if key in values
    }
    if "time_s" in fields and sidecar.time_unit is not None:
        fields["time_s"] = fields["time_s"] * SECONDS_PER[sidecar.time_unit]
    fields |= {key: tuple(_texts(values[key])) for key in _NAMES if key in values}
    for member in ("stimulus", "behaviour"):
        channels = fields.get(member)
        if channels is not None and channels.ndim == 1:
            channels = fields[member] = channels[:, None]
        if channels is not None and channels.ndim == 2 and f"{member}_names" not in fields:
            count = channels.shape[1]
            names = (member,) if count == 1 else tuple(f"{member}/{column}" for column in range(count))
            fields[f"{member}_names"] = names
    fields |= {key: _of_channels(values, keys, path) for key, keys in _OF_CHANNELS.items()}
    if "valid_frames" in values:
        metadata["valid_frames"] = _cut_split(
            fields.get("split"), values["valid_frames"], traces.shape[0], path
        )
    regions = _texts(values["brain_region"]) if "brain_region" in values else []
    if any(regions):
        fields["brain_regions"] = tuple(regions * traces.shape[-1] if len(regions) == 1 else regions)
    rate_hz = _rate(values, path, sidecar)
    metadata["axis_from"] = "the layout: traces are [frames, units]"
    if rate_hz is not None:
        metadata["rate_from"] = " and ".join(name for name in _RATES if name in values)
    metadata |= unheeded(sidecar, *_NOT_IN_LAYOUT)
    if unread:
        metadata["unread"] = f"pickled, and so never read: {', '.join(sorted(unread))}"
    session = make_session(
        path,
        sidecar,
        traces,
        rate_hz=rate_hz,
        signal=_text(values, "signal"),
        identity_found={
            name: _one_name(path, values, key)
            for name, key in _IDENTITY.items()
            if getattr(sidecar, name) is None
        },
        metadata=metadata,
        **fields,
    )
    return planned_by_name(session)


def _as_stated(key: str, values: np.ndarray, path: Path) -> np.ndarray:
    """An array of the layout as the session holds it.

    Raises:
        RecordingError: it holds no numbers, or broken ones where whole ones are meant.
    """
    if key in _OF_FRAMES and values.ndim == 2 and 1 in values.shape:
        values = values.ravel()
    if key == "segment_id":
        if values.dtype.kind in "iub" and np.array_equal(values, values.astype(np.int32)):
            return values.astype(np.int32)
        return np.unique(values, return_inverse=True)[1].reshape(values.shape).astype(np.int32)
    if values.dtype.kind not in "fiub":
        raise RecordingError(f"{path}: {key} holds values of type {values.dtype}; expected numbers.")
    if key not in ("split", "repetition"):
        return values.astype(np.float64 if key == "time" else np.float32)
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int32)
    if not np.array_equal(whole, values):
        wrong = values[whole != values].ravel()[:4].tolist()
        raise RecordingError(f"{path}: {key} holds {wrong}; expected whole numbers.")
    return whole


def _rate(values: Mapping[str, np.ndarray], path: Path, sidecar: Sidecar) -> float | None:
    """Frames a second, as the archive states them; None where it does not, or by no number."""
    names = [name for name in _RATES if name in values and values[name].size]
    if not names or sidecar.rate_hz is not None:
        return None
    stated = list(dict.fromkeys(each for name in names for each in np.unique(values[name]).tolist()))
    try:
        rates_hz = [float(rate_hz) for rate_hz in stated]
    except (TypeError, ValueError):
        rates_hz = []
    if len(rates_hz) != 1:
        raise RecordingQuestion(
            f"{path}: {' and '.join(names)} is {', '.join(map(str, stated[:8]))}; expected one number. State "
            "rate_hz in the sidecar.",
            {"rate_hz": rates_hz[:8]},
        )
    return None if np.isnan(rates_hz[0]) else rates_hz[0]


def _of_channels(values: Mapping[str, np.ndarray], keys: tuple[str, str], path: Path) -> dict[str, str]:
    """By the channels' names, the words that the arrays `keys` have for them; empty ones say nothing."""
    said: dict[str, str] = {}
    for key in keys:
        if key in values:
            names = _texts(values[name]) if (name := f"{key.partition('_')[0]}_names") in values else []
            words = _texts(values[key])
            if len(words) != len(names):
                raise RecordingError(
                    f"{path}: {key} has {len(words)} entries; expected one for each of {len(names)} channels."
                )
            said |= {name: word for name, word in zip(names, words, strict=True) if word}
    return said


def _cut_split(split: np.ndarray | None, valid_frames: np.ndarray, num_frames: int, path: Path) -> str:
    """Takes frames outside of `valid_frames`, [first, first one after], out of the split; gives a note."""
    is_pair = valid_frames.shape == (2,) and valid_frames.dtype.kind in "fiu"
    if not is_pair or not 0 <= valid_frames[0] < valid_frames[1] <= num_frames or (valid_frames % 1).any():
        raise RecordingError(
            f"{path}: valid_frames is {valid_frames.tolist()}; expected two of {num_frames} frames, [first, "
            "first one after]."
        )
    first, stop = (int(frame) for frame in valid_frames)
    if split is None:
        return f"{first} to {stop}, of no effect without a split"
    split[:first] = split[stop:] = -1
    return f"{first} to {stop}; the split leaves out all others"


def _frames_axis(values: Mapping[str, np.ndarray], path: Path, sidecar: Sidecar) -> int:
    """0, as the layout has it, unless the sidecar or the lengths of other arrays tell otherwise."""
    if sidecar.frames_axis is not None:
        return sidecar.frames_axis
    if sidecar.axes is not None:
        if len(sidecar.axes) != 2:
            raise RecordingError(
                f"{path}: the sidecar's axes are {list(sidecar.axes)}, but traces have two axes, "
                f"{values['traces'].shape}; expected as many names."
            )
        return sidecar.axes.index("frames")
    rows, columns = values["traces"].shape
    lengths = {len(values[key]) for key in _ARRAYS if key in values and key != "unit_positions"}
    if lengths:
        return int(lengths == {columns} and rows != columns)
    if "unit_names" in values:
        return int(len(values["unit_names"]) == rows != columns)
    if columns >= 2 * rows:
        raise RecordingQuestion(
            f"{path}: traces have shape {(rows, columns)}, where [frames, units] is expected. State "
            "frames_axis in the sidecar: 1 if they are [units, frames], 0 if there are so many units.",
            {"frames_axis": [1, 0]},
        )
    return 0


def _text(values: Mapping[str, np.ndarray], key: str) -> str | None:
    return _texts(values[key])[0] if key in values and values[key].size else None


def _one_name(path: Path, values: Mapping[str, np.ndarray], key: str) -> str | None:
    names = list(dict.fromkeys(_texts(values[key]))) if key in values else []
    if len(names) > 1:
        raise RecordingError(
            f"{path}: {key} holds {len(names)} names, {names[0]!r} and {names[1]!r} among them; "
            "expected one. State it in a sidecar file, or save a file for each."
        )
    return names[0] if names else None


def _texts(array: np.ndarray) -> list[str]:
    return [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]


def _sparse(path: Path) -> np.ndarray:
    from scipy import sparse

    matrix = sparse.load_npz(path)
    check_size(matrix.shape[0] * matrix.shape[1] * matrix.dtype.itemsize, path)
    return matrix.toarray()


def _under(sidecar: Sidecar, session: Session, path: Path) -> Session:
    """A saved session with the sidecar's words over its own."""
    said = {
        name: value
        for name in ("rate_hz", "signal", "species", "subject", "session", "dataset")
        if (value := getattr(sidecar, name)) is not None
    }
    labels = labels_of(sidecar, session.num_frames, path)
    metadata = {**session.metadata, **notes_of(sidecar), **unheeded(sidecar, *_NOT_IN_SAVED)}
    if sidecar.rate_hz is not None:
        metadata["rate_from"] = "the sidecar"
    return replace(session, **said, **labels, metadata=metadata)
