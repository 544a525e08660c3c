"""A picture holds what came since the one before, and is made at most ten times a second."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgpack
import numpy as np
import pytest
from realtime_small import CONTEXT, HORIZON, Small, activity, build_small, known
from test_live_inputs import FRAMES, SESSION, VALUES
from test_online_intervals import calibration_of

from forebrain import realtime
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.fit import FitConfig
from forebrain.realtime import LiveForecaster
from forebrain.realtime.page import as_event
from forebrain.realtime.pictures import IDLE_S, MAX_FRAMES, MAX_TRACES, PERIOD_S, Pictures

Open = Callable[..., LiveForecaster]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(live: LiveForecaster, **options) -> tuple[Pictures, Clock, list[bytes]]:
    clock, sent = Clock(), []
    return Pictures(live, sent.append, clock=clock, **options), clock, sent


def show(pictures: Pictures, clock: Clock, live: LiveForecaster, frames: np.ndarray, rate_hz: float) -> None:
    for index, frame in enumerate(frames, start=(live.arrivals.index or -1) + 1):
        live.step(frame, index)
        live.step_ms = 1.0 + index
        pictures.frame(live)
        clock.now += 1 / rate_hz


def array(picture: dict, name: str, *shape: int) -> np.ndarray:
    return np.frombuffer(picture[name], "<f4").reshape(shape)


def test_pictures_hold_every_frame_and_the_newest_forecast(small: Small, open_live: Open) -> None:
    frames, live = activity(CONTEXT + 31, small.preprocessing), open_live()
    frames[5, 2] = np.nan
    pictures, clock, sent = taken(live, budget_ms=20.0, title="worm9")
    pictures.event(live, "it begins")
    show(pictures, clock, live, frames, rate_hz=30)
    made = [msgpack.unpackb(each) for each in sent]
    came = np.concatenate([array(each, "frames", -1, 6) for each in made])
    np.testing.assert_array_equal(came, frames[: len(came)])
    indices = [index for each in made for index in each["indices"]]
    assert indices == [*range(len(came))] and len(frames) - len(came) < 4
    last = made[-1]
    assert last["made_at"] == indices[-1] and last["status"]["source"] == "model"
    assert last["about"]["names"] == list("abcdef") and last["about"]["title"] == "worm9"
    assert [text for _, text in last["events"]] == ["it begins"]
    assert last["latency"]["max_ms"] == len(came) and last["latency"]["late"] == len(came) - 20
    np.testing.assert_array_equal(
        array(last, "forecast", HORIZON, 6), open_after(small, frames[: len(came)]).answer
    )
    assert json.loads(as_event(sent[-1]).decode().removeprefix("data: "))["made_at"] == indices[-1]


def open_after(small: Small, frames: np.ndarray) -> LiveForecaster:
    live = realtime.open(*known(small, "abcdef", rate_hz=5.0))
    for index, frame in enumerate(frames):
        live.step(frame, index)
    return live


def test_at_most_ten_pictures_a_second_and_64_traces_are_sent() -> None:
    small = build_small(300)
    live = realtime.open(*small)
    for rate_hz, seconds in ((30, 4.0), (500, 1.0)):
        pictures, clock, sent = taken(live)
        show(pictures, clock, live, activity(round(rate_hz * seconds), small.preprocessing), rate_hz)
        assert 0.8 * seconds / PERIOD_S <= len(sent) <= seconds / PERIOD_S + 1
        for picture in map(msgpack.unpackb, sent):
            assert len(picture["about"]["names"]) == MAX_TRACES
            assert array(picture, "frames", -1, MAX_TRACES).shape[0] == len(picture["indices"])
        assert max(map(len, sent)) < 40_000


def test_of_a_very_fast_stream_the_newest_frames_are_shown(small: Small, open_live: Open) -> None:
    frames, live = activity(1001, small.preprocessing), open_live()
    pictures, clock, sent = taken(live)
    show(pictures, clock, live, frames, rate_hz=4999)
    last = msgpack.unpackb(sent[-1])
    assert len(last["indices"]) == MAX_FRAMES and len(sent) == 3
    rows = array(last, "frames", MAX_FRAMES, 6)
    np.testing.assert_array_equal(rows, frames[last["indices"]])


def test_a_silent_stream_shows_that_the_forecaster_is_there(small: Small, open_live: Open) -> None:
    live = open_live()
    pictures, clock, sent = taken(live)
    for _ in range(100):
        pictures.idle(live)
        clock.now += 0.1
    assert len(sent) in (round(10 / IDLE_S), round(10 / IDLE_S) + 1)
    assert msgpack.unpackb(sent[-1])["indices"] == []


def test_a_picture_has_the_bands_of_its_forecast_and_their_coverage(small: Small) -> None:
    calibration = calibration_of(small, activity(300, small.preprocessing, seed=3))
    live = realtime.open(*known(small, "abcdef", rate_hz=5.0), calibration=calibration)
    pictures, clock, sent = taken(live)
    show(pictures, clock, live, activity(CONTEXT + 60, small.preprocessing, seed=4), rate_hz=10)
    first, last = msgpack.unpackb(sent[0]), msgpack.unpackb(sent[-1])
    assert first["coverage"] is None and first["bands"]["levels"] == pytest.approx([0.1, 0.9])
    np.testing.assert_array_equal(
        array(last["bands"], "values", 2, HORIZON, 6), np.moveaxis(live.quantiles([0.1, 0.9]), -1, 0)
    )
    assert last["coverage"] == {"inside": live.intervals.coverage, "aim": 0.8}


def test_a_picture_has_inputs_that_came_and_those_that_are_planned() -> None:
    made = Backbone.nothing(12, 4).adapt(SESSION, "none", FitConfig(), score=False, progress=False)
    live = made.stream()
    pictures, clock, sent = taken(live)
    for index in range(20):
        plan = np.full((4, 2), 0.5, np.float32) if index == 19 else None
        live.step(FRAMES[index], index, inputs=2 * VALUES[index] if index else None, plan=plan)
        pictures.frame(live)
        clock.now += 1
    first, last = (msgpack.unpackb(each) for each in (sent[0], sent[-1]))
    assert "inputs" not in first and last["inputs"]["names"] == ["flash", "air"]
    came, planned = np.array(last["inputs"]["past"]), np.array(last["inputs"]["plan"])
    largest = np.maximum(2 * VALUES[1:20].max(axis=0), 0.5)
    np.testing.assert_allclose(came[-19:], 2 * VALUES[1:20] / largest, rtol=1e-6)
    np.testing.assert_allclose(planned, np.full((4, 2), 0.5) / largest, rtol=1e-6)


def test_units_explained_least_come_first(small: Small, open_live: Open) -> None:
    frames, live = activity(CONTEXT + 60, small.preprocessing), open_live()
    frames[:, 4] += np.where(np.arange(len(frames)) % 2, 50, -50)
    pictures, clock, sent = taken(live)
    show(pictures, clock, live, frames, rate_hz=10)
    worst = msgpack.unpackb(sent[-1])["worst"]
    assert worst[0][0] == "e" and len(worst) == 6
    assert [each[1] for each in worst] == sorted(each[1] for each in worst)
