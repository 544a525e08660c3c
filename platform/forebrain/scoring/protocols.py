"""Protocols: which frames train, validate and test, and on which frames statistics are fitted.

A protocol is a pure function of a session's length and segments, so shards hold raw frames and any
protocol can be applied on reading. Those of LABELLED follow from more that a recording tells: the part of
each frame, which `frame_parts` finds. Of these no window's horizon crosses from one part to another, but its
context may reach back to where its segment begins, or to where a later part ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring import zapbench_frames
from forebrain.sessions.session import Range, Session

PROTOCOLS = ("chronological", "poco", "zapbench")
ProtocolName = Literal["chronological", "poco", "zapbench"]
DEFAULT: ProtocolName = "chronological"
# Of one recording, by what it tells of each frame. Shards keep no fits for them.
LABELLED = ("given", "repetition", "values")
RecordingProtocol = Literal["chronological", "poco", "zapbench", "given", "repetition", "values"]
# `held_out`: of sessions or conditions that training saw nothing of.
Part = Literal["train", "validation", "test", "held_out"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


def protocols_for(num_frames: int) -> tuple[str, ...]:
    """Names of the protocols that a session of this length can be read under."""
    is_zapbench = num_frames == zapbench_frames.NUM_FRAMES
    return tuple(name for name in PROTOCOLS if name != "zapbench" or is_zapbench)


def part_ranges(
    protocol: str, part: Part, num_frames: int, segments: list[Range], labels: np.ndarray | None = None
) -> list[Range]:
    """Frame ranges [start, stop) of one part, none of which crosses a segment.

    `chronological`: the first 60 % of the frames train, the next 20 % validate, the last 20 % test.
    `zapbench`: that benchmark's own, for its one recording (`scoring.zapbench`).
    `poco` (Duan et al. 2025, for comparison): the recording is cut into patches of 1,000 frames, the
    last takes the rest, and each patch is split 60/20/20, so training frames lie later than test frames.
    `given`, `repetition`, `values`: as `labels` say.

    Args:
        protocol: a name in `PROTOCOLS`.
        part: `train`, `validation`, `test`, or `held_out`, which only `zapbench` has within a session.
        num_frames: length of the session, frames.
        segments: the session's unbroken stretches [start, stop), in order.
        labels: of `frame_parts`, for the protocols in `LABELLED`.

    Raises:
        ConfigError: the protocol is unknown, is not for a session of this length, or lacks its labels.
    """
    if protocol in LABELLED:
        if labels is None:
            raise ConfigError(
                f"protocol {protocol} follows what one recording tells of its frames, and was asked for "
                f"where that is not known; expected one of {', '.join(PROTOCOLS)} there."
            )
        return [] if part == "held_out" else intersect(_runs(labels == PARTS.index(part)), segments)
    if protocol in PROTOCOLS and protocol not in protocols_for(num_frames):
        raise ConfigError(
            f"protocol {protocol} is for one recording of {zapbench_frames.NUM_FRAMES:,} frames; a session "
            f"has {num_frames:,}. Expected another protocol, or that recording alone."
        )
    if protocol == "zapbench":
        return intersect(list(zapbench_frames.forecast_frames(part).values()), segments)
    if part == "held_out":
        return []
    if protocol == "chronological":
        patches = [(0, num_frames)]
    elif protocol == "poco":
        num_patches = max(1, num_frames // 1000)
        edges = [1000 * index for index in range(num_patches)] + [num_frames]
        patches = list(itertools.pairwise(edges))
    else:
        known = ", ".join((*PROTOCOLS, *LABELLED))
        raise ConfigError(f"protocol {protocol!r} is unknown; expected one of {known}.")
    ranges = []
    for start, stop in patches:
        length = stop - start
        cuts = (start, start + int(length * 0.6), start + int(length * 0.8), stop)
        position = PARTS.index(part)
        ranges.append((cuts[position], cuts[position + 1]))
    return intersect(ranges, segments)


def fit_ranges(
    protocol: str, num_frames: int, segments: list[Range], labels: np.ndarray | None = None
) -> list[Range]:
    """The frames that statistics (mean, scale, PCA) are fitted on.

    `poco`: the whole recording, as published, test part included. All others: the training part.
    """
    if protocol == "poco":
        return list(segments)
    return part_ranges(protocol, "train", num_frames, segments, labels)


def frame_parts(
    protocol: str, session: Session, hold_out: Mapping[str, Sequence[float]] | None = None
) -> np.ndarray | None:
    """The part of each frame, under a protocol that follows what the recording tells; None under others.

    `given`: the session's `split`. Frames that it labels otherwise belong to no part.
    `repetition`: of conditions that repeat, the last repetition tests and all others train; conditions that
    do not repeat train. Repetitions are the session's own, or else the segments of a condition in order.
    `values`: what happens under given values of an input tests, and all else trains. That are the segments
    (trials) in which the input takes one of them; where every segment or only one is there, the frames from
    where it takes one of them to where it takes another value than zero.

    Args:
        protocol: of `PROTOCOLS` or `LABELLED`.
        session: the recording.
        hold_out: of `values`: by name of an input, its values that are held out.

    Returns:
        int8 [T], positions in `PARTS` or -1.

    Raises:
        ConfigError: the recording does not tell what the protocol follows, nothing would be left to train or
            test on, or `hold_out` and the protocol do not go together.
    """
    if bool(hold_out) != (protocol == "values"):
        raise ConfigError(
            f"protocol {protocol} {'takes no' if hold_out else 'needs'} values to hold out; expected "
            "--protocol values together with --hold_out NAME=VALUE,VALUE."
        )
    if protocol not in LABELLED:
        return None
    if protocol == "given":
        if session.split is None:
            raise ConfigError(
                f"session {session.id}: protocol given follows the recording's own `split` (0 train, 1 "
                "validation, 2 test), and it has none; expected another protocol."
            )
        labels = np.where(np.isin(session.split, (0, 1, 2)), session.split, -1).astype(np.int8)
    else:
        repeats = protocol == "repetition"
        tested = _last_repetitions(session) if repeats else _held_out(session, hold_out or {})
        labels = np.where(tested, np.int8(2), np.int8(0))
    for name, position in (("train", 0), ("test", 2)):
        if not (labels == position).any():
            raise ConfigError(
                f"session {session.id}: under protocol {protocol} no frame is left for the part {name}."
            )
    return labels


def _last_repetitions(session: Session) -> np.ndarray:
    """bool [T]: frames of the last repetition of a condition that repeats."""
    repetitions, segments = session.repetition, session.segments
    conditions = session.conditions
    if repetitions is None and conditions is None:
        raise ConfigError(
            f"session {session.id}: protocol repetition needs conditions or repetitions of frames, and the "
            "recording has neither; expected another protocol."
        )
    if conditions is None:
        conditions = np.zeros(session.num_frames, np.int32)
    if repetitions is None:
        repetitions = np.zeros(session.num_frames, np.int32)
        seen: dict[int, int] = {}
        for start, stop in segments:
            condition = int(conditions[start])
            repetitions[start:stop] = seen[condition] = seen.get(condition, -1) + 1
    tested = np.zeros(session.num_frames, bool)
    for condition in np.unique(conditions[conditions >= 0]):
        of_condition = conditions == condition
        numbers = repetitions[of_condition]
        if numbers.min() < numbers.max():
            tested |= of_condition & (repetitions == numbers.max())
    return tested


def _held_out(session: Session, hold_out: Mapping[str, Sequence[float]]) -> np.ndarray:
    """bool [T]: frames under one of these values of an input."""
    segments = session.segments
    tested = np.zeros(session.num_frames, bool)
    for name, held in hold_out.items():
        values = session.input_values([name])[:, 0]
        is_held = np.isin(values, np.asarray(held, np.float32))
        missing = [value for value in held if np.float32(value) not in values]
        if missing:
            raise ConfigError(
                f"session {session.id}: input {name} never takes the value {', '.join(map(str, missing))}; "
                f"it takes {_shown(np.unique(values))}."
            )
        touched = [bool(is_held[start:stop].any()) for start, stop in segments]
        for (start, stop), is_touched in zip(segments, touched, strict=True):
            if not all(touched):
                tested[start:stop] |= is_touched
                continue
            # 1 where it takes a value that is held out, -1 another, 0 where it is at rest and says neither.
            said = np.where(is_held[start:stop], 1, np.where(values[start:stop] != 0, -1, 0))
            latest = np.maximum.accumulate(np.where(said != 0, np.arange(stop - start), 0))
            tested[start:stop] |= said[latest] > 0
    return tested


def _shown(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:12])
    return f"{shown}, ..." if len(values) > 12 else shown


def _runs(chosen: np.ndarray) -> list[Range]:
    """The stretches [start, stop) in which bool [T] is True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def without(ranges: list[Range], excluded: list[Range]) -> list[Range]:
    """Ordered ranges less other ordered ranges."""
    edges = [0, *(edge for each in excluded for edge in each), 2**62]
    return intersect(ranges, list(zip(edges[::2], edges[1::2], strict=True)))


