"""Forecasts that know what is done to the animal: fitted, kept where they help, saved, asked for, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import forebrain as fb
from forebrain.adaptation.artifact import INPUTS
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.plans import ExtrapolationWarning
from forebrain.errors import AdaptationError
from forebrain.sessions.preprocessing import RateWarning

C, H, N = 12, 4, 5
KERNEL = np.exp(-np.arange(20) / 5.0)


def stimulated(seed: int = 0, num_frames: int = 900, answers: bool = True) -> fb.Session:
    """Units that answer to `flash`, each by its own factor, and not to `air`; `speed` is behaviour."""
    rng = np.random.default_rng(seed)
    flash = (rng.random(num_frames) < 0.06).astype(np.float32)
    air = np.repeat(rng.integers(0, 2, num_frames // 30 + 1), 30)[:num_frames].astype(np.float32)
    noise = rng.normal(scale=0.1, size=(num_frames, N))
    factors = np.array([3.0, -2.0, 1.0, 0.5, 2.0]) if answers else np.zeros(N)
    traces = np.convolve(flash, KERNEL)[:num_frames, None] * factors + np.cumsum(noise, axis=0) * 0.3 + noise
    return fb.Session.from_array(
        traces.astype(np.float32),
        rate_hz=2.0,
        species="celegans",
        stimulus=np.stack([flash, air], axis=1),
        stimulus_names=("flash", "air"),
        behaviour=rng.normal(size=(num_frames, 1)).astype(np.float32),
        behaviour_names=("speed",),
    )


@pytest.fixture(scope="module")
def session() -> fb.Session:
    return stimulated()


@pytest.fixture(scope="module")
def adapted(session: fb.Session) -> fb.Adapted:
    return Backbone.nothing(C, H).adapt(session, "none", FitConfig(), progress=False)


def window_and_inputs(session: fb.Session, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames and inputs before a frame, and the plan that came to be."""
    values = session.input_values(["flash", "air"])
    return session.frames(stop - C, stop), values[:stop], values[stop : stop + H]


def test_a_plan_helps_and_the_result_says_how_much(adapted: fb.Adapted) -> None:
    assert adapted.input_names == ("flash", "air")
    assert adapted.result is not None
    scores = adapted.result["inputs"]
    assert scores["none"] == adapted.result["score"]
    assert scores["plan"] > scores["none"] + 0.3 and scores["wrong"] < scores["none"]
    assert scores["record"]["kept"][-1] == "plan"
    assert adapted.result["lead"]["over"] not in ("planned inputs", "past inputs", "wrong plan")


def test_a_plan_is_forecast_and_holding_is_asked_for(adapted: fb.Adapted, session: fb.Session) -> None:
    values = session.input_values(["flash"])[:, 0]
    stop = int(np.flatnonzero(values[700:860])[0]) + 700  # a flash comes with the next frame
    window, inputs, plan = window_and_inputs(session, stop)
    truth = session.frames(stop, stop + H)
    known, alone = adapted.forecast(window, inputs, plan), adapted.forecast(window)
    assert known.shape == (H, N) and known.dtype == np.float32
    assert np.square(known - truth).mean() < 0.3 * np.square(alone - truth).mean()

    held = adapted.forecast(window, inputs, "hold")
    nothing = np.zeros_like(plan)
    nothing[:, 1] = inputs[-1, 1]
    np.testing.assert_array_equal(held, adapted.forecast(window, inputs, nothing))
    by_name = {"flash": plan[:, 0], "air": plan[:, 1]}
    np.testing.assert_array_equal(adapted.forecast(window, inputs, by_name), known)
    table = pd.DataFrame(plan, columns=["flash", "air"])
    np.testing.assert_array_equal(adapted.forecast(window, inputs, table, horizon=2), known[:2])


