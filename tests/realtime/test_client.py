"""A rig's client waits no longer than it was told, finds a server again, and is told nothing untrue."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from realtime_small import CONTEXT, Small, activity
from test_transports import MAX_BYTES, served

import forebrain as fb
from forebrain.errors import ConfigError, FrameError, NoAnswerError
from forebrain.realtime import LiveForecaster
from forebrain.realtime.messages import Frame, Question
from forebrain.realtime.zeromq import RequestPort

Open = Callable[..., LiveForecaster]


def test_frames_go_out_and_forecasts_come_back(small: Small, open_live: Open) -> None:
    frames, in_process = activity(CONTEXT + 5, small.preprocessing), open_live()
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with served(open_live(), port), fb.live.Client(port.address) as client:
        described = client.describe()
        assert described["unit_names"] == list("abcdef") and described["num_recorded"] == 6
        for index, frame in enumerate(frames):
            forecast = client.step(frame, index, index / 5)
            np.testing.assert_array_equal(forecast.values, in_process.step(frame, index, index / 5))
            assert (forecast.made_at, forecast.made_at_s) == (index, index / 5)
        with pytest.raises(FrameError, match="expected"):
            client.step(frames[0, :4])
        assert client.status()["frames"] == len(frames)


def test_nobody_at_the_address_is_told_in_time() -> None:
    with fb.live.Client("tcp://127.0.0.1:9", timeout_s=0.1) as client:
        for call in (client.describe, client.status, client.reset, lambda: client.step(np.zeros(6))):
            began = time.monotonic()
            with pytest.raises(NoAnswerError, match=r"127\.0\.0\.1:9 within 0\.1 s"):
                call()
            assert time.monotonic() - began < 5
    with pytest.raises(ConfigError, match="more than 0"):
        fb.live.Client(timeout_s=0)
    with pytest.raises(ConfigError, match="no address"):
        fb.live.Client("nowhere")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"timeout_s": "5"}, "timeout_s is '5'; expected seconds, a number"),
        ({"timeout_s": None}, "timeout_s is None"),
        ({"timeout_s": True}, "timeout_s is True"),
        ({"timeout_s": float("nan")}, "timeout_s is nan; expected more than 0"),
        ({"timeout_s": -1}, "timeout_s is -1; expected more than 0"),
        ({"address": 5600}, "5600 is no address; expected one such as tcp://"),
        ({"address": None}, "None is no address"),
    ],
)
def test_what_no_client_can_be_made_of_is_one_line(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as refused:
        fb.live.Client(**given)
    assert "\n" not in str(refused.value)


def test_a_server_that_was_away_is_found_again(small: Small, open_live: Open) -> None:
    frames, live = activity(CONTEXT + 5, small.preprocessing), open_live()
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with fb.live.Client(port.address, timeout_s=0.5) as client:
        with served(live, port):
            for index in range(CONTEXT):
                client.step(frames[index], index)
        with pytest.raises(NoAnswerError):
            client.step(frames[CONTEXT], CONTEXT)
        client.timeout_s = 20
        with served(live, RequestPort(port.address, MAX_BYTES)):
            forecast = client.step(frames[CONTEXT + 1], CONTEXT + 1)
    assert forecast.index == forecast.made_at == CONTEXT + 1 and forecast.source == "model"


def test_every_reply_names_the_frame_it_was_made_at(small: Small, open_live: Open) -> None:
    frames = activity(2 * CONTEXT + 20, small.preprocessing)
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with served(open_live(), port), fb.live.Client(port.address) as client:
        for index in range(100, 100 + CONTEXT):
            client.step(frames[index - 100], index)
        newest = client.step(frames[CONTEXT], 100 + CONTEXT)
        assert newest.source == "model"
        again = client.step(frames[CONTEXT], 100 + CONTEXT)
        late = client.step(frames[0], 103)
        assert (again.source, late.source) == ("repeated", "late")
        for reply in (again, late):
            assert reply.made_at == 100 + CONTEXT
            np.testing.assert_array_equal(reply.values, newest.values)
        # The rig starts again: until that is sure no old forecast passes for one of a new frame.
        for index in range(12):
            reply = client.step(frames[CONTEXT + 1 + index], index)
            is_new = index >= 4
            assert reply.index == index and reply.made_at == (index if is_new else 100 + CONTEXT)
            assert reply.source == ("warm-up" if is_new else "late")


def test_a_reset_begins_a_run_at_once(small: Small, open_live: Open) -> None:
    frames = activity(2 * CONTEXT + 5, small.preprocessing)
    fresh = open_live()
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with served(open_live(), port), fb.live.Client(port.address) as client:
        for index in range(CONTEXT + 2):
            client.step(frames[index], 500 + index, 1e6 + index / 5, units="abcdef" if index else "fedcba")
        status = client.reset()
        assert (status["resets"], status["restarts"], status["index"]) == (1, 0, None)
        assert status["source"] == "warm-up" and status["measured_hz"] is None
        for index in range(CONTEXT + 1):
            reply = client.step(frames[CONTEXT + 2 + index], index, index / 5)
            expected = fresh.step(frames[CONTEXT + 2 + index], index, index / 5)
            assert reply.made_at == index
            assert reply.source == fresh.source == ("model" if index >= CONTEXT - 1 else "warm-up")
            np.testing.assert_array_equal(reply.values, expected)


def test_names_are_told_again_after_a_reset(open_live: Open) -> None:
    """A forecaster of an earlier version has forgotten them by it."""
    port, came = RequestPort("tcp://127.0.0.1:*", MAX_BYTES), list[tuple[str, ...] | None]()
    receive = port.receive

    def noted(timeout_s: float) -> Frame | Question | None:
        request = receive(timeout_s)
        if isinstance(request, Frame):
            came.append(request.units)
        return request

    port.receive = noted  # type: ignore[method-assign]
    with served(open_live(), port), fb.live.Client(port.address) as client:
        client.step(np.zeros(6), 0, units="fedcba")
        client.step(np.ones(6), 1)
        client.reset()
        client.step(np.zeros(6), 0)
        client.step(np.ones(6), 1)
    assert came == [tuple("fedcba"), None, tuple("fedcba"), None]


def test_a_changed_rate_is_in_the_reply_and_in_the_log(
    small: Small, open_live: Open, caplog: pytest.LogCaptureFixture
) -> None:
    frames = activity(100, small.preprocessing)
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with served(open_live(), port), fb.live.Client(port.address) as client:
        for index in range(30):
            assert not client.step(frames[index], index, index / 5).rate_differs
        replies = [client.step(frames[index], index, 6 + (index - 30) / 10) for index in range(30, 100)]
        assert replies[-1].rate_differs
        client.status()  # what was to be logged of the last frame is logged by now
    told = [each.getMessage() for each in caplog.records]
    assert sum("the model expects 5 Hz" in each for each in told) == 1


def test_a_time_in_nanoseconds_is_refused_and_poisons_nothing(small: Small, open_live: Open) -> None:
    frames, live, undisturbed = activity(60, small.preprocessing), open_live(), open_live()
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    began = 1.7e9
    with served(live, port), fb.live.Client(port.address) as client:
        for index in range(50):
            if index == 30:
                for step in range(6):
                    with pytest.raises(FrameError, match="Divide nanoseconds by 1e9"):
                        client.step(frames[index], time_s=1e9 * (began + (index + step) / 5))
            reply = client.step(frames[index], time_s=began + index / 5)
            np.testing.assert_array_equal(
                reply.values, undisturbed.step(frames[index], time_s=began + index / 5)
            )
        status = client.status()
    assert (status["refused"], status["missing_frames"], status["restarts"]) == (6, 0, 0)
    again = open_live()
    again.restore(live.state())
    assert again.status()["index"] == 49


def test_numbers_of_numpy_are_numbers_and_what_is_none_is_refused_here(small: Small, open_live: Open) -> None:
    frames, live = activity(10, small.preprocessing), open_live()
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with served(live, port), fb.live.Client(port.address) as client:
        reply = client.step(frames[0], np.int64(7), np.float32(1.5))
        assert (reply.index, reply.time_s) == (7, 1.5)
        assert client.step(frames[1][None], np.uint16(8)).index == 8  # a row, as MATLAB has them
        hidden = np.ma.masked_array(frames[2], mask=np.arange(6) == 1)
        client.step(hidden, 9)
        assert live.frame[1] == frames[1, 1] and live.counts["missing_values"] == 1
        for frame, index, time_s, match in (
            (frames[3].reshape(2, 3), 10, None, r"the frame: has shape \(2, 3\)"),
            (frames[3] + 1j, 10, None, "type complex64"),
            (["1"] * 6, 10, None, "the frame: holds values of type <U1"),
            ([[1], [1, 2]], 10, None, "no array can be made"),
            (frames[3], 10.0, None, "index is 10.0"),
            (frames[3], 2**70, None, "below 2"),
            (frames[3], 2**62, None, "below 2"),
            (frames[3], True, None, "expected a whole number"),
            (frames[3], 10, np.datetime64("2026-11-30"), "expected seconds"),
        ):
            with pytest.raises(FrameError, match=match):
                client.step(frame, index, time_s)
        assert client.status()["frames"] == 3
    with pytest.raises(ConfigError, match="at most 86400"):
        fb.live.Client(timeout_s=float("inf"))


def test_names_whose_answer_was_lost_are_told_again(small: Small, open_live: Open) -> None:
    frames, live = activity(10, small.preprocessing), open_live()
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    address = port.address
    port.close()
    with fb.live.Client(address, timeout_s=0.2) as client:
        with pytest.raises(NoAnswerError):
            client.step(frames[0][::-1], 0, units="fedcba")
        client.timeout_s = 20
        with served(live, RequestPort(address, MAX_BYTES)):
            client.step(frames[1][::-1], 1)
            np.testing.assert_array_equal(live.frame, frames[1])
            client.step(frames[2][::-1], 2)
            np.testing.assert_array_equal(live.frame, frames[2])
            with pytest.raises(FrameError, match="none of the model's"):
                client.step(frames[3], 3, units="ghijkl")
            client.step(frames[3], 3, units=())
            np.testing.assert_array_equal(live.frame, frames[3])


def test_what_pandas_calls_the_values_of_a_frame_are_names_of_that_frame(
    small: Small, open_live: Open
) -> None:
    frames, live = activity(6, small.preprocessing), open_live()
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    mixed = pd.DataFrame(frames, columns=list("abcdef"))[list("fbadce")]
    with served(live, port), fb.live.Client(port.address) as client:
        for index, is_named in enumerate([True, True, False, False, True]):
            client.step(mixed.iloc[index] if is_named else frames[index], index)
            np.testing.assert_array_equal(live.frame, frames[index])
        with pytest.raises(FrameError, match="none of the model's"):
            client.step(mixed.iloc[5].rename({"a": "AVA"}), 5)
        client.step(frames[5], 5)
        np.testing.assert_array_equal(live.frame, frames[5])


def test_names_that_came_with_a_late_frame_are_told_again(open_live: Open) -> None:
    live, port = open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with served(live, port), fb.live.Client(port.address) as client:
        client.step(np.arange(100, 106), 0, 5.0)
        assert client.step(np.arange(100, 106), 0, 5.0, units=list("fedcba")).source == "repeated"
        client.step(np.arange(100, 106), 1, 5.2)
        client.step(np.arange(100, 106), 2, 5.4)
    assert live.frame.tolist() == [105, 104, 103, 102, 101, 100]


def test_a_server_that_was_started_again_without_its_state_is_told_the_names_again(
    small: Small, open_live: Open
) -> None:
    frames, address = activity(4, small.preprocessing), ""
    with contextlib.ExitStack() as stack:
        for run in range(2):
            live, port = open_live(), RequestPort(address or "tcp://127.0.0.1:*", MAX_BYTES)
            with served(live, port):
                if not address:
                    address = port.address
                    client = stack.enter_context(fb.live.Client(address, timeout_s=20))
                    client.step(frames[0][::-1], 0, units="fedcba")
                client.step(frames[run + 1][::-1], run + 1)
                np.testing.assert_array_equal(live.frame, frames[run + 1])
                assert live.counts["frames"] == (2, 1)[run]
                if run:
                    with pytest.raises(FrameError, match="none of the model's"):
                        client.step(frames[2], 2, units="ghijkl")
                    with pytest.raises(FrameError, match="none of the model's"):
                        client.step(frames[2], 2)
                    with pytest.raises(FrameError, match=r"units are .* expected names"):
                        client.step(frames[2], 2, units=[1, 2])
                    client.step(frames[2], 2, units=())
                    client.step(frames[3], 3)
                    np.testing.assert_array_equal(live.frame, frames[3])
