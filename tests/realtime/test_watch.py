"""What changes in a stream is said as it happens, and a flood of it is counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from realtime_small import CONTEXT, Small

from forebrain.realtime import LiveForecaster
from forebrain.realtime.watch import QUIET_S, Watch

Open = Callable[..., LiveForecaster]


def steady(num_frames: int, small: Small) -> np.ndarray:
    """[T, N] noise as the interface was fitted to."""
    noise = np.random.default_rng(0).normal(size=(num_frames, 6)).astype(np.float32)
    return small.preprocessing.denormalise(noise)


def test_a_steady_stream_makes_no_news(small: Small, open_live: Open) -> None:
    live = open_live()
    watch = Watch(live)
    for index, frame in enumerate(steady(60, small)):
        live.step(frame, index, index / 5)
        assert watch.news() == []


def test_gaps_and_restarts_are_said_at_their_frame(small: Small, open_live: Open) -> None:
    frames, live = steady(60, small), open_live()
    watch = Watch(live)
    said = []
    for number, frame in enumerate(frames):
        index = number + 50 * (number >= 30) if number < 50 else number - 50
        live.step(frame, index)
        said += [(number, event) for event in watch.news()]
    assert said == [
        (30, "frames are missing: the window starts anew (at frame 80)"),
        (50, "a frame came late: it changes nothing (at frame 99)"),
        (54, "the sender counts anew: the window starts anew (at frame 4)"),
    ]


def test_a_pause_in_which_frames_are_counted_on_is_told_from_a_gap(small: Small, open_live: Open) -> None:
    frames, live = steady(60, small), open_live()
    watch, said = Watch(live), []
    for number, frame in enumerate(frames):
        live.step(frame, number + 50 * (number >= 50), number / 5 + 60 * (number >= 30) + 10 * (number >= 50))
        said += [(number, event) for event in watch.news()]
    assert said == [
        (30, "time went on while no frame was counted: the window starts anew (at frame 30)"),
        (50, "frames are missing: the window starts anew (at frame 100)"),
    ]


def test_of_many_events_each_kind_is_said_once_in_a_while_with_their_number(
    small: Small, open_live: Open
) -> None:
    now, live, said = 0.0, open_live(), []
    watch = Watch(live, lambda: now)
    for number in range(4):
        live.step(np.zeros(6), 100 * number)
        said += watch.news()
    now += QUIET_S
    said += watch.news()
    assert said == [
        "frames are missing: the window starts anew (at frame 100)",
        "no frame has come for 10 s (after frame 300)",
        "frames are missing: the window starts anew (at frame 300, 2 times)",
    ]


def test_drift_is_said_when_it_begins_and_when_it_ends(small: Small, open_live: Open) -> None:
    now, live, said = 0.0, open_live(memory=CONTEXT), []
    watch = Watch(live, lambda: now)
    for number, frame in enumerate(steady(300, small)):
        live.step(frame + 5 * small.preprocessing.scale * (100 <= number < 200))
        now += 1
        said += watch.news()
    assert [event.split(":")[0] for event in said] == [
        "drift",
        "the stream is again as the interface was fitted to",
    ]


def test_silence_is_said_once_and_its_end_too(small: Small, open_live: Open) -> None:
    now, live = 0.0, open_live()
    watch = Watch(live, lambda: now)
    for _ in range(3):
        now += 60
        assert watch.news() == []  # a stream that never began is no silent one
    live.step(np.zeros(6), 0)
    assert watch.news() == []
    said, began = [], now
    for quarters in range(1, 21):
        now = began + quarters / 4
        said += watch.news()
    assert said == ["no frame has come for 2 s (after frame 0)"]
    live.step(np.zeros(6), 1)
    assert watch.news() == ["frames come again, after 5 s"]


def test_few_missing_late_and_repeated_frames_units_that_go_and_resets_are_said(
    small: Small, open_live: Open
) -> None:
    now, live, said = 0.0, open_live(), []
    watch = Watch(live, lambda: now)
    frames = steady(60, small)

    def step(number: int, index: int) -> None:
        live.step(frames[number], index)
        said.extend(watch.news())

    frames[22:, 3] = np.nan
    for number in range(60):
        step(number, number + 2 * (number >= 20))
    step(0, 61)
    step(0, 60)
    live.reset()
    said += watch.news()
    assert said == [
        "a few frames are missing: the last values are held (at frame 22, 2 times)",
        f"a unit has no value any more: it holds its last one (at frame {22 + 2 + CONTEXT - 1})",
        "a frame came again: it changes nothing (at frame 61)",
        "a frame came late: it changes nothing (at frame 61)",
        "the sender begins a new run (before its first frame)",
    ]


def test_that_copys_forecast_is_given_is_said_and_a_late_frame_does_not_end_it(
    small: Small, open_live: Open
) -> None:
    now, live, said = 0.0, open_live(), []
    watch = Watch(live, lambda: now)
    frames = steady(CONTEXT + 3, small)
    for number, frame in enumerate(frames):
        live._falls_back = number in (CONTEXT, CONTEXT + 1)
        live.step(frame, number)
        if number == CONTEXT + 1:
            live.step(frame, number - 3)
        now += QUIET_S
        said += watch.news()
    assert [event for event in said if "late" not in event and "no frame" not in event] == [
        "copy's forecast is given",
        "the model's forecast is given again",
    ]
