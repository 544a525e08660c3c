from __future__ import annotations

import numpy as np
import pytest

from forebrain.errors import ConfigError
from forebrain.scoring.baselines import CopyBaseline, LinearFit, MeanBaseline

C, H = 6, 3


def _windows(
    seed: int, num_windows: int = 30, num_units: int = 4, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    walks = np.random.default_rng(seed).normal(size=(num_windows, C + H, num_units)).cumsum(axis=1)
    walks = (scale * walks).astype(np.float32)
    return walks[:, :C], walks[:, C:]


def test_copy_repeats_the_last_frame() -> None:
    context, _ = _windows(0)
    forecast = CopyBaseline(H)(0, context)
    assert forecast.shape == (30, H, 4)
    assert (forecast == context[:, -1:]).all()


def test_mean_is_each_sessions_own() -> None:
    means = [np.arange(4, dtype=np.float32), np.ones(4, np.float32)]
    context, _ = _windows(0)
    forecast = MeanBaseline(H, means.__getitem__)(0, context)
    assert forecast.shape == (30, H, 4)
    assert (forecast == means[0]).all()


def test_linear_agrees_with_least_squares_weighed_by_the_inverse_copy_error() -> None:
    sessions = [_windows(1), _windows(2, num_units=9, scale=20), _windows(3, num_windows=12)]
    fit = LinearFit(C, H)
    xs, ys = [], []
    for context, target in sessions:
        fit.add_session((context[i : i + 7], target[i : i + 7]) for i in range(0, len(context), 7))
        last = context[:, -1:].astype(float)
        x = (context - last).transpose(0, 2, 1).reshape(-1, C)
        y = (target - last).transpose(0, 2, 1).reshape(-1, H)
        weight = 1 / np.sqrt(np.sum(y**2))
        xs.append(weight * x)
        ys.append(weight * y)
    expected = np.linalg.lstsq(np.concatenate(xs), np.concatenate(ys), rcond=None)[0]
    np.testing.assert_allclose(fit.solve(ridge=1e-12).weights, expected, atol=1e-5)


def test_linear_finds_a_map_that_exists() -> None:
    context, _ = _windows(0, num_windows=200)
    weights = np.random.default_rng(5).normal(size=(C, H)).astype(np.float32)
    last = context[:, -1:]
    target = last + np.einsum("bcn,ch->bhn", context - last, weights)
    fit = LinearFit(C, H)
    fit.add_session([(context, target)])
    np.testing.assert_allclose(fit.solve(ridge=1e-9)(0, context), target, rtol=1e-3, atol=1e-3)


def test_fits_of_workers_add_up() -> None:
    whole, one, other = (LinearFit(C, H) for _ in range(3))
    for seed in range(4):
        whole.add_session([_windows(seed)])
        (one if seed % 2 else other).add_session([_windows(seed)])
    one.add(other)
    np.testing.assert_allclose(one.solve().weights, whole.solve().weights, rtol=1e-6, atol=1e-7)


def test_a_session_that_never_moves_adds_nothing() -> None:
    fit = LinearFit(C, H)
    fit.add_session([(np.ones((5, C, 2), np.float32), np.ones((5, H, 2), np.float32))])
    fit.add_session([])
    with pytest.raises(ConfigError, match="no session has a training window"):
        fit.solve()
