"""What inputs and a plan cost a live forecast: each frame with them and without, in one process in turn.

Processor time of the thread, so that what it waits for a core is not in it. Turns at each frame meet the same
disturbances, and each forecaster finds the caches as cold as a rig's pauses leave them.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from forebrain import realtime
from forebrain.adaptation.windows import SessionWindows
from forebrain.benchmarking.intervals import untrained
from forebrain.benchmarking.timing import p99_ratio
from forebrain.realtime import LiveConfig, LiveForecaster
from forebrain.scoring.baselines import LinearBaseline
from forebrain.scoring.input_stacks import InputStacks, RestStack
from forebrain.scoring.inputs import InputFeatures
from forebrain.scoring.response import Response
from forebrain.scoring.ridge import NUM_COMPONENTS, Features, Head, change_lags, num_own
from forebrain.scoring.stack import Stack
from forebrain.sessions.session import Session

RATE_HZ = 30.0
RECORDED_S = 120
FRAMES = 3600
BLOCK = 60  # frames that intervals take as one


def time_inputs(units: int, frames: int = FRAMES) -> dict[str, Any]:
    """Milliseconds of taking in a frame and forecasting by a stack, with a level, an event and a plan that
    each frame brings anew, and without.

    Args:
        units: of the session.
        frames: timed, after as many as the context.
    """
    rng = np.random.default_rng(0)
    live = untrained(units, LiveConfig(precision="bf16"))
    session = _stimulated(rng)
    values, names = session.input_values(["level", "event"]), ("level", "event")
    windows = SessionWindows(session, "chronological", live.context, live.horizon)
    features = InputFeatures.of_source(windows, names)
    assert features is not None
    response = Response(features, _small(rng, features.num_features, units))
    plan = RestStack(response, _stack(rng, units, live.context, live.horizon))
    stacks = InputStacks(session.inputs, features, None, plan)
    stack = _stack(rng, units, live.context, live.horizon)
    without, knowing = (
        realtime.open(
            live.model, live.interface, replace(live.preprocessing, rate_hz=RATE_HZ), stack=stack,
            config=live.config, inputs=inputs,
        )
        for inputs in (None, stacks)
    )  # fmt: skip
    stream = rng.normal(size=(live.context + frames, units)).astype(np.float32)
    seconds = np.zeros((len(stream), 2))
    for moment, frame in enumerate(stream):
        first = moment % (len(values) - live.horizon)
        brought = {"inputs": values[first], "plan": values[first + 1 : first + 1 + live.horizon]}
        turns: list[tuple[int, LiveForecaster, dict[str, Any]]] = [(0, without, {}), (1, knowing, brought)]
        for place, forecaster, given in turns if moment % 2 else turns[::-1]:
            began = time.thread_time()
            forecaster.ingest(frame, **given)
            forecaster.forecast()
            seconds[moment, place] = time.thread_time() - began
            forecaster.settle()
    assert knowing.knows == "plan" and without.source == knowing.source == "model"
    timed = seconds[len(seconds) - frames // BLOCK * BLOCK :].reshape(-1, BLOCK, 2)
    alone, with_plan = timed[..., 0], timed[..., 1]
    low, high = p99_ratio(alone, with_plan, rng)
    p99_ms, p99_plan_ms = (1e3 * float(np.quantile(each, 0.99)) for each in (alone, with_plan))
    return {
        "what": "inputs", "units": units, "batch": 1, "dtype": "bf16", "device": "cpu",
        "threads": torch.get_num_threads(), "frames": int(alone.size), "features": features.num_features,
        "median_ms": 1e3 * float(np.median(alone)),
        "ratio": float(np.median(with_plan) / np.median(alone)),
        "p99_ms": p99_ms, "p99_ratio": p99_plan_ms / p99_ms, "p99_low": low, "p99_high": high,
    }  # fmt: skip


def _stimulated(rng: np.random.Generator) -> Session:
    """Two units that nothing is asked of, and what was done meanwhile: a level that changes, and an event."""
    num_frames = int(RECORDED_S * RATE_HZ)
    level = np.repeat(rng.random(num_frames // 50 + 1), 50)[:num_frames]
    event = rng.random(num_frames) < 0.03
    return Session(
        rng.normal(size=(num_frames, 2)).astype(np.float32), RATE_HZ, "none", "none", "none", "none",
        stimulus=np.stack([level, event], axis=1).astype(np.float32), stimulus_names=("level", "event"),
    )  # fmt: skip


def _stack(rng: np.random.Generator, units: int, context: int, horizon: int) -> Stack:
    """A stack of linear and the model, with a head of all its blocks."""
    num_population = NUM_COMPONENTS * (1 + len(change_lags(context)))
    bound = np.full(units, 10, np.float32)
    head = Head(
        Features(_small(rng, units, NUM_COMPONENTS), -bound, bound, bound),
        _small(rng, context, horizon),
        _small(rng, num_own(context), horizon, units),
        {"population": _small(rng, num_population, horizon, units)},
    )
    half = np.full(horizon, 0.5, np.float32)
    return Stack(LinearBaseline(_small(rng, context, horizon)), half, half, head)


def _small(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return 0.01 * rng.normal(size=shape).astype(np.float32)
