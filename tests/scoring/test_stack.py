from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from head_sessions import HORIZON, led_by_one, walks, windows_of

from forebrain.errors import ConfigError
from forebrain.scoring.baselines import CopyBaseline, LinearBaseline
from forebrain.scoring.evaluate import Forecaster, evaluate, fit_baselines, fit_linear
from forebrain.scoring.stack import Stack, StackFit, fit_stack
from forebrain.scoring.uncertainty import stack_residuals
from forebrain.scoring.weighing import FEW_WINDOWS, weights_of_few
from forebrain.scoring.window_source import ArrayWindows


def half_way(session: int, context: np.ndarray) -> np.ndarray:
    """A model that knows that units come back to their mean, and goes half of the way at once."""
    return np.repeat(0.5 * context[:, -1:], HORIZON, axis=1)


def fitted(traces: np.ndarray, with_model: bool = True) -> tuple[ArrayWindows, LinearBaseline, StackFit]:
    source = windows_of(traces)
    linear = fit_linear(source).solve()
    return source, linear, fit_stack(source, linear, half_way if with_model else None)


def members(source: ArrayWindows, fit: StackFit) -> dict[str, Forecaster]:
    """The forecasters that are weighed, by name."""
    linear = fit_linear(source).solve()
    assert fit.head is not None
    made = {
        "linear": linear,
        "ridge": fit.ridge.forecaster(linear),
        "model": half_way,
        "model + head": fit.head.forecaster(half_way),
    }
    return {name: made[name] for name in fit.weights}


def test_the_stack_is_as_good_as_its_best_member_on_frames_that_nothing_was_fitted_on() -> None:
    source, _, fit = fitted(walks(6000))
    stack = fit.stack
    names = list(fit.weights)
    forecasters = members(source, fit)
    forecasters["stack"] = lambda session, context: stack.forecast(context, half_way(session, context))
    test = evaluate({**forecasters, **fit_baselines(source)}, source, "test")
    scores = {name: test.summary(name).value("score") for name in forecasters}
    assert names == ["linear", "ridge", "model", "model + head"]
    assert scores["stack"] > max(scores[name] for name in names) - 0.005


def test_the_stack_is_the_weighed_sum_of_its_members() -> None:
    source, _, fit = fitted(led_by_one())
    context, _, _ = source.read(0, "test", np.arange(20))
    last = context[:, -1:]
    expected = last + sum(
        fit.weights[name][:, None] * (forecast(0, context) - last)
        for name, forecast in members(source, fit).items()
    )
    np.testing.assert_allclose(fit.stack.forecast(context, half_way(0, context)), expected, atol=1e-5)


def test_a_member_that_knows_nothing_has_hardly_a_weight() -> None:
    source = windows_of(walks(2000))
    linear = fit_linear(source).solve()
    rng = np.random.default_rng(0)
    fit = fit_stack(
        source,
        linear,
        lambda session, context: rng.normal(size=(len(context), HORIZON, 7)).astype(np.float32),
    )
    assert np.abs(fit.weights["model"]).max() < 0.1
    assert fit.worth["model"] < 0.01 < fit.alone["ridge"]


def test_members_that_are_nearly_one_get_no_weights_against_each_other() -> None:
    source, linear, _ = fitted(walks(1500))
    rng = np.random.default_rng(0)

    def like_linear(session: int, context: np.ndarray) -> np.ndarray:
        near: np.ndarray = linear(session, context)
        return near + rng.normal(scale=0.01, size=near.shape).astype(np.float32)

    fit = fit_stack(source, linear, like_linear)
    assert all((weights >= 0).all() for weights in fit.weights.values())
    assert max(weights.max() for weights in fit.weights.values()) < 2


def test_one_window_has_the_bits_of_a_batch_also_after_saving(one_thread: None) -> None:
    source, _, fit = fitted(led_by_one(num_units=33))
    arrays = {name: array.copy() for name, array in fit.stack.arrays().items()}
    again = Stack.from_arrays(arrays, "file")
    context, _, _ = source.read(0, "test", np.arange(40))
    model = half_way(0, context)
    together = fit.stack.forecast(context, model)
    assert together.dtype == np.float32 and again.forecast(context, model).tobytes() == together.tobytes()
    for number in range(40):
        assert again.forecast(context[number], model[number]).tobytes() == together[number].tobytes()


