"""Laws: what was put in is found, and where nothing was put in nothing is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forebrain.studies.laws import judge

SIZES = [64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0]
CELLS = [(seed, f"session-{number}") for seed in range(2) for number in range(8)]
POWER = lambda x: 0.5 + 2.0 * x**-0.5  # noqa: E731
LOG = lambda x: 1.0 - 0.05 * np.log(x)  # noqa: E731
FLAT = lambda x: np.full_like(x, 0.8)  # noqa: E731


def results(
    error: Callable[[np.ndarray], np.ndarray], noise: float, seed: int = 0, cells: list = CELLS
) -> np.ndarray:
    """Scores [K, M]: a curve, sessions of different levels, and noise."""
    rng = np.random.default_rng(seed)
    level = {session: rng.normal(0, 0.1) for _, session in cells}
    x = np.array(SIZES)
    return np.array([1 - error(x) + level[own] + rng.normal(0, noise, len(x)) for _, own in cells])


def test_a_power_law_is_found_with_its_exponent_and_floor() -> None:
    verdict = judge(SIZES, results(POWER, 0.005), CELLS, num_resamples=12)
    assert verdict.law == "power law with floor"
    (fit,) = [fit for fit in verdict.fits if fit.law.name == verdict.law]
    floor, factor, exponent = fit.parameters
    assert floor == pytest.approx(0.5, abs=0.1)
    assert factor == pytest.approx(2.0, rel=0.3)
    assert exponent == pytest.approx(0.5, abs=0.1)
    assert fit.low[2] < 0.5 < fit.high[2]
    assert abs(fit.miss[0]) < 0.01
    assert verdict.change is not None and verdict.change[1] > 0


def test_a_log_linear_law_is_found_with_its_slope() -> None:
    verdict = judge(SIZES, results(LOG, 0.005), CELLS, num_resamples=12)
    assert verdict.law == "log-linear law"
    (fit,) = [fit for fit in verdict.fits if fit.law.name == "log-linear law"]
    assert fit.parameters[1] == pytest.approx(0.05, abs=0.005)
    assert fit.parameters[0] == pytest.approx(1.0, abs=0.15)  # sessions differ in level by 0.1


def test_noise_supports_no_law() -> None:
    verdicts = [judge(SIZES, results(FLAT, 0.05, seed), CELLS, num_resamples=12).law for seed in range(3)]
    assert verdicts == [None] * 3


def test_a_trend_that_breaks_off_is_no_law_of_the_whole() -> None:
    def error(x: np.ndarray) -> np.ndarray:
        return np.where(x < 2048, 0.9 - 0.03 * np.log2(x / 64), 1.2)

    verdict = judge(SIZES, results(error, 0.005), CELLS, num_resamples=12)
    assert verdict.law is None and "no law" in verdict.text


def test_one_result_gone_wrong_does_not_bend_the_curve() -> None:
    scores = results(LOG, 0.005)
    scores[3, 2] -= 3.0
    verdict = judge(SIZES, scores, CELLS, num_resamples=12)
    (fit,) = [fit for fit in verdict.fits if fit.law.name == "log-linear law"]
    assert fit.parameters[1] == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    ("num_sizes", "cells", "words"),
    [(3, CELLS, "3 sizes are too few"), (6, [(0, "a"), (1, "a")], "1 sessions and 2 seeds are too few")],
)
def test_too_little_is_no_verdict_and_says_so(num_sizes: int, cells: list, words: str) -> None:
    verdict = judge(SIZES[:num_sizes], results(LOG, 0.01, cells=cells)[:, :num_sizes], cells)
    assert verdict.law is None and words in verdict.text and not verdict.fits
