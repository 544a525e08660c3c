from __future__ import annotations

import numpy as np

from forebrain.realtime.running import RunningMoments


def test_at_first_they_are_the_plain_mean_and_spread() -> None:
    values = np.random.default_rng(0).normal(50, 3, size=(40, 4))
    moments = RunningMoments(4, memory=100)
    for frame in values:
        moments.add(frame, np.ones(4, bool))
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.scale(), values.std(axis=0), rtol=1e-10)


def test_later_they_forget_with_the_time_constant() -> None:
    values = np.random.default_rng(0).normal(size=(3000, 1)) * 2
    moments = RunningMoments(1, memory=50)
    for number, frame in enumerate(values):
        moments.add(frame + 100 * (number >= 2000), np.ones(1, bool))
    weights = (1 - 1 / 50) ** np.arange(1000)[::-1]
    recent = values[2000:, 0] + 100
    assert abs(moments.mean[0] - np.average(recent, weights=weights)) < 1e-3
    spread = np.sqrt(np.average((recent - moments.mean) ** 2, weights=weights))
    assert abs(moments.scale()[0] / spread - 1) < 1e-2


def test_only_known_values_count() -> None:
    values = np.random.default_rng(0).normal(size=(60, 2))
    known = np.random.default_rng(1).random((60, 2)) < 0.6
    moments = RunningMoments(2, memory=1000)
    for frame, is_known in zip(values, known, strict=True):
        moments.add(np.where(is_known, frame, np.nan), is_known)
    for unit in range(2):
        seen = values[known[:, unit], unit]
        np.testing.assert_allclose(moments.mean[unit], seen.mean(), rtol=1e-10)
        np.testing.assert_allclose(moments.scale()[unit], seen.std(), rtol=1e-8)
