"""Intervals in a stream: what they cover as it drifts, what a restart keeps, and what senders get of them."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realtime_small import CONTEXT, HORIZON, Small, activity, build_small, known

from forebrain import realtime
from forebrain.errors import ConfigError, FrameError
from forebrain.realtime import LiveConfig, LiveForecaster
from forebrain.realtime.drift import CoverageClient, drifting
from forebrain.realtime.intervals import BAND, BOUNDS, COVERAGE, LEARN_EVERY, OnlineIntervals
from forebrain.realtime.lsl import LslPort
from forebrain.realtime.messages import (
    Forecast,
    Frame,
    decode_reply,
    decode_request,
    encode_forecast,
    encode_frame,
)
from forebrain.realtime.server import _handle
from forebrain.realtime.state import StateFile
from forebrain.realtime.watch import Watch
from forebrain.scoring.conformal import Calibration, calibrate, window_spread

UNITS = 6


def calibration_of(small: Small, frames: np.ndarray) -> Calibration:
    """Calibrated on the small model's own forecasts of these frames."""
    live = realtime.open(small.model, small.interface, small.preprocessing)
    forecasts = np.stack([live.step(frame) for frame in frames])[CONTEXT - 1 : -HORIZON]
    windows = np.lib.stride_tricks.sliding_window_view(
        small.preprocessing.normalise(frames), CONTEXT + HORIZON, axis=0
    ).swapaxes(1, 2)
    target, spread = windows[:, CONTEXT:], window_spread(windows[:, :CONTEXT])
    step = np.diff(small.preprocessing.normalise(frames), axis=0).std(axis=0)
    return calibrate(
        small.preprocessing.normalise(forecasts),
        target,
        spread,
        np.arange(len(target)),
        "here",
        CONTEXT,
        step=step,
    )


@pytest.fixture(scope="module")
def calibrated() -> tuple[Small, Calibration]:
    small = build_small(UNITS)
    return small, calibration_of(small, activity(300, small.preprocessing, seed=3))


def open_(calibrated: tuple[Small, Calibration], **options: Any) -> LiveForecaster:
    small, calibration = calibrated
    return realtime.open(
        *known(small, "abcdef", rate_hz=5.0), config=LiveConfig(**options), calibration=calibration
    )


class Direct:
    """A transport within the process: a frame is answered at once, as a server does."""

    awaits_answers = True

    def __init__(self, live: LiveForecaster) -> None:
        self._live = live
        self._reply: Forecast | None = None

    def is_behind(self) -> bool:
        return False

    def send(self, message: Any) -> None:
        if isinstance(message, Frame):
            _handle(self._live, self, decode_request(encode_frame(message)))  # type: ignore[arg-type]
        else:
            reply = decode_reply(encode_forecast(message))
            assert isinstance(reply, Forecast)
            self._reply = reply

    def receive(self, timeout_s: float) -> Forecast | None:
        reply, self._reply = self._reply, None
        return reply

    def close(self) -> None: ...


def test_points_are_what_they_are_without_intervals(calibrated: tuple[Small, Calibration]) -> None:
    small, _ = calibrated
    frames = activity(60, small.preprocessing)
    plain, live = realtime.open(*known(small, "abcdef", rate_hz=5.0)), open_(calibrated)
    for frame in frames:
        np.testing.assert_array_equal(plain.step(frame), live.step(frame))


def test_quantiles_ascend_around_the_forecast_and_start_as_calibrated(
    calibrated: tuple[Small, Calibration],
) -> None:
    small, calibration = calibrated
    live = open_(calibrated)
    frames = activity(CONTEXT, small.preprocessing)
    for frame in frames:
        points = live.step(frame)
    levels = [0.05, 0.1, 0.5, 0.9]
    quantiles = live.quantiles(levels)
    assert quantiles.shape == (HORIZON, UNITS, 4) and (np.diff(quantiles, axis=-1) > 0).all()
    normalise = small.preprocessing.normalise
    spread = window_spread(normalise(frames)[None])
    expected = calibration.quantiles(normalise(points)[None], spread, levels)[:, 0]
    expected = expected * small.preprocessing.scale + small.preprocessing.mean
    np.testing.assert_allclose(quantiles, np.moveaxis(expected, 0, -1), rtol=1e-4)