def test_both_heads_are_saved_as_one() -> None:
    _, _, fit = fitted(led_by_one())
    assert fit.ridge.head is not None and fit.head is not None and fit.head.head is not None
    names = set(fit.stack.arrays())
    assert {"linear", "linear_weight", "model_weight", "head.own", "head.features.loadings"} <= names
    assert len([name for name in names if name.endswith(".own")]) == 1


def test_without_a_model_linear_and_ridge_are_weighed() -> None:
    source, _, fit = fitted(walks(), with_model=False)
    context, _, _ = source.read(0, "test", np.arange(3))
    assert list(fit.weights) == ["linear", "ridge"] and fit.head is None
    assert fit.stack.forecast(context).shape == (3, HORIZON, 7)


def test_a_missing_forecast_of_the_model_is_an_error() -> None:
    source, _, fit = fitted(walks())
    context, _, _ = source.read(0, "test", np.arange(3))
    with pytest.raises(ConfigError, match="model's forecast"):
        fit.stack.forecast(context)


def test_weights_are_fitted_on_the_validation_part_which_no_member_was_fitted_on() -> None:
    source, _, fit = fitted(walks(2000))
    assert fit.num_windows == source.num_windows(0, "validation")


def test_few_windows_are_enough_to_choose_how_far_weights_go_from_equal_ones() -> None:
    """Of 34 windows, of 4 frames ahead each."""
    source, _, fit = fitted(walks(250))
    assert source.num_windows(0, "validation") < 40
    assert np.isfinite(fit.score) and set(fit.worth) == set(fit.weights)


def short(num_frames: int) -> ArrayWindows:
    source = windows_of(walks(num_frames))
    source.sessions = [replace(info, is_short=True) for info in source.sessions]
    return source


def test_of_a_short_stretch_blocks_have_to_be_as_long_as_a_window() -> None:
    few, enough = (fit_stack(each, fit_linear(each).solve(), half_way) for each in (short(250), short(450)))
    assert np.isnan(few.score) and np.isfinite(enough.score)
    for weights in (few.weights["linear"], few.weights["model"]):
        assert (weights > 0).all()
    np.testing.assert_array_equal(few.weights["ridge"], few.weights["linear"])
    assert sum(few.weights.values()).max() <= 1 + 1e-5  # type: ignore[union-attr]


def away(session: int, context: np.ndarray) -> np.ndarray:
    """Forecasts that are worse than copy."""
    return np.repeat(5 - context[:, -1:], HORIZON, axis=1)


def test_of_few_windows_a_model_worse_than_copy_has_no_weight() -> None:
    source = short(250)
    linear = fit_linear(source).solve()
    fit = fit_stack(source, linear, away)
    assert np.isnan(fit.score) and fit.alone["model"] < 0
    assert fit.weights["model"].max() < 0.02 and fit.weights["ridge"].min() > 0.1


def test_a_few_windows_tell_which_of_two_knows_how_units_go_on() -> None:
    """However many they are."""
    source = short(250)
    linear = fit_linear(source).solve()

    def knows(session: int, context: np.ndarray) -> np.ndarray:
        return linear(session, context)

    def of_model(model: Forecaster, is_fitted: bool) -> float:
        weights = fit_stack(source, linear, model, is_fitted=is_fitted).weights
        return float(np.mean(sum(each for name, each in weights.items() if name.startswith("model"))))

    for is_fitted in (True, False):
        assert of_model(away, is_fitted) < 0.03 < 0.3 < of_model(knows, is_fitted)


def test_linear_is_judged_by_windows_that_it_was_not_fitted_on() -> None:
    """Fitted on noise it knows its own windows well, and others worse than copy does."""
    noise = np.random.default_rng(0).normal(size=(140, 2)).cumsum(axis=0).astype(np.float32)
    source = windows_of(noise)
    source.sessions = [replace(info, is_short=True) for info in source.sessions]
    linear = fit_linear(source).solve()
    still: Forecaster = CopyBaseline(HORIZON)
    count = source.num_windows(0, "train")
    assert count > 40
    alone, _ = weights_of_few(source, 0, linear, still, is_fitted=False)
    share = 0.5 * count / (count + FEW_WINDOWS)
    assert alone.mean() < share / 2


