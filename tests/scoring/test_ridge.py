from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from head_sessions import CONTEXT, HORIZON, led_by_one, session_of, walks, windows_of

from forebrain.errors import ConfigError
from forebrain.scoring import ridge
from forebrain.scoring.evaluate import evaluate, fit_baselines
from forebrain.scoring.ridge import FeatureBlock, Head, fit_head, principal_components
from forebrain.scoring.window_source import ArrayWindows


def scores(source: ArrayWindows, **kwargs: object) -> dict[str, float]:
    baselines = fit_baselines(source)
    fit = fit_head(source, baselines["linear"], **kwargs)
    evaluation = evaluate({**baselines, "ridge": fit.forecaster(baselines["linear"])}, source, "test")
    return {name: evaluation.summary(name).value("score") for name in evaluation.scores}


def test_the_head_finds_a_unit_that_leads_all_others() -> None:
    """Only the leader's frames tell what the others will do 3 frames later."""
    source = windows_of(led_by_one())
    alone = scores(source, loadings=np.zeros((6, 0), np.float32))
    together = scores(source)
    by_step = fit_head(source, fit_baselines(source)["linear"])
    assert together["ridge"] > alone["ridge"] + 0.2
    head = by_step.head
    assert head is not None and math.isfinite(by_step.strengths["population"])
    # What the leader did 2, 1 and 0 frames ago comes in steps 0, 1 and 2; of step 3 it has not happened yet.
    assert (
        np.abs(head.common["population"][:, :3, 1:]).max()
        > 5 * np.abs(head.common["population"][:, 3, 1:]).max()
    )


def test_the_head_finds_that_units_differ() -> None:
    found = scores(windows_of(walks(2000)))
    assert found["ridge"] > found["linear"] + 0.02


def test_a_population_of_another_time_gains_nothing() -> None:
    traces = led_by_one()
    num_units = traces.shape[1]
    source = windows_of(np.concatenate([traces, np.roll(traces, 137, axis=0)], axis=1))
    linear = fit_baselines(source)["linear"]
    components = principal_components(windows_of(traces))
    for loadings, helps in (
        (np.concatenate([components, np.zeros_like(components)]), True),
        (np.concatenate([np.zeros_like(components), components]), False),
    ):
        fit = fit_head(source, linear, loadings=loadings, choice_units=np.arange(num_units))
        assert (fit.error < 0.9) is helps


def test_trials_of_one_window_each_share_no_frame_and_get_a_head() -> None:
    length = CONTEXT + HORIZON
    trials = replace(session_of(led_by_one(80 * length)), segment_ids=np.repeat(np.arange(80), length))
    source = ArrayWindows([trials], "chronological", CONTEXT, HORIZON)
    assert source.num_windows(0, "train") == 48
    fit = fit_head(source, fit_baselines(source)["linear"])
    assert fit.head is not None and fit.error < 0.9


def test_nothing_helps_on_white_noise_and_no_head_is_kept_or_it_harms_little() -> None:
    source = windows_of(np.random.default_rng(5).normal(size=(1200, 8)))
    baselines = fit_baselines(source)
    fit = fit_head(source, baselines["linear"])
    found = scores(source)
    assert fit.strengths["population"] in (math.inf, 10.0)
    assert found["ridge"] > found["linear"] - 0.005


def test_the_test_part_is_never_seen() -> None:
    traces = walks()
    changed = traces.copy()
    changed[720:] = 1e6  # the last fifth
    first, second = (
        fit_head(windows_of(each), fit_baselines(windows_of(each))["linear"]) for each in (traces, changed)
    )
    assert first.head is not None and second.head is not None
    assert first.record() == second.record()
    for name, array in first.head.arrays().items():
        assert array.tobytes() == second.head.arrays()[name].tobytes(), name


