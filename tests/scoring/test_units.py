"""Single units: what the score against copy flatters, R2 about the training mean does not."""

from __future__ import annotations

import numpy as np
import pytest
from head_sessions import CONTEXT, HORIZON, windows_of

from forebrain.scoring.evaluate import evaluate, fit_baselines
from forebrain.scoring.noise import noise_variance
from forebrain.scoring.units import TRUSTED, UnitScores, score_units


@pytest.fixture(scope="module")
def traces() -> np.ndarray:
    """White noise, a slow rhythm, the same under noise, and a unit that never moves."""
    rng = np.random.default_rng(0)
    slow = np.sin(0.06 * np.arange(3000))
    return np.stack([rng.normal(size=3000), slow, slow + 0.5 * rng.normal(size=3000), np.ones(3000)], axis=1)


@pytest.fixture(scope="module")
def units(traces: np.ndarray) -> UnitScores:
    source = windows_of(traces)

    def rhythm(session: int, context: np.ndarray) -> np.ndarray:
        """The mean of the last frames for noise, and the rhythm carried on for the rest."""
        level, slope = context[:, -4:].mean(axis=1), (context[:, -1] - context[:, -9]) / 8
        ahead = np.arange(1, HORIZON + 1)[None, :, None]
        forecast = np.repeat(0 * level[:, None], HORIZON, axis=1)
        forecast[..., 1] = (context[:, -1:] + ahead * slope[:, None])[..., 1]
        forecast[..., 2] = np.repeat(level[:, None], HORIZON, axis=1)[..., 2]
        return forecast

    forecasters = {"model": rhythm, **fit_baselines(source)}
    found = evaluate(forecasters, source, "test", windows_per_session=None).scores["model"]["lab/animal/one"]
    assert found.units is not None
    return found.units


def test_white_noise_does_not_look_best_however_far_it_is_ahead_of_copy(units: UnitScores) -> None:
    assert units.score[0] == pytest.approx(0.5, abs=0.05)  # its mean is a fine forecast, beside copy
    assert units.score[0] > units.score[2] - 0.2
    assert abs(units.r2[0]) < 0.05 and abs(units.correlation[0]) < 0.05 and units.trusted_frames[0] == 0
    assert np.nanargmax(units.explained) == 1 == np.nanargmax(units.r2) and units.trusted_frames[1] == HORIZON


def test_the_noise_ceiling_is_what_a_perfect_forecast_of_the_signal_reaches(
    traces: np.ndarray, units: UnitScores
) -> None:
    ceiling = units.noise_ceiling(noise_variance(windows_of(traces)))
    assert ceiling[0] == pytest.approx(0, abs=0.1)
    assert ceiling[1] > 0.95
    assert ceiling[2] == pytest.approx(0.5 / 0.75, abs=0.05)
    assert units.explained[2] < ceiling[2]


def test_noise_around_a_level_that_has_drifted_is_explained_by_nothing() -> None:
    rng = np.random.default_rng(0)
    target = 5 + 0.5 * rng.normal(size=(200, 4, 1))
    units = score_units(np.full_like(target, 5), target, target[:, 0], np.zeros(1))
    assert units.r2[0] > 0.95 and abs(units.explained[0]) < 0.05 and units.trusted_frames[0] == 0


def test_a_unit_that_never_moves_has_no_r2_and_is_never_trusted(units: UnitScores) -> None:
    assert np.isnan([units.score[3], units.explained[3], units.r2[3], units.correlation[3]]).all()
    assert units.trusted_frames[3] == 0


def test_a_forecast_is_trusted_until_it_first_explains_too_little() -> None:
    good, bad = 1 - TRUSTED - 0.01, 1 - TRUSTED + 0.01
    error = np.array([[good, bad, good], [bad, good, good], [good, good, good]])
    ones = np.ones((3, 3))
    assert UnitScores.from_moments(error, ones[0], ones[0], ones, ones).trusted_frames.tolist() == [1, 0, 3]


def test_batches_and_arrays_give_the_same(traces: np.ndarray, units: UnitScores) -> None:
    source = windows_of(traces)
    forecasters = fit_baselines(source)
    context, target, _ = source.read(0, "test", np.arange(source.num_windows(0, "test")))
    expected = score_units(forecasters["linear"](0, context), target, context[:, -1], source.training_mean(0))
    named = {"same": forecasters["linear"], **forecasters}
    evaluation = evaluate(named, source, "test", windows_per_session=None)
    found = evaluation.scores["same"]["lab/animal/one"].units
    for name in ("score", "explained", "r2", "correlation", "variance", "trusted_frames"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    assert context.shape[1] == CONTEXT
    mse = {name: evaluation.summary(name).value("mse") for name in ("same", "mean")}
    assert evaluation.r2("same") == pytest.approx(1 - mse["same"] / mse["mean"]) == evaluation.r2("linear")
    assert evaluation.r2("mean") == 0 == evaluation.r2("mean", species="fish")
    assert np.isnan(evaluation.r2("same", species="mouse"))