def test_the_test_part_is_never_seen() -> None:
    traces = walks()
    changed = traces.copy()
    changed[720:] = -1e6
    first, second = (fitted(each)[2] for each in (traces, changed))
    assert first.record() == second.record()
    for name, array in first.stack.arrays().items():
        assert array.tobytes() == second.stack.arrays()[name].tobytes(), name


def test_of_too_few_windows_linear_weighs_little_and_the_record_says_so() -> None:
    source, _, fit = fitted(walks(50))
    assert list(fit.weights) == ["linear", "model"]
    # None of them can be forecast without having been fitted on.
    count = source.num_windows(0, "train")
    assert 0 < count < 20
    of_linear = 0.5 * count / (count + FEW_WINDOWS)
    assert fit.weights["linear"].tolist() == pytest.approx([of_linear] * HORIZON)
    assert fit.weights["model"].tolist() == pytest.approx([1 - of_linear] * HORIZON)
    record = fit.record()
    assert record["num_windows"] == 0 and "blocks of time" in record["ridge"]["reason"]


@pytest.mark.parametrize("damage", ["linear", "linear_weight", "model_weight"])
def test_a_damaged_stack_is_refused(damage: str) -> None:
    _, _, fit = fitted(walks())
    arrays = fit.stack.arrays()
    arrays[damage] = np.full_like(arrays[damage], np.nan)
    with pytest.raises(ConfigError, match=r"lab\.safetensors"):
        Stack.from_arrays(arrays, "lab.safetensors")
    with pytest.raises(ConfigError, match="no stack"):
        Stack.from_arrays({}, "lab.safetensors")


def test_a_model_that_stands_alone_has_its_head_and_no_other_member() -> None:
    source = windows_of(led_by_one())
    linear = fit_linear(source).solve()
    fit = fit_stack(source, linear, half_way, alone=True)
    context, _, _ = source.read(0, "test", np.arange(30))
    assert fit.head is not None and fit.head.head is not None
    expected = fit.head.forecaster(half_way)(0, context)
    np.testing.assert_allclose(fit.stack.forecast(context, half_way(0, context)), expected, atol=1e-5)
    trial = fit.head.trial
    assert trial is not None
    error = np.square(trial.target - trial.base - trial.added).mean()
    assert fit.squared_error == pytest.approx(error, rel=1e-4) and 0 < fit.score < 1
    assert fit.record()["head"]["reason"] is None


def test_a_head_on_the_last_frame_stands_alone_without_a_model() -> None:
    source = windows_of(led_by_one())
    fit = fit_stack(source, fit_linear(source).solve(), alone=True)
    context, _, _ = source.read(0, "test", np.arange(30))
    assert fit.head is not None and fit.stack.model_weight is None
    expected = fit.head.forecaster(CopyBaseline(HORIZON))(0, context)
    np.testing.assert_allclose(fit.stack.forecast(context), expected, atol=1e-5)
    still = windows_of(np.ones((900, 4)))
    alone = fit_stack(still, LinearBaseline(np.zeros((12, HORIZON), np.float32)), alone=True)
    context, target, _ = still.read(0, "test", np.arange(5))
    assert (alone.stack.forecast(context) == target).all()


def test_the_residuals_of_a_head_that_stands_alone_are_its_own() -> None:
    source = windows_of(led_by_one())
    fit = fit_stack(source, fit_linear(source).solve(), alone=True)
    found = stack_residuals(fit, source)
    assert found is not None and fit.head is not None
    context, target, _ = source.read(0, "validation", np.arange(source.num_windows(0, "validation")))
    of_copy = np.square(target - context[:, -1:]).mean()
    # Heads of other blocks are a little worse than the head itself, and far better than copy.
    assert np.square(found[0].target - found[0].forecast).mean() < 0.95 * of_copy
