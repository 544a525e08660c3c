"""What intervals cover in a stream that drifts, tried on a recording without a server."""

from __future__ import annotations

import numpy as np

from forebrain.adaptation.windows import SessionWindows
from forebrain.realtime.drift import CoverageCount, StretchCoverage, drifting, moments
from forebrain.realtime.forecaster import LiveConfig
from forebrain.realtime.intervals import BOUNDS, OnlineIntervals
from forebrain.realtime.messages import Frame
from forebrain.scoring.conformal import Calibration
from forebrain.scoring.evaluate import Forecaster
from forebrain.sessions.session import Session

MAX_FRAMES = 6000


def covered_while_drifting(
    forecaster: Forecaster, calibration: Calibration, session: Session, windows: SessionWindows
) -> StretchCoverage | None:
    """Plays a recording whose scale and offset drift to a forecaster, and counts what its intervals cover.

    The first MAX_FRAMES frames; segments are played one after another, and windows that cross their border
    are left out.

    Args:
        forecaster: (session 0, context [1, C, N], normalised) -> [1, H, N].
        calibration: of its intervals.
        session: as it is played.
        windows: of the session, which say how it is normalised.

    Returns:
        None where nothing that had been forecast came.
    """
    config, num_units = LiveConfig(), session.num_units
    intervals = OnlineIntervals(
        calibration, config.interval_memory_s, session.rate_hz, config.coverage_frames
    )
    raw = session.frames(0, min(session.num_frames, MAX_FRAMES))
    frames = (Frame(values, index) for index, values in enumerate(raw))
    played = np.stack(
        [each.values for each in drifting(frames, *moments(session.frames(0, session.num_frames)))]
    )
    normalised = windows.preprocessing.normalise(played)
    every, zero, one = np.ones(num_units, bool), np.zeros(num_units), np.ones(num_units)
    begins = {start for start, _ in session.segments}
    count, filled = CoverageCount(), 0
    for moment, frame in enumerate(normalised):
        if moment in begins:
            filled = 0
            intervals.restart()
            count.restart()
        filled += 1
        intervals.observe(frame, every)
        count.observe(moment, frame)
        if filled < windows.context:
            continue
        context = normalised[moment - windows.context + 1 : moment + 1]
        forecast = forecaster(0, context[None])[0]
        count.add(moment, intervals.quantiles(forecast, context, zero, one, BOUNDS))
        intervals.add(forecast, context, zero, one)
    return count.coverage()
