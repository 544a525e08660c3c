"""The rolling score is the scorer's, over the newest windows."""

from __future__ import annotations

import numpy as np
import pytest

from forebrain.realtime.rolling import RollingScore
from forebrain.scoring.metrics import ScoreAccumulator

H, N = 5, 7


def stream(num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames [T, N], a forecast [H, N] from each, and the scale of each unit."""
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(num_frames, N)).cumsum(axis=0).astype(np.float32)
    forecasts = frames[:, None] + rng.normal(size=(num_frames, H, N)).astype(np.float32)
    return frames, forecasts, rng.uniform(1, 3, N).astype(np.float32)


@pytest.mark.parametrize("num_windows", [1, 10, 1000])
def test_it_equals_the_scorers_score_of_the_same_windows(num_windows: int) -> None:
    frames, forecasts, scale = stream(60)
    rolling = RollingScore(H, N, num_windows)
    for frame, forecast in zip(frames, forecasts, strict=True):
        rolling.observe(frame, np.ones(N, bool), scale)
        rolling.add(forecast, frame)
    origins = np.arange(60 - H)[-num_windows:]
    oracle = ScoreAccumulator("s", "model", H, N)
    targets = frames[origins[:, None] + 1 + np.arange(H)]
    oracle.update(forecasts[origins] / scale, targets / scale, frames[origins] / scale, origins)
    assert rolling.num_windows == len(origins)
    assert rolling.score == pytest.approx(oracle.scores(H, seed=0).value("score"), abs=1e-6)


def test_a_value_that_did_not_come_counts_for_nobody() -> None:
    frames, forecasts, scale = stream(60)
    without, with_gaps = RollingScore(H, N, 100), RollingScore(H, N - 1, 100)
    known = np.arange(N) != 3
    for frame, forecast in zip(frames, forecasts, strict=True):
        without.observe(np.where(known, frame, 1e6), known, scale)
        without.add(forecast, frame)
        with_gaps.observe(frame[known], np.ones(N - 1, bool), scale[known])
        with_gaps.add(forecast[:, known], frame[known])
    assert without.score == pytest.approx(with_gaps.score, rel=1e-6)


def test_a_frame_without_a_forecast_is_no_window() -> None:
    frames, forecasts, scale = stream(60)
    rolling = RollingScore(H, N, 100)
    for number, (frame, forecast) in enumerate(zip(frames, forecasts, strict=True)):
        rolling.observe(frame, np.ones(N, bool), scale)
        if number % 2:
            rolling.add(forecast, frame)
    assert rolling.num_windows == len(range(1, 60 - H, 2))


def test_after_a_restart_no_forecast_from_before_is_scored() -> None:
    frames, forecasts, scale = stream(30)
    rolling = RollingScore(H, N, 100)
    for number, (frame, forecast) in enumerate(zip(frames, forecasts, strict=True)):
        if number == 20:
            rolling.restart()
        rolling.observe(frame, np.ones(N, bool), scale)
        rolling.add(forecast, frame)
    assert rolling.num_windows == (20 - H) + (10 - H)


def test_nothing_that_moved_means_no_score() -> None:
    rolling = RollingScore(H, N, 100)
    assert np.isnan(rolling.score)
    for _ in range(20):
        rolling.observe(np.ones(N, np.float32), np.ones(N, bool), np.ones(N, np.float32))
        rolling.add(np.zeros((H, N), np.float32), np.ones(N, np.float32))
    assert rolling.num_windows == 20 - H and np.isnan(rolling.score)


def test_the_errors_of_units_add_up_to_those_of_all() -> None:
    frames, forecasts, scale = stream(60)
    rolling = RollingScore(H, N, 10**9)  # so many that none is forgotten
    known = np.arange(N) != 3
    assert np.isnan(rolling.unit_errors()).all()
    squares = np.zeros((2, N))
    counts = np.zeros(N)
    for number, (frame, forecast) in enumerate(zip(frames, forecasts, strict=True)):
        seen = known | (number % 2 == 0)
        for ahead in range(1, min(H, number) + 1):
            for row, made in enumerate((forecasts[number - ahead, ahead - 1], frames[number - ahead])):
                squares[row] += np.where(seen, ((made - frame) / scale) ** 2, 0)
            counts += seen
        rolling.observe(frame, seen, scale)
        rolling.add(forecast, frame)
    np.testing.assert_allclose(rolling.unit_errors(), squares / counts, rtol=1e-5)


@pytest.mark.parametrize("is_made_always", [True, False])
@pytest.mark.parametrize("absurd", [1e20, -3e38])
def test_one_absurd_value_is_forgotten(absurd: float, is_made_always: bool) -> None:
    frames, forecasts, scale = stream(400)
    scale /= 10  # below 1: the error of the largest number is infinite before it is squared
    ordinary, rolling = RollingScore(H, N, 10), RollingScore(H, N, 10)
    for number, (frame, forecast) in enumerate(zip(frames, forecasts, strict=True)):
        with np.errstate(over="ignore", invalid="ignore"):
            met = np.where((np.arange(N) == 3) & (number == 30), np.float32(absurd), frame)
            for score, values in ((ordinary, frame), (rolling, met)):
                score.observe(values, np.ones(N, bool), scale)
                if is_made_always or number % 2:
                    score.add(forecast, values)
        if number == 32:
            errors = rolling.unit_errors()
            assert (errors[:, 3] > 1e4).all() and np.isfinite(errors).all()
            np.testing.assert_array_equal(np.delete(errors, 3, 1), np.delete(ordinary.unit_errors(), 3, 1))
    np.testing.assert_allclose(rolling.unit_errors(), ordinary.unit_errors(), rtol=1e-6)
    assert rolling.score == ordinary.score