@pytest.mark.parametrize("memory_s", [20.0, 60.0, 300.0])
def test_while_a_stream_drifts_any_500_frames_are_covered_as_they_should(memory_s: float) -> None:
    """Units that come back to their mean, forecast by copy, whose errors grow with the stream's scale."""
    rng = np.random.default_rng(0)
    values = np.zeros((3500, 30), np.float32)
    for moment in range(1, len(values)):
        values[moment] = 0.9 * values[moment - 1] + rng.normal(size=30)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(values[:500], CONTEXT + HORIZON, axis=0).swapaxes(1, 2)
    copies = np.repeat(windows[:, CONTEXT - 1 : CONTEXT], HORIZON, axis=1)
    calibration = calibrate(
        copies,
        windows[:, CONTEXT:],
        window_spread(windows[:, :CONTEXT]),
        np.arange(len(windows)),
        "here",
        CONTEXT,
    )
    intervals = OnlineIntervals(calibration, memory_s, 5.0, 500)
    one, every = np.ones(30, np.float32), np.ones(30, bool)
    frames = (Frame(each, index) for index, each in enumerate(values[500:]))
    drifted = np.stack([each.values for each in drifting(frames, mean, deviation)])
    coverages = []
    for moment, frame in enumerate(drifted):
        intervals.observe(frame, every)
        if moment >= CONTEXT:
            context = drifted[moment - CONTEXT + 1 : moment + 1]
            intervals.add(np.repeat(frame[None], HORIZON, axis=0), context, 0 * one, one)
        if moment >= CONTEXT + 501:
            assert intervals.coverage is not None
            coverages.append(intervals.coverage)
    assert 0.75 <= min(coverages) <= max(coverages) <= 0.85, (min(coverages), max(coverages))


def test_a_rig_counts_what_its_intervals_cover(calibrated: tuple[Small, Calibration]) -> None:
    fit = calibrated[0].preprocessing
    client = CoverageClient(Direct(open_(calibrated)))
    for index, values in enumerate(activity(150, fit, seed=9)):
        client.send(Frame(values, index))
        client.receive(0)
    coverage, part = client.count.coverage(), client.count.coverage(stretch=50)
    assert coverage is not None and part is not None and coverage.num_frames == 150 - CONTEXT
    assert coverage.least == coverage.whole == coverage.most
    assert part.least < coverage.whole < part.most
    assert 0.6 < coverage.whole < 0.95
    assert CoverageClient(Direct(open_(calibrated))).count.coverage() is None


def test_drifting_frames_end_twice_as_large_and_one_deviation_off() -> None:
    values = np.random.default_rng(0).normal(size=(3000, 2)).astype(np.float32)
    frames = [Frame(each, index) for index, each in enumerate(values)]
    mean, deviation = np.array([1.0, -1.0]), np.array([0.5, 2.0])
    drifted = np.stack([each.values for each in drifting(frames, mean, deviation)])
    np.testing.assert_array_equal(drifted[0], values[0])
    np.testing.assert_allclose(drifted[2000:], mean + 2 * (values[2000:] - mean) + deviation, rtol=1e-4)


def stub(num_frames: int = 500) -> OnlineIntervals:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(400, 2, 3))
    calibration = calibrate(np.zeros_like(target), target, np.ones((400, 3)), 2 * np.arange(400), "here", 4)
    return OnlineIntervals(calibration, 20.0, 5.0, num_frames)


def feed(intervals: OnlineIntervals, frames: np.ndarray, known: np.ndarray | None = None) -> None:
    context = np.zeros((4, 3), np.float32)
    context[0] = 2.0  # spread 1
    every = np.ones(3, bool)
    for moment, frame in enumerate(frames):
        intervals.observe(frame, every if known is None else known[moment])
        intervals.add(np.zeros((2, 3)), context, np.zeros(3), np.ones(3))


