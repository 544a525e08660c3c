"""What intervals cover in a stream, tried on a recording without a server: as it is, and drifting."""

from __future__ import annotations

from dataclasses import dataclass

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
BATCH = 64


@dataclass(frozen=True, eq=False)
class StreamCoverage:
    """Part of the targets inside the 80 % intervals that a stream had given for them.

    Attributes:
        whole: of all units and steps.
        by_unit: [N], of all steps.
    """

    whole: float
    by_unit: np.ndarray


def covered_in_order(
    forecaster: Forecaster, calibration: Calibration, session: Session, windows: SessionWindows
) -> StreamCoverage:
    """Plays the test part to a forecaster, whose intervals learn from each frame as they do in a stream.

    Args:
        forecaster: (session 0, contexts [B, C, N], normalised) -> [B, H, N].
        calibration: that its intervals begin with.
        session: its rate.
        windows: of the session, with a test part.
    """
    config = LiveConfig()
    intervals = OnlineIntervals(
        calibration, config.interval_memory_s, session.rate_hz, config.coverage_frames
    )
    num_units, num_windows = session.num_units, windows.num_windows(0, "test")
    zero, one, every = np.zeros(num_units), np.ones(num_units), np.ones(num_units, bool)
    inside, target, before = np.zeros(num_units), np.zeros((0, num_units)), -1
    for first in range(0, num_windows, BATCH):
        numbers = np.arange(first, min(first + BATCH, num_windows))
        contexts, targets, starts = windows.read(0, "test", numbers)
        forecasts = forecaster(0, contexts)
        for context, forecast, start, coming in zip(contexts, forecasts, starts, targets, strict=True):
            if start != before + 1:  # the end of a segment: what is left of it still comes
                for frame in target:
                    intervals.observe(frame, every)
                intervals.restart()
            before, target = start, coming
            intervals.observe(context[-1], every)
            low, high = np.moveaxis(intervals.quantiles(forecast, context, zero, one, BOUNDS), -1, 0)
            inside += ((low <= target) & (target <= high)).sum(axis=0)
            intervals.add(forecast, context, zero, one)
    by_unit = inside / (num_windows * windows.horizon)
    return StreamCoverage(float(by_unit.mean()), by_unit)


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