def test_an_effect_is_the_difference_of_two_forecasts(adapted: fb.Adapted, session: fb.Session) -> None:
    window, inputs, plan = window_and_inputs(session, 800)
    flash = np.zeros_like(plan)
    flash[0, 0] = 1
    flash[:, 1] = inputs[-1, 1]
    effect = adapted.effect(window, flash, inputs=inputs)
    difference = adapted.forecast(window, inputs, flash) - adapted.forecast(window, inputs, "hold")
    np.testing.assert_allclose(effect, difference, atol=1e-4)
    assert effect[0, 0] > 1.5 and effect[0, 1] < -1.0
    np.testing.assert_allclose(adapted.effect(window, flash, flash, inputs), 0, atol=1e-6)


def test_intervals_of_a_plan_are_its_own_and_narrower(adapted: fb.Adapted, session: fb.Session) -> None:
    window, inputs, plan = window_and_inputs(session, 800)
    levels = [0.1, 0.5, 0.9]
    alone, planned = (adapted.forecast(window, *known, quantiles=levels) for known in ((), (inputs, plan)))
    width = [(each[..., 2] - each[..., 0]).mean() for each in (alone, planned)]
    assert width[1] < 0.9 * width[0]
    assert adapted.result is not None
    coverage = adapted.result["inputs"]["uncertainty"]["plan"]["coverage"]
    assert 0.7 < coverage["0.8"] < 0.9
    # Of an adaptation from before they were calibrated, those of the activity alone are given.
    assert adapted.inputs is not None
    before = replace(adapted, inputs=replace(adapted.inputs, calibrations={}))
    old = before.forecast(window, inputs, plan, quantiles=levels)
    np.testing.assert_allclose(old[..., 2] - old[..., 0], alone[..., 2] - alone[..., 0], rtol=1e-4)
    assert adapted.plot()._repr_png_()  # type: ignore[attr-defined]


def test_an_effect_has_an_interval_that_covers_the_true_one(adapted: fb.Adapted, session: fb.Session) -> None:
    window, inputs, plan = window_and_inputs(session, 800)
    flash = np.zeros_like(plan)
    flash[0, 0] = 1
    flash[:, 1] = inputs[-1, 1]
    low, middle, high = np.moveaxis(
        adapted.effect(window, flash, inputs=inputs, quantiles=[0.05, 0.5, 0.95]), -1, 0
    )
    np.testing.assert_allclose(middle, adapted.effect(window, flash, inputs=inputs), atol=1e-6)
    true = KERNEL[:H, None] * np.array([3.0, -2.0, 1.0, 0.5, 2.0])
    assert ((low < true) & (true < high)).mean() >= 0.7
    assert (high - low).mean() < 1.5  # a sixth of what flashes bring and what noise leaves of one of them
    table = adapted.effect(session, plan, quantiles=[0.1, 0.9])
    assert table.columns.names == ["unit", "quantile"] and table.shape == (H, 2 * N)
    # One that was saved before there were any says so.
    assert adapted.inputs is not None and adapted.inputs.plan is not None
    response = replace(adapted.inputs.plan.response, refits=None)
    stacks = replace(adapted.inputs, plan=replace(adapted.inputs.plan, response=response))
    with pytest.raises(AdaptationError, match="before there were"):
        replace(adapted, inputs=stacks).effect(window, flash, inputs=inputs, quantiles=[0.5])


def test_the_report_scores_evoked_and_quiet_windows_apart(adapted: fb.Adapted, tmp_path: Path) -> None:
    assert adapted.result is not None
    scores = adapted.result["inputs"]
    assert 0 < scores["num_evoked"] < scores["num_windows"]
    for known in ("none", "past", "plan", "shuffled", "wrong"):
        assert min(scores["evoked"][known], scores["quiet"][known]) <= scores[known] + 1e-9
    assert (
        scores["evoked"]["plan"] - scores["evoked"]["none"]
        > scores["quiet"]["plan"] - scores["quiet"]["none"]
    )
    text = (adapted.report(tmp_path / "report") / "report.md").read_text()
    assert "| evoked " in text and "| quiet " in text


