from __future__ import annotations

import math

import numpy as np
import pytest
from head_sessions import windows_of

from forebrain.scoring.noise import noise_ceiling, noise_variance


def test_the_noise_of_slow_activity_is_found_for_each_unit() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(4000)[:, None]
    slow = np.sin(time * np.array([0.02, 0.03, 0.05]))
    noise = np.array([0.1, 0.3, 0.0])
    source = windows_of(slow + noise * rng.normal(size=(4000, 3)))
    total = slow[:2400].std(axis=0) ** 2 + noise**2
    assert noise_variance(source) == pytest.approx(noise**2 / total, abs=0.01)


def test_activity_without_noise_has_no_ceiling_below_one() -> None:
    walk = np.cumsum(np.random.default_rng(0).normal(size=(3000, 4)), axis=0)
    variance = noise_variance(windows_of(walk))
    assert noise_ceiling(variance, copy_mse=float(np.mean(variance)) * 100 + 1) > 0.99


def test_white_noise_cannot_be_forecast_better_than_by_its_mean() -> None:
    """Copy's error is twice the variance, the mean's once, so that the ceiling is a half."""
    source = windows_of(np.random.default_rng(0).normal(size=(6000, 5)))
    assert noise_ceiling(noise_variance(source), copy_mse=2.0) == pytest.approx(0.5, abs=0.05)


def test_where_nothing_moves_there_is_no_ceiling() -> None:
    assert math.isnan(noise_ceiling(np.zeros(3), copy_mse=0.0))
    assert np.isnan(noise_variance(windows_of(np.ones((20, 3))))).all()