def test_weights_of_the_training_part_alone_do_not_see_the_validation_part() -> None:
    traces = walks(1500)
    changed = traces.copy()
    changed[900:] = 7.0
    fits = [
        fit_head(windows_of(each), fit_baselines(windows_of(each))["linear"], parts=("train",))
        for each in (traces, changed)
    ]
    assert fits[0].record() == fits[1].record() and fits[0].head is not None


def test_a_window_has_the_same_bits_alone_and_in_a_batch(one_thread: None) -> None:
    source = windows_of(led_by_one(num_units=37))
    linear = fit_baselines(source)["linear"]
    head = fit_head(source, linear).head
    assert head is not None
    context, _, _ = source.read(0, "test", np.arange(50))
    together = head.add_to(linear(0, context), context)
    assert together.dtype == np.float32
    for number in range(50):
        window = context[number : number + 1]
        assert head.add_to(linear(0, window), window).tobytes() == together[number].tobytes()


def test_a_head_that_was_saved_gives_the_same_bits() -> None:
    source = windows_of(led_by_one())
    linear = fit_baselines(source)["linear"]
    head = fit_head(source, linear).head
    assert head is not None
    again = Head.from_arrays({name: array.copy() for name, array in head.arrays().items()}, "file")
    context, _, _ = source.read(0, "test", np.arange(20))
    assert again.correction(context).tobytes() == head.correction(context).tobytes()


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "type"])
def test_a_damaged_head_is_refused_by_name(damage: str) -> None:
    source = windows_of(walks())
    head = fit_head(source, fit_baselines(source)["linear"]).head
    assert head is not None
    arrays = dict(head.arrays())
    if damage == "missing":
        del arrays["own"]
    elif damage == "shape":
        arrays["own"] = arrays["own"][:-1]
    elif damage == "nan":
        arrays["own"] = np.full_like(arrays["own"], np.nan)
    else:
        arrays["own"] = arrays["own"].astype(np.float64)
    with pytest.raises(ConfigError, match=r"lab\.safetensors.*own"):
        Head.from_arrays(arrays, "lab.safetensors")


def test_a_recording_too_short_for_blocks_of_time_gets_no_head_and_is_told_why() -> None:
    source = windows_of(walks(100))
    linear = fit_baselines(source)["linear"]
    fit = fit_head(source, linear)
    assert fit.head is None and fit.reason is not None and "4 blocks of time" in fit.reason
    assert fit.forecaster(linear) is linear
    assert fit.record()["error"] is None


def test_units_that_never_move_are_forecast_to_stay() -> None:
    traces = walks()
    traces[:, 3] = 2.0
    source = windows_of(traces)
    linear = fit_baselines(source)["linear"]
    fit = fit_head(source, linear)
    context, target, _ = source.read(0, "test", np.arange(30))
    forecast = fit.forecaster(linear)(0, context)
    assert fit.head is not None and np.isfinite(forecast).all()
    np.testing.assert_allclose(forecast[..., 3], target[..., 3], atol=1e-5)


def test_a_recording_in_which_nothing_moves_gets_no_head() -> None:
    source = windows_of(np.ones((900, 4)))
    fit = fit_head(source, lambda session, context: np.repeat(context[:, -1:], HORIZON, axis=1))
    assert fit.head is None and fit.reason == "it did not help on blocks of time"


def test_what_is_wilder_than_all_that_was_seen_is_met_with_less() -> None:
    traces = walks()
    source = windows_of(traces)
    head = fit_head(source, fit_baselines(source)["linear"]).head
    assert head is not None
    context, _, _ = source.read(0, "train", np.arange(1))
    added = [np.abs(head.correction(np.float32(scale) * context)).max() for scale in (1, 100, 10_000)]
    assert added[2] < 2 * added[1] < 200 * added[0]


