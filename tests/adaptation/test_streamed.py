"""What intervals cover of a test part that they learn from as it comes."""

from __future__ import annotations

import numpy as np
import pytest

from forebrain.adaptation.streamed import covered_in_order
from forebrain.adaptation.windows import SessionWindows
from forebrain.scoring.baselines import CopyBaseline
from forebrain.scoring.uncertainty import residuals_of
from forebrain.sessions.session import Session

UNITS = 20


def growing(by: float, trials: int = 1) -> Session:
    """Units that come back to their mean, whose noise grows in the last fifth."""
    rng = np.random.default_rng(0)
    values = np.zeros((4000, UNITS), np.float32)
    for moment in range(1, len(values)):
        noise = by if moment >= 3200 else 1
        values[moment] = 0.9 * values[moment - 1] + noise * rng.normal(size=UNITS)
    trial = np.arange(4000) // (4000 // trials)
    # A rate, so that a unit's memory is of 300 frames.
    return Session.from_array(
        values, rate_hz=5.0, species="worm", subject="a", session="b", dataset="c", segment_ids=trial
    )


@pytest.mark.parametrize("trials", [1, 100])
def test_intervals_follow_errors_that_grow_and_trials_that_end(trials: int) -> None:
    forecaster = CopyBaseline(4)
    # Of windows whose spread tells nothing of their errors: with one that does there is little to learn.
    for by, least in ((1.0, 0.78), (3.0, 0.76)):
        session = growing(by, trials)
        windows = SessionWindows(session, "chronological", 8, 4)
        calibration = residuals_of(forecaster, windows).calibrate("validation part")
        calibration = type(calibration).from_arrays(
            calibration.arrays(), {**calibration.record, "share": 0.0}, "here"
        )
        context, target, _ = windows.read(0, "test", np.arange(windows.num_windows(0, "test")))
        low, high = calibration.quantiles(forecaster(0, context), np.ones((len(context), UNITS)), [0.1, 0.9])
        static = float(((low <= target) & (target <= high)).mean())
        streamed = covered_in_order(forecaster, calibration, session, windows)
        assert streamed.by_unit.shape == (UNITS,) and streamed.whole == pytest.approx(streamed.by_unit.mean())
        assert least < streamed.whole < 0.83, (by, static, streamed.whole)
        if by > 1:
            assert static < 0.5