def test_an_alarm_is_on_while_coverage_is_out_of_its_band() -> None:
    intervals = stub(100)
    rng = np.random.default_rng(1)
    feed(intervals, rng.normal(size=(300, 3)))
    assert intervals.coverage is not None and not intervals.leaves_band
    feed(intervals, 40 * rng.normal(size=(60, 3)))  # faster than intervals can follow
    assert intervals.coverage is not None and intervals.coverage < BAND[0] and intervals.leaves_band
    feed(intervals, 40 * rng.normal(size=(400, 3)))
    assert not intervals.leaves_band and intervals.widened > 10


def test_missing_values_teach_nothing_and_a_unit_that_never_moves_keeps_its_width() -> None:
    intervals = stub()
    feed(intervals, np.full((50, 3), np.nan), np.zeros((50, 3), bool))
    assert intervals.coverage is None and not intervals.width.any() and intervals.widened == 1
    known = np.ones((50, 3), bool)
    known[:, 1] = False
    feed(intervals, np.full((50, 3), 9.0), known)
    assert not intervals.width[:, 1].any() and (intervals.width[:, 0] > 0).all()


def test_a_gap_drops_intervals_whose_targets_will_not_come_and_nothing_that_came() -> None:
    intervals = stub()
    feed(intervals, np.zeros((LEARN_EVERY + 2, 3)))
    intervals.restart()
    assert intervals.num_frames == 2  # the first forecast, of two frames, is made from the LEARN_EVERY-th
    for _ in range(2 * LEARN_EVERY):
        intervals.observe(np.zeros(3), np.ones(3, bool))
    assert intervals.num_frames == 2


@pytest.mark.parametrize("horizon", [1, 2, 3, 7, 16])
def test_a_group_of_frames_teaches_what_its_frames_would_one_by_one(horizon: int) -> None:
    units, context, rng = 5, 4, np.random.default_rng(horizon)
    target = rng.normal(size=(400, horizon, units))
    starts = horizon * np.arange(400)
    calibration = calibrate(np.zeros_like(target), target, np.ones((400, units)), starts, "here", context)
    intervals = OnlineIntervals(calibration, 20.0, 5.0, 500)
    plain = FrameByFrame(calibration, intervals)
    one, zero = np.ones(units, np.float32), np.zeros(units, np.float32)
    for moment in range(300):
        frame = 1.5 * rng.normal(size=units).astype(np.float32)
        known = rng.random(units) > (0.3 if moment % 5 == 0 else 0)
        if moment % 50 == 33:
            known[:] = False
        if moment in (101, 180):
            intervals.restart()
            plain.made.clear()
        intervals.observe(frame, known)
        plain.observe(moment, frame, known)
        if rng.random() > 0.1:  # else the model gave no forecast
            window = rng.normal(size=(context, units)).astype(np.float32)
            forecast = 0.3 * rng.normal(size=(horizon, units)).astype(np.float32)
            intervals.add(forecast, window, zero, one)
            if (moment + 1) % LEARN_EVERY == 0:
                plain.made[moment] = intervals.quantiles(forecast, window, zero, one, BOUNDS)
    for name in ("bias", "width", "pooled"):
        found = getattr(intervals, name)
        assert found.any()
        np.testing.assert_allclose(found, getattr(plain, name), atol=1e-5, err_msg=name)
    assert intervals.num_frames == plain.num_frames
    assert intervals.coverage == pytest.approx(plain.inside / plain.count)


class FrameByFrame:
    """What intervals learn, in plain words: each frame by itself, step by step."""

    def __init__(self, calibration: Calibration, like: OnlineIntervals) -> None:
        low, high = calibration.offsets(BOUNDS)
        self.step, self.pooled_step = like._steps[1, 0, 0], like._pooled_step
        self.half = (high - low) / 2
        self.bias, self.width = np.zeros_like(low), np.zeros_like(low)
        self.pooled = np.zeros((len(low), 1))
        self.made: dict[int, np.ndarray] = {}  # [H, N, 2] by the frame that they were made from
        self.num_frames = self.inside = self.count = 0

    def observe(self, moment: int, frame: np.ndarray, known: np.ndarray) -> None:
        count = 0
        for ahead in range(1, len(self.width) + 1):
            if moment - ahead not in self.made or not known.any():
                continue
            low, high = self.made[moment - ahead][ahead - 1].T
            side = np.where(known, (frame > high) * 1.0 - (frame < low), 0)
            missed = np.abs(side)
            self.bias[ahead - 1] += self.step * self.half[ahead - 1] * side
            self.width[ahead - 1] += self.step * (missed - (1 - COVERAGE) * known)
            self.pooled[ahead - 1] += self.pooled_step * (missed.sum() / known.sum() - (1 - COVERAGE))
            self.inside += int(known.sum() - missed.sum())
            count += int(known.sum())
        self.count += count
        self.num_frames += count > 0


