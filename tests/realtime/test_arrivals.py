from __future__ import annotations

import contextlib
import json
from collections.abc import Container, Iterable

import numpy as np
import pytest

from forebrain.errors import FrameError
from forebrain.realtime.arrivals import Arrival, Arrivals


def test_without_index_and_time_the_order_of_arrival_counts() -> None:
    arrivals = Arrivals(rate_hz=None)
    assert [arrivals.judge(None, None) for _ in range(3)] == [Arrival("next")] * 3
    assert arrivals.index == 2


def test_a_stream_may_begin_anywhere() -> None:
    arrivals = Arrivals(rate_hz=None)
    assert arrivals.judge(500, None) == Arrival("next")
    assert arrivals.judge(503, None) == Arrival("next", missing=2)


def test_the_index_counts_more_than_the_time() -> None:
    arrivals = Arrivals(rate_hz=10)
    arrivals.judge(0, 5.0)
    assert arrivals.judge(1, 4.0) == Arrival("next")
    assert arrivals.judge(1, 9.0) == Arrival("repeated")


def test_times_tell_missing_frames_once_the_interval_is_known() -> None:
    arrivals = Arrivals(rate_hz=10)
    for number in range(20):
        assert arrivals.judge(None, number / 10) == Arrival("next")
    assert arrivals.judge(None, 2.04) == Arrival("next")  # a little jitter
    assert arrivals.judge(None, 2.34) == Arrival("next", missing=2)
    assert arrivals.judge(None, 2.34) == Arrival("repeated")
    assert arrivals.judge(None, 2.2) == Arrival("late")
    assert arrivals.index == 23


def test_times_tell_a_pause_soon_and_a_frame_or_two_that_are_missing_later() -> None:
    arrivals = Arrivals(rate_hz=10)
    for time_s in (0, 0.1, 0.25, 0.3, 0.4, 0.7):
        assert arrivals.judge(None, time_s) == Arrival("next")
    assert arrivals.judge(None, 60.7) == Arrival("next", missing=599)


def test_a_rate_that_differs_makes_no_frame_missing() -> None:
    arrivals = Arrivals(rate_hz=10)
    assert all(arrivals.judge(None, number / 2).missing == 0 for number in range(40))
    assert arrivals.rate_differs and arrivals.measured_hz == pytest.approx(2)


def taken(arrivals: Arrivals, times: np.ndarray) -> np.ndarray:
    """How many frames each of these times tells as missing."""
    placed = [arrivals.judge(None, float(time_s), is_new=True) for time_s in times]
    assert all(each.kind in ("next", "late") for each in placed)
    return np.array([each.missing for each in placed])


RNG = np.random.default_rng(0)
FRAMES = np.arange(2000)


def on_a_clock(times: np.ndarray, tick_s: float) -> np.ndarray:
    return np.floor(times / tick_s) * tick_s


@pytest.mark.parametrize("rate_hz", [30.0, 29.8, 30.8, None])
def test_of_steady_frames_all_that_are_missing_are_told_where_they_are(rate_hz: float | None) -> None:
    kept = np.ones(2000, bool)
    for place, missing in zip(range(100, 1900, 40), [1, 2, 3, 4, 5] * 9, strict=True):
        kept[place : place + missing] = False
    kept[40:60:2] = False
    expected = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    arrivals = Arrivals(rate_hz)
    np.testing.assert_array_equal(taken(arrivals, FRAMES[kept] / 30), expected)
    assert arrivals.measured_hz == pytest.approx(30) and not arrivals.rate_differs


@pytest.mark.parametrize(
    ("times", "rate_hz", "most"),
    [
        (FRAMES / 30 + RNG.normal(0, 0.25 / 30, 2000), 30, 4),
        (FRAMES / 30 + RNG.normal(0, 0.1 / 30, 2000), 30, 0),
        (on_a_clock(FRAMES / 50, 1 / 64), 50, 0),
        (on_a_clock(FRAMES / 60, 1 / 64), 60, 1),
        (on_a_clock(FRAMES / 300, 1 / 64), 300, 1),
        (on_a_clock(FRAMES / 30, 1), 30, 0),
        (np.repeat(FRAMES[:500] * 4 / 30, 4), 30, 0),
        (FRAMES / 28.6, 30, 0),
        (FRAMES / 31.4, 30, 0),
        (FRAMES / 30, None, 0),
    ],
    ids=["jitter", "little jitter", "50 Hz", "60 Hz", "300 Hz", "whole seconds", "chunks", "4.7 % slower",
         "4.7 % faster", "without rate"],
)  # fmt: skip
def test_times_that_are_not_exact_make_no_frames_missing(
    times: np.ndarray, rate_hz: float | None, most: int
) -> None:
    arrivals = Arrivals(rate_hz)
    assert taken(arrivals, times).sum() <= most
    assert not arrivals.rate_differs


