from __future__ import annotations

import numpy as np

from forebrain.scoring.intervals import (
    NUM_RESAMPLES,
    block_resamples,
    percentile_interval,
    rng_for,
    session_resamples,
    windows_per_block,
)


def test_streams_depend_on_seed_and_names_alone() -> None:
    first = rng_for(1, "blocks", "a").integers(1 << 40, size=4)
    assert (rng_for(1, "blocks", "a").integers(1 << 40, size=4) == first).all()
    for other in (rng_for(2, "blocks", "a"), rng_for(1, "blocks", "b"), rng_for(1, "block", "sa")):
        assert (other.integers(1 << 40, size=4) != first).all()


def test_a_block_spans_at_least_one_window() -> None:
    assert windows_per_block(np.arange(500), 64) == 64
    assert windows_per_block(np.arange(0, 5000, 20), 64) == 4
    assert windows_per_block(np.arange(0, 5000, 100), 64) == 1
    # A gap between two parts does not count.
    assert windows_per_block(np.concatenate([np.arange(100), 10_000 + np.arange(100)]), 64) == 64
    assert windows_per_block(np.array([7]), 64) == 1


def test_block_resamples_agree_with_drawing_blocks_one_by_one() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    block = 8
    fast = block_resamples(values, block, rng_for(0, "x"))
    draws = rng_for(0, "x").integers(50, size=(NUM_RESAMPLES, 7))
    slow = [np.mean([values[(first + np.arange(block)) % 50] for first in row], axis=(0, 1)) for row in draws]
    np.testing.assert_allclose(fast, slow)


def test_block_resamples_of_long_series_are_made_in_pieces_with_the_same_result(monkeypatch) -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    whole = block_resamples(values, 8, rng_for(0, "x"))
    monkeypatch.setattr("forebrain.scoring.intervals._MAX_COUNTS", 333)
    np.testing.assert_allclose(block_resamples(values, 8, rng_for(0, "x")), whole)


def test_stretches_in_which_nothing_moves_stay_exactly_zero() -> None:
    values = np.zeros((100, 1))
    values[3] = 1 / 3
    resamples = block_resamples(values, 10, rng_for(0, "x"))
    assert (resamples == 0).any()
    assert (resamples[resamples != 0] > 1e-4).all()


def test_block_intervals_cover_the_mean_of_a_correlated_series_where_plain_ones_do_not() -> None:
    """Of 150 series with neighbours alike, nominal coverage is 95 %."""
    rng = np.random.default_rng(0)
    covered = {1: 0, 40: 0}
    for trial in range(150):
        series = np.convolve(rng.normal(size=1000 + 19), np.ones(20) / 20, mode="valid")[:, None]
        for block in covered:
            low, high = percentile_interval(block_resamples(series, block, rng_for(trial, "x")))
            covered[block] += bool(low[0] <= 0 <= high[0])
    assert covered[40] / 150 > 0.85
    assert covered[1] / 150 < 0.5


def test_session_resamples_agree_with_drawing_sessions_one_by_one() -> None:
    values = np.random.default_rng(0).normal(size=(6, 4))
    fast = session_resamples(values, rng_for(0, "x"))
    counts = rng_for(0, "x").multinomial(6, [1 / 6] * 6, size=NUM_RESAMPLES)
    slow = [np.repeat(values, row, axis=0).mean(axis=0) for row in counts]
    np.testing.assert_allclose(fast, slow)


def test_undefined_values_take_no_part_in_session_resamples() -> None:
    values = np.array([[1.0, np.nan], [3.0, 2.0], [5.0, 4.0]])
    resamples = session_resamples(values, rng_for(0, "x"))
    assert np.isfinite(resamples[:, 0]).all()
    assert set(np.unique(resamples[np.isfinite(resamples[:, 1]), 1])) <= {2.0, 4.0, 3.0, 8 / 3, 10 / 3}
    assert np.isnan(resamples[:, 1]).sum() > 0  # All three draws fell on the first session.
