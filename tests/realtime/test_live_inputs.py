"""A stream with inputs forecasts what an adaptation does with them, by hand and through ZeroMQ."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pandas as pd
import pytest
import xarray

import forebrain as fb
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.plans import ExtrapolationWarning
from forebrain.errors import AdaptationError, FrameError
from forebrain.realtime.forecaster import LiveForecaster
from forebrain.realtime.messages import (
    MAX_PLANS,
    Frame,
    Question,
    decode_request,
    encode_frame,
    encode_question,
)
from forebrain.realtime.recorder import Recorder
from forebrain.realtime.server import serve
from forebrain.realtime.state import StateFile
from forebrain.realtime.zeromq import RequestPort
from forebrain.scoring.input_stacks import RestStack, as_inputs
from forebrain.sessions.inputs import Input

C, H, N = 12, 4, 4


def stimulated() -> fb.Session:
    rng = np.random.default_rng(0)
    flash = (rng.random(700) < 0.06).astype(np.float32)
    air = np.repeat(rng.integers(0, 2, 35), 20).astype(np.float32)
    answer = np.convolve(flash, np.exp(-np.arange(20) / 5.0))[:700]
    traces = answer[:, None] * [3.0, -2.0, 1.0, 0.5] + rng.normal(scale=0.2, size=(700, N))
    return fb.Session.from_array(
        traces.astype(np.float32), rate_hz=2.0, stimulus=np.stack([flash, air], axis=1),
        stimulus_names=("flash", "air"),
    )  # fmt: skip


SESSION = stimulated()
VALUES = SESSION.input_values(["flash", "air"])
FRAMES = SESSION.frames(0, 700)


@pytest.fixture(scope="module")
def adapted() -> fb.Adapted:
    made = Backbone.nothing(C, H).adapt(SESSION, "none", FitConfig(), score=False, progress=False)
    assert made.inputs is not None and made.inputs.response is not None
    return made


def played(live: LiveForecaster, first: int, stop: int, plan: np.ndarray | None = None) -> np.ndarray:
    """Plays frames with their inputs, with the last one a plan."""
    for index in range(first, stop):
        given = plan if index == stop - 1 else None
        live.step(FRAMES[index], index, inputs=VALUES[index], plan=given)
    return live.answer.copy()


def test_a_stream_is_what_the_adaptation_forecasts_to_the_bit(adapted: fb.Adapted) -> None:
    plan, window, past = VALUES[500 : 500 + H], FRAMES[488:500], VALUES[300:500]
    live = adapted.stream()
    assert live.input_names == ("flash", "air")
    answer = played(live, 300, 500)
    np.testing.assert_array_equal(answer, adapted.forecast(window, past))
    assert live.knows == live.inputs.stacks.known("past")
    live = adapted.stream()
    np.testing.assert_array_equal(played(live, 300, 500, plan), adapted.forecast(window, past, plan))
    assert live.knows == "plan" and live.extrapolates == ()
    live = adapted.stream()
    for frame in window:
        live.step(frame)
    np.testing.assert_array_equal(live.answer, adapted.forecast(window))
    assert live.knows == "none"


def test_only_features_of_new_frames_are_formed_and_forecasts_have_the_same_bits(
    adapted: fb.Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    formed: list[int] = []
    form = RestStack.features

    def counted(rest: RestStack, inputs: np.ndarray, count: int) -> np.ndarray:
        formed.append(count)
        return form(rest, inputs, count)

    monkeypatch.setattr(RestStack, "features", counted)
    live = adapted.stream()
    inputs = live.inputs
    assert inputs is not None
    # Each frame brings a plan. Some never came, some are not forecast, once more of them than a context has.
    compared = 0
    for index in [*range(300, 320), 322, *range(324, 350), *range(350, 380, 2)]:
        live.ingest(FRAMES[index], index, inputs=VALUES[index], plan=VALUES[index + 1 : index + 1 + H])
        if index in (335, 336, 337, *range(340, 356)):
            continue
        found = live.forecast().copy()
        if live.source == "model":
            live.what_if([VALUES[:H]])  # changes nothing of what is planned
            np.testing.assert_array_equal(live.forecast(), found)
            compared += 1
        inputs._features.clear()
        np.testing.assert_array_equal(live.forecast(), found)
        live.settle()
    assert compared > 30
    del formed[:]
    for index in range(380, 390):  # each plan goes on with the one before, which ended H frames after 378
        live.step(FRAMES[index], index, inputs=VALUES[index], plan=VALUES[index + 1 : index + 1 + H])
    assert live.knows == "plan" and formed == [2, *[1] * 9]
    # A flash that was planned and did not come, from an array that its sender uses again.
    del formed[:]
    plan = np.tile(np.array([0, 1], np.float32), (H, 1))
    plan[0, 0] = 1
    live.step(FRAMES[390], 390, inputs=VALUES[390], plan=plan)
    plan[0, 0] = 0
    found = live.step(FRAMES[391], 391, inputs=plan[0], plan=plan)
    assert formed[-1] == 1 + H
    inputs._features.clear()
    np.testing.assert_array_equal(live.forecast(), found)


def test_a_plan_stays_queued_until_too_little_of_it_is_left(adapted: fb.Adapted) -> None:
    live = adapted.stream()
    played(live, 400, 500, VALUES[500 : 500 + H + 2])
    for index in (500, 501):
        live.step(FRAMES[index], index, inputs=VALUES[index])
        assert live.knows == "plan"
        expected = adapted.forecast(
            FRAMES[index - C + 1 : index + 1], VALUES[400 : index + 1], VALUES[index + 1 : index + 1 + H]
        )
        np.testing.assert_array_equal(live.answer, expected)
    live.step(FRAMES[502], 502, inputs=VALUES[502])
    assert live.knows != "plan"
    played(live, 503, 510, VALUES[510 : 510 + H + 3])
    live.step(FRAMES[512], 512, inputs=VALUES[512])  # two frames did not come: three of the plan are used up
    assert live.knows == "plan"
    live.step(FRAMES[513], 513)
    assert live.knows != "plan"


def test_a_queued_plan_stays_as_it_came_when_the_sender_fills_its_array_anew(adapted: fb.Adapted) -> None:
    live, plan = adapted.stream(), VALUES[500 : 500 + H].copy()
    played(live, 488, 500, plan)
    plan[:] = 0
    np.testing.assert_array_equal(live.inputs.plan, VALUES[500 : 500 + H])


def test_what_is_missing_is_held_and_an_event_is_not(adapted: fb.Adapted) -> None:
    live, told = adapted.stream(), adapted.stream()
    played(live, 400, 500), played(told, 400, 500)
    live.step(FRAMES[500], 500, inputs=[np.nan, np.nan])
    told.step(FRAMES[500], 500, inputs=[0, VALUES[499, 1]])
    np.testing.assert_array_equal(live.answer, told.answer)
    live.step(FRAMES[501], 501)
    told.step(FRAMES[501], 501, inputs=[0, VALUES[499, 1]])
    np.testing.assert_array_equal(live.answer, told.answer)


def test_a_plan_beyond_all_numbers_is_refused(adapted: fb.Adapted) -> None:
    live = adapted.stream()
    played(live, 400, 500)
    plans = np.zeros((1, H, 2), np.float32)
    plans[0, 0, 0] = 3e38
    for ask in (live.what_if, live.effect):
        with pytest.raises(FrameError, match="no finite forecast"):
            ask(plans)
    window, inputs = FRAMES[500 - adapted.context : 500], VALUES[:500]
    for ask in (adapted.forecast, adapted.effect):
        with pytest.warns(ExtrapolationWarning), pytest.raises(AdaptationError, match="no finite forecast"):
            ask(window, plan=plans[0], inputs=inputs)


def test_what_would_be_changes_nothing(adapted: fb.Adapted) -> None:
    live = adapted.stream()
    answer = played(live, 400, 500)
    plans = np.zeros((2, H, 2), np.float32)
    plans[1, 0, 0] = 1
    made = live.what_if(plans)
    assert made.shape == (2, H, N) and made[1, 0, 0] - made[0, 0, 0] > 1.5
    np.testing.assert_array_equal(made[0], adapted.forecast(FRAMES[488:500], VALUES[400:500], plans[0]))
    np.testing.assert_array_equal(live.answer, answer)
    live.step(FRAMES[500], 500, inputs=VALUES[500])
    assert live.knows != "plan"


def test_a_reset_and_a_long_gap_forget_inputs_and_plan(adapted: fb.Adapted) -> None:
    for resets, index in ((True, 0), (False, 9000)):
        live = adapted.stream()
        played(live, 400, 500, VALUES[500:540])
        if resets:
            live.reset()
        live.step(FRAMES[0], index)
        assert live.knows == "none" and live.source == "warm-up"
        with pytest.raises(FrameError, match="window is not full"):
            live.what_if(np.zeros((1, H, 2)))


@pytest.mark.parametrize(
    ("inputs", "plan", "words"),
    [
        ([1.0], None, r"inputs have shape \(1,\); expected \(2,\), of flash, air"),
        ([0, 0], np.zeros((H - 1, 2)), "expected 4 to 256"),
        ([0, 0], np.zeros((H, 3)), r"expected \[frames, 2\], of flash, air"),
        ([0, 0], np.full((H, 2), np.nan), "not finite"),
        (["a", "b"], None, "no table of numbers"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_and_the_stream_goes_on(
    inputs: list[object], plan: np.ndarray | None, words: str, adapted: fb.Adapted
) -> None:
    live = adapted.stream()
    played(live, 400, 500)
    with pytest.raises(FrameError, match=words):
        live.step(FRAMES[500], 500, inputs=inputs, plan=plan)
    assert live.counts["frames"] == 100
    live.step(FRAMES[500], 500, inputs=VALUES[500])
    assert live.counts["frames"] == 101


def test_a_plan_beyond_the_recorded_range_says_so(adapted: fb.Adapted) -> None:
    live = adapted.stream()
    played(live, 400, 500, np.full((H, 2), 5.0))
    assert live.extrapolates == ("flash", "air")


def test_an_adaptation_without_inputs_refuses_them(adapted: fb.Adapted) -> None:
    plain = Backbone.nothing(C, H).adapt(SESSION, "none", FitConfig(), inputs=[], score=False, progress=False)
    with pytest.raises(FrameError, match="knows none"):
        plain.stream().step(FRAMES[0], inputs=[0, 0])


def test_the_state_has_them(adapted: fb.Adapted, tmp_path: Path) -> None:
    live, again = adapted.stream(), adapted.stream()
    played(live, 400, 500, VALUES[500:520])
    state = StateFile(tmp_path / "state", live, 0.0)
    state.close(live)
    assert StateFile(tmp_path / "state", again, 0.0).restore(again)
    for each in (live, again):
        each.step(FRAMES[500], 500, inputs=VALUES[500])
    np.testing.assert_array_equal(again.answer, live.answer)
    assert again.knows == "plan"


def test_a_record_holds_the_inputs_and_is_adapted_to_with_them(tmp_path: Path) -> None:
    watched = np.random.default_rng(1).normal(size=(700, 1)).astype(np.float32)
    session = replace(SESSION, behaviour=watched, behaviour_names=("speed",), input_units={"air": "mm"})
    names = ("flash", "speed", "air")
    made = Backbone.nothing(C, H).adapt(
        session, "none", FitConfig(), inputs=names, score=False, progress=False
    )
    assert made.input_names == names
    live, values = made.stream(), session.input_values(names)
    recorder = Recorder(tmp_path / "run.nc", live, {})
    for index in range(700):
        live.step(FRAMES[index], index, index / 2, inputs=values[index] if index >= 5 else None)
        live.step_ms = 1.0
        recorder.frame(live)
    recorder.close()
    assert not live.counts["lost_records"]

    recorded = fb.read(tmp_path / "run.nc")
    assert np.isnan(recorded.input_values(names)[:5]).all()
    np.testing.assert_array_equal(recorded.input_values(names)[5:], values[5:])
    as_told = {each.name: each for each in session.inputs}
    assert {each.name: each for each in recorded.inputs} == as_told
    again = Backbone.nothing(C, H).adapt(recorded, "none", FitConfig(), score=False, progress=False)
    assert again.input_names == ("flash", "air")
    assert again.inputs is not None and again.inputs.response is not None
    with xarray.open_dataset(tmp_path / "run.nc", engine="scipy") as data:
        np.testing.assert_array_equal(data.inputs.sel(input="flash")[5:], values[5:, names.index("flash")])


def test_messages_carry_them() -> None:
    frame = decode_request(encode_frame(Frame(np.zeros(3), inputs=np.ones(2), plan=np.ones((4, 2)))))
    assert isinstance(frame, Frame) and frame.inputs is not None and frame.plan is not None
    assert frame.inputs.tolist() == [1, 1] and frame.plan.shape == (4, 2)
    message = {"v": 1, "frame": b"", "plan": bytes(32)}
    frame = decode_request(msgpack.packb(message))
    assert isinstance(frame, Frame) and frame.plan is not None and frame.plan.shape == (8,)
    for shape in ([4, 3], [8], [-2, -4], 8, "4, 2"):
        with pytest.raises(FrameError, match="the plan has 8 values and shape"):
            decode_request(msgpack.packb(message | {"plan_shape": shape}))
    question = decode_request(encode_question(Question("what_if", np.zeros((2, 4, 3), np.float32))))
    assert isinstance(question, Question) and question.plans is not None and question.plans.shape == (2, 4, 3)
    asked = decode_request(encode_question(Question("effect", np.zeros((1, 4, 3), np.float32), (0.1, 0.9))))
    assert isinstance(asked, Question) and (asked.ask, asked.quantiles) == ("effect", (0.1, 0.9))
    with pytest.raises(FrameError, match="brings no plans"):
        decode_request(encode_question(Question("what_if")))
    many = Question("effect", np.zeros((MAX_PLANS + 1, 1, 1), np.float32))
    with pytest.raises(FrameError, match="65 plans are asked about at once; expected at most 64"):
        decode_request(encode_question(many))


@pytest.fixture
def client(adapted: fb.Adapted) -> Iterator[fb.live.Client]:
    port, stop = RequestPort("tcp://127.0.0.1:*", 1 << 20), threading.Event()
    server = threading.Thread(target=serve, args=(adapted.stream(), port, stop.is_set, lambda live: None))
    server.start()
    try:
        with fb.live.Client(port.address) as connected:
            yield connected
    finally:
        stop.set()
        server.join()
        port.close()


def test_a_rig_sends_inputs_and_plans_and_asks_what_if(client: fb.live.Client, adapted: fb.Adapted) -> None:
    assert client.describe()["inputs"] == ["flash", "air"]
    for index in range(400, 500):
        plan = VALUES[500 : 500 + H] if index == 499 else None
        forecast = client.step(FRAMES[index], index, inputs=VALUES[index], plan=plan)
    expected = adapted.forecast(FRAMES[488:500], VALUES[400:500], VALUES[500 : 500 + H])
    np.testing.assert_array_equal(forecast.values, expected)
    assert (forecast.knows, forecast.extrapolates) == ("plan", ())
    plans = np.stack([np.zeros((H, 2)), VALUES[500 : 500 + H]])
    np.testing.assert_array_equal(client.what_if(plans)[1], expected)
    where = FRAMES[488:500], VALUES[400:500]
    bounds = adapted.forecast(*where, plans[1], quantiles=[0.1, 0.9])
    # What the stream has taught since is in the live ones: they differ by what it widened and moved.
    found = client.what_if(plans, [0.1, 0.9])
    assert found.shape == (2, H, N, 2) and (found[..., 0] < found[..., 1]).all()
    np.testing.assert_allclose(found[1], bounds, atol=0.3)
    effect = adapted.effect(where[0], plans[1], inputs=where[1])
    np.testing.assert_allclose(client.effect(plans)[1], effect, atol=1e-5)
    doubt = adapted.effect(where[0], plans[1], inputs=where[1], quantiles=[0.1, 0.9])
    np.testing.assert_allclose(client.effect(plans, [0.1, 0.9])[1], doubt, atol=1e-5)
    with pytest.raises(FrameError, match="expected"):
        client.effect(plans, [1.5])
    for wrong in ({"inputs": [1.0]}, {"plan": np.zeros(5)}, {"plan": np.zeros((1, 2))}):
        with pytest.raises(FrameError):
            client.step(FRAMES[500], 500, **wrong)
    with pytest.raises(FrameError, match="expected"):
        client.what_if(np.zeros((1, H, 3)))
    with pytest.raises(FrameError, match="5000 plans are asked about at once; expected at most 64"):
        client.what_if(np.zeros((5000, H, 2)))
    assert len(client.what_if(np.repeat(plans, MAX_PLANS // 2, axis=0))) == MAX_PLANS
    with pytest.raises(FrameError, match=r"the plan: has shape \(2, 4\)"):
        client.step(FRAMES[500], 500, plan=np.zeros((2, H)))
    assert client.step(FRAMES[500], 500, inputs=VALUES[500]).index == 500


def by_name(values: np.ndarray) -> pd.DataFrame:
    """Inputs as a table whose columns stand in another order than the adaptation's."""
    return pd.DataFrame(values[:, ::-1], columns=["air", "flash"])