@pytest.mark.parametrize("rate_hz", [15, 10, 7.5, 5, 0.4])
def test_a_rate_that_falls_is_told_and_then_no_frame_is_missing(rate_hz: float) -> None:
    arrivals = Arrivals(30)
    taken(arrivals, FRAMES[:300] / 30)
    missing = taken(arrivals, 10 + FRAMES[:300] / rate_hz)
    assert missing[64:].sum() == 0
    assert arrivals.rate_differs and arrivals.measured_hz == pytest.approx(rate_hz)


@pytest.mark.parametrize("rate_hz", [20.0, None])
@pytest.mark.parametrize("num_frames", [5, 20, 60, 90])
def test_a_burst_makes_no_frames_after_it_missing(rate_hz: float | None, num_frames: int) -> None:
    first, stalled = Arrivals(rate_hz), Arrivals(rate_hz)
    burst = np.arange(num_frames) / 1000
    missing = taken(first, np.concatenate([burst, burst[-1] + FRAMES[1:300] / 20]))
    assert missing[num_frames + 40 :].sum() == 0 and (rate_hz is None or missing.sum() < 10)
    taken(stalled, FRAMES[:300] / 20)
    stall = (300 + num_frames) / 20
    missing = taken(stalled, np.concatenate([stall + burst, stall + FRAMES[3:300] / 20]))
    assert missing[num_frames + 40 :].sum() == 0 and (rate_hz is None or missing[1:].sum() < 10)
    for arrivals in (first, stalled):
        assert arrivals.measured_hz == pytest.approx(20) and not arrivals.rate_differs


def test_most_frames_that_are_missing_at_random_are_told_though_the_times_are_not_exact() -> None:
    kept = np.random.default_rng(1).random(2000) > 0.1
    kept[:20] = True  # the rate is not known before
    np.testing.assert_array_equal(
        taken(Arrivals(30), FRAMES[kept] / 30), np.diff(np.flatnonzero(kept), prepend=-1) - 1
    )
    jittered = FRAMES / 30 + np.random.default_rng(2).normal(0, 0.15 / 30, 2000)
    assert 0.7 <= taken(Arrivals(30), jittered[kept]).sum() / (~kept).sum() <= 1.01


def test_what_is_restored_places_frames_as_what_was_saved() -> None:
    times = FRAMES[:400] / 30 + np.random.default_rng(3).normal(0, 0.4 / 30, 400)
    whole, first, second = Arrivals(30), Arrivals(30), Arrivals(30)
    expected = [whole.judge(None, float(each)) for each in times]
    placed = [first.judge(None, float(each)) for each in times[:200]]
    second.restore(**json.loads(json.dumps(first.state())))
    assert placed + [second.judge(None, float(each)) for each in times[200:]] == expected
    assert sum(each.missing for each in expected[200:]) and second.state() == whole.state()


def test_missing_frames_do_not_change_the_measured_rate() -> None:
    arrivals = Arrivals(rate_hz=10)
    for index in range(0, 200, 4):
        arrivals.judge(index, index / 10)
    assert arrivals.measured_hz == pytest.approx(10) and not arrivals.rate_differs


