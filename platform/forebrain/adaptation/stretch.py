"""A short stretch of a new animal: a recording of which only the last minutes before the test are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from forebrain.errors import AdaptationError
from forebrain.scoring.protocols import DEFAULT, PARTS, part_ranges
from forebrain.sessions.session import Session

# Of the stretch, for choices and weights; the rest is what is fitted to.
VALIDATION_SHARE = 0.2


def last_minutes(session: Session, minutes: float) -> Session:
    """The recording with the last minutes before its validation part to learn from.

    The test part is that of protocol `chronological`, whose validation part is no part of anything here. The
    stretch's last fifth validates, and all before it trains; nothing reaches back beyond the stretch.

    Args:
        session: repaired, at the rate that the model is given.
        minutes: length of the stretch; infinite for all there is.

    Returns:
        The session with `split`, for protocol `given`.

    Raises:
        AdaptationError: the rate is unknown, or there are not so many minutes.
    """
    if session.rate_hz is None:
        raise AdaptationError(
            f"session {session.id}: has no rate, so {minutes:g} minutes cannot be counted. Give --rate_hz."
        )
    (train,), (_,), (test,) = (
        part_ranges(DEFAULT, part, session.num_frames, [(0, session.num_frames)]) for part in PARTS
    )
    num_frames = train[1] if math.isinf(minutes) else round(minutes * 60 * session.rate_hz)
    if not 0 < num_frames <= train[1]:
        raise AdaptationError(
            f"session {session.id}: {minutes:g} minutes are {num_frames} frames; expected between 1 and the "
            f"{train[1]} frames ({train[1] / session.rate_hz / 60:.2g} minutes) before the validation part."
        )
    first, validation = train[1] - num_frames, train[1] - int(num_frames * VALIDATION_SHARE)
    split = np.full(session.num_frames, -1, np.int8)
    split[first:validation], split[validation : train[1]], split[test[0] :] = 0, 1, 2
    # A window crosses no change of segment.
    segment_ids = np.zeros(session.num_frames, np.int32)
    for number, (start, stop) in enumerate(session.segments):
        segment_ids[start:stop] = number
    known = np.searchsorted([first, train[1], test[0]], np.arange(session.num_frames), side="right")
    return replace(session, split=split, segment_ids=(4 * segment_ids + known).astype(np.int32))
