from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from forebrain.errors import ConfigError
from forebrain.evaluation.examples import make_example, typical_session
from forebrain.scoring.evaluate import evaluate, fit_baselines
from forebrain.scoring.window_source import ArrayWindows

C, H = 12, 4


def _last_frames(session: int, context: np.ndarray) -> np.ndarray:
    return context[:, -H:]


def test_forecasts_and_targets_line_up_with_the_recording(walk) -> None:
    source = ArrayWindows([walk(0)], "chronological", C, H)
    example = make_example({"model": _last_frames}, source, 0, "test")
    count = source.num_windows(0, "test")
    context, target, starts = source.read(0, "test", np.arange(count))
    assert example.first_frame == starts[0] and example.horizon == H
    np.testing.assert_array_equal(example.targets(), target)
    np.testing.assert_array_equal(example.copies()[:, 0], context[:, -1])
    np.testing.assert_array_equal(example.forecasts["model"], context[:, -H:])
    np.testing.assert_array_equal(example.activity[:C], context[0])


def test_explained_variance_is_low_for_a_constant_forecast_of_noise_and_high_for_one_that_follows(
    walk,
) -> None:
    rng = np.random.default_rng(0)
    session = dataclasses.replace(walk(0), traces=rng.normal(size=(400, 5)).astype(np.float32))
    noise = ArrayWindows([session], "chronological", C, H)
    constant = make_example({"model": lambda _, context: 0 * context[:, -H:]}, noise, 0, "test")
    units = constant.unit_scores("model")
    assert (units.score > 0.4).all() and (units.explained < 0.05).all()
    smooth = make_example(
        fit_baselines(ArrayWindows([walk(0)], "chronological", C, H)),
        ArrayWindows([walk(0)], "chronological", C, H),
        0,
        "test",
    )
    assert (smooth.unit_scores("linear").explained > 0.3).all()


def test_scores_of_an_example_are_those_of_its_windows(walk) -> None:
    source = ArrayWindows([walk(0)], "chronological", C, H)
    example = make_example({"model": _last_frames, **fit_baselines(source)}, source, 0, "test")
    evaluation = evaluate({"model": _last_frames}, source, "test", windows_per_session=None)
    steps = evaluation.summary("model").by_step("score")[0]
    np.testing.assert_allclose([example.step_score("model", step + 1) for step in range(H)], steps, rtol=1e-4)
    np.testing.assert_allclose(
        np.median(example.unit_scores("model").score),
        evaluation.summary("model").unit_quantiles[2],
        rtol=1e-4,
    )
    np.testing.assert_allclose(example.unit_scores("copy").score, 0, atol=1e-12)


def test_an_example_never_crosses_a_gap(walk) -> None:
    session = dataclasses.replace(walk(0), segment_ids=np.repeat([0, 1, 2], [340, 25, 35]))
    source = ArrayWindows([session], "chronological", C, H)
    example = make_example({"model": _last_frames}, source, 0, "test")
    assert example.first_frame == 365
    assert len(example.activity) == 35


def test_large_sessions_are_shown_by_some_units_and_forecast_with_all(walk) -> None:
    source = ArrayWindows([walk(0, num_frames=200, num_units=900)], "chronological", C, H)
    seen = []

    def watch(session: int, context: np.ndarray) -> np.ndarray:
        seen.append(context.shape[2])
        return context[:, -H:]

    example = make_example({"model": watch}, source, 0, "test")
    assert set(seen) == {900}
    assert example.activity.shape[1] == len(example.units) == 400
    assert example.units[0] == 0 and example.units[-1] == 899


def test_the_typical_session_is_the_one_nearest_to_the_median(walk) -> None:
    source = ArrayWindows([walk(seed) for seed in range(5)], "chronological", C, H)
    evaluation = evaluate({"model": _last_frames}, source, "test")
    scores = {name: one.value("score") for name, one in evaluation.scores["model"].items()}
    assert scores[typical_session(evaluation, "model")] == np.median(list(scores.values()))


def test_a_session_without_windows_has_no_example(walk) -> None:
    source = ArrayWindows([walk(0, num_frames=60)], "chronological", C, H)
    with pytest.raises(ConfigError, match="no window in test"):
        make_example({"model": _last_frames}, source, 0, "test")
    with pytest.raises(ConfigError, match="no session has a score"):
        typical_session(evaluate({"model": _last_frames}, source, "test"), "model")
