"""The scorer of quantiles and its baselines give what an independent script gives
(golden/make_quantiles.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from head_sessions import session_of

from forebrain.scoring.autoregression import NormalBaseline, fit_autoregression, step_deviation
from forebrain.scoring.lu2025 import LuWindows
from forebrain.scoring.quantiles import COVERAGES, QuantileAccumulator, QuantileScores
from forebrain.scoring.window_source import ArrayWindows

GOLDEN = json.loads((Path(__file__).parent / "golden" / "quantiles.json").read_text())
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(scope="module")
def windows() -> ArrayWindows:
    session = session_of(np.array(GOLDEN["series"]))
    return ArrayWindows([session], "chronological", GOLDEN["context"], GOLDEN["horizon"])


def lu_windows() -> LuWindows:
    return LuWindows([session_of(np.array(GOLDEN["series"]))], GOLDEN["context"], GOLDEN["horizon"])


def test_autoregressions_have_the_orders_coefficients_and_residuals_of_statsmodels(
    windows: ArrayWindows,
) -> None:
    fit = fit_autoregression(windows)
    for unit, known in enumerate(GOLDEN["ar"]):
        assert fit.order[unit] == known["order"]
        np.testing.assert_allclose(fit.intercept[0, unit], known["params"][0], **CLOSE)
        weights = fit.weights[unit, : known["order"], 0]
        np.testing.assert_allclose(weights, known["params"][1:], **CLOSE)
        np.testing.assert_allclose(fit.deviation[:, unit], known["sigma"], **CLOSE)


def test_a_random_walk_has_the_standard_deviation_of_all_differences(windows: ArrayWindows) -> None:
    np.testing.assert_allclose(step_deviation(windows), GOLDEN["step"], **CLOSE)


@pytest.mark.parametrize("name", ["normal", "ar_valql"])
def test_every_metric_is_as_its_definition_has_it(windows: ArrayWindows, name: str) -> None:
    check(scores_of(windows, windows, name), GOLDEN["test"][name])


@pytest.mark.parametrize("name", ["normal", "ar_valql"])
def test_the_protocol_of_lu_2025_scores_the_same_windows(windows: ArrayWindows, name: str) -> None:
    tiled = lu_windows()
    count = tiled.num_windows(0, "test")
    assert tiled.read(0, "test", np.arange(count))[2].tolist() == GOLDEN["tiles"]
    # The golden baselines are fitted on all windows of train and validation part.
    check(scores_of(windows, tiled, name), GOLDEN["lu2025"][name])


def scores_of(fitted: ArrayWindows, scored: ArrayWindows, name: str) -> QuantileScores:
    forecaster: Any = fit_autoregression(fitted)
    if name == "normal":
        forecaster = NormalBaseline(fitted.horizon, step_deviation(fitted))
    sums = QuantileAccumulator(scored.horizon, 3, np.random.default_rng(0), 5.0)
    count = scored.num_windows(0, "test")
    for numbers in np.array_split(np.arange(count), 3):
        context, target, _ = scored.read(0, "test", numbers)
        sums.update(forecaster(context), target)
    return sums.scores()


def check(scores: QuantileScores, known: dict[str, Any]) -> None:
    np.testing.assert_allclose(scores.mwql, known["mwql"], **CLOSE)
    np.testing.assert_allclose(scores.crps, known["crps"], **CLOSE)
    np.testing.assert_allclose(scores.pit, known["pit"], **CLOSE)
    by_step = scores.to_json()["by_horizon"]["coverage"]
    for place, level in enumerate(COVERAGES):
        of_level = known[str(level)]
        np.testing.assert_allclose(scores.coverage[place], of_level["coverage"], **CLOSE)
        np.testing.assert_allclose(scores.width[place], of_level["width"], **CLOSE)
        np.testing.assert_allclose(scores.worst_tenth_coverage[place], of_level["worst"], **CLOSE)
        np.testing.assert_allclose(by_step[str(level)], of_level["by_step"], **CLOSE)
