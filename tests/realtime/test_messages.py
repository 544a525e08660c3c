"""Messages come from anybody: whatever they are, they are a frame, a question or a FrameError."""

from __future__ import annotations

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebrain.errors import FrameError
from forebrain.realtime.messages import (
    Forecast,
    Frame,
    Question,
    decode_reply,
    decode_request,
    encode_answer,
    encode_error,
    encode_forecast,
    encode_frame,
    encode_question,
    max_frame_bytes,
)
from forebrain.realtime.names import UntoldNamesError, hash_of_names


@pytest.mark.parametrize("units", [None, ("AVA", "AVB", "RIM")])
@pytest.mark.parametrize(("index", "time_s"), [(None, None), (7, 1.25), (2**61, 0.0)])
def test_a_frame_arrives_as_it_was_sent(
    units: tuple[str, ...] | None, index: int | None, time_s: float | None
) -> None:
    values = np.array([1.5, np.nan, -np.inf], np.float32)
    frame = decode_request(encode_frame(Frame(values, index, time_s, units)))
    assert isinstance(frame, Frame)
    np.testing.assert_array_equal(frame.values, values)
    assert (frame.index, frame.time_s, frame.units) == (index, time_s, units)


def test_a_frame_may_be_float64() -> None:
    frame = decode_request(msgpack.packb({"v": 1, "frame": np.array([1.0, 2.5]).tobytes(), "dtype": "<f8"}))
    assert isinstance(frame, Frame)
    np.testing.assert_array_equal(frame.values, [1.0, 2.5])


def test_a_sender_says_who_it_is_and_by_which_names_its_frames_are_read() -> None:
    names = ("AVA", "AVB", "RIM")
    said = hash_of_names(names)
    assert said != hash_of_names(names[::-1]) and len(said) == 16
    frame = Frame(np.zeros(3), units=names, names=said, sender="a rig")
    for units in (names, None):
        frame.units = units
        back = decode_request(encode_frame(frame))
        assert (back.units, back.names, back.sender) == (units, said, "a rig")
    in_order = decode_request(encode_frame(Frame(np.zeros(3), sender="a rig")))
    assert isinstance(in_order, Frame) and (in_order.units, in_order.names) == ((), None)
    assert decode_request(encode_question(Question("reset", sender="a rig"))).sender == "a rig"


def test_a_forecast_arrives_as_it_was_sent() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    back = decode_reply(encode_forecast(Forecast(values, 9, 1.5, "model", 0.25, True, 2.5)))
    assert isinstance(back, Forecast)
    np.testing.assert_array_equal(back.values, values)
    assert (back.index, back.time_s, back.source) == (9, 1.5, "model")
    assert (back.score, back.drift, back.step_ms) == (0.25, True, 2.5)


def test_questions_answers_and_errors_arrive() -> None:
    assert decode_request(encode_question(Question("status"))) == Question("status")
    assert decode_reply(encode_answer({"frames": 3})) == {"frames": 3}
    with pytest.raises(FrameError, match="too long"):
        decode_reply(encode_error(FrameError("too long")))
    with pytest.raises(UntoldNamesError, match="once more"):
        decode_reply(encode_error(UntoldNamesError("once more")))


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        {},
        {"v": 2, "frame": b"1234"},
        {"v": 1},
        {"v": 1, "frame": "1234"},
        {"v": 1, "frame": b"12345"},
        {"v": 1, "frame": b"1234", "dtype": "|O"},
        {"v": 1, "frame": b"1234", "dtype": ["<f4"]},
        {"v": 1, "frame": b"1234", "index": 1.5},
        {"v": 1, "frame": b"1234", "index": True},
        {"v": 1, "frame": b"1234", "index": "1"},
        {"v": 1, "frame": b"1234", "time_s": float("inf")},
        {"v": 1, "frame": b"1234", "time_s": "now"},
        {"v": 1, "frame": b"1234", "units": "AVA"},
        {"v": 1, "frame": b"1234", "units": [1]},
        {"v": 1, "frame": b"1234", "units": ["AVA"], "sender": "a"},
        {"v": 1, "frame": b"1234", "units": ["AVA"], "names": "0123456789abcdef"},
        {"v": 1, "frame": b"1234", "units": [], "names": "0123456789abcdef"},
        {"v": 1, "frame": b"1234", "names": 7},
        {"v": 1, "frame": b"1234", "sender": ""},
        {"v": 1, "ask": "status", "sender": 65 * "a"},
        {"v": 1, "ask": "password"},
        {"v": 1, "ask": ["status"]},
        {1: 2},
        {"v": 1, "frame": msgpack.ExtType(5, b"1234")},
        {"v": 1, "frame": msgpack.Timestamp(5)},
    ],
)
def test_what_is_no_message_is_refused(message: object) -> None:
    with pytest.raises(FrameError):
        decode_request(msgpack.packb(message, strict_types=False))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_frame_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(FrameError):
            decode(data)


_PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
_NAMES = st.sampled_from(
    ["v", "frame", "dtype", "index", "time_s", "units", "names", "sender", "ask", "forecast", "shape", "x"]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_NAMES, _PLAIN | st.lists(_PLAIN, max_size=3) | st.just(1), max_size=8))
def test_any_map_is_a_message_or_a_frame_error(message: dict) -> None:
    data = msgpack.packb({**message, "v": 1})
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(FrameError):
            decode(data)


def test_every_honest_frame_is_within_the_bound() -> None:
    names = tuple(f"{number:0>255}" for number in range(50))
    values = np.zeros(50, np.float64)
    said = Frame(values, 2**61, 1e300, names, names=hash_of_names(names), sender=64 * "a")
    assert len(encode_frame(said)) < max_frame_bytes(50)
