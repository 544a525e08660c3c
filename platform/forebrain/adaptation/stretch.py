"""A short stretch of a new animal: a recording of which only the last minutes before the test are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from forebrain.errors import AdaptationError
from forebrain.scoring.protocols import DEFAULT, PARTS, part_ranges
from forebrain.sessions.clock import read_clock
from forebrain.sessions.frames import RepairedFrames
from forebrain.sessions.session import Session

# Of the stretch, for choices and weights; the rest is what is fitted to.
VALIDATION_SHARE = 0.2


def rate_of(session: Session) -> float | None:
    """Frames a second that a session states, else that its frame times tell."""
    if session.rate_hz is not None or session.time_s is None:
        return session.rate_hz
    clock = read_clock(session.time_s)
    return None if clock is None else clock.rate_hz


def last_minutes(session: Session, minutes: float, context: int, horizon: int) -> Session:
    """The last minutes before the validation part of a recording, and its test part; nothing else of it.

    Parts are those of protocol `chronological`. The last fifth of the minutes validates and all before it
    trains; all of them train where less than a window would.

    Args:
        session: as it was recorded.
        minutes: infinite for all there is.
        context, horizon: C and H, frames.

    Returns:
        A session of these frames, with `split` for protocol `given`.

    Raises:
        AdaptationError: the rate is unknown, there are not so many minutes, or too few frames to know
            anything of a unit.
    """
    rate_hz = rate_of(session)
    if rate_hz is None:
        raise AdaptationError(
            f"session {session.id}: has no rate, so its minutes cannot be counted. State rate_hz in a "
            "sidecar file; `forebrain adapt` takes --rate_hz too."
        )
    every = [(0, session.num_frames)]
    ranges = {part: part_ranges(DEFAULT, part, session.num_frames, every) for part in PARTS}
    if not ranges["train"] or not ranges["test"] or not minutes > 0:
        raise AdaptationError(
            f"session {session.id}: minutes are {minutes:g} of {session.num_frames} frames; expected a "
            "positive number, and a recording that can be split."
        )
    last, (test, end) = ranges["train"][0][1], ranges["test"][0]
    num_frames = last if math.isinf(minutes) else round(minutes * 60 * rate_hz)
    if not horizon <= num_frames <= last:
        raise AdaptationError(
            f"session {session.id}: {minutes:g} minutes are {num_frames} frames; expected between {horizon} "
            f"and the {last} frames ({last / rate_hz / 60:.2g} minutes) before the validation part."
        )
    first = last - num_frames
    num_fitted = round(num_frames * (1 - VALIDATION_SHARE))
    if num_fitted < context + horizon:
        num_fitted = num_frames
    parts = [0] * num_fitted + [1] * (num_frames - num_fitted) + [2] * (end - test)
    # A window crosses no change of segment.
    segment_ids = np.zeros(session.num_frames, np.int32)
    for number, (start, stop) in enumerate(session.segments):
        segment_ids[start:stop] = 2 * number
    segment_ids[test:] += 1
    kept = np.r_[first:last, test:end]

    def frames_of(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[kept]

    units = np.arange(session.num_units)
    return replace(
        session,
        traces=RepairedFrames(session.traces, ((first, last), (test, end)), units, {}, session.id),
        split=np.array(parts, np.int8),
        segment_ids=segment_ids[kept],
        conditions=frames_of(session.conditions),
        time_s=frames_of(session.time_s),
        stimulus=frames_of(session.stimulus),
        behaviour=frames_of(session.behaviour),
        repetition=frames_of(session.repetition),
    )
