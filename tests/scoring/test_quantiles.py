from __future__ import annotations

import numpy as np
import pytest

from forebrain.errors import ConfigError
from forebrain.scoring.autoregression import DEVIATES
from forebrain.scoring.quantiles import (
    LEVELS,
    QuantileAccumulator,
    QuantileScores,
    headline,
    informative_horizon,
    require_levels,
)


def scores_of(quantiles: np.ndarray, target: np.ndarray, seed: int = 0) -> QuantileScores:
    sums = QuantileAccumulator(*target.shape[1:], np.random.default_rng(seed), 10.0)
    for part in np.array_split(np.arange(len(target)), 2):
        sums.update(quantiles[:, part], target[part])
    return sums.scores()


def normal(deviation: float, shape: tuple[int, ...] = (2000, 2, 3)) -> np.ndarray:
    return np.broadcast_to((deviation * DEVIATES)[:, None, None, None], (39, *shape)).copy()


def test_the_true_distribution_covers_what_it_says_and_scores_best() -> None:
    target = np.random.default_rng(1).normal(size=(2000, 2, 3))
    right, timid, wild = (scores_of(normal(size), target) for size in (1.0, 0.5, 2.0))
    np.testing.assert_allclose(right.coverage, [0.5, 0.8, 0.9], atol=0.015)
    np.testing.assert_allclose(right.pit, 0.05, atol=0.008)
    assert right.crps < min(timid.crps, wild.crps) and right.mwql < min(timid.mwql, wild.mwql)
    assert abs(right.crps - 0.564) < 0.02  # of a standard normal: 1 / sqrt(pi)
    assert (timid.coverage < 0.7).all() and (wild.width > right.width).all()


def test_the_pit_of_counts_is_uniform_where_the_distribution_is_right() -> None:
    """Poisson counts: several quantiles have the value of the target."""
    target = np.random.default_rng(2).poisson(0.7, size=(4000, 1, 2)).astype(float)
    ordered = np.sort(np.random.default_rng(3).poisson(0.7, 100_000))
    quantiles = np.broadcast_to(
        ordered[(LEVELS * 100_000).astype(int)][:, None, None, None], (39, *target.shape)
    )
    np.testing.assert_allclose(scores_of(quantiles, target).pit, 0.05, atol=0.014)


def test_the_worst_tenth_of_the_units_is_not_hidden_by_the_mean() -> None:
    target = np.random.default_rng(4).normal(size=(500, 1, 20))
    target[..., :2] *= 5
    found = scores_of(normal(1.0, target.shape), target)
    assert found.coverage[1] > 0.72 and found.worst_tenth_coverage[1] < 0.35


def test_targets_that_did_not_come_take_no_part() -> None:
    target = np.random.default_rng(5).normal(size=(300, 2, 3))
    whole = scores_of(normal(1.0, target.shape), target)
    holes = np.concatenate([target, np.full((100, 2, 3), np.nan)])
    with_holes = scores_of(normal(1.0, holes.shape), holes)
    assert with_holes.crps == pytest.approx(whole.crps) and with_holes.coverage == pytest.approx(
        whole.coverage
    )
    assert with_holes.count.sum() == whole.count.sum() and with_holes.pit_count.sum() == target.size


def test_what_is_undefined_is_none() -> None:
    nothing = scores_of(normal(1.0, (4, 1, 2)), np.full((4, 1, 2), np.nan))
    assert headline([nothing])["crps"] is None and headline([nothing])["worst_tenth_coverage"]["0.8"] is None


def test_quantiles_of_another_shape_or_not_finite_are_refused() -> None:
    sums = QuantileAccumulator(2, 3, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="quantiles have shape"):
        sums.update(np.zeros((9, 4, 2, 3)), np.zeros((4, 2, 3)))
    with pytest.raises(ConfigError, match="not finite"):
        sums.update(np.full((39, 4, 2, 3), np.nan), np.zeros((4, 2, 3)))


@pytest.mark.parametrize("levels", [[0.0, 0.5], [1.0], [-0.1], [float("nan")], [], [0.5, 0.5]])
def test_levels_outside_of_0_to_1_none_and_the_same_twice_are_refused(levels: list[float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        require_levels(levels)


def test_the_informative_horizon_ends_before_the_step_that_says_no_more_than_the_mean() -> None:
    mean = np.ones(5)
    assert informative_horizon(np.array([0.2, 0.6, 0.96, 0.5, 1.0]), mean, 10.0) == (0.2, False)
    assert informative_horizon(np.full(5, 0.5), mean, None) == (5, True)
    assert informative_horizon(np.full(5, 0.5), np.zeros(5), 10.0) == (None, False)
