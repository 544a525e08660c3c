"""The same frames over every transport give the same forecasts, and nothing that is sent stops the server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import numpy as np
import pylsl
import pytest
import zmq
from pylsl.util import LostError, TimeoutError
from realtime_small import CONTEXT, HORIZON, Small, activity, known

from forebrain import realtime
from forebrain.errors import ConfigError, FrameError, NoAnswerError
from forebrain.realtime import LiveForecaster, lsl, server, zeromq
from forebrain.realtime.lsl import LslClient, LslPort
from forebrain.realtime.messages import (
    Forecast,
    Frame,
    Question,
    encode_answer,
    encode_error,
    encode_forecast,
    max_frame_bytes,
)
from forebrain.realtime.replay import Client
from forebrain.realtime.server import Port, serve
from forebrain.realtime.state import StateFile
from forebrain.realtime.zeromq import (
    Publisher,
    RequestClient,
    RequestPort,
    StreamClient,
    StreamPort,
    Subscriber,
)

Open = Callable[..., LiveForecaster]
MAX_BYTES = max_frame_bytes(6)


@contextlib.contextmanager
def served(live: LiveForecaster, port: Port, state: StateFile | None = None) -> Iterator[None]:
    ends = threading.Event()
    thread = threading.Thread(target=serve, args=(live, port, ends.is_set, lambda live: None, (), state))
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        port.close()


@contextlib.contextmanager
def connected(transport: str, live: LiveForecaster) -> Iterator[Client]:
    """A client of a forecaster that is served by a thread."""
    if transport == "requests":
        port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
        client = RequestClient(port.address)
    elif transport == "streams":
        port = StreamPort("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", MAX_BYTES)
        client = StreamClient(*port.address)
    else:
        name = f"forebrain-test-{uuid.uuid4().hex[:8]}"
        port = LslPort(name, HORIZON, 6, 5.0, live.unit_names)
        client = LslClient(name, 6, 5.0)
    with served(live, port):
        if transport != "requests":
            client.ready()
        yield client
        client.close()


@pytest.mark.parametrize("transport", ["requests", "streams", "lsl"])
def test_every_transport_brings_the_forecasts_of_step(small: Small, open_live: Open, transport: str) -> None:
    frames = activity(CONTEXT + 10, small.preprocessing)
    frames[3, 2] = np.nan
    in_process = open_live()
    expected = np.stack([in_process.step(frame) for frame in frames])
    live = open_live()
    with connected(transport, live) as client:
        for index, frame in enumerate(frames):
            client.send(Frame(frame, index, index / 5))
            forecast = client.receive(10)
            assert forecast is not None and forecast.index == index
            np.testing.assert_array_equal(forecast.values, expected[index])
            assert (forecast.source == "model") == (index >= CONTEXT - 1)
    assert live.counts["frames"] == live.counts["forecasts"] == len(frames)
    assert live.counts["missing_values"] == 1


def test_questions_are_answered(open_live: Open) -> None:
    with connected("requests", open_live()) as client:
        described = client.ask("describe")
        assert (described["num_units"], described["context"], described["horizon"]) == (6, CONTEXT, HORIZON)
        assert described["unit_names"] == list("abcdef") and described["rate_hz"] == 5
        client.send(Frame(np.zeros(6), 0))
        assert client.receive(10) is not None
        assert client.ask("status")["frames"] == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xc1",
        b"not msgpack",
        msgpack.packb({"v": 1, "frame": np.zeros(5, "<f4").tobytes()}),
        msgpack.packb({"v": 1, "frame": np.zeros(6, "<f4").tobytes(), "index": -5}),
        msgpack.packb({"v": 1, "frame": np.zeros(6, "<f4").tobytes(), "units": ["a", "a"]}),
        msgpack.packb({"v": 1, "ask": "shutdown"}),
    ],
    ids=["empty", "no msgpack", "text", "few units", "index", "units", "question"],
)
def test_a_bad_message_is_refused_with_a_reason_and_the_next_frame_is_forecast(
    small: Small, open_live: Open, bad: bytes
) -> None:
    frames, live = activity(CONTEXT + 2, small.preprocessing), open_live()
    for frame in frames[:-1]:
        live.step(frame)
    in_process = open_live()
    expected = [in_process.step(frame) for frame in frames][-1]
    with connected("requests", live) as client:
        client._socket.send(bad)
        with pytest.raises(FrameError, match=r"expected|no map|not msgpack"):
            client.receive(10)
        client.send(Frame(frames[-1]))
        np.testing.assert_array_equal(client.receive(10).values, expected)
    assert live.counts["refused"] == 1 and live.counts["frames"] == len(frames)


def test_a_message_in_parts_is_refused(open_live: Open) -> None:
    with connected("requests", open_live()) as client:
        client._socket.send_multipart([b"a", b"b"])
        with pytest.raises(FrameError, match="2 parts"):
            client.receive(10)
        assert client.ask("status")["refused"] == 1


def test_a_message_that_is_too_large_is_cut_off_and_others_are_served(open_live: Open) -> None:
    live = open_live()
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with served(live, port):
        large, honest = RequestClient(port.address), RequestClient(port.address)
        large._socket.send(bytes(MAX_BYTES + 1))
        assert large.receive(0.2) is None
        honest.send(Frame(np.zeros(6)))
        assert honest.receive(10) is not None
        large.close()
        honest.close()
    assert live.counts["frames"] == 1


def test_a_client_that_goes_away_does_not_stop_the_server(open_live: Open) -> None:
    live = open_live()
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with served(live, port):
        for _ in range(3):
            leaving = RequestClient(port.address)
            leaving.send(Frame(np.zeros(6)))
            leaving.close()
        staying = RequestClient(port.address)
        assert staying.ask("describe")["num_units"] == 6
        staying.close()


def test_a_sender_that_reorders_its_units_names_them(small: Small, open_live: Open) -> None:
    frames = activity(CONTEXT + 3, small.preprocessing)
    in_process = open_live()
    expected = [in_process.step(frame) for frame in frames]
    with connected("requests", open_live()) as client:
        for index, frame in enumerate(frames):
            units = tuple("fedcba") if index == 10 else None
            client.send(Frame(frame[::-1] if index >= 10 else frame, index, units=units))
            np.testing.assert_array_equal(client.receive(10).values, expected[index])


class Queue:
    """A port whose frames have all come already."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = [Frame(frame, index) for index, frame in enumerate(frames)]
        self.sent: list[Forecast] = []

    def receive(self, timeout_s: float) -> Frame | Question | None:
        return self.frames.pop(0)

    def is_behind(self) -> bool:
        return bool(self.frames)

    def send(self, forecast: Forecast) -> None:
        self.sent.append(forecast)


