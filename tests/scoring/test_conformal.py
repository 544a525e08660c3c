from __future__ import annotations

import numpy as np
import pytest

from forebrain.errors import ConfigError
from forebrain.scoring import conformal
from forebrain.scoring.conformal import Calibration, calibrate, num_independent, sorted_quantiles
from forebrain.scoring.quantiles import LEVELS

HORIZON, UNITS = 3, 12


def made(
    num_windows: int, seed: int = 0, size: np.ndarray | float = 1.0, spread: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Forecasts of 0 whose errors grow with step, unit and the spread of the window."""
    rng = np.random.default_rng(seed)
    spread = np.ones((num_windows, UNITS)) if spread is None else spread
    target = rng.normal(size=(num_windows, HORIZON, UNITS)) * size * spread[:, None]
    target *= np.arange(1, 1 + HORIZON)[:, None]
    return {
        "forecast": np.zeros_like(target),
        "target": target,
        "spread": spread,
        "starts": HORIZON * np.arange(num_windows),
    }


def covered(calibration: Calibration, arrays: dict[str, np.ndarray], level: float = 0.8) -> np.ndarray:
    """[H, N]"""
    bounds = calibration.quantiles(arrays["forecast"], arrays["spread"], [(1 - level) / 2, (1 + level) / 2])
    inside = (bounds[0] <= arrays["target"]) & (arrays["target"] <= bounds[1])
    return inside.mean(axis=0)


def test_intervals_cover_each_unit_and_step_by_itself() -> None:
    size = np.linspace(0.2, 3, UNITS)
    calibration = calibrate(**made(400, 0, size), calibrated_on="here", context=2)
    fresh = made(4000, 1, size)
    np.testing.assert_allclose(covered(calibration, fresh), 0.8, atol=0.06)
    assert abs(covered(calibration, fresh).mean() - 0.8) < 0.01
    assert abs(covered(calibration, fresh, 0.5).mean() - 0.5) < 0.01
    assert calibration.record["calibrated_on"] == "here" and calibration.record["note"] is None


def test_windows_that_move_more_have_wider_intervals() -> None:
    def spreads(number: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).uniform(0.1, 4, size=(number, 1)) * np.ones(UNITS)

    calibration = calibrate(**made(400, 0, spread=spreads(400, 5)), calibrated_on="here", context=2)
    assert calibration.share == max(conformal.SHARES)
    fresh = made(4000, 1, spread=spreads(4000, 6))
    wild = fresh["spread"][:, 0] > 3
    for chosen in (wild, ~wild):
        some = {name: values[chosen] for name, values in fresh.items()}
        assert abs(covered(calibration, some).mean() - 0.8) < 0.03
    still = calibrate(**made(400, 0), calibrated_on="here", context=2)
    assert still.record["share"] in conformal.SHARES


def test_a_unit_with_few_windows_leans_on_the_others() -> None:
    """Eight windows cannot tell a unit's 90 % interval; those of twelve units can."""
    few = calibrate(**made(9, 3), calibrated_on="here", context=2)
    alone = calibrate(**made(9, 3), calibrated_on="here", context=2, half_own=0.0)
    fresh = made(4000, 1)
    error = [np.abs(covered(each, fresh, 0.9) - 0.9).mean() for each in (few, alone)]
    assert error[0] < error[1]
    assert few.record["own_weight"] < 0.5


def test_too_little_widens_the_intervals_and_says_so() -> None:
    little = calibrate(**made(4), calibrated_on="here", context=2)
    assert little.record["num_apart"] == 2 and "widened 1.20 times" in little.record["note"]
    with pytest.raises(ConfigError, match="nothing to calibrate intervals on"):
        calibrate(**made(0), calibrated_on="here", context=2)
    none_came = made(5)
    none_came["target"][:] = np.nan
    with pytest.raises(ConfigError, match="nothing to calibrate intervals on"):
        calibrate(**none_came, calibrated_on="here", context=2)


def test_a_unit_that_was_silent_has_the_intervals_of_the_others_and_is_counted() -> None:
    """What it did while it did nothing says nothing of what it will do."""
    arrays = made(300)
    arrays["target"][..., 4] = 0
    arrays["spread"] = arrays["spread"].copy()
    arrays["spread"][:, 4] = 0
    calibration = calibrate(**arrays, calibrated_on="here", context=2)
    assert calibration.record["silent_units"] == 1
    np.testing.assert_allclose(covered(calibration, made(3000, 1)), 0.8, atol=0.07)


def test_a_session_in_which_nothing_moves_has_intervals_without_width() -> None:
    arrays = made(50)
    arrays["target"][:], arrays["spread"] = 0, 0 * arrays["spread"]
    calibration = calibrate(**arrays, calibrated_on="here", context=2)
    assert calibration.record["silent_units"] == UNITS
    assert not calibration.quantiles(arrays["forecast"], arrays["spread"]).any()


def test_what_did_not_come_takes_no_part_and_a_unit_that_never_came_has_the_others_quantiles() -> None:
    arrays = made(300)
    holes = {name: values.copy() for name, values in arrays.items()}
    holes["target"][::3, :, 2] = np.nan
    holes["target"][..., 7] = np.nan
    calibration = calibrate(**holes, calibrated_on="here", context=2)
    fresh = made(3000, 1)
    np.testing.assert_allclose(covered(calibration, fresh), 0.8, atol=0.07)


def test_quantiles_of_events_do_not_pass_their_floor() -> None:
    rng = np.random.default_rng(0)
    arrays = made(400)
    arrays["target"] = np.maximum(0, rng.normal(size=arrays["target"].shape))
    arrays["forecast"] = np.full_like(arrays["target"], 0.4)
    calibration = calibrate(**arrays, calibrated_on="here", context=2)
    quantiles = calibration.quantiles(arrays["forecast"], arrays["spread"])
    assert quantiles.min() == 0 and calibration.record["units_with_floor"] == UNITS


def test_any_level_lies_between_its_neighbours_and_extreme_ones_beyond() -> None:
    calibration = calibrate(**made(400), calibrated_on="here", context=2)
    zero, spread = np.zeros((1, HORIZON, UNITS)), np.ones((1, UNITS))
    asked = [0.001, 0.025, 0.11, 0.5, 0.77, 0.9, 0.999]
    quantiles = calibration.quantiles(zero, spread, asked)
    assert (np.diff(quantiles, axis=0) > 0).all()
    own = calibration.quantiles(zero, spread)
    for place, level in ((1, 0.025), (3, 0.5), (5, 0.9)):
        np.testing.assert_array_equal(quantiles[place], own[int(np.argmin(np.abs(LEVELS - level)))])


def test_quantiles_are_those_of_numpy_at_n_plus_one() -> None:
    values = np.random.default_rng(0).normal(size=(37, 4, 2))
    known = np.quantile(values, LEVELS, axis=0, method="weibull")
    np.testing.assert_allclose(sorted_quantiles(values, LEVELS), known, atol=1e-12)


def test_windows_are_independent_where_they_share_no_target() -> None:
    assert num_independent(np.arange(100), 10) == 10
    assert num_independent(np.array([0, 50, 51, 70]), 10) == 3


def test_saved_and_loaded_it_gives_the_same_bits() -> None:
    arrays = made(60)
    calibration = calibrate(**arrays, calibrated_on="here", context=2, step=np.ones(UNITS))
    loaded = Calibration.from_arrays(calibration.arrays(), calibration.record, "there")
    for levels in (None, [0.1, 0.33]):
        np.testing.assert_array_equal(
            calibration.quantiles(arrays["forecast"], arrays["spread"], levels),
            loaded.quantiles(arrays["forecast"], arrays["spread"], levels),
        )
    for damage in ({"size": None}, {"own": np.zeros((3, 2), np.float32)}, {"typical": np.zeros(UNITS)}):
        broken = {k: v for k, v in {**calibration.arrays(), **damage}.items() if v is not None}
        with pytest.raises(ConfigError, match="there"):
            Calibration.from_arrays(broken, calibration.record, "there")


def test_many_units_share_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformal, "MAX_OWN_UNITS", 4)
    calibration = calibrate(**made(400, 0, np.linspace(0.2, 3, UNITS)), calibrated_on="here", context=2)
    assert calibration.own is None and "own" not in calibration.arrays()
    np.testing.assert_allclose(
        covered(calibration, made(3000, 1, np.linspace(0.2, 3, UNITS))), 0.8, atol=0.06
    )
    some = calibration.of_units(np.array([3, 5]))
    assert some.num_units == 2 and some.offsets([0.1]).shape == (1, HORIZON, 2)