@pytest.mark.parametrize("killed_after", range(120, 120 + LEARN_EVERY))
def test_neither_saving_a_state_nor_a_restart_changes_what_the_stream_would_have_had(
    calibrated: tuple[Small, Calibration], tmp_path: Path, killed_after: int
) -> None:
    frames = 2 * activity(150, calibrated[0].preprocessing, seed=5)
    frames[118, 2] = np.nan
    # So that the fallback, which goes by scores and coverage, comes and goes.
    options = {"fallback": True, "score_windows": 80, "coverage_frames": 20, "interval_memory_s": 20.0}
    undisturbed, live = open_(calibrated, **options), open_(calibrated, **options)
    for frame in frames[:killed_after]:
        undisturbed.step(frame)
        live.step(frame)
        live.state()
    StateFile(tmp_path / "state", live, every_s=0).close(live)
    again = open_(calibrated, **options)
    assert StateFile(tmp_path / "state", again, every_s=0).restore(again)
    assert again.status() == live.status()
    for frame in frames[killed_after:]:
        np.testing.assert_array_equal(again.step(frame), undisturbed.step(frame))
        np.testing.assert_array_equal(again.quantiles([0.1, 0.9]), undisturbed.quantiles([0.1, 0.9]))
    assert again.status() == undisturbed.status() and 0 < again.counts["fallbacks"] < 150 - CONTEXT
    np.testing.assert_array_equal(again.score.unit_errors(), undisturbed.score.unit_errors())


@pytest.mark.parametrize("lacks", ["interval_", ("interval_bounds", "interval_made", "score_")])
def test_a_state_of_an_earlier_version_is_gone_on_with(
    calibrated: tuple[Small, Calibration], lacks: str | tuple[str, ...]
) -> None:
    """From before there were intervals, which are as calibrated then; or before those were kept whose targets
    have not come."""
    frames = activity(60, calibrated[0].preprocessing)
    live, other = open_(calibrated), open_(calibrated)
    for frame in frames:
        live.step(frame)
    arrays, plain = live.state()
    other.restore(({name: each for name, each in arrays.items() if not name.startswith(lacks)}, plain))
    assert other.intervals is not None and live.intervals is not None
    assert other.intervals.widened == (1 if lacks == "interval_" else live.intervals.widened) != 0
    for frame in frames:
        np.testing.assert_array_equal(live.step(frame), other.step(frame))
    assert other.coverage_alarm == live.coverage_alarm