def test_a_response_is_what_was_put_in(adapted: fb.Adapted) -> None:
    table = adapted.response("flash")
    assert table.index.name == "seconds after" and table.index[1] == 0.5
    found = table.to_numpy()[:15, 0]
    assert np.corrcoef(found, KERNEL[:15])[0, 1] > 0.95
    assert found[0] == pytest.approx(3.0, abs=0.5)
    assert adapted.plot_response("flash")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(AdaptationError, match="expected one of flash"):
        adapted.response("odor")


def test_the_plan_that_serves_an_objective_is_chosen(adapted: fb.Adapted, session: fb.Session) -> None:
    window, inputs, plan = window_and_inputs(session, 800)
    nothing, flash = np.zeros_like(plan), np.zeros_like(plan)
    flash[0, 0] = 1
    choice = adapted.choose(window, [nothing, flash], {"unit 0": 1, "unit 1": -1}, inputs)
    assert choice.index == 1 and choice.values[1] > choice.values[0]
    assert adapted.choose(window, [nothing, flash], np.array([0, 1, 0, 0, 0]), inputs).index == 0
    for objective in ({"unit 9": 1}, np.ones(3), np.zeros(N)):
        with pytest.raises(AdaptationError, match="objective"):
            adapted.choose(window, [nothing], objective, inputs)
    with pytest.raises(AdaptationError, match="no plan to choose"):
        adapted.choose(window, [], {"unit 0": 1}, inputs)


def test_a_session_brings_its_own_inputs(adapted: fb.Adapted, session: fb.Session) -> None:
    window, inputs, _ = window_and_inputs(session, 900)
    plan = np.zeros((H, 2), np.float32)
    table = adapted.forecast(session, plan=plan)
    np.testing.assert_array_equal(table.to_numpy(), adapted.forecast(window, inputs, plan))
    np.testing.assert_array_equal(
        adapted.forecast(session, True).to_numpy(), adapted.forecast(window, inputs)
    )
    np.testing.assert_array_equal(adapted.forecast(session).to_numpy(), adapted.forecast(window))
    with pytest.raises(AdaptationError, match="no input 'flash'"):
        adapted.forecast(replace(session, stimulus=None, stimulus_names=None), plan=plan)


def test_a_doubt_of_a_session_s_rate_is_told_once(adapted: fb.Adapted, session: fb.Session) -> None:
    with pytest.warns(RateWarning) as told:
        adapted.forecast(replace(session, rate_hz=2.2), plan=np.zeros((H, 2), np.float32))
    assert len(told) == 1


def test_it_comes_back_to_the_bit_from_a_folder(
    adapted: fb.Adapted, session: fb.Session, tmp_path: Path
) -> None:
    window, inputs, plan = window_and_inputs(session, 800)
    folder = adapted.save(tmp_path / "adapted")
    opened = fb.open(folder)
    for known in ((), (inputs,), (inputs, plan)):
        np.testing.assert_array_equal(opened.forecast(window, *known), adapted.forecast(window, *known))
        bounds = [each.forecast(window, *known, quantiles=[0.1, 0.9]) for each in (opened, adapted)]
        np.testing.assert_array_equal(*bounds)
    effects = [each.effect(window, plan, inputs=inputs, quantiles=[0.1]) for each in (opened, adapted)]
    np.testing.assert_array_equal(*effects)
    assert json.loads((folder / "result.json").read_text())["inputs"]["plan"] > 0
    (folder / INPUTS).write_bytes(b"garbage")
    with pytest.raises(AdaptationError, match="is not the file"):
        fb.open(folder)


