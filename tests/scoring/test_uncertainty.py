from __future__ import annotations

import numpy as np
import pytest
from head_sessions import HORIZON, led_by_one, session_of, walks, windows_of

from forebrain.scoring import uncertainty
from forebrain.scoring.evaluate import fit_baselines
from forebrain.scoring.ridge import fit_head, out_of_block
from forebrain.scoring.stack import fit_stack
from forebrain.scoring.uncertainty import OUT_OF_BLOCK, assess, residuals_of, stack_residuals
from forebrain.scoring.window_source import ArrayWindows


@pytest.fixture(scope="module")
def windows() -> ArrayWindows:
    return windows_of(walks(2400))


def test_residuals_out_of_their_block_are_those_of_the_trial_for_every_unit(windows: ArrayWindows) -> None:
    linear = fit_baselines(windows)["linear"]
    fit = fit_head(windows, linear)
    found = out_of_block(windows, linear, fit)
    assert fit.trial is not None and found is not None
    usable = ~fit.trial.is_trained
    np.testing.assert_array_equal(found.starts, fit.trial.starts[usable])
    for name in ("base", "added", "target"):
        np.testing.assert_array_equal(getattr(found, name), getattr(fit.trial, name)[usable])


def test_the_test_part_is_never_read_for_a_calibration() -> None:
    traces = walks(1200)
    blind = traces.copy()
    blind[960:] = 1e3
    found = []
    for each in (traces, blind):
        source = windows_of(each)
        fit = fit_stack(source, fit_baselines(source)["linear"])  # type: ignore[arg-type]
        residuals = stack_residuals(fit, source)
        assert residuals is not None and residuals[1] == OUT_OF_BLOCK
        found.append(residuals[0].calibrate("here"))
    np.testing.assert_array_equal(found[0].offsets(), found[1].offsets())


def test_heads_that_fit_too_well_are_not_calibrated_on_what_they_were_fitted_on() -> None:
    """Residuals of the frames that a head was fitted on are smaller than those that will come."""
    source = windows_of(led_by_one(500, 60))
    fit = fit_stack(source, fit_baselines(source)["linear"])  # type: ignore[arg-type]
    found = stack_residuals(fit, source)
    assert found is not None and fit.ridge.head is not None
    itself = residuals_of(lambda session, context: fit.stack.forecast(context), source)
    honest = np.abs(found[0].target - found[0].forecast).mean()
    assert honest > 1.03 * np.abs(itself.target - itself.forecast).mean()


def test_of_very_many_units_errors_are_scaled_alike(
    windows: ArrayWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fit_stack(windows, fit_baselines(windows)["linear"])  # type: ignore[arg-type]
    whole = stack_residuals(fit, windows)
    monkeypatch.setattr(uncertainty, "MAX_STACK_UNITS", 3)
    scaled = stack_residuals(fit, windows)
    assert whole is not None and scaled is not None and scaled[1] == uncertainty.SCALED
    sizes = [np.abs(each.target - each.forecast).mean() for each in (whole[0], scaled[0])]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_the_block_of_result_json_has_the_names_that_scripts_call(windows: ArrayWindows) -> None:
    linear = fit_baselines(windows)["linear"]
    scored = assess("linear", linear, windows)
    result = scored.result("linear")
    assert result is not None
    for block in (result, *result["baselines"].values(), *result["by_session"].values()):
        for name in ("coverage", "width", "worst_tenth_coverage"):
            assert set(block[name]) == {"0.5", "0.8", "0.9"}
        assert block["crps"] > 0 and block["mwql"] > 0
    assert set(result["baselines"]) == {"normal", "ar_valql"}
    assert result["calibrated_on"] == "validation part"
    assert abs(result["coverage"]["0.8"] - 0.8) < 0.05
    assert set(result["by_species"]) == {"fish"} and set(result["by_dataset"]) == {"lab"}
    one = result["by_session"]["lab/animal/one"]
    assert len(one["by_horizon"]["coverage"]["0.8"]) == HORIZON and len(one["pit"]) == 20
    assert one["informative"]["unit"] == "s"
    # Each unit comes back to its mean at a pace of its own, as an autoregression of each has it.
    assert result["baselines"]["ar_valql"]["mwql"] < result["baselines"]["normal"]["mwql"]


def test_of_many_units_some_are_scored(windows: ArrayWindows, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = fit_baselines(windows)["linear"]
    monkeypatch.setattr(uncertainty, "MAX_UNITS", 3)
    fit = fit_stack(windows, linear)  # type: ignore[arg-type]
    found = stack_residuals(fit, windows)
    assert found is not None
    whole = found[0].calibrate("here")
    for calibrations in (None, {0: whole}):
        scored = assess("linear", linear, windows, calibrations=calibrations)
        scores = scored.scores["linear"]["lab/animal/one"]
        assert scores.unit_coverage.shape == (3, 3) and 0.6 < scores.coverage[1] < 0.95


def test_a_session_without_windows_in_a_part_is_left_out() -> None:
    sessions = [session_of(walks(900)), session_of(walks(40), "short")]
    source = ArrayWindows(sessions, "chronological", 12, 4)
    linear = fit_baselines(source)["linear"]
    assert set(assess("linear", linear, source).scores["linear"]) == {"lab/animal/one"}
    short = ArrayWindows(sessions[1:], "chronological", 12, 4)
    assert assess("linear", linear, short).result("linear") is None


def test_units_that_never_move_are_scored_without_an_error() -> None:
    traces = walks(900)
    traces[:, 2] = 5.0
    source = windows_of(traces)
    result = assess("linear", fit_baselines(source)["linear"], source).result("linear")
    assert result is not None and result["crps"] > 0
    assert result["by_session"]["lab/animal/one"]["calibration"]["silent_units"] == 1
