"""The parts every reader needs: the identity of a recording, the axis that counts frames, the array meant."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.clock import read_clock
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._time import check_rate
from forebrain.sessions.session import FILES_NAME, FOLDERS_NAME, FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

MAX_WHOLE_BYTES = 4 << 30  # of recordings in formats that cannot be read a piece at a time
_KEPT_AS_METADATA = ("licence", "citation", "note")


def identity(path: Path, sidecar: Sidecar, **found: str | None) -> dict[str, Any]:
    """`dataset`, `subject`, `session` and `species` of a recording, and where they come from.

    The sidecar goes over what the file says (`found`), and that over the file's and its folder's names.

    Returns:
        The four names, `identity_from`, and `identity_note` if subject or session come from the file name.
    """
    stem = path.name.removesuffix(path.suffix) or path.name
    guesses = {
        "dataset": (path.absolute().parent.name or "recordings", FOLDERS_NAME),
        "subject": (stem, FILES_NAME),
        "session": (stem, FILES_NAME),
        "species": ("unknown", "nothing"),
    }
    names: dict[str, Any] = {}
    origins: dict[str, list[str]] = {}
    for name, (guess, origin) in guesses.items():
        stated = (found.get(name) or "").strip()
        given = getattr(sidecar, name)
        names[name] = given or stated or guess
        origin = "the sidecar" if given else "the file" if stated else origin
        origins.setdefault(origin, []).append(name)
    told = [f"{', '.join(what)} from {origin}" for origin, what in origins.items() if origin != "nothing"]
    told += [f"{', '.join(what)} unknown" for origin, what in origins.items() if origin == "nothing"]
    names["identity_from"] = "; ".join(told)
    if {"subject", "session"} & set(origins.get(FILES_NAME, [])):
        names["identity_note"] = "identity guessed from the file name"
    return names


def make_session(
    path: Path,
    sidecar: Sidecar,
    traces: FrameSource,
    *,
    rate_hz: float | None = None,
    signal: str | None = None,
    identity_found: Mapping[str, str | None] | None = None,
    metadata: Mapping[str, str] | None = None,
    **fields: Any,
) -> Session:
    """A session of what a reader found, under what the sidecar says.

    Args:
        traces: [T, N].
        rate_hz, signal: as the file states them; the sidecar goes over them. Without a stated rate, the
            frame times `time_s` give it.
        identity_found: `dataset`, `subject`, `session`, `species` as the file states them.
        metadata: of the session; `rate_from` in it says where `rate_hz` or `time_s` come from.
        fields: further fields of Session.

    Raises:
        RecordingError: the fields do not fit each other.
        RecordingQuestion: there are more or fewer frame times than frames, or no recording has such a rate.
    """
    names = identity(path, sidecar, **(identity_found or {}))
    notes = {"original_file": path.name, **(metadata or {})}
    for name in ("identity_from", "identity_note"):
        if name in names:
            notes[name] = names.pop(name)
    notes |= notes_of(sidecar)
    signal = sidecar.signal or signal or "unknown"
    if fields.get("time_s") is not None:
        fields["time_s"] = _fitting_times(fields["time_s"], traces.shape[0], path, sidecar, notes)
    if sidecar.rate_hz is not None:
        rate_hz = sidecar.rate_hz
        notes["rate_from"] = "the sidecar"
    else:
        if rate_hz is None and fields.get("time_s") is not None:
            rate_hz = rate_of(fields["time_s"])
            notes.setdefault("rate_from", "the frame times")
        check_rate(rate_hz, notes.get("rate_from", "as the file states it"), signal, path)
        if rate_hz is None:
            notes["rate_from"] = "nothing states a rate"
        else:
            notes.setdefault("rate_from", "the file")
    fields |= labels_of(sidecar, traces.shape[0], path)
    return Session(traces=traces, rate_hz=rate_hz, signal=signal, metadata=notes, **names, **fields)


def notes_of(sidecar: Sidecar) -> dict[str, str]:
    """What a sidecar says that is only kept, in the session's metadata."""
    return {name: text for name in _KEPT_AS_METADATA if (text := getattr(sidecar, name))}


def labels_of(sidecar: Sidecar, num_frames: int, path: Path) -> dict[str, Any]:
    """The fields of Session that a sidecar's `segment_frames` and `conditions` state.

    Raises:
        RecordingError: they do not fit the number of frames.
    """
    fields: dict[str, Any] = {}
    if sidecar.segment_frames is not None:
        fields["segment_ids"] = _segments(num_frames, sidecar.segment_frames, path)
    if sidecar.conditions is not None:
        fields["condition_names"] = tuple(sidecar.conditions)
        fields["conditions"] = _conditions(num_frames, sidecar.conditions, path)
    return fields


def unheeded(sidecar: Sidecar, *keys: str) -> dict[str, str]:
    """The note that a sidecar states some of these keys, which mean nothing for a format."""
    said = [key for key in keys if getattr(sidecar, key) is not None]
    return {"unheeded": f"the sidecar's {', '.join(said)}"} if said else {}


def rate_of(time_s: np.ndarray) -> float | None:
    """Frames a second by the frame times; None where they do not go forward."""
    clock = read_clock(time_s)
    return None if clock is None else clock.rate_hz