def test_further_blocks_of_features_are_chosen_weighed_and_asked_for_by_name() -> None:
    """For example a stimulus, known ahead, that moves all units."""
    rng = np.random.default_rng(1)
    stimulus = rng.normal(size=900)
    gains = np.linspace(-2, 2, 5)
    source = windows_of(stimulus[:, None] * gains + 0.3 * rng.normal(size=(900, 5)))

    def plan(starts: np.ndarray) -> list[FeatureBlock]:
        ahead = starts[:, None] + CONTEXT + np.arange(HORIZON)
        return [FeatureBlock("plan", stimulus[ahead].astype(np.float32))]

    linear = fit_baselines(source)["linear"]
    fit = fit_head(source, linear, more=plan)
    assert fit.head is not None and fit.error < 0.3
    context, target, starts = source.read(0, "test", np.arange(100))
    forecast = fit.head.add_to(linear(0, context), context, plan(starts))
    unknown = fit.head.add_to(linear(0, context), context)
    assert np.square(forecast - target).mean() < 0.3 * np.square(unknown - target).mean()


def test_many_units_are_fitted_in_pieces_with_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    source = windows_of(led_by_one(num_units=30))
    linear = fit_baselines(source)["linear"]
    whole = fit_head(source, linear).head
    monkeypatch.setattr(ridge, "UNITS_AT_ONCE", 7)
    monkeypatch.setattr(ridge, "CHOICE_UNITS", 29)
    monkeypatch.setattr(ridge, "BATCH_ROWS", 1000)
    pieces = fit_head(source, linear).head
    assert whole is not None and pieces is not None
    for name in ("own", "common.population"):
        np.testing.assert_allclose(pieces.arrays()[name], whole.arrays()[name], rtol=0.05, atol=0.01)


def test_windows_are_bounded_whatever_the_length_of_the_recording() -> None:
    num_units = 300
    source = ArrayWindows([session_of(np.zeros((12_000, num_units)))], "chronological", CONTEXT, HORIZON)
    rows = (
        sum(len(starts) for _, _, _, starts in ridge.read_windows(source, 0, ("train", "validation")))
        * num_units
    )
    assert rows <= ridge.MAX_ROWS + num_units


def test_components_are_the_directions_in_which_training_frames_vary() -> None:
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(200, 3)))[0]
    traces = (rng.normal(size=(3000, 3)) * [9, 6, 4]) @ directions.T + 0.01 * rng.normal(size=(3000, 200))
    source = ArrayWindows([session_of(traces)], "chronological", CONTEXT, HORIZON)
    loadings = principal_components(source, count=3)
    frames, _, _ = source.read(0, "test", np.arange(400))
    rest = frames - frames @ loadings @ loadings.T
    np.testing.assert_allclose(loadings.T @ loadings, np.eye(3), atol=1e-5)
    assert np.square(rest).sum() < 0.01 * np.square(frames).sum()
    assert (loadings[np.abs(loadings).argmax(axis=0), range(3)] > 0).all()
    assert principal_components(windows_of(np.ones((900, 4)))).shape == (4, 0)


def test_no_head_relies_on_a_level_that_drifts() -> None:
    """Where levels moved between the halves of what was fitted, their mean there says little of later."""
    rng = np.random.default_rng(3)
    noise = walks(2000, num_units=20, seed=3)
    drift = np.cumsum(rng.normal(size=noise.shape) * 0.25, axis=0)
    still, moving = (windows_of(each / each[:1200].std(axis=0)) for each in (noise, noise + drift))
    pull, found = [], []
    for source in (still, moving):
        linear = fit_baselines(source)["linear"]
        fit = fit_head(source, linear, parts=("train",))
        pull.append(fit.drift)
        evaluation = evaluate({"ridge": fit.forecaster(linear), "linear": linear}, source, "test")
        found.append({name: evaluation.summary(name).value("score") for name in ("ridge", "linear")})
    assert pull[0] < 0.1 < 0.5 < pull[1]
    assert found[0]["ridge"] > found[0]["linear"] and found[1]["ridge"] > found[1]["linear"] - 0.01