def test_without_times_the_rate_is_measured_by_arrival() -> None:
    arrivals = Arrivals(rate_hz=30)

    def come(first: int, last: int, began_s: float, hz: float, chunk: int = 1) -> float:
        for index in range(first, last):
            arrivals.judge(index, None)
            arrivals.note_arrival(began_s + (index - first) // chunk * chunk / hz)
        return began_s + (last - first) / hz

    now = come(0, 63, 0.0, 30)
    assert arrivals.measured_hz is None
    now = come(63, 400, now, 30)
    assert arrivals.measured_hz == pytest.approx(30) and not arrivals.rate_differs
    now = come(400, 800, now, 30, chunk=10)  # ten at a time are no other rate
    assert not arrivals.rate_differs
    now = come(800, 1000, now + 60, 30)  # nor is a pause
    assert not arrivals.rate_differs
    now = come(1000, 1300, now, 15)
    assert arrivals.rate_differs and arrivals.measured_hz == pytest.approx(15, rel=0.01)
    now = come(0, 30, now, 15)  # five late frames, and a new count, whose rate is measured anew
    assert arrivals.measured_hz is None


def pauses(
    arrived_s: Iterable[float], rate_hz: float | None = 30.0, behind: Container[int] = (), missing: int = 0
) -> list[int]:
    """Frames that come so, without times, before which a pause is told; `missing` at each silence of 2 s."""
    arrivals, index, before_s, told = Arrivals(rate_hz), -1, 0.0, []
    for number, at_s in enumerate(arrived_s):
        index += 1 + (missing if number and at_s - before_s > 2 else 0)
        before_s = at_s
        arrivals.judge(index, None)
        if arrivals.note_arrival(at_s, number in behind):
            told.append(number)
    return told


def test_a_pause_of_frames_without_times_is_told_by_their_arrival() -> None:
    at_30_hz = FRAMES[:400] / 30
    paused = at_30_hz + 6.0 * (FRAMES[:400] >= 300)
    assert pauses(at_30_hz) == [] and pauses(paused) == [300]
    assert pauses(paused, rate_hz=None) == [300]
    assert pauses(paused, missing=178) == []  # told by the index
    assert pauses(at_30_hz + 1.9 * (FRAMES[:400] >= 300)) == []  # as long as no other frame may be silent
    trials = FRAMES[:400] / 30 + FRAMES[:400] // 100 * 8.0
    assert pauses(trials) == [100, 200, 300]


@pytest.mark.parametrize("faster", [1.0, 1.05, 1.19, 3.0])
@pytest.mark.parametrize("last_late", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate_hz", [1.667, 5.0, 30.0])
def test_neither_a_late_frame_nor_another_rate_hides_a_pause(
    rate_hz: float, last_late: float, faster: float
) -> None:
    arrived_s = FRAMES[:400] / (rate_hz * faster)
    arrived_s[398] += last_late / rate_hz
    arrived_s[399] = arrived_s[398] + max(2.0, 10 / rate_hz) + 1 / rate_hz
    assert pauses(arrived_s, rate_hz) == [399]


def test_jitter_hides_no_pause_and_is_none() -> None:
    for seed in range(50):
        late_s = np.abs(np.random.default_rng(seed).normal(0, 0.02, 300))
        arrived_s = np.maximum.accumulate(FRAMES[:300] / 10 + late_s) + 4.0 * (FRAMES[:300] >= 200)
        assert pauses(arrived_s, 10.0) == [200]


def test_frames_that_come_slowly_or_in_bursts_do_not_pause() -> None:
    each, jitter = FRAMES[:400], np.random.default_rng(0).uniform(0, 4.0, 400)
    assert pauses(each * 5.0) == [1]  # all but the first step, of a rig that is thirty times slower
    assert pauses(each * 5.0 + jitter, rate_hz=0.2) == []
    assert pauses(each // 100 * 100 / 30 + each % 100 * 1e-3) == []  # blocks of three seconds
    # All that came while the forecaster stood still waits for it.
    stood_still = np.where((each >= 100) & (each < 250), 249 / 30 + (each - 249) * 1e-4, each / 30)
    assert pauses(stood_still, behind=range(100, 249)) == []
    # A rig that sends blocks, and pauses as well.
    blocks = each // 100 * 100 / 30 + 20.0 * (each >= 200)
    assert pauses(blocks, behind=set(range(400)) - {99, 199, 299, 399}) == [299]


def test_single_late_frames_never_make_a_restart() -> None:
    arrivals = Arrivals(rate_hz=None)
    for index in range(100, 140, 2):
        arrivals.judge(index, None)
        assert arrivals.judge(index - 1, None).kind == "late"
        assert arrivals.judge(3, None).kind == "late"


@pytest.mark.parametrize("by", ["index", "time"])
def test_a_sender_that_starts_again_is_followed_after_five_frames(by: str) -> None:
    arrivals = Arrivals(rate_hz=None)

    def judge(position: int) -> str:
        at = {"index": (position, None), "time": (None, float(position))}[by]
        return arrivals.judge(*at).kind

    for position in range(100, 130):
        judge(position)
    assert [judge(position) for position in range(8)] == ["late"] * 4 + ["restart"] + ["next"] * 3


@pytest.mark.parametrize("first", [0, 1])
def test_a_run_that_was_stopped_within_its_first_frames_is_not_gone_on_with(first: int) -> None:
    arrivals = Arrivals(rate_hz=None)
    kinds = [
        arrivals.judge(index, None).kind for index in (*range(first, first + 4), *range(first, first + 7))
    ]
    assert kinds == ["next"] * 4 + ["late"] * 3 + ["repeated", "restart", "next", "next"]
    again = Arrivals(rate_hz=None)  # a sender that sends its newest three once more
    kinds = [again.judge(index, None).kind for index in (*range(20), 17, 18, 19, 20)]
    assert kinds == ["next"] * 20 + ["late", "late", "repeated", "next"]


def test_a_clock_that_has_changed_is_followed_and_with_indices_nothing_is_lost() -> None:
    by_time, by_index = Arrivals(rate_hz=None), Arrivals(rate_hz=None)
    for number in range(20):
        by_time.judge(None, 5 + number / 10)
        by_index.judge(number, 5 + number / 10)
    for number in range(20, 24):
        for arrivals, index in ((by_time, None), (by_index, number)):
            with pytest.raises(FrameError, match="expected seconds on one clock"):
                arrivals.judge(index, 1.7e9 + number / 10)
    assert by_time.judge(None, 1.7e9 + 2.4) == Arrival("restart")
    assert by_index.judge(24, 1.7e9 + 2.4) == Arrival("next", missing=4)
    for number in range(25, 50):
        assert by_time.judge(None, 1.7e9 + number / 10) == Arrival("next")
        assert by_index.judge(number, 1.7e9 + number / 10) == Arrival("next")
    assert by_time.measured_hz == pytest.approx(10, rel=1e-3)
    assert by_index.measured_hz == pytest.approx(10, rel=1e-3)


def test_a_state_with_an_impossible_index_is_mended() -> None:
    arrivals = Arrivals(rate_hz=None)
    arrivals.restore(2**70, 1.7e18)  # as frames in nanoseconds once left it
    assert arrivals.judge(7, None) == Arrival("next") and arrivals.index == 7


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize(
    ("rate_hz", "power", "part", "missing", "first"),
    [
        (30, 3, "milliseconds", [3, 20, 21], 6),
        (0.5, 3, "milliseconds", [3, 20, 21], 6),
        (30, 6, "microseconds", [3, 20, 21], 6),
        (0.5, 6, "microseconds", [], 1),  # which jump by more than twelve days
        (30, 9, "nanoseconds", [], 1),
    ],
)
def test_times_that_are_no_seconds_from_the_first_on_are_refused_with_their_unit(
    rate_hz: float, power: int, part: str, missing: list[int], first: int, counts: bool
) -> None:
    arrivals = Arrivals(rate_hz)
    times = 10**power * (FRAMES[:50] + RNG.uniform(-0.05, 0.05, 50)) / rate_hz
    came = [number for number in range(50) if number not in missing]
    taken = [number for number in came if is_taken(arrivals, number, times[number], counts, part, power)]
    assert taken == [number for number in came if number < first]
    # The sender is mended, and goes on or starts again.
    for number in range(50, 60):
        with contextlib.suppress(FrameError):  # which is another clock, until that is sure
            arrivals.judge(number if counts else None, number / rate_hz)
    assert arrivals.time_s == 59 / rate_hz


def is_taken(arrivals: Arrivals, number: int, time_s: float, counts: bool, part: str, power: int) -> bool:
    try:
        arrivals.judge(number if counts else None, float(time_s))
    except FrameError as error:
        assert f"Divide {part} by 1e{power}" in str(error) and "expected seconds" in str(error)
        return False
    return True


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize(
    "steps",
    [
        [1, 1000, 1, 1, 1000, 1, 1],
        [1000, 1000, 1000, 1, 1, 1],
        [1, 1, 1, 1, *20 * [1000]],
        [700, 1500, 1000, 400, 1000, 1000, 1],
        20 * [500],
        20 * [1 / 1000],
    ],
    ids=["trials", "a slow start", "slow later on", "uneven", "half the factor", "milliseconds expected"],
)
def test_long_pauses_and_gaps_are_no_other_unit_of_time(steps: list[float], counts: bool) -> None:
    arrivals, rate_hz = Arrivals(10.0), 10.0
    for number, time_s in enumerate(np.cumsum([0, *steps]) / rate_hz):
        assert arrivals.judge(number if counts else None, float(time_s)).kind == "next"


def test_frames_that_only_looked_like_milliseconds_are_taken_as_soon_as_they_step_as_expected() -> None:
    arrivals = Arrivals(10.0)
    for number in range(5):
        arrivals.judge(None, 100.0 * number)
    for time_s in (500.0, 600.0, 600.0):
        with pytest.raises(FrameError, match="Divide milliseconds by 1e3"):
            arrivals.judge(None, time_s)
    assert arrivals.judge(None, 600.1).kind == "next" and arrivals.judge(None, 600.2).kind == "next"


def jumps(arrivals: Arrivals, times: np.ndarray, first: int = 0) -> list[int]:
    """The frames, counted without a hole, before which time has jumped."""
    placed = [arrivals.judge(first + number, float(time_s)) for number, time_s in enumerate(times)]
    assert all((each.kind, each.missing) == ("next", 0) for each in placed)
    return [number for number, each in enumerate(placed) if each.has_jumped]


@pytest.mark.parametrize("pause", [8, 40, 100_000])
@pytest.mark.parametrize("rate_hz", [30.0, None])
def test_a_pause_in_which_the_sender_counted_on_is_told_by_its_times(
    rate_hz: float | None, pause: float
) -> None:
    times = (FRAMES + pause * (FRAMES // 50)) / 30 + RNG.normal(0, 0.1 / 30, 2000)  # trials
    assert jumps(Arrivals(rate_hz), times) == list(range(50, 2000, 50))
    missing = np.delete(np.arange(60), slice(40, 52))
    arrivals = Arrivals(rate_hz)  # frames that the index tells as missing are no jump
    assert not any(arrivals.judge(int(each), each / 30).has_jumped for each in missing)


@pytest.mark.parametrize(
    ("times", "rate_hz"),
    [
        (FRAMES / 30 + RNG.normal(0, 0.5 / 30, 2000), 30),
        (on_a_clock(FRAMES / 30, 1), 30),
        (on_a_clock(FRAMES / 300, 1), 300),
        (np.repeat(FRAMES[:50] * 40 / 30, 40), 30),
        (np.repeat(FRAMES[:50] * 40 / 30, 40) + np.tile(np.arange(40), 50) / 1000, 30),
        (FRAMES / 2, 30),
        (FRAMES / 30, 2),
        (FRAMES / 30, None),
    ],
    ids=["jitter", "whole seconds", "300 Hz", "chunks", "chunks that are read out", "slower", "faster",
         "without rate"],
)  # fmt: skip
def test_what_makes_times_uneven_is_no_jump(times: np.ndarray, rate_hz: float | None) -> None:
    assert not jumps(Arrivals(rate_hz), np.maximum.accumulate(times))


def test_a_rate_that_falls_is_no_jump_for_long_and_a_burst_after_one_none() -> None:
    arrivals = Arrivals(30)
    assert not jumps(arrivals, FRAMES[:100] / 30)
    assert len(jumps(arrivals, 5 + FRAMES[:300] / 2, 100)) <= 2
    stalled = Arrivals(30)
    assert not jumps(stalled, FRAMES[:100] / 30)
    caught_up = np.maximum(FRAMES[100:400] / 30, 4.0 + FRAMES[:300] / 1000)
    assert jumps(stalled, caught_up, 100) == [0]