def _fitting_times(
    time_s: np.ndarray, num_frames: int, path: Path, sidecar: Sidecar, notes: MutableMapping[str, str]
) -> np.ndarray | None:
    """A time for each frame; None where there are more or fewer and the sidecar's rate counts instead."""
    if len(time_s) == num_frames:
        return time_s
    if sidecar.rate_hz is not None:
        notes["times_note"] = (
            f"{len(time_s)} frame times for {num_frames} frames were left out; the sidecar's rate_hz counts"
        )
        return None
    rate_hz = rate_of(time_s)
    raise RecordingQuestion(
        f"{path}: there are {num_frames} frames but {len(time_s)} times; expected as many. State rate_hz in "
        f"the "
        f"sidecar to do without the times{f' (they say {rate_hz:.4g} Hz)' if rate_hz else ''}, or "
        f"frames_axis "
        "if the axes are swapped.",
        {"rate_hz": [round(rate_hz, 4)] if rate_hz else []},
    )


# More units than this in one recording are whole-brain imaging, where units may well outnumber frames.
_MAX_GUESSED_UNITS = 2000
# A short whole-brain recording looks like [units, frames]: 1500 frames of 5000 units must not be turned.
_MAX_TURNED_UNITS = 500
_MIN_TURNED_RATIO = 4


def choose_frames_axis(
    shape: Sequence[int], path: Path, sidecar: Sidecar, notes: MutableMapping[str, str]
) -> int:
    """The axis of a two-axis array that counts frames: the sidecar's, else the longer where that is clear.

    Clear is [frames, units] with twice as many frames as units or more, and [units, frames] with four times
    as many and at most 500 units.

    Args:
        notes: metadata of the session; gets `orientation_note` where [units, frames] was guessed.

    Raises:
        RecordingError: the array has not two axes, or the sidecar must tell.
    """
    if len(shape) != 2:
        raise RecordingError(
            f"{path}: the array has shape {tuple(shape)}; expected two axes, frames and units. Save trials "
            "one after the other, and state their length as segment_frames in the sidecar."
        )
    if sidecar.frames_axis is not None:
        notes["axis_from"] = "the sidecar"
        return sidecar.frames_axis
    if sidecar.axes is not None and len(sidecar.axes) == 2:
        notes["axis_from"] = "the sidecar"
        return sidecar.axes.index("frames")
    num_frames, num_units = max(shape), min(shape)
    is_turned = shape[1] == num_frames
    min_ratio, max_units = (_MIN_TURNED_RATIO, _MAX_TURNED_UNITS) if is_turned else (2, _MAX_GUESSED_UNITS)
    if num_frames < min_ratio * num_units or not 1 < num_units <= max_units:
        raise RecordingQuestion(
            f"{path}: the array has shape {tuple(shape)}, which does not tell frames from units. State "
            "frames_axis: 0 (rows are frames) or frames_axis: 1 (columns are frames) in the sidecar.",
            {"frames_axis": [0, 1]},
        )
    if is_turned:
        notes["orientation_note"] = (
            f"rows guessed to be units: {num_units} x {num_frames} was read as {num_frames} frames of "
            f"{num_units} units"
        )
    notes["axis_from"] = f"the lengths: {num_frames} frames, {num_units} units"
    return int(is_turned)


# A matrix of less than this is a table of indices or settings, unless the sidecar names it.
MIN_FRAMES = 32
_MIN_UNITS = 3


def could_be_traces(shape: Sequence[int]) -> bool:
    """Whether an array that nobody named is worth considering."""
    return len(shape) == 2 and max(shape) >= MIN_FRAMES and min(shape) >= _MIN_UNITS


def oriented(array: np.ndarray, path: Path, sidecar: Sidecar, notes: MutableMapping[str, str]) -> np.ndarray:
    """An array in memory as [T, N]; `notes` as in `choose_frames_axis`."""
    return array.T if choose_frames_axis(array.shape, path, sidecar, notes) == 1 else array


def check_size(size_bytes: int, path: Path) -> None:
    """Refuses what would not fit in memory once unpacked, before it is.

    Raises:
        RecordingError: it is larger than `MAX_WHOLE_BYTES`.
    """
    if size_bytes > MAX_WHOLE_BYTES:
        raise RecordingError(
            f"{path}: unpacks to {size_bytes / 2**30:.1f} GiB; this format is read whole, up to "
            f"{MAX_WHOLE_BYTES >> 30} GiB. Save the traces as .npy or HDF5, which are read piece by piece."
        )


def _conditions(
    num_frames: int, conditions: Mapping[str, tuple[tuple[int, int], ...]], path: Path
) -> np.ndarray:
    """int32 [T], the position of each frame's condition, -1 for none."""
    labels = np.full(num_frames, -1, dtype=np.int32)
    for number, (name, pairs) in enumerate(conditions.items()):
        for first, stop in pairs:
            if stop > num_frames or (labels[first:stop] >= 0).any():
                raise RecordingError(
                    f"{path}: condition {name} (the sidecar's conditions) has frames {first} to {stop}; "
                    f"expected some of the recording's {num_frames} that no other condition has."
                )
            labels[first:stop] = number
    return labels


def _segments(num_frames: int, segment_frames: int | tuple[int, ...], path: Path) -> np.ndarray:
    """int32 [T], from lengths that must add up to all frames."""
    lengths = (
        [segment_frames] * (num_frames // segment_frames)
        if isinstance(segment_frames, int)
        else segment_frames
    )
    if sum(lengths) != num_frames:
        raise RecordingError(
            f"{path}: has {num_frames} frames, which segments of {segment_frames} frames (the sidecar's "
            "segment_frames) do not fill."
        )
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