def test_a_server_that_is_behind_forecasts_from_the_newest_frame_only(small: Small, open_live: Open) -> None:
    frames = activity(50, small.preprocessing)
    port, live = Queue(frames), open_live()
    serve(live, port, lambda: not port.frames, lambda live: None)
    in_process = open_live()
    expected = [in_process.step(frame) for frame in frames][-1]
    assert [forecast.index for forecast in port.sent] == [49] and live.counts["skipped"] == 49
    np.testing.assert_array_equal(port.sent[0].values, expected)


@pytest.mark.parametrize("waited", [True, False])
def test_frames_that_waited_tell_no_pause(
    small: Small, monkeypatch: pytest.MonkeyPatch, waited: bool
) -> None:
    """As of a forecaster that was stopped for a while: what came meanwhile is all there."""
    times = iter(np.where(np.arange(50) < 30, np.arange(50), 49) / 5)
    monkeypatch.setattr(server, "running_s", lambda: float(next(times)))
    live, port = realtime.open(*known(small, "abcdef", rate_hz=5.0)), Queue(activity(50, small.preprocessing))
    if not waited:
        monkeypatch.setattr(port, "is_behind", lambda: False)
    serve(live, port, lambda: not port.frames, lambda live: None)
    assert live.counts["frames"] == 50 and live.counts["time_jumps"] == (0 if waited else 1)


def test_an_address_that_is_taken_or_none_is_a_clear_error() -> None:
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    with pytest.raises(ConfigError, match="cannot be bound"):
        RequestPort(port.address, MAX_BYTES)
    port.close()
    with pytest.raises(ConfigError, match="no address"):
        RequestClient("127.0.0.1")
    # ZeroMQ takes the last 16 bits, and serves at another port.
    with pytest.raises(ConfigError, match=r"99999 cannot be bound \(ports end at 65535\)"):
        RequestPort("tcp://127.0.0.1:99999", MAX_BYTES)
    with pytest.raises(ConfigError, match="99999 is no address"):
        RequestClient("tcp://127.0.0.1:99999")


@pytest.mark.skipif(sys.platform == "win32", reason="ipc addresses are files elsewhere")
def test_an_ipc_address_is_not_taken_from_a_server_that_answers_there(tmp_path: Path) -> None:
    address = f"ipc://{os.path.relpath(tmp_path / 'rig')}"
    port = RequestPort(address, MAX_BYTES)
    with pytest.raises(ConfigError, match=r"cannot be bound .*in use"):
        RequestPort(address, MAX_BYTES)
    port.close()
    with socket.socket(socket.AF_UNIX) as left:  # by a process that was killed
        left.bind(f"{address}-left".removeprefix("ipc://"))
    RequestPort(f"{address}-left", MAX_BYTES).close()