def intersect(ranges: list[Range], segments: list[Range]) -> list[Range]:
    """The non-empty overlaps of two ordered lists of ranges."""
    overlaps = ((max(a, c), min(b, d)) for a, b in ranges for c, d in segments)
    return [(start, stop) for start, stop in overlaps if start < stop]


def least_frames(context: int, horizon: int) -> int:
    """The frames of the shortest unbroken session with a window in each part of protocol `chronological`."""
    length = context + horizon
    enough = (frames for frames in itertools.count(length) if frames - int(frames * 0.8) >= length)
    return next(
        frames
        for frames in enough
        if windows_of(DEFAULT, "validation", frames, [(0, frames)], context, horizon).count
    )


@dataclass(frozen=True)
class Windows:
    """The windows of one part of one session: every start frame whose window lies within one range.

    Stored as ranges, so a session of any length costs a few numbers. Window w starts at
    `first[i] + w - offset[i]`, where i is the range that holds w.
    """

    length: int
    first: np.ndarray
    offset: np.ndarray
    count: int

    def starts(self, windows: np.ndarray) -> np.ndarray:
        """Start frames [B] of window numbers [B], each in [0, count)."""
        position = np.searchsorted(self.offset, windows, side="right") - 1
        return self.first[position] + (windows - self.offset[position])


