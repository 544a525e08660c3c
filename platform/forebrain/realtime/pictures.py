"""Pictures of a stream for those who watch it: what the page shows, at most ten times a second.

A picture is a msgpack map of plain values and little-endian float32 arrays: the frames since the one before
it, the newest forecast, and what the forecaster knows of itself. It holds all that a watcher needs, so one
who comes late or misses some has only a gap in the traces.

Where the forecaster has intervals, `bands` {levels [Q], values [Q, H, K]} are quantiles of the forecast and
`coverage` {inside, aim} is the part of what came that lay in them, and that should. Where it has inputs,
`inputs` are {names [D], past [frames][D], plan [H][D] or null}, each value from -1 to 1.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from forebrain.realtime.forecaster import LiveForecaster
from forebrain.realtime.intervals import BOUNDS, COVERAGE

VERSION = 1
PERIOD_S = 0.1  # between two pictures
IDLE_S = 1.0  # between two of a silent stream
MAX_TRACES = 64
MAX_FRAMES = 128  # of a picture; of faster streams the oldest are left out
NUM_LATENCIES = 1000
NUM_EVENTS = 30
NUM_WORST = 8
MAX_INPUTS = 6
PAST_INPUTS = 100  # frames


class Pictures:
    """Makes pictures of a stream, and gives them away.

    Args:
        live: the forecaster.
        send: is given each picture, as it travels; must not wait.
        budget_ms: by when a forecast is due; None for the time between two frames.
        title: what is served.
        clock: seconds that only run forward.
    """

    def __init__(
        self,
        live: LiveForecaster,
        send: Callable[[bytes], None],
        budget_ms: float | None = None,
        title: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send, self._clock = send, clock
        self._shown = np.unique(np.linspace(0, live.num_units - 1, MAX_TRACES).round().astype(np.intp))
        self._rows = np.empty((MAX_FRAMES, len(self._shown)), np.float32)
        self._indices: deque[int] = deque(maxlen=MAX_FRAMES)
        self._segments: deque[int] = deque(maxlen=MAX_FRAMES)
        self._steps_ms: deque[float] = deque(maxlen=MAX_FRAMES)
        self._num_rows = 0
        self._latencies = np.full(NUM_LATENCIES, np.nan)
        self._num_steps = 0
        self._events: deque[list[Any]] = deque(maxlen=NUM_EVENTS)
        rate_hz = live.arrivals.rate_hz
        self._budget_ms = budget_ms or (1e3 / rate_hz if rate_hz else None)
        self._about = {
            "title": title,
            "num_units": live.num_units,
            "context": live.context,
            "horizon": live.horizon,
            "rate_hz": rate_hz,
            "budget_ms": self._budget_ms,
            "began": time.time(),
            "names": [live.preprocessing.name(unit) for unit in self._shown],
        }
        self._sent_at = -float("inf")

    def frame(self, live: LiveForecaster) -> None:
        """Remembers the newest frame, and sends a picture if it is time."""
        row = self._rows[self._num_rows % MAX_FRAMES]
        np.take(live.frame, self._shown, out=row)
        row[~live.known[self._shown]] = np.nan
        self._num_rows += 1
        self._indices.append(live.arrivals.index or 0)
        self._segments.append(live.segment)
        self._steps_ms.append(live.step_ms)
        if live.step_ms == live.step_ms:  # else no forecast was made from it
            self._latencies[self._num_steps % NUM_LATENCIES] = live.step_ms
            self._num_steps += 1
        self._offer(live, PERIOD_S)

    def event(self, live: LiveForecaster, text: str) -> None:
        """Keeps an event for the next pictures."""
        self._events.append([time.time(), text])

    def idle(self, live: LiveForecaster) -> None:
        """Shows that the forecaster is there, though no frame comes."""
        self._offer(live, PERIOD_S if self._num_rows else IDLE_S)

    def _offer(self, live: LiveForecaster, period_s: float) -> None:
        now = self._clock()
        if now - self._sent_at >= period_s:
            self._sent_at = now
            self._send(msgpack.packb(self._picture(live)))
            self._num_rows = 0
            for each in (self._indices, self._segments, self._steps_ms):
                each.clear()

    def _picture(self, live: LiveForecaster) -> dict[str, Any]:
        shown = self._shown
        rows = self._rows[: self._num_rows]
        if self._num_rows > MAX_FRAMES:
            rows = np.roll(self._rows, -(self._num_rows % MAX_FRAMES), axis=0)
        mean, scale = live.normalisation
        errors = live.score.unit_errors()
        model, copy = np.where(np.isfinite(errors), errors, np.nan)  # JSON knows no infinity
        return {
            "v": VERSION,
            "at": time.time(),
            "about": self._about,
            "frames": _bytes(rows),
            "indices": list(self._indices),
            "segments": list(self._segments),
            "steps_ms": [None if step != step else round(step, 3) for step in self._steps_ms],
            "mean": _bytes(mean[shown]),
            "scale": _bytes(scale[shown]),
            "forecast": _bytes(live.answer[:, shown]),
            "made_at": live.made_at[0],
            "latency": self._latency(),
            "r2": _bytes(1 - model[shown]),
            "worst": _worst(live, model, copy),
            "filled": live.ring.filled,
            "status": live.status(),
            "events": list(self._events),
            **_uncertainty(live, shown),
            **_inputs(live),
        }

    def _latency(self) -> dict[str, float | int | None]:
        """Milliseconds from a frame's arrival to its forecast, over the newest frames that got one."""
        came = self._latencies[: min(self._num_steps, NUM_LATENCIES)]
        if not came.size:
            return {"frames": 0}
        p50, p99, slowest = np.quantile(came, [0.5, 0.99, 1.0]).tolist()
        late = None if self._budget_ms is None else int(np.count_nonzero(came > self._budget_ms))
        return {"frames": came.size, "p50_ms": p50, "p99_ms": p99, "max_ms": slowest, "late": late}


def _uncertainty(live: LiveForecaster, shown: np.ndarray) -> dict[str, Any]:
    if live.intervals is None:
        return {}
    quantiles = live.quantiles(BOUNDS)[:, shown]
    inside = live.intervals.coverage
    return {
        "bands": {"levels": list(BOUNDS), "values": _bytes(np.moveaxis(quantiles, -1, 0))},
        "coverage": None if inside is None else {"inside": inside, "aim": COVERAGE},
    }


def _inputs(live: LiveForecaster) -> dict[str, Any]:
    """Inputs that came and those that are planned, as parts of the largest of each."""
    if live.inputs is None or (past := live.inputs.past) is None:
        return {}
    past, plan = past[-PAST_INPUTS:, :MAX_INPUTS], live.inputs.plan[:, :MAX_INPUTS]
    largest = np.maximum(np.abs(np.concatenate([past, plan])).max(axis=0), np.finfo(np.float32).tiny)
    return {
        "inputs": {
            "names": list(live.input_names[:MAX_INPUTS]),
            "past": (past / largest).tolist(),
            "plan": (plan / largest).tolist() if len(plan) else None,
        }
    }


def _worst(live: LiveForecaster, model: np.ndarray, copy: np.ndarray) -> list[list[Any]]:
    """Units that are explained least: name, R2 against the mean of the fit, score against copy."""
    rows: list[list[Any]] = []
    for unit in np.argsort(-model)[: np.count_nonzero(model == model)][:NUM_WORST].tolist():
        score = 1 - float(model[unit] / copy[unit]) if copy[unit] > 0 else None
        rows.append([live.preprocessing.name(unit), 1 - float(model[unit]), score])
    return rows


def _bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()
