"""What intervals cost a live forecaster, beside the forecast itself, in the same process in turn."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from forebrain import realtime
from forebrain.models.poco import Poco, PocoConfig
from forebrain.realtime import LiveConfig, LiveForecaster
from forebrain.realtime.intervals import LEARN_EVERY, OnlineIntervals
from forebrain.scoring.conformal import calibrate
from forebrain.sessions.preprocessing import Preprocessing

LEVELS = (0.1, 0.5, 0.9)
FRAMES = 400


def untrained(units: int, config: LiveConfig) -> LiveForecaster:
    """A forecaster of the default model, on one thread, that has learned nothing."""
    torch.manual_seed(0)
    model = Poco(PocoConfig(relative=True)).requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    return realtime.open(model, model.new_interface(units), Preprocessing.none(units), config=config)


def time_intervals(units: int, frames: int = FRAMES) -> dict[str, Any]:
    """Milliseconds of this thread's processor time for a forecast of the default model, for what its
    intervals learn from a frame, and for three quantiles; and what learning comes to, as a part of the
    forecast.

    Args:
        units: of the session.
        frames: timed, after as many as the context.
    """
    live = untrained(units, LiveConfig())
    rng = np.random.default_rng(0)
    error = rng.normal(size=(40, live.horizon, units)).astype(np.float32)
    starts = live.horizon * np.arange(len(error))
    calibration = calibrate(0 * error, error, np.ones((40, units), np.float32), starts, "noise", live.context)
    intervals = OnlineIntervals(calibration, 60.0, None, 500)
    stream = 0.1 * rng.normal(size=(live.context + frames, units)).cumsum(axis=0).astype(np.float32)
    every, (mean, scale) = np.ones(units, bool), live.normalisation
    seconds = np.zeros((frames, 3))
    for moment, frame in enumerate(stream):
        live.ingest(frame)
        began = time.thread_time()
        forecast = live.forecast()
        forecasted = time.thread_time()
        intervals.observe(frame, every)
        context = live.ring.window
        if moment >= live.context:
            intervals.add(forecast, context, mean, scale)
            learned = time.thread_time()
            intervals.quantiles(forecast, context, mean, scale, LEVELS)
            given = time.thread_time()
            seconds[moment - live.context] = forecasted - began, learned - forecasted, given - learned
        live.settle()
    # One frame in LEARN_EVERY teaches for all, so their mean counts; of all the tenth that was disturbed
    # least, since a busy machine delays what is short by as much as what is long.
    seconds = seconds[: frames // LEARN_EVERY * LEARN_EVERY].reshape(-1, LEARN_EVERY, 3).mean(axis=1)
    forecast_ms, learn_ms, quantiles_ms = (float(each) for each in 1e3 * np.quantile(seconds, 0.1, axis=0))
    return {
        "what": "intervals", "units": units, "batch": 1, "dtype": "fp32", "device": "cpu",
        "threads": torch.get_num_threads(), "forecast_ms": forecast_ms, "learn_ms": learn_ms,
        "quantiles_ms": quantiles_ms, "share": learn_ms / forecast_ms,
    }  # fmt: skip
