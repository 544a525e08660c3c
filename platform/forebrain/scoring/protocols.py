"""Protocols: which frames train, validate and test, and on which frames statistics are fitted.

A protocol is a pure function of a session's length and segments, so shards hold raw frames and any
protocol can be applied on reading.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring import zapbench_frames
from forebrain.sessions.session import Range

PROTOCOLS = ("chronological", "poco", "zapbench")
ProtocolName = Literal["chronological", "poco", "zapbench"]
DEFAULT: ProtocolName = "chronological"
# `held_out`: of sessions or conditions that training saw nothing of.
Part = Literal["train", "validation", "test", "held_out"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


def protocols_for(num_frames: int) -> tuple[str, ...]:
    """Names of the protocols that a session of this length can be read under."""
    is_zapbench = num_frames == zapbench_frames.NUM_FRAMES
    return tuple(name for name in PROTOCOLS if name != "zapbench" or is_zapbench)


def part_ranges(protocol: str, part: Part, num_frames: int, segments: list[Range]) -> list[Range]:
    """Frame ranges [start, stop) of one part, none of which crosses a segment.

    `chronological`: the first 60 % of the frames train, the next 20 % validate, the last 20 % test.
    `zapbench`: that benchmark's own, for its one recording (`scoring.zapbench`).
    `poco` (Duan et al. 2025, for comparison): the recording is cut into patches of 1,000 frames, the
    last takes the rest, and each patch is split 60/20/20, so training frames lie later than test frames.

    Args:
        protocol: a name in `PROTOCOLS`.
        part: `train`, `validation`, `test`, or `held_out`, which only `zapbench` has within a session.
        num_frames: length of the session, frames.
        segments: the session's unbroken stretches [start, stop), in order.

    Raises:
        ConfigError: the protocol is unknown, or is not for a session of this length.
    """
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
        raise ConfigError(f"protocol {protocol!r} is unknown; expected one of {', '.join(PROTOCOLS)}.")
    ranges = []
    for start, stop in patches:
        length = stop - start
        cuts = (start, start + int(length * 0.6), start + int(length * 0.8), stop)
        position = PARTS.index(part)
        ranges.append((cuts[position], cuts[position + 1]))
    return intersect(ranges, segments)


def fit_ranges(protocol: str, num_frames: int, segments: list[Range]) -> list[Range]:
    """The frames that statistics (mean, scale, PCA) are fitted on.

    `chronological`, `zapbench`: the training part. `poco`: the whole recording, as published, test part
    included.
    """
    if protocol == "poco":
        return list(segments)
    return part_ranges(protocol, "train", num_frames, segments)


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
    protocol: str, part: Part, num_frames: int, segments: list[Range], context: int, horizon: int
) -> Windows:
    """All windows of context + horizon frames, stride 1, in one part of a session.

    A range of n frames holds n - (context + horizon) + 1 windows; protocol `poco` gives one fewer, as
    its published code does. Under `zapbench` a range is of frames that are forecast, but for training, so it
    holds n - horizon + 1 windows.
    """
    spare = 1 if protocol == "poco" else 0
    reach = context if protocol == "zapbench" and part != "train" else 0
    ranges = part_ranges(protocol, part, num_frames, segments)
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
