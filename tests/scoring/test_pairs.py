"""Paired differences: sessions that differ among themselves do not hide a difference that all share."""

from __future__ import annotations

import numpy as np
import pytest

from forebrain.scoring.metrics import METRICS, UNIT_QUANTILES, Scores
from forebrain.scoring.pairs import paired_difference


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
