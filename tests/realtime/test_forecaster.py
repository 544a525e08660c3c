"""The live forecaster: equal to the offline path, and defined whatever the stream does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray
from realtime_small import CONTEXT, HORIZON, Small, activity, build_small, known

from forebrain import realtime
from forebrain.accelerate import accelerate
from forebrain.errors import ConfigError, FrameError
from forebrain.models.base import SessionInput
from forebrain.models.baselines.linear import LinearConfig
from forebrain.realtime import LiveConfig, LiveForecaster
from forebrain.sessions.preprocessing import Preprocessing

Open = Callable[..., LiveForecaster]


@torch.inference_mode()
def offline(small: Small, windows: np.ndarray) -> np.ndarray:
    """Normalised windows [B, C, N] one at a time, as an adapted model forecasts them."""
    executor = accelerate(small.model, "stream")
    entries = [SessionInput(torch.from_numpy(window)[None], small.interface) for window in windows]
    return np.stack([executor.forecast([entry])[0][0].numpy() for entry in entries])


@torch.inference_mode()
def evaluated(small: Small, windows: np.ndarray) -> np.ndarray:
    """The model on normalised windows [B, C, N], as evaluation calls it."""
    return small.model([SessionInput(torch.from_numpy(windows), small.interface)])[0].numpy()


def play(live: LiveForecaster, frames: np.ndarray) -> np.ndarray:
    return np.stack([live.step(frame) for frame in frames])


@pytest.mark.parametrize("num_units", [1, 6, 300])
def test_forecasts_are_the_offline_ones_bit_for_bit(num_units: int) -> None:
    small = build_small(num_units)
    frames = activity(60, small.preprocessing)
    forecasts = play(realtime.open(*small), frames)
    normalised = small.preprocessing.normalise(frames)
    starts = np.arange(len(frames) - CONTEXT + 1)
    windows = normalised[starts[:, None] + np.arange(CONTEXT)]
    expected = offline(small, windows) * small.preprocessing.scale + small.preprocessing.mean
    np.testing.assert_array_equal(forecasts[CONTEXT - 1 :], expected)
    live = (forecasts[CONTEXT - 1 :] - small.preprocessing.mean) / small.preprocessing.scale
    assert np.abs(live - evaluated(small, windows)).max() < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_model_of_the_slots_forecasts_live(small: Small, precision: str) -> None:
    torch.manual_seed(0)
    model = LinearConfig(context=CONTEXT, horizon=HORIZON).build().requires_grad_(False)
    linear = Small(model, model.new_interface(6), small.preprocessing)
    frames = activity(CONTEXT + 5, small.preprocessing)
    forecast = play(realtime.open(*linear, config=LiveConfig(precision=precision)), frames)[-1]
    (expected,) = evaluated(linear, small.preprocessing.normalise(frames)[None, -CONTEXT:])
    found, atol = small.preprocessing.normalise(forecast), 1e-5 if precision == "fp32" else 0.05
    np.testing.assert_allclose(found, expected, atol=atol)


def test_until_the_window_is_full_the_last_frame_is_repeated(small: Small, open_live: Open) -> None:
    live = open_live()
    for number, frame in enumerate(activity(CONTEXT + 2, small.preprocessing), start=1):
        forecast = live.step(frame)
        is_copy = bool((forecast == frame).all())
        assert is_copy == (number < CONTEXT) == (live.source == "warm-up")
        assert forecast.shape == (HORIZON, 6) and forecast.dtype == np.float32


def test_no_frame_changes_a_forecast_made_before_it(small: Small, open_live: Open) -> None:
    frames = activity(50, small.preprocessing)
    changed = frames.copy()
    changed[40:] += 30
    np.testing.assert_array_equal(play(open_live(), frames)[:40], play(open_live(), changed)[:40])
    running = [play(open_live(normalise="running"), each)[:40] for each in (frames, changed)]
    np.testing.assert_array_equal(*running)


def test_a_returned_forecast_is_the_callers_own(small: Small, open_live: Open) -> None:
    live, frames = open_live(), activity(30, small.preprocessing)
    first = play(live, frames[:20])[-1]
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(live.step(frames[19], index=live.arrivals.index), kept)


def test_missing_values_hold_the_last_one(small: Small, open_live: Open) -> None:
    frames = activity(40, small.preprocessing)
    frames[30:33, 2] = frames[29, 2]
    held = frames.copy()
    held = held.astype(np.float64)
    held[30, 2], held[31, 2], held[32, 2] = np.nan, np.inf, 1e300
    live = open_live()
    np.testing.assert_array_equal(play(live, held), play(open_live(), frames))
    assert live.counts["missing_values"] == 3 and live.counts["vanished"] == 0


@pytest.mark.parametrize("normalise", ["fit", "running"])
def test_an_absurd_value_is_none(small: Small, open_live: Open, normalise: str) -> None:
    frames = activity(40, small.preprocessing)
    frames[30:34, 2] = frames[29, 2]
    given, missing = frames.copy(), frames.copy()
    given[30, 2], given[31, 2], given[32, 2] = 9.97e36, -1e30, np.finfo(np.float32).max
    missing[30:33, 2] = np.nan
    live, told = open_live(normalise=normalise), open_live(normalise=normalise)
    np.testing.assert_array_equal(play(live, given), play(told, missing))
    assert live.status() == told.status() and live.counts["missing_values"] == 3

    masked = np.ma.masked_array(frames[39].copy(), mask=np.arange(6) == 2)
    masked.data[2] = 1.0
    live.step(masked)
    assert live.frame[2] == frames[39, 2] and not live.known[2]


@pytest.mark.parametrize("is_fitted", [True, False])
@pytest.mark.parametrize("absurd", [1e30, -3e38])
def test_an_absurd_value_among_a_units_first_is_none(small: Small, is_fitted: bool, absurd: float) -> None:
    def open_() -> LiveForecaster:
        fit = small.preprocessing if is_fitted else None
        return realtime.open(small.model, small.interface, fit, config=LiveConfig(normalise="running"))

    frames = activity(40, small.preprocessing)
    for at in (0, 1, 7, 15):
        given, missing = frames.copy(), frames.copy()
        given[at, 2], missing[at, 2] = absurd, np.nan
        given[9], missing[9] = absurd, np.nan  # all of a frame
        live, told = open_(), open_()
        np.testing.assert_array_equal(play(live, given), play(told, missing))
        assert live.status() == told.status() and live.source == "model"


@pytest.mark.parametrize("size", [1e-20, 1e12, 1e25])
def test_units_of_measurement_that_nobody_expected_are_taken_after_a_few_frames(
    small: Small, size: float
) -> None:
    live = realtime.open(small.model, small.interface)
    frames = activity(40, small.preprocessing).astype(np.float32) * np.float32(size)
    play(live, frames)
    assert live.source == "model" and live.known.all()
    assert live.counts["empty_frames"] == (0 if size < 1 else 5)


@pytest.mark.parametrize("by", ["index", "time", "nan"])
def test_a_few_missing_frames_are_held(small: Small, open_live: Open, by: str) -> None:
    frames = activity(60, small.preprocessing)
    frames[40:43] = frames[39]
    expected = play(open_live(), frames)
    live = open_live()
    for number, frame in enumerate(frames):
        if 40 <= number < 43:
            if by == "nan":
                live.step(np.full(6, np.nan))
            continue
        where = {"index": number} if by == "index" else {"time_s": number / 5} if by == "time" else {}
        forecast = live.step(frame, **where)
        np.testing.assert_array_equal(forecast, expected[number])
    assert live.counts["empty_frames" if by == "nan" else "missing_frames"] == 3
    assert live.counts["gaps"] == 0 and live.arrivals.index == 59


@pytest.mark.parametrize("by", ["index", "time", "nan"])
def test_after_a_gap_the_window_starts_anew(small: Small, open_live: Open, by: str) -> None:
    frames = activity(100, small.preprocessing)
    live = open_live()
    play_from = [*range(40), *range(60, 100)]
    for number in play_from:
        if by == "nan" and number == 60:
            for _ in range(20):
                live.step(np.full(6, np.nan))
        where = {"index": number} if by == "index" else {"time_s": number / 5} if by == "time" else {}
        forecast = live.step(frames[number], **where)
        assert (live.source == "warm-up") == (number < CONTEXT - 1 or 60 <= number < 60 + CONTEXT - 1)
    np.testing.assert_array_equal(forecast, play(open_live(), frames)[-1])
    assert live.counts["gaps"] == 1 and live.arrivals.index == 99


def test_after_a_pause_in_which_the_index_counts_on_the_window_starts_anew(
    small: Small, open_live: Open
) -> None:
    frames, live = activity(80, small.preprocessing), open_live()
    for number, frame in enumerate(frames):
        live.step(frame, number, number / 5 + 3600 * (number >= 40))
        assert (live.source == "warm-up") == (number < CONTEXT - 1 or 40 <= number < 40 + CONTEXT - 1)
    assert (live.counts["gaps"], live.counts["time_jumps"], live.counts["missing_frames"]) == (1, 1, 0)


@pytest.mark.parametrize("counts", [True, False])
def test_after_a_pause_of_frames_without_times_the_window_starts_anew(
    small: Small, open_live: Open, counts: bool
) -> None:
    frames, live = activity(80, small.preprocessing), open_live()
    for number, frame in enumerate(frames):
        live.ingest(frame, number if counts else None, arrived_s=number / 5 + 60 * (number >= 40))
        forecast = live.forecast()
        assert (live.source == "warm-up") == (number < CONTEXT - 1 or 40 <= number < 40 + CONTEXT - 1)
    np.testing.assert_array_equal(forecast, play(open_live(), frames[40:])[-1])
    assert (live.counts["gaps"], live.counts["time_jumps"], live.segment) == (1, 1, 1)


def test_late_and_repeated_frames_change_nothing(small: Small, open_live: Open) -> None:
    frames = activity(40, small.preprocessing)
    expected = play(open_live(), frames)
    live = open_live()
    for number, frame in enumerate(frames):
        forecast = live.step(frame, index=number)
        np.testing.assert_array_equal(live.step(frame + 1, index=number), forecast)
        if number > 3:
            np.testing.assert_array_equal(live.step(frame + 1, index=number - 2), forecast)
        np.testing.assert_array_equal(forecast, expected[number])
    assert (live.counts["repeated"], live.counts["late"], live.counts["frames"]) == (40, 36, 40)


def test_a_sender_that_counts_anew_is_followed(small: Small, open_live: Open) -> None:
    frames = activity(80, small.preprocessing)
    live = open_live()
    for number in range(40):
        live.step(frames[number], index=1000 + number)
    for number in range(40, 80):
        forecast = live.step(frames[number], index=number - 40)
    assert live.counts["restarts"] == 1 and live.source == "model" and live.arrivals.index == 39
    np.testing.assert_array_equal(forecast, play(open_live(), frames)[-1])


def test_a_unit_that_vanishes_is_held_and_one_that_appears_starts_as_a_constant(
    small: Small, open_live: Open
) -> None:
    frames = activity(70, small.preprocessing)
    frames[:20, 1] = np.nan  # appears at 20
    frames[30:, 4] = np.nan  # vanishes
    live = open_live()
    forecasts = play(live, frames)
    constant = activity(70, small.preprocessing)
    constant[:20, 1] = constant[20, 1]
    constant[30:, 4] = constant[29, 4]
    np.testing.assert_array_equal(forecasts[20:], play(open_live(), constant)[20:])
    assert np.isfinite(forecasts).all()
    assert (live.counts["appeared"], live.counts["vanished"]) == (1, 1)
    assert live.status()["units_without_value"] == 1


def test_a_sender_may_name_its_units(small: Small, open_live: Open) -> None:
    frames = activity(50, small.preprocessing)
    expected = play(open_live(), frames)
    live = realtime.open(*known(small, "abcdef", rate_hz=5.0, num_recorded=7))  # one was not adapted
    play(live, frames[:30])
    names = ["f", "new", "e", "d", "c", "b", "a"]
    for number in range(30, 50):
        mixed = np.insert(frames[number, ::-1], 1, -1)
        forecast = live.step(mixed, units=names if number == 30 else None)
        np.testing.assert_array_equal(forecast, expected[number])
    assert live.counts["unknown_units"] == 1
    live.step(frames[-1, :2], units=["a", "b"])
    assert live.status()["units_without_value"] == 4


def test_what_pandas_and_xarray_call_the_values_of_a_frame_are_names_of_that_frame(
    small: Small, open_live: Open
) -> None:
    frames, live = activity(5, small.preprocessing), open_live()
    mixed = pd.DataFrame(frames, columns=list("abcdef"))[list("fbadce")]
    labelled = xarray.DataArray(mixed, dims=("time", "unit"), coords={"unit": list("fbadce")})
    for number, frame in enumerate([mixed.iloc[0], frames[1], labelled[2], pd.Series(frames[3]), frames[4]]):
        live.step(frame)
        np.testing.assert_array_equal(live.frame, frames[number])
    live.step(mixed.iloc[0][["f", "a"]])
    assert live.known.tolist() == [True, False, False, False, False, True]
    with pytest.raises(FrameError, match="6 of 6 units are none of the model's: AVA, "):
        live.step(pd.Series(frames[0], index=["AVA", *"ghijk"]))
    live.step(pd.Series(frames[0], index=["AVA", *"ghijk"]), units="abcdef")  # in the place of these
    np.testing.assert_array_equal(live.frame, frames[0])


def test_names_of_a_late_or_repeated_frame_are_those_of_no_later_frame(small: Small, open_live: Open) -> None:
    frames, live, undisturbed = activity(CONTEXT + 4, small.preprocessing), open_live(), open_live()
    for index, frame in enumerate(frames, start=100):
        expected = undisturbed.step(frame, index)
        np.testing.assert_array_equal(live.step(frame, index), expected)
        np.testing.assert_array_equal(live.step(frame[:2], index, units=["c", "b"]), expected)
        live.step(frame, 93, units=list("fedcba"))
    assert live.counts["late"] == live.counts["repeated"] == len(frames)


def test_names_that_a_sender_tells_as_it_starts_again_are_those_of_its_run(open_live: Open) -> None:
    live = open_live()
    for index in range(20):
        live.step(np.arange(100, 106), index)
    for index in range(6):  # the first four come late
        live.step(np.array([102, 101]), index, units=["c", "b"] if index == 0 else None)
    assert live.counts["late"] == 4 and live.known.tolist() == [False, True, True, False, False, False]
    live.step(np.arange(200, 206), 6, units=[])  # and in order again
    assert live.frame.tolist() == list(range(200, 206))


def test_names_told_with_a_frame_of_another_clock_are_those_of_the_run_that_begins(open_live: Open) -> None:
    live = open_live()
    for number in range(3):
        live.step(np.arange(100, 106), None, number / 5)
    for number in range(4):
        with pytest.raises(FrameError, match="on one clock"):
            live.step(np.array([102, 101]), None, 1e9 + number / 5, ["c", "b"] if number == 0 else None)
    assert live.frame[0] == 100
    live.step(np.array([102, 101]), None, 1e9 + 4 / 5)
    assert live.counts["restarts"] == 1 and live.known.tolist() == [False, True, True, False, False, False]


def test_a_frame_of_the_newest_ones_time_is_another_where_its_values_are(
    small: Small, open_live: Open
) -> None:
    frames, live, by_order = activity(CONTEXT + 8, small.preprocessing), open_live(), open_live()
    for number, frame in enumerate(frames):
        time_s = 5 + number // 4 * 4 / 5  # as of chunks of four
        np.testing.assert_array_equal(live.step(frame, None, time_s), by_order.step(frame))
        again = frame.copy()
        again[2] = np.nan  # holds what it has
        live.step(again, None, time_s)
        assert live.source == "repeated"
    assert live.ingest(frames[-1], None, time_s, is_new=True)  # as over LSL, which brings no frame twice
    assert live.counts["repeated"] == len(frames) and live.counts["missing_frames"] == 0


def test_a_frame_that_is_refused_has_not_come(open_live: Open) -> None:
    live = open_live()
    for index in range(5):
        with pytest.raises(FrameError, match="shape"):
            live.step(np.zeros(5), index)
        assert live.arrivals.index == (index - 1 if index else None)
        live.step(np.zeros(6), index)
    assert live.counts["missing_frames"] == live.counts["repeated"] == 0


def test_names_that_do_not_fit_change_nothing(small: Small, open_live: Open) -> None:
    frames = activity(CONTEXT + 1, small.preprocessing)
    live = open_live()
    play(live, frames[:CONTEXT])
    for names in (["a", "a"], ["a", "b"]):
        with pytest.raises(FrameError, match="expected"):
            live.step(frames[CONTEXT], units=names)
    np.testing.assert_array_equal(live.step(frames[CONTEXT]), play(open_live(), frames)[-1])
    with pytest.raises(FrameError, match="no names"):
        realtime.open(*small).step(frames[0], units=list("abcdef"))


def test_names_that_the_model_does_not_know_are_refused_and_then_all_frames_without_names(
    small: Small, open_live: Open
) -> None:
    frames, undisturbed = activity(CONTEXT + 3, small.preprocessing), open_live()
    live = open_live()
    play(live, frames[:CONTEXT])
    with pytest.raises(FrameError, match=r"2 of 6 units are none .*: y, z; expected .* a, b, c"):
        live.step(frames[CONTEXT], units=list("abcdyz"))
    with pytest.raises(FrameError, match=r"y, z.*Until then frames without names are refused; an empty list"):
        live.step(frames[CONTEXT])
    play(undisturbed, frames[:CONTEXT])
    for number in range(CONTEXT, CONTEXT + 3):
        named = live.step(frames[number, ::-1], units="fedcba" if number == CONTEXT else None)
        np.testing.assert_array_equal(named, undisturbed.step(frames[number]))
    with pytest.raises(FrameError, match="none of the model's"):
        live.step(frames[0], units=list("uvwxyz"))
    live.reset()  # which tells nothing of names
    with pytest.raises(FrameError, match="frames without names are refused"):
        live.step(frames[0])
    live.step(frames[0], units=())
    live.step(frames[1])
    assert live.source == "warm-up" and (live.frame == frames[1]).all()


def test_names_outlast_a_reset(small: Small, open_live: Open) -> None:
    frames, live = activity(2, small.preprocessing), open_live()
    live.step(frames[0, ::-1], units="fedcba")
    live.reset()
    live.step(frames[1, ::-1])
    assert live.source == "warm-up" and (live.frame == frames[1]).all()


def test_a_frame_may_hold_all_recorded_units(small: Small, open_live: Open) -> None:
    frames = activity(30, small.preprocessing)
    recorded = np.insert(frames, [0, 3], np.nan, axis=1)
    columns = np.array([1, 2, 3, 5, 6, 7])
    recorded_units = replace(small.preprocessing, columns=columns, num_recorded=8)
    live = realtime.open(small.model, small.interface, recorded_units)
    np.testing.assert_array_equal(play(live, recorded), play(open_live(), frames))
    assert live.counts["missing_values"] == 0


def test_another_rate_is_flagged(small: Small, open_live: Open) -> None:
    live = open_live()
    for number, frame in enumerate(activity(30, small.preprocessing)):
        live.step(frame, index=number, time_s=number / 5.1)
    assert not live.status()["rate_differs"]
    for number, frame in enumerate(activity(80, small.preprocessing), start=30):
        live.step(frame, index=number, time_s=6 + number / 7.5)
    status = live.status()
    assert status["rate_differs"] and status["measured_hz"] == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("frame", "where"),
    [
        (np.zeros(5), {}),
        (np.zeros((1, 6)), {}),
        (np.zeros(6, complex), {}),
        (np.array(list("abcdef")), {}),
        (np.zeros(6), {"index": -1}),
        (np.zeros(6), {"index": 2**62}),
        (np.zeros(6), {"index": 1.5}),
        (np.zeros(6), {"time_s": float("nan")}),
    ],
)
def test_a_frame_that_makes_no_sense_is_refused_and_changes_nothing(
    small: Small, open_live: Open, frame: np.ndarray, where: dict
) -> None:
    live, frames = open_live(), activity(30, small.preprocessing)
    play(live, frames[:25])
    before = live.status()
    with pytest.raises(FrameError, match="expected"):
        live.step(frame, **where)
    assert live.status() == before
    np.testing.assert_array_equal(live.step(frames[25]), play(open_live(), frames[:26])[-1])


def test_running_statistics_follow_the_stream_and_need_no_fit(small: Small) -> None:
    frames = activity(100, small.preprocessing)
    live = realtime.open(small.model, small.interface)
    assert live.config.normalise == "running"
    play(live, frames)
    np.testing.assert_allclose(live.moments.mean, frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(live.moments.scale(), frames.std(axis=0), rtol=1e-5)
    window = (frames[-CONTEXT:] - live.moments.mean) / live.moments.scale()
    np.testing.assert_allclose(live._normalised, window, atol=1e-4)


@pytest.mark.parametrize("normalise", ["fit", "running"])
def test_bf16_forecasts_nearly_the_same(small: Small, open_live: Open, normalise: str) -> None:
    frames = activity(40, small.preprocessing)
    exact, rounded = open_live(normalise=normalise), open_live(normalise=normalise, precision="bf16")
    for number, frame in enumerate(frames):
        difference = (rounded.step(frame) - exact.step(frame)) / small.preprocessing.scale
        assert np.abs(difference).max() < 0.05
        assert (difference == 0).all() == (exact.source == "warm-up")
        if number == 30:  # and an interface that is replaced is used at once
            other = small.model.new_interface(6)
            for live in (exact, rounded):
                live.replace_interface(other)


def test_a_forecast_that_is_not_finite_becomes_copy(small: Small, open_live: Open) -> None:
    frames = activity(30, small.preprocessing)
    live = open_live()
    play(live, frames[:29])
    spoilt = copy.deepcopy(small.interface).requires_grad_(False)
    spoilt.unit[2] = float("nan")
    live.replace_interface(spoilt)
    np.testing.assert_array_equal(live.step(frames[29]), np.repeat(frames[29:], HORIZON, axis=0))
    assert live.source == "copy" and live.counts["not_finite"] == 1


def test_a_model_worse_than_copy_falls_back_only_where_asked(small: Small, open_live: Open) -> None:
    frames = activity(180, small.preprocessing)
    plain, careful = open_live(), open_live(fallback=True)
    play(plain, frames)
    assert plain.score.score < 0 and plain.source == "model" and plain.counts["fallbacks"] == 0
    forecasts = play(careful, frames)
    assert careful.source == "copy" and careful.counts["fallbacks"] > 50
    np.testing.assert_array_equal(forecasts[-1], np.repeat(frames[-1:], HORIZON, axis=0))
    assert careful.score.score == plain.score.score  # the model is still tried, so it can come back


def test_the_model_comes_back_once_it_is_better_than_copy(small: Small) -> None:
    frames = activity(400, small.preprocessing)
    live = realtime.open(*small, config=LiveConfig(fallback=True, score_windows=70))
    play(live, frames[:150])
    assert live.source == "copy"
    for number in range(150, 400):  # a model that knows what comes
        coming = small.preprocessing.normalise(frames[number + 1 : number + 1 + HORIZON])
        known = torch.from_numpy(coming)[None]
        live._executor = SimpleNamespace(forecast=lambda inputs, known=known: [known])
        if len(coming) == HORIZON:
            live.step(frames[number])
    assert live.source == "model" and live.score.score > 0.99


def test_drift_is_flagged_when_the_level_moves_and_not_before(small: Small, open_live: Open) -> None:
    live = open_live(memory=50)
    noise = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    frames = small.preprocessing.denormalise(noise)
    play(live, frames[:150])
    assert live.drifted_units == 0
    moved = frames[150:].copy()
    moved[:, :3] += 5 * small.preprocessing.scale[:3]
    play(live, moved)
    assert live.drifts and live.drifted_units == 3 and live.status()["drift"]


@pytest.mark.parametrize(
    ("mean", "scale", "words"),
    [
        (np.zeros(5), np.ones(5), "of 5 units, the interface of 6"),
        (np.zeros(6), np.zeros(6), "not above 0"),
        (np.full(6, np.nan), np.ones(6), "not finite"),
    ],
)
def test_a_fit_of_other_units_is_refused(
    small: Small, mean: np.ndarray, scale: np.ndarray, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        realtime.open(small.model, small.interface, Preprocessing.of_units(mean, scale))


def test_normalising_by_a_fit_needs_one(small: Small) -> None:
    with pytest.raises(ConfigError, match="running"):
        realtime.open(small.model, small.interface, None, config=LiveConfig())
    for names in ("a", "abcdee"):
        with pytest.raises(ConfigError, match="names"):
            realtime.open(*known(small, names))