@pytest.mark.parametrize(
    "opened",
    [
        lambda: RequestPort("nowhere", MAX_BYTES),
        lambda: StreamPort("tcp://127.0.0.1:*", "nowhere", MAX_BYTES),
        lambda: Publisher("nowhere"),
        lambda: Subscriber("nowhere"),
        lambda: RequestClient("nowhere"),
        lambda: StreamClient("tcp://127.0.0.1:9", "nowhere"),
    ],
    ids=["requests", "streams", "publisher", "subscriber", "client", "stream client"],
)
def test_what_cannot_be_opened_leaves_no_context_for_the_collection_of_garbage_to_wait_for(
    opened: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[zmq.Context] = []
    new = zeromq._context
    monkeypatch.setattr(zeromq, "_context", lambda: made.append(new()) or made[-1])
    with pytest.raises(ConfigError, match="nowhere"):
        opened()
    assert [context.closed for context in made] == [True]


def test_what_is_let_go_in_a_cycle_of_references_is_closed_and_not_waited_for() -> None:
    script = """
import gc
from forebrain.realtime.zeromq import *
at = "tcp://127.0.0.1:*"
opened = [RequestPort(at, 99), StreamPort(at, at, 99), Publisher(at)]
opened += [Subscriber(opened[2].address), RequestClient(opened[0].address), StreamClient(*opened[1].address)]
contexts = [each._context for each in opened]
for each in opened:
    each.itself = each
del opened, each
gc.collect()
assert all(context.closed for context in contexts)

class Rig:
    def __init__(self):
        self.client, self.itself = RequestClient("tcp://127.0.0.1:9"), self

Rig()
gc.collect()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_nobody_at_the_address_is_a_clear_error() -> None:
    client = RequestClient("tcp://127.0.0.1:9")
    with pytest.raises(NoAnswerError, match="running"):
        client.ask("status", timeout_s=0.05)
    client.close()
    streams = StreamClient("tcp://127.0.0.1:9", "tcp://127.0.0.1:9")
    with pytest.raises(NoAnswerError, match="running"):
        streams.ready(timeout_s=0.05)
    streams.close()


@pytest.mark.parametrize("others", ["forecasts", "refusals", "answers"])
def test_a_stream_is_ready_or_says_that_nobody_is_there_whatever_others_get(others: str) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as asked, context.socket(zmq.PUB) as published:
        frames, forecasts = (f"tcp://127.0.0.1:{each.bind_to_random_port('tcp://127.0.0.1')}" for each in
                             (asked, published))  # fmt: skip
        asked.subscribe(b"")
        message = {
            "forecasts": encode_forecast(Forecast(np.zeros((4, 6), "f"), 1, None, "model", None, False, 1.0)),
            "refusals": encode_error(FrameError("not yours")),
            "answers": encode_answer({"frames": 3}),
        }[others]
        client, ends = StreamClient(frames, forecasts), threading.Event()

        def publish() -> None:
            while not ends.wait(0.002):
                published.send(message)
                if is_there and asked.poll(0):
                    published.send(encode_answer({"num_units": 6}))

        for is_there in (False, True):
            ends.clear()
            publisher = threading.Thread(target=publish, daemon=True)
            publisher.start()
            began = time.monotonic()
            if is_there:
                assert client.ready(10)["num_units"] == 6
            else:
                with pytest.raises(NoAnswerError):
                    client.ready(0.5)
                assert time.monotonic() - began < 5
            ends.set()
            publisher.join()
        client.close()


def test_an_lsl_rig_is_found_whatever_quotes_its_name_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsl, "ALL_FOUND_S", 0.2)
    for quotes in ("'s ", "a'b\"c'd"):
        name = f"forebrain-test {quotes}{uuid.uuid4().hex[:8]}"
        client = LslClient(name, 6, 5.0)
        with contextlib.closing(LslPort(name, HORIZON, 6, 5.0, None)) as port:
            while port._inlet is None:
                port.receive(0.1)
            client.ready()
            with pytest.raises(ConfigError, match="there already"):
                LslPort(name, HORIZON, 6, 5.0, None)
        client.close()


def test_lsl_channels_that_bear_the_names_of_units_are_taken_by_name(open_live: Open) -> None:
    name = f"forebrain-test-{uuid.uuid4().hex[:8]}"
    live = open_live()
    info = pylsl.StreamInfo(name, "Activity", 2, 5.0, pylsl.cf_float32, name)
    info.set_channel_labels(["c", "a"])
    outlet = pylsl.StreamOutlet(info)
    with served(live, LslPort(name, HORIZON, 6, 5.0, live.unit_names)):
        assert outlet.wait_for_consumers(10)
        (found,) = pylsl.resolve_byprop("name", f"{name}-forecast", 1, 10)
        inlet = pylsl.StreamInlet(found, as_numpy=True)
        inlet.open_stream(10)
        outlet.push_sample([1.0, 3.0], 50.0)
        sample, time_s = inlet.pull_sample(timeout=10)
    assert time_s == 50.0 and sample[0] == 0  # still warming up
    first_step = sample[1:].reshape(HORIZON, 6)[0]
    assert (first_step[2], first_step[0]) == (1.0, 3.0)
    np.testing.assert_array_equal(first_step[[1, 3, 4, 5]], live.preprocessing.mean[[1, 3, 4, 5]])


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["u", "v", "w", "x", "y", "z"], "6 of 6 units are none of the model's: u, v"),
        (["a", "b", "c", "d", "e", "e"], "two channels of one label"),
    ],
)
def test_lsl_channels_that_bear_other_labels_are_never_taken_by_their_order(
    open_live: Open, caplog: pytest.LogCaptureFixture, labels: list[str], reason: str
) -> None:
    name = f"forebrain-test-{uuid.uuid4().hex[:8]}"
    live = open_live()
    info = pylsl.StreamInfo(name, "Activity", 6, 5.0, pylsl.cf_float32, name)
    info.set_channel_labels(labels)
    outlet = pylsl.StreamOutlet(info)
    with served(live, LslPort(name, HORIZON, 6, 5.0, live.unit_names)):
        for number in range(100):
            outlet.push_sample([1.0] * 6, 50 + number / 5)
            if live.counts["refused"] >= (3 if "none of" in reason else 1):
                break
            time.sleep(0.05)
    assert live.counts["refused"] and not live.counts["frames"]
    told = [each.getMessage() for each in caplog.records]
    assert sum(each.startswith("refused") for each in told) == 1 and reason in " ".join(told)


def test_of_two_lsl_streams_of_one_name_none_is_taken_silently(
    open_live: Open, caplog: pytest.LogCaptureFixture
) -> None:
    name, live = f"forebrain-test-{uuid.uuid4().hex[:8]}", open_live()
    outlets = [
        pylsl.StreamOutlet(pylsl.StreamInfo(name, "Activity", 6, 5.0, pylsl.cf_float32, source))
        for source in ("rig-a", "rig-b")
    ]
    port = LslPort(name, HORIZON, 6, 5.0, None)
    with pytest.raises(FrameError, match=r"2 streams are called .*'rig-a'.*'rig-b'.*none is read") as refused:
        port.receive(10)
    assert f"{name}@SOURCE_ID" in str(refused.value)
    assert port.receive(10) is None  # said once
    port.close()

    with served(live, LslPort(f"{name}@rig-b", HORIZON, 6, 5.0, None)):
        assert outlets[1].wait_for_consumers(10)
        outlets[0].push_sample([0.0] * 6, 1.0)
        outlets[1].push_sample([7.0] * 6, 2.0)
        for _ in range(100):
            if live.counts["frames"]:
                break
            time.sleep(0.05)
    assert live.counts["frames"] == 1 and live.frame[0] == 7


def test_two_forecasters_of_one_lsl_rig_are_refused_and_told_apart(
    open_live: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, live = f"forebrain-test-{uuid.uuid4().hex[:8]}", open_live()
    given = name, HORIZON, 6, 5.0, live.unit_names
    about = {"model": "worms@1", "species": "celegans", "dataset": "lab", "subject": "w'1", "session": "1"}
    port = LslPort(*given, num_levels=2, about=about)
    with contextlib.closing(port):
        with pytest.raises(ConfigError, match=f"{name}-forecast is there already.*End it"):
            LslPort(*given, about=about | {"subject": "w2"})
        for kind in ("forecast", "quantiles"):
            (found,) = pylsl.resolve_byprop("name", f"{name}-{kind}", 1, 10)
            desc = pylsl.StreamInlet(found).info(10).desc()
            assert {each: desc.child_value(each) for each in about} == about
            assert desc.child_value("horizon") == str(HORIZON)
            unit, units = desc.child("units").first_child(), []
            while not unit.empty():
                units.append(unit.child_value())
                unit = unit.next_sibling()
            assert tuple(units) == live.unit_names
        monkeypatch.setattr(lsl, "_named", lambda name, timeout_s: [])  # begun at the same moment
        with contextlib.closing(LslPort(*given, about=about | {"subject": "w2"})):
            monkeypatch.undo()
            found = pylsl.resolve_byprop("name", f"{name}-forecast", 2, 10)
            assert len({each.source_id() for each in found}) == 2
            client = LslClient(name, 6, 5.0)
            with pytest.raises(FrameError, match=r"2 streams are called .*expected one forecaster"):
                client.ready()
            client.close()
    with contextlib.closing(LslPort(*given, about=about)):  # started again
        (again,) = pylsl.resolve_byprop("name", f"{name}-forecast", 1, 10)
        assert again.source_id() in {each.source_id() for each in found}


def test_of_forecasters_that_begin_at_one_moment_on_an_lsl_rig_one_stays(
    open_live: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, live = f"forebrain-test-{uuid.uuid4().hex[:8]}", open_live()
    both, look, ports, errors = threading.Barrier(2), lsl._named, [], []

    def looks(name: str, timeout_s: float) -> list[pylsl.StreamInfo]:
        found = look(name, timeout_s)
        both.wait(20)  # neither has made its own yet, and later neither has given way yet
        return found

    def begin(subject: str) -> None:
        try:
            ports.append(LslPort(name, HORIZON, 6, 5.0, live.unit_names, about={"subject": subject}))
        except ConfigError as error:
            errors.append(str(error))

    monkeypatch.setattr(lsl, "_named", looks)
    threads = [threading.Thread(target=begin, args=(subject,)) for subject in ("worm1", "worm2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (port,), (error,) = ports, errors
    with contextlib.closing(port):
        assert f"{name}-forecast is there already" in error
        (found,) = look(f"{name}-forecast", 10)
        assert found.uid() == port._outlet.get_info().uid()


def test_a_forecaster_that_stood_still_gives_an_lsl_rig_up_to_one_that_began_meanwhile(
    open_live: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lsl, "ALL_FOUND_S", 0.2)
    name = f"forebrain-test-{uuid.uuid4().hex[:8]}"
    with contextlib.closing(LslPort(name, HORIZON, 6, 5.0, None)) as port:
        with monkeypatch.context() as patch:
            patch.setattr(port, "_receive", lambda timeout_s: time.sleep(0.5))
            assert port.receive(0.0) is None
        time.sleep(0.4)
        assert port.receive(0.0) is None  # nobody began meanwhile
        with monkeypatch.context() as patch:
            patch.setattr(lsl, "_named", lambda name, timeout_s: [])  # as it does not answer
            other = LslPort(name, HORIZON, 6, 5.0, None)
            patch.setattr(port, "_receive", lambda timeout_s: time.sleep(0.5))
            assert port.receive(0.0) is None
        with contextlib.closing(other):
            time.sleep(0.4)
            with pytest.raises(ConfigError, match=f"{name}-forecast is there already"):
                port.receive(0.0)
            assert other.receive(0.0) is None


def rig(name: str, labels: list[str]) -> pylsl.StreamOutlet:
    """A new outlet under one source id, as a rig has that is started again."""
    info = pylsl.StreamInfo(name, "Activity", len(labels), 5.0, pylsl.cf_float32, "the rig")
    if any(labels):
        info.set_channel_labels(labels)
    return pylsl.StreamOutlet(info)


def received(port: LslPort, outlet: pylsl.StreamOutlet, values: list[float], time_s: float) -> Frame:
    """A frame through the stream, once the port has found it."""
    for _ in range(500):
        if port._inlet is not None and outlet.have_consumers():  # not one of before
            break
        assert port.receive(0.02) is None
    outlet.push_sample(values, time_s)
    frame = port.receive(10)
    assert isinstance(frame, Frame) and frame.time_s == time_s and frame.is_new
    return frame


def test_an_lsl_rig_that_ends_is_found_again_and_its_labels_are_read_again(
    open_live: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lsl, "ALL_FOUND_S", 0.2)
    name, live, seen = f"forebrain-test-{uuid.uuid4().hex[:8]}", open_live(), []
    port = LslPort(name, HORIZON, 6, 5.0, live.unit_names)
    # In order, named, named otherwise, and in order again: all of one source id.
    for number, labels in enumerate([6 * [""], list("abcdef"), list("fedcba"), 6 * [""]]):
        outlet = rig(name, labels)
        frame = received(port, outlet, [101, 102, 103, 104, 105, 106], 50.0 + number)
        live.step(frame.values, None, frame.time_s, frame.units)
        seen.append(live.frame.tolist())
        del outlet
        assert all(port.receive(0.1) is None for _ in range(2))
    in_order = [101, 102, 103, 104, 105, 106]
    assert seen == [in_order, in_order, in_order[::-1], in_order]
    assert sum("has ended" in each.getMessage() for each in caplog.records) == 4
    both = [rig(name, list("abcdef")), rig(name, list("abcdef"))]
    with pytest.raises(FrameError, match="2 streams are called"):
        port.receive(10)
    del both
    port.close()


def test_an_lsl_rig_whose_clock_is_behind_the_one_before_is_read_by_its_own_labels(open_live: Open) -> None:
    live = open_live()
    for number in range(8):  # the port names the units of every frame
        live.step(np.arange(100, 106), None, 50 + number / 5, tuple("abcdef"))
    for number in range(6):
        live.step(np.arange(100, 106), None, 5 + number / 5, tuple("fedcba"))
    assert live.counts["late"] == 4 and live.counts["restarts"] == 1
    assert live.frame.tolist() == [105, 104, 103, 102, 101, 100]


@pytest.mark.parametrize("what", ["info", "open_stream"])
def test_an_lsl_rig_that_dies_while_it_is_connected_to_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(lsl, "ALL_FOUND_S", 0.2)
    name = f"forebrain-test-{uuid.uuid4().hex[:8]}"
    port, outlet = LslPort(name, HORIZON, 6, 5.0, None), rig(name, 6 * [""])
    whole, errors = getattr(pylsl.StreamInlet, what), [TimeoutError, LostError]

    def dies(inlet: pylsl.StreamInlet, timeout: float) -> object:
        if errors:
            raise errors.pop(0)("just then")
        return whole(inlet, timeout)

    monkeypatch.setattr(pylsl.StreamInlet, what, dies)
    with pytest.raises(FrameError, match=r"was found, and cannot be read \(just then\)"):
        port.receive(10)
    assert port.receive(10) is None  # said once
    assert received(port, outlet, [1, 2, 3, 4, 5, 6], 7.0).values[0] == 1
    port.close()


def test_an_lsl_rig_that_goes_without_a_farewell_is_missed_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lsl, "ALL_FOUND_S", 0.2)
    name = f"forebrain-test-{uuid.uuid4().hex[:8]}"
    port, outlet = LslPort(name, HORIZON, 6, 5.0, None), rig(name, 6 * [""])
    received(port, outlet, [1, 2, 3, 4, 5, 6], 7.0)
    monkeypatch.setattr(lsl, "LOOK_S", 0.0)
    assert port.receive(0.01) is None and port._inlet is not None  # it is there and silent
    port._uid = "of a machine without power"
    assert port.receive(0.01) is None and port._inlet is None
    received(port, outlet, [1, 2, 3, 4, 5, 6], 8.0)
    port.close()


def test_of_two_senders_to_one_address_the_second_is_refused_until_the_first_goes_or_pauses(
    open_live: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    live, port = open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES, rate_hz=5.0)
    port._place._clock = lambda: now[0]
    with served(live, port):
        first, second, third = (RequestClient(port.address) for _ in range(3))

        def taken(client: RequestClient, value: float = 0.0) -> bool:
            try:
                client.step(Frame(np.full(6, value), time_s=None), 10)
            except FrameError as error:
                assert "another sender's frames come" in str(error) and "connected anew" in str(error)
                return False
            return True

        assert taken(first, 1.0) and not taken(second) and live.frame[0] == 1
        now[0] += 1.5
        assert second.ask("status")["frames"] == 1  # questions are answered to anybody
        assert taken(first) and not taken(second)
        now[0] += 2.5
        with pytest.raises(FrameError, match="shape"):  # which takes no place
            third.step(Frame(np.zeros(5)), 10)
        assert taken(second) and not taken(first)
        second.close()  # its place is free at once
        for _ in range(100):
            if taken(third):
                break
            time.sleep(0.01)
        assert taken(third) and not taken(first)
        first.close()
        third.close()
    assert "frames come from another sender from now on" in caplog.text
    assert "refused" in caplog.text and "another sender's frames come" in caplog.text


def test_of_two_publishers_to_one_address_one_is_refused(open_live: Open) -> None:
    live, port = open_live(), StreamPort("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", MAX_BYTES)
    port._place._clock = lambda: 0.0
    with served(live, port):
        first, second = StreamClient(*port.address), StreamClient(*port.address)
        first.ready()
        second.ready()
        first.send(Frame(np.full(6, 1.0)))
        while not live.counts["frames"]:
            first.receive(0.02)
        with pytest.raises(FrameError, match="another sender's"):
            for _ in range(1000):  # answers and a forecast come between
                second.send(Frame(np.full(6, 2.0)))
                first.receive(0.02)
        assert live.counts["frames"] == 1 and live.frame[0] == 1
        first.close()
        second.close()


def test_what_a_second_sender_asks_and_tells_spoils_no_stream(open_live: Open) -> None:
    """Its reset is refused, and names that it told with a frame that was refused are those of its next."""
    now = [0.0]
    live, port = open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES, rate_hz=5.0)
    port._place._clock = lambda: now[0]
    names = live.unit_names
    assert names is not None
    with served(live, port):
        first, second = RequestClient(port.address), RequestClient(port.address)
        first.step(Frame(np.arange(6.0)), 10)
        with pytest.raises(FrameError, match="another sender's"):
            second.ask("reset")
        with pytest.raises(FrameError, match="another sender's"):
            second.step(Frame(np.arange(6.0), units=names[::-1]), 10)
        assert live.counts["frames"] == 1
        now[0] += 3.0
        second.step(Frame(np.arange(6.0)), 10)
        assert live.counts["frames"] == 2 and live.frame.tolist() == [5, 4, 3, 2, 1, 0]
        second.ask("reset")
        first.close()
        second.close()


def test_frames_of_a_sender_that_has_gone_take_no_place(open_live: Open) -> None:
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES, rate_hz=5.0)
    place, waiting = port._place, Frame(np.zeros(6))
    place._gone.add(7)
    for connection in (7, 8):  # the first one's frame waited here when its connection ended
        place.take(connection, waiting)
        place.follow()
    with contextlib.closing(port), pytest.raises(FrameError, match="another sender's"):
        place.take(9, waiting)


NAMES = ("a", "b", "c", "d", "e", "f")
ORDERED, REVERSED = [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]


@contextlib.contextmanager
def raw(address: str) -> Iterator[Callable[..., dict]]:
    """A sender in no language of ours: sends a frame 0 to 5 with what it is given, and returns the reply."""
    with zmq.Context() as context, context.socket(zmq.REQ) as plain:
        plain.linger = 0
        plain.connect(address)

        def send(**more: object) -> dict:
            plain.send(msgpack.packb({"v": 1, "frame": np.arange(6, dtype="<f4").tobytes(), **more}))
            assert plain.poll(10_000)
            return msgpack.unpackb(plain.recv())

        yield send


def test_a_sender_that_names_nothing_is_never_read_by_the_names_of_another(open_live: Open) -> None:
    live, port = open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    port._place._pause_s = 0.0
    with served(live, port):
        named, unnamed = RequestClient(port.address), RequestClient(port.address)
        named.step(Frame(np.arange(6.0), units=NAMES[::-1]), 10)
        assert live.frame.tolist() == REVERSED
        for client, order in [(unnamed, ORDERED), (named, REVERSED), (unnamed, ORDERED), (named, REVERSED)]:
            client.step(Frame(np.arange(6.0)), 10)  # which tells its names when it is asked
            assert live.frame.tolist() == order
        with raw(port.address) as send:
            assert "forecast" in send()
            assert live.frame.tolist() == ORDERED
        named.close()
        unnamed.close()


def test_names_told_once_without_a_hash_are_those_of_one_connection(open_live: Open) -> None:
    live, port = open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    port._place._pause_s = 0.0
    with served(live, port), raw(port.address) as first, raw(port.address) as second:
        first(units=list(NAMES[::-1]))
        first()
        assert live.frame.tolist() == REVERSED
        assert "by another connection, with names; expected `units`" in second()["error"]
        assert "forecast" in first() and live.frame.tolist() == REVERSED
        second(units=[])
        second()
        assert live.frame.tolist() == ORDERED
        first()
        assert live.frame.tolist() == REVERSED
        with raw(port.address) as third:  # a rig of its own, or the first one, connected anew
            third(frame=None, ask="reset")
            assert "expected `units`" in third()["error"] and live.frame.tolist() == REVERSED
            third(units=[])
            assert "forecast" in third() and live.frame.tolist() == ORDERED


def test_a_reset_leaves_each_sender_its_names_whoever_asks_for_it(open_live: Open) -> None:
    live, port = open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    port._place._pause_s = 0.0
    with served(live, port), raw(port.address) as tells_once:
        rig, operator = RequestClient(port.address), RequestClient(port.address)
        rig.step(Frame(np.arange(6.0), units=NAMES[::-1]), 10)
        for asks in (rig, operator):
            asks.ask("reset")
            rig.send(Frame(np.arange(6.0)))
            assert rig.receive(10) is not None  # without being asked for its names
            assert live.frame.tolist() == REVERSED
        tells_once(units=list(NAMES[::-1]))
        operator.ask("reset")
        assert "forecast" in tells_once() and live.frame.tolist() == REVERSED
        rig.close()
        operator.close()


def test_the_hash_of_names_is_asked_for_its_names_and_checked(open_live: Open) -> None:
    live, port = open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    reverse = hashlib.sha256(b"f\ne\nd\nc\nb\na").hexdigest()[:16]
    with served(live, port), raw(port.address) as send:
        refused = send(names=reverse, index=0)
        assert refused["expects"] == "units" and "expected them, as `units`" in refused["error"]
        for wrong in (
            {"names": reverse, "units": list(NAMES)},
            {"sender": "rig", "units": list(NAMES[::-1])},
        ):
            assert "the hash of these units" in send(**wrong)["error"]
        assert not live.counts["frames"]
        send(names=reverse, units=list(NAMES[::-1]), index=0)
        send(names=reverse, index=1)
        assert live.frame.tolist() == REVERSED
        send(names=reverse, units=list(NAMES[::-1]), index=0)  # late
        send(names=reverse, index=2)
        assert live.frame.tolist() == REVERSED and live.counts["frames"] == 3


def test_through_a_proxy_senders_are_told_by_what_they_say_of_themselves(open_live: Open) -> None:
    now = [0.0]
    live, port = open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    port._place._clock = lambda: now[0]
    with served(live, port), zmq.Context() as context:
        rigs, server = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        number = rigs.bind_to_random_port("tcp://127.0.0.1")
        server.connect(port.address)
        control, ending = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        control.bind("inproc://end")
        ending.connect("inproc://end")
        proxy = threading.Thread(target=zmq.proxy_steerable, args=(rigs, server, None, control))
        proxy.start()
        first, second, anew = (RequestClient(f"tcp://127.0.0.1:{number}") for _ in range(3))
        anew._sender = first._sender  # connected anew
        first.step(Frame(np.full(6, 1.0)), 10)
        for asks in (lambda: second.step(Frame(np.full(6, 2.0)), 10), lambda: second.ask("reset")):
            with pytest.raises(FrameError, match="another sender's"):
                asks()
        assert live.frame[0] == 1
        anew.step(Frame(np.full(6, 3.0)), 10)
        now[0] += 3
        second.step(Frame(np.full(6, 2.0)), 10)
        assert live.frame[0] == 2
        ending.send(b"TERMINATE")
        proxy.join()
        for each in (first, second, anew, rigs, server, control, ending):
            each.close()


def test_a_publisher_tells_its_names_again_to_a_forecaster_that_does_not_hold_them(open_live: Open) -> None:
    live, port = open_live(), StreamPort("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", MAX_BYTES)
    with served(live, port):
        client = StreamClient(*port.address)
        client.ready()
        client._sender.encode(Frame(np.zeros(6), units=NAMES[::-1]))  # which is lost on its way
        client._sender.has_told = True
        client.send(Frame(np.arange(6.0), 0))
        with pytest.raises(FrameError, match="once more"):
            while True:
                client.receive(10)
        client.send(Frame(np.arange(6.0), 1))
        client.send(Frame(np.arange(6.0), 2))
        while live.counts["frames"] < 2:
            client.receive(0.02)
        assert live.frame.tolist() == REVERSED
        client.close()


def test_connections_that_come_and_go_while_no_frame_comes_stop_nothing(open_live: Open) -> None:
    live, port = open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    host, number = port.address.removeprefix("tcp://").split(":")
    with served(live, port):
        for _ in range(1_500):  # two events each: more than ZeroMQ keeps
            socket.create_connection((host, int(number))).close()
        client = RequestClient(port.address)
        assert client.ask("status")["frames"] == 0
        client.step(Frame(np.zeros(6)), 10)
        client.close()


@pytest.mark.skipif(sys.platform == "win32", reason="ipc addresses are files elsewhere")
def test_a_file_at_an_ipc_address_stays(tmp_path: Path) -> None:
    (tmp_path / "rec.npz").write_bytes(b"kept")
    with pytest.raises(ConfigError, match=r"rec\.npz cannot be bound \(a file is there"):
        RequestPort(f"ipc://{tmp_path / 'rec.npz'}", MAX_BYTES)
    assert (tmp_path / "rec.npz").read_bytes() == b"kept"


@pytest.mark.skipif(sys.platform == "win32", reason="ipc addresses are files elsewhere")
def test_an_ipc_address_of_somebody_who_stands_still_is_neither_taken_nor_waited_for(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(tmp_path / "rig"))
        listening.listen(1)
        with contextlib.suppress(BlockingIOError):
            for _ in range(10):
                waits = stack.enter_context(socket.socket(socket.AF_UNIX))
                waits.setblocking(False)
                waits.connect(str(tmp_path / "rig"))
        with pytest.raises(ConfigError, match="cannot be bound"):
            RequestPort(f"ipc://{tmp_path / 'rig'}", MAX_BYTES)