NO_WINDOWS = Windows(0, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 0)


def windows_of(
    protocol: str,
    part: Part,
    num_frames: int,
    segments: list[Range],
    context: int,
    horizon: int,
    labels: np.ndarray | None = None,
) -> Windows:
    """All windows of context + horizon frames, stride 1, in one part of a session.

    A range of n frames holds n - (context + horizon) + 1 windows; protocol `poco` gives one fewer, as
    its published code does. Under `zapbench` a range is of frames that are forecast, but for training, so it
    holds n - horizon + 1 windows. So it does under the protocols in `LABELLED`, but for the contexts that
    would begin before their segment or reach into a part that comes later in `PARTS`.
    """
    spare = 1 if protocol == "poco" else 0
    reach = context if protocol == "zapbench" and part != "train" else 0
    ranges = part_ranges(protocol, part, num_frames, segments, labels)
    if protocol in LABELLED and labels is not None and ranges:
        readable = intersect(_runs(labels <= PARTS.index(part)), segments)
        firsts = np.array([start for start, _ in readable])
        within = [int(firsts[np.searchsorted(firsts, start, side="right") - 1]) for start, _ in ranges]
        ranges = [
            (max(start - context, first), stop) for (start, stop), first in zip(ranges, within, strict=True)
        ]
    return windows_within([(start - reach, stop - spare) for start, stop in ranges], context + horizon)


def windows_within(ranges: list[Range], length: int) -> Windows:
    """All windows of `length` frames, stride 1, each of which lies within one of ordered ranges."""
    first, counts = [], []
    for start, stop in ranges:
        count = stop - start - length + 1
        if count > 0:
            first.append(start)
            counts.append(count)
    cumulative = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    return Windows(length, np.asarray(first, dtype=np.int64), cumulative[:-1], int(cumulative[-1]))