def test_a_short_past_of_inputs_is_held_and_its_events_are_not(
    adapted: fb.Adapted, session: fb.Session
) -> None:
    window, inputs, plan = window_and_inputs(session, 800)
    assert np.isfinite(adapted.forecast(window, inputs[-3:], plan)).all()
    earlier = np.concatenate([np.tile(np.float32([0, inputs[-3, 1]]), (200, 1)), inputs[-3:]])
    np.testing.assert_array_equal(
        adapted.forecast(window, inputs[-3:], plan), adapted.forecast(window, earlier, plan)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda inputs, plan: (None, plan), "without the inputs so far"),
        (lambda inputs, plan: (inputs, plan[:-1]), r"plan: has 3 frames; expected 4"),
        (lambda inputs, plan: (inputs, plan[:, :1]), r"plan: has shape \(4, 1\); expected \[frames, 2\]"),
        (lambda inputs, plan: (inputs, plan * np.nan), "plan: holds values of flash that are not finite"),
        (lambda inputs, plan: (inputs[:, 0], plan), r"inputs: has shape .* of flash, air"),
        (lambda inputs, plan: (inputs, {"flash": plan[:, 0]}), "expected exactly flash, air"),
        (lambda inputs, plan: (inputs, "stay"), "expected values, or 'hold'"),
        (lambda inputs, plan: (inputs, [["a"]]), "no table of numbers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_error(change, words: str, adapted, session) -> None:
    window, inputs, plan = window_and_inputs(session, 800)
    given, planned = change(inputs, plan)
    with pytest.raises(AdaptationError, match=words):
        adapted.forecast(window, given, planned)


def test_a_plan_beyond_the_recorded_range_is_flagged(adapted: fb.Adapted, session: fb.Session) -> None:
    window, inputs, plan = window_and_inputs(session, 800)
    with pytest.warns(ExtrapolationWarning, match="flash, air out of the range"):
        adapted.forecast(window, inputs, plan + 3)


def test_behaviour_is_watched_by_name_and_never_planned(session: fb.Session) -> None:
    adapted = Backbone.nothing(C, H).adapt(
        session, "none", FitConfig(), inputs=["flash", "speed"], progress=False, score=False
    )
    assert adapted.input_names == ("flash", "speed")
    window, values = session.frames(788, 800), session.input_values(["flash", "speed"])[:800]
    plan = {"flash": np.zeros(H)}
    by_array = np.concatenate([np.zeros((H, 1)), np.full((H, 1), 7.0)], axis=1)
    expected = adapted.forecast(window, values, plan)
    np.testing.assert_array_equal(adapted.forecast(window, values, by_array), expected)
    with pytest.raises(AdaptationError, match="speed cannot be planned"):
        adapted.forecast(window, values, {**plan, "speed": np.zeros(H)})
    with pytest.raises(AdaptationError, match="has no input odor; it has flash, air, speed"):
        Backbone.nothing(C, H).adapt(session, "none", inputs=["odor"], progress=False)


def test_where_inputs_do_nothing_a_plan_is_refused_or_changes_nothing() -> None:
    session = stimulated(1, answers=False)
    adapted = Backbone.nothing(C, H).adapt(session, "none", FitConfig(), progress=False)
    assert adapted.result is not None
    scores = adapted.result["inputs"]
    assert abs(scores["plan"] - scores["none"]) < 0.02
    if "plan" not in scores["record"]["kept"]:
        with pytest.raises(AdaptationError, match="no plan is known to help"):
            adapted.response("flash")


def test_a_recording_without_inputs_forecasts_as_if_there_were_no_such_thing(session: fb.Session) -> None:
    without = replace(session, stimulus=None, stimulus_names=None, behaviour=None, behaviour_names=None)
    adapted = Backbone.nothing(C, H).adapt(without, "none", FitConfig(), progress=False)
    left_out = Backbone.nothing(C, H).adapt(session, "none", FitConfig(), inputs=[], progress=False)
    for each in (adapted, left_out):
        assert each.inputs is None and each.input_names == ()
        assert each.result is not None and each.result["inputs"] is None
        with pytest.raises(AdaptationError, match="knows no inputs"):
            each.forecast(session.frames(0, C), np.zeros((C, 2)))
    np.testing.assert_array_equal(
        adapted.forecast(session.frames(0, C)), left_out.forecast(session.frames(0, C))
    )
