"""What every reader needs: the identity of a recording, which axis counts frames, which array is meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

MAX_WHOLE_BYTES = 4 << 30  # of recordings in formats that cannot be read a piece at a time
_KEPT_AS_METADATA = ("licence", "citation", "note")


def identity(path: Path, sidecar: Sidecar, **found: str | None) -> dict[str, Any]:
    """`dataset`, `subject`, `session` and `species` of a recording, and a word where they are guessed.

    The sidecar goes over what the file says (`found`), and that over the file's and its folder's names.

    Returns:
        The four names, and `identity_note` if subject or session come from the file name.
    """
    stem = path.name.removesuffix(path.suffix) or path.name
    fallback = {
        "dataset": path.absolute().parent.name or "recordings",
        "subject": stem,
        "session": stem,
        "species": "unknown",
    }
    names: dict[str, Any] = {}
    guessed = []
    for name, guess in fallback.items():
        value = getattr(sidecar, name) or (found.get(name) or "").strip()
        names[name] = value or guess
        if not value:
            guessed.append(name)
    if {"subject", "session"} & set(guessed):
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
            median interval of `time_s` gives it.
        identity_found: `dataset`, `subject`, `session`, `species` as the file states them.
        fields: further fields of Session.

    Raises:
        RecordingError: the fields do not fit each other.
    """
    names = identity(path, sidecar, **(identity_found or {}))
    notes = {"original_file": path.name, **(metadata or {})}
    if "identity_note" in names:
        notes["identity_note"] = names.pop("identity_note")
    for name in _KEPT_AS_METADATA:
        if getattr(sidecar, name):
            notes[name] = getattr(sidecar, name)
    time_s = fields.get("time_s")
    if rate_hz is None and time_s is not None:
        rate_hz = rate_of(time_s)
    if sidecar.segment_frames is not None:
        fields["segment_ids"] = _segments(traces.shape[0], sidecar.segment_frames, path)
    if sidecar.conditions is not None:
        fields["condition_names"] = tuple(sidecar.conditions)
        fields["conditions"] = _conditions(traces.shape[0], sidecar.conditions, path)
    return Session(
        traces=traces,
        rate_hz=sidecar.rate_hz or rate_hz,
        signal=sidecar.signal or signal or "unknown",
        metadata=notes,
        **names,
        **fields,
    )


def rate_of(time_s: np.ndarray) -> float | None:
    """Frames a second by the median interval of frame times; None where they do not go forward."""
    intervals = np.diff(np.asarray(time_s, np.float64))
    intervals = intervals[np.isfinite(intervals)]
    median = float(np.median(intervals)) if intervals.size else 0.0
    return 1.0 / median if median > 0 else None


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
        return sidecar.frames_axis
    num_frames, num_units = max(shape), min(shape)
    is_turned = shape[1] == num_frames
    min_ratio, max_units = (_MIN_TURNED_RATIO, _MAX_TURNED_UNITS) if is_turned else (2, _MAX_GUESSED_UNITS)
    if num_frames < min_ratio * num_units or not 1 < num_units <= max_units:
        raise RecordingError(
            f"{path}: the array has shape {tuple(shape)}, which does not tell frames from units. State "
            "frames_axis: 0 (rows are frames) or frames_axis: 1 (columns are frames) in the sidecar."
        )
    if is_turned:
        notes["orientation_note"] = (
            f"rows guessed to be units: {num_units} x {num_frames} was read as {num_frames} frames of "
            f"{num_units} units"
        )
    return int(is_turned)


# A matrix of less than this is a table of indices or settings, unless the sidecar names it.
MIN_FRAMES = 32
_MIN_UNITS = 3


def could_be_traces(shape: Sequence[int]) -> bool:
    """Whether an array that nobody named is worth considering."""
    return len(shape) == 2 and max(shape) >= MIN_FRAMES and min(shape) >= _MIN_UNITS


# Names under which files state frames a second.
RATE_NAMES = ("rate_hz", "fs", "fps", "frame_rate", "framerate", "sampling_rate", "imaging_rate")
# Names of what a recording is about, the best first, compared without case and punctuation.
_TRACE_NAMES = (
    {"dff", "dfof", "dfoverf", "deltaff", "deltafoverf", "dfftraces", "dftraces"},
    {"traces", "neural", "activity", "neuralactivity", "neuraldata", "calciumtraces"},
)
# Names of matrices that are something else, though they may have the shape of traces.
_OTHER_NAMES = re.compile(r"(^|_)(index|indices|idx|map|mask|id|label|position|coordinate|footprint)s?($|_)")


def choose_variable(candidates: Mapping[str, Sequence[int]], path: Path, sidecar: Sidecar) -> str:
    """Name of the array to read: the sidecar's `variable`, else the only candidate, or the only one whose
    name says that it is traces (dF/F before others).

    Args:
        candidates: shapes of the arrays that could be traces, by name.

    Raises:
        RecordingError: there is no candidate, or more than one and the sidecar does not decide.
    """
    if sidecar.variable is None:
        candidates = {
            name: shape
            for name, shape in candidates.items()
            if not _OTHER_NAMES.search(name.rpartition("/")[2].lower())
        }
    listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in list(candidates.items())[:20])
    if sidecar.variable is not None:
        if sidecar.variable not in candidates:
            raise RecordingError(
                f"{path}: no numeric array is called {sidecar.variable} (the sidecar's variable); it holds "
                f"{listed or 'none'}."
            )
        return sidecar.variable
    if not candidates:
        raise RecordingError(
            f"{path}: holds no numeric array of two axes that could be traces. If they lie deeper in the "
            "file, name them as variable in the sidecar."
        )
    if len(candidates) > 1:
        for names in _TRACE_NAMES:
            telling = [
                name
                for name, shape in candidates.items()
                if re.sub("[^a-z]", "", name.rpartition("/")[2].lower()) in names and shape[0] != shape[1]
            ]
            if len(telling) == 1:
                return telling[0]
        raise RecordingError(
            f"{path}: several arrays could be the traces: {listed}. Name one as variable in the sidecar."
        )
    return next(iter(candidates))


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
