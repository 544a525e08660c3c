from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebrain.sessions.clock import read_clock


def frames(rate_hz: float, count: int = 1200) -> np.ndarray:
    return np.arange(count) / rate_hz


@pytest.mark.parametrize(
    ("rate_hz", "digits"),
    [(15, 1), (15, 2), (30, 1), (30, 2), (30, 3), (7.5, 0), (9.5, 1), (2.9, 0), (12.3, 1)],
)
def test_rounded_times_give_the_true_rate_and_no_gaps(rate_hz: float, digits: int) -> None:
    for rounded in (np.round, lambda t, n: np.floor(t * 10**n) / 10**n):
        clock = read_clock(rounded(frames(rate_hz), digits))
        assert clock is not None
        assert clock.rate_hz == pytest.approx(rate_hz, rel=5e-3)
        assert clock.breaks.size == 0


def test_exact_times_give_the_rate_to_the_last_digit() -> None:
    clock = read_clock(frames(7.5))
    assert clock is not None and clock.rate_hz == 7.5


def test_times_in_single_precision_long_after_zero_give_the_rate() -> None:
    clock = read_clock((1e5 + frames(15)).astype(np.float32).astype(np.float64))
    assert clock is not None
    assert clock.rate_hz == pytest.approx(15, rel=1e-3) and clock.breaks.size == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(1.0, 60.0), st.floats(0.0, 0.4))
def test_jitter_makes_no_gaps_and_moves_no_rate(seed: int, rate_hz: float, jitter: float) -> None:
    rng = np.random.default_rng(seed)
    clock = read_clock(frames(rate_hz) + jitter / rate_hz * rng.uniform(-1, 1, 1200))
    assert clock is not None
    assert clock.rate_hz == pytest.approx(rate_hz, rel=5e-3)
    assert clock.breaks.size == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(1.0, 60.0), st.integers(1, 30), st.booleans())
def test_lost_frames_are_gaps_where_they_are_lost(
    seed: int, rate_hz: float, lost: int, is_rounded: bool
) -> None:
    at = int(np.random.default_rng(seed).integers(50, 1000))
    times = np.delete(frames(rate_hz), range(at, at + lost))
    clock = read_clock(np.round(times, 3) if is_rounded else times)
    assert clock is not None
    assert clock.breaks.tolist() == [at]
    assert clock.rate_hz == pytest.approx(rate_hz, rel=2e-2 if is_rounded else 1e-6)


def test_trials_and_restarts_of_the_clock_are_breaks() -> None:
    trial = frames(15, 41)
    for times in (np.concatenate([trial + 10 * k for k in range(20)]), np.tile(trial, 20)):
        clock = read_clock(times)
        assert clock is not None
        assert clock.breaks.tolist() == list(range(41, 820, 41))
        assert clock.rate_hz == pytest.approx(15)


def test_one_late_time_stamp_is_no_gap() -> None:
    times = frames(10)
    times[300] += 0.08
    clock = read_clock(times)
    assert clock is not None and clock.breaks.size == 0


@pytest.mark.parametrize("times", [[0.0, np.nan, 2.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0]])
def test_times_that_tell_nothing_are_none(times: list[float]) -> None:
    assert read_clock(np.array(times)) is None