def test_inputs_and_plans_are_taken_by_name_by_a_client_as_in_process(
    client: fb.live.Client, adapted: fb.Adapted
) -> None:
    live, named = adapted.stream(), adapted.stream()
    plans = [np.eye(2, dtype=np.float32)[[0, 1, 1, 1]], VALUES[500 : 500 + H]]
    for index in range(400, 500):
        plan = plans[0] if index == 499 else None
        expected = live.step(FRAMES[index], index, inputs=VALUES[index], plan=plan)
        given = None if plan is None else by_name(plan)
        row = by_name(VALUES[index : index + 1]).iloc[0]
        reply = client.step(FRAMES[index], index, inputs=row.to_dict() if index % 2 else row, plan=given)
        forecast = named.step(FRAMES[index], index, inputs=row, plan=given)
    np.testing.assert_array_equal(reply.values, expected)
    np.testing.assert_array_equal(forecast, expected)
    labelled = xarray.DataArray(plans[1][:, ::-1], dims=("time", "input"), coords={"input": ["air", "flash"]})
    for mixed in (
        [by_name(plans[0]), labelled],
        [dict(zip(("flash", "air"), plans[0].T, strict=True)), by_name(plans[1])],
    ):
        for ask in ("what_if", "effect"):
            expected = getattr(live, ask)(plans)
            np.testing.assert_array_equal(getattr(client, ask)(mixed), expected)
            np.testing.assert_array_equal(getattr(named, ask)(mixed), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"plan": np.zeros(2 * H)},  # of one input, the other forgotten
        {"plan": pd.DataFrame(np.zeros((H, 2)), columns=["air", "light"])},
        {"inputs": {"air": 1.0}},
        {"inputs": pd.Series({"air": 1.0, "light": 0.0})},
    ],
)
def test_a_client_refuses_of_inputs_what_is_refused_in_process(
    client: fb.live.Client, adapted: fb.Adapted, wrong: dict
) -> None:
    for stepping in (client, adapted.stream()):
        with pytest.raises(FrameError, match=r"expected exactly flash, air|shape \(8,( 1)?\); expected"):
            stepping.step(FRAMES[0], 0, **wrong)
    plans = np.zeros((H, 2))
    for few in ([by_name(plans), plans], [plans, plans[:2]], []):
        with pytest.raises(FrameError, match=r"plans: (some name|they differ|there is none)"):
            client.what_if(few)


def test_names_of_inputs_that_make_no_sense_are_refused() -> None:
    named = Frame(np.zeros(3), inputs=np.ones(2), input_names=("air", "flash"))
    frame = decode_request(encode_frame(named))
    assert isinstance(frame, Frame) and frame.input_names == ("air", "flash") and frame.plan_names is None
    for names in ("air", ["air", 1], ["air", "air"]):
        with pytest.raises(FrameError, match="the message's input_names"):
            decode_request(msgpack.packb({"v": 1, "frame": b"", "inputs": bytes(8), "input_names": names}))


def test_of_one_input_a_series_along_time_is_a_plan_and_its_index_no_names() -> None:
    plan = pd.Series(np.arange(4.0), index=pd.date_range("2026-01-01", periods=4))
    assert as_inputs(plan, [Input("air", "level")], "a plan").ravel().tolist() == [0, 1, 2, 3]
