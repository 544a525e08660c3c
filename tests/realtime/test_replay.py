"""The replayer: frames as a rig would send them, and honest times."""

from __future__ import annotations

import numpy as np
import pytest

from forebrain.errors import FrameError
from forebrain.realtime.messages import Forecast, Frame
from forebrain.realtime.replay import MOST_SILENT, REPLY_S, frames_of, play
from forebrain.sessions.repair import MIN_GAP_FRAMES
from forebrain.sessions.session import Session


class Echo:
    """A forecaster that takes its time over some frames and loses others, and the clock it all goes by."""

    awaits_answers = True

    def __init__(self, slow: set[int], lost: set[int]) -> None:
        self.slow, self.lost = slow, lost
        self.now = 0.0
        self.sent: list[float] = []
        self.waiting: list[int] = []

    def clock(self) -> float:
        return self.now

    def send(self, frame: Frame) -> None:
        self.sent.append(self.now)
        self.waiting.append(frame.index)

    def receive(self, timeout_s: float) -> Forecast | None:
        if not self.waiting:
            self.now += timeout_s
            return None
        index = self.waiting.pop(0)
        if index in self.slow:
            self.now += 0.25
        if index in self.lost:
            return None
        return Forecast(np.zeros((2, 3), np.float32), index, None, "model", None, False, 0.0)


def frames(count: int) -> list[Frame]:
    return [Frame(np.zeros(3, np.float32), index) for index in range(count)]


def session(segments: list[int]) -> Session:
    traces = np.arange(20, dtype=np.float32)[:, None]
    return Session(traces, 4.0, "worm", "one", "day", "lab", segment_ids=np.repeat([0, 1], segments))


# Times are multiples of 1/16 s, which floating point adds exactly.


def test_waiting_for_the_answer_before_is_part_of_a_frames_latency() -> None:
    client = Echo(slow={1}, lost=set())
    played = play(client, frames(5), 5, 0.0625, client.clock)
    # Frame 1 is answered at 0.3125 s; frames 2 to 4 were due at 0.125, 0.1875 and 0.25 s.
    assert played.latencies_ms.tolist() == [0, 250, 187.5, 125, 62.5]
    assert played.late_s == 0.0625
    assert played.sources == {"model": 5}


def test_a_delay_does_not_move_later_frames() -> None:
    client = Echo(slow={1}, lost=set())
    played = play(client, frames(8), 8, 0.0625, client.clock)
    assert client.sent == [0, 0.0625, *[0.3125] * 4, 0.375, 0.4375]
    assert played.late_s == 0


def test_a_lost_forecast_has_no_latency() -> None:
    client = Echo(slow=set(), lost={2})
    played = play(client, frames(4), 4, 0, client.clock)
    assert np.isnan(played.latencies_ms).tolist() == [False, False, True, False]
    assert client.now == pytest.approx(REPLY_S, abs=0.2)


def test_no_forecast_at_all_is_an_error() -> None:
    client = Echo(slow=set(), lost={0, 1})
    with pytest.raises(FrameError, match="running"):
        play(client, frames(2), 2, 0, client.clock)


def test_a_forecaster_that_ends_meanwhile_is_not_waited_for_frame_by_frame() -> None:
    client = Echo(slow=set(), lost=set(range(10, 20_000)))
    with pytest.raises(FrameError, match=r"3 frames in a row.*13 of 20000 frames were sent"):
        play(client, frames(20_000), 20_000, 0, client.clock)
    assert client.now == pytest.approx(MOST_SILENT * REPLY_S, abs=0.5)


def test_frames_carry_index_and_time_and_jump_between_segments() -> None:
    one = session([12, 8])
    played = list(frames_of(one, one.segments, None))
    assert [int(frame.values[0]) for frame in played] == list(range(20))
    assert [frame.index for frame in played] == [*range(12), *range(12 + MIN_GAP_FRAMES, 20 + MIN_GAP_FRAMES)]
    assert all(frame.time_s == frame.index / 4 for frame in played)


def test_the_first_frame_tells_the_names_of_the_units() -> None:
    played = list(frames_of(session([12, 8]), [(5, 10)], 12, names=["AVA"]))
    assert [frame.units for frame in played] == [("AVA",), *11 * [None]]


def test_a_recording_is_played_again_until_there_are_enough_frames() -> None:
    one = session([12, 8])
    played = list(frames_of(one, [(5, 10)], 12))
    assert [int(frame.values[0]) for frame in played] == [*range(5, 10), *range(5, 10), 5, 6]
    assert [frame.index for frame in played] == [*range(5), *range(10, 15), 20, 21]