def test_where_copy_is_given_quantiles_are_those_of_a_random_walk(
    calibrated: tuple[Small, Calibration],
) -> None:
    live = open_(calibrated)
    frame = activity(1, calibrated[0].preprocessing)[0]
    live.step(frame)
    assert live.source == "warm-up"
    quantiles = live.quantiles([0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles[..., 1], np.broadcast_to(frame, (HORIZON, UNITS)), rtol=1e-6)
    width = quantiles[..., 2] - quantiles[..., 0]
    np.testing.assert_allclose(width[3], 2 * width[0], rtol=1e-3)


def test_the_alarm_is_drift_is_said_and_makes_the_forecaster_fall_back(
    calibrated: tuple[Small, Calibration],
) -> None:
    live = open_(calibrated, fallback=True, coverage_frames=100)
    fit = calibrated[0].preprocessing
    for frame in activity(200, fit, seed=5):
        live.step(frame)
    watch = Watch(live)
    assert live.intervals is not None and not live.coverage_alarm
    live.intervals.covered[:] = 10, 100
    live.step(activity(201, fit, seed=5)[-1])
    assert live.coverage_alarm and live.drifts and live.status()["coverage_alarm"]
    assert any("80 % intervals cover 1" in news for news in watch.news())
    live.step(activity(202, fit, seed=5)[-1])
    assert live.source == "copy"


def test_a_sender_asks_for_quantiles_and_old_ones_get_what_they_got(
    calibrated: tuple[Small, Calibration],
) -> None:
    live = open_(calibrated)
    port = Direct(live)
    frames = activity(CONTEXT + 1, calibrated[0].preprocessing)
    for index, values in enumerate(frames[:-1]):
        port.send(Frame(values, index))
        plain = port.receive(0)
        assert plain is not None and plain.quantiles is None
    port.send(Frame(frames[-1], CONTEXT, quantiles=(0.1, 0.9)))
    asked = port.receive(0)
    assert asked is not None and asked.quantiles is not None and asked.levels == (0.1, 0.9)
    assert asked.quantiles.shape == (HORIZON, UNITS, 2)
    np.testing.assert_array_equal(asked.values, live.answer)
    old = encode_frame(Frame(frames[0], 1))
    assert b"quantiles" not in old and b"quantiles" not in encode_forecast(plain)


def test_a_forecaster_gives_quantiles_unasked_where_it_is_told_to(
    calibrated: tuple[Small, Calibration],
) -> None:
    port = Direct(open_(calibrated, quantiles=(0.5,)))
    port.send(Frame(activity(1, calibrated[0].preprocessing)[0], 0))
    reply = port.receive(0)
    assert reply is not None and reply.levels == (0.5,)


@pytest.mark.parametrize("levels", [(0.0,), (1.5,), (0.5, 0.5), (), tuple(np.linspace(0.01, 0.99, 40))])
def test_a_frame_that_asks_for_impossible_quantiles_is_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(FrameError, match="expected"):
        decode_request(encode_frame(Frame(np.zeros(3), quantiles=levels)))


def test_quantiles_without_a_calibration_are_one_clear_error(calibrated: tuple[Small, Calibration]) -> None:
    small, calibration = calibrated
    with pytest.raises(ConfigError, match="no calibration"):
        realtime.open(small.model, small.interface, small.preprocessing, config=LiveConfig(quantiles=(0.1,)))
    live = realtime.open(small.model, small.interface, small.preprocessing)
    frames = live.counts["frames"]
    with pytest.raises(FrameError, match="no calibrated intervals"):
        Direct(live).send(Frame(np.zeros(UNITS), 0, quantiles=(0.1,)))
    assert live.counts["frames"] == frames
    with pytest.raises(FrameError, match="between 0 and 1"):
        live.quantiles([2.0])
    with pytest.raises(ConfigError, match="different recordings"):
        realtime.open(
            small.model, small.interface, small.preprocessing, calibration=calibration.of_units(np.arange(3))
        )
    with pytest.raises(ConfigError, match="interval_memory_s"):
        replace(LiveConfig(), interval_memory_s=0.0)


def test_over_lsl_quantiles_are_a_stream_beside_the_forecasts(calibrated: tuple[Small, Calibration]) -> None:
    import pylsl

    name = f"forebrain-test-{uuid.uuid4().hex[:8]}"
    live = open_(calibrated, quantiles=(0.1, 0.9))
    frame = activity(1, calibrated[0].preprocessing)[0]
    port = LslPort(name, HORIZON, UNITS, 5.0, live.unit_names, num_levels=2)
    try:
        (found,) = pylsl.resolve_byprop("name", f"{name}-quantiles", 1, 10)
        inlet = pylsl.StreamInlet(found, as_numpy=True)
        inlet.open_stream(10)
        _handle(live, port, Frame(frame, 0, 50.0))
        sample, time_s = inlet.pull_sample(timeout=10)
    finally:
        port.close()
    assert time_s == 50.0
    np.testing.assert_array_equal(sample.reshape(HORIZON, UNITS, 2), live.quantiles((0.1, 0.9)))
