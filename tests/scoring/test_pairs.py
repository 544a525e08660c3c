"""Paired differences: sessions that differ among themselves do not hide a difference that all share."""

from __future__ import annotations

import numpy as np
import pytest

from forebrain.scoring.metrics import METRICS, UNIT_QUANTILES, ScoreAccumulator, Scores
from forebrain.scoring.pairs import difference_over_time, paired_difference


def scores(value: float) -> Scores:
    values = np.full((len(METRICS), 2), value)
    defined = int(np.isfinite(value))
    return Scores(values, values, values, "none", np.zeros(len(UNIT_QUANTILES)), 1, defined)


def test_a_small_difference_in_every_session_is_seen_beside_large_ones_between_sessions() -> None:
    level = np.linspace(-1, 1, 12)
    first = {f"s{i}": scores(value + 0.02 + 0.01 * (i % 2)) for i, value in enumerate(level)}
    second = {f"s{i}": scores(value) for i, value in enumerate(level)}
    found = paired_difference(first, second, seed=0)
    assert found.value == pytest.approx(0.025)
    assert 0.02 <= found.low < found.value < found.high <= 0.03
    assert (found.num_sessions, found.num_better) == (12, 12)
    back = paired_difference(second, first, seed=0)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_only_sessions_in_which_both_are_defined_count() -> None:
    first = {"a": scores(0.5), "b": scores(np.nan), "c": scores(0.1)}
    second = {"a": scores(0.2), "b": scores(0.1), "d": scores(0.1)}
    found = paired_difference(first, second, seed=0)
    assert found.value == pytest.approx(0.3)
    assert found.num_sessions == 1 and np.isnan(found.low)
    assert np.isnan(paired_difference(first, {}, seed=0).value)


def of_one_session(share: float, num_windows: int = 400) -> Scores:
    """A forecaster whose errors are a share of what moves, in stretches that are easy and hard in turn."""
    rng = np.random.default_rng(0)
    target = (
        rng.normal(size=(num_windows, 4, 3))
        * np.repeat(rng.uniform(0.1, 3, num_windows // 20), 20)[:, None, None]
    )
    noise = (
        rng.normal(size=target.shape) * np.repeat(rng.uniform(0.1, 3, num_windows // 20), 20)[:, None, None]
    )
    accumulator = ScoreAccumulator("s", "f", 4, 3)
    accumulator.update(target + share * noise, target, np.zeros((num_windows, 3)), np.arange(num_windows))
    return accumulator.scores(window_frames=20, seed=0)


def test_a_small_difference_in_every_stretch_is_seen_beside_large_ones_between_stretches() -> None:
    first, second = of_one_session(0.50), of_one_session(0.52)
    value, low, high = difference_over_time(first, second)
    assert value == first.value("score") - second.value("score")
    assert 0 < low < value < high < first.bounds("score")[1] - first.bounds("score")[0]
    assert first.bounds("score")[0] < second.value("score")  # which the intervals alone do not tell
    assert np.isnan(difference_over_time(*(of_one_session(share, 20) for share in (0.5, 0.6)))[1:]).all()
    kept = Scores.from_json(first.to_json())
    assert np.isnan(difference_over_time(kept, second)[1:]).all()
