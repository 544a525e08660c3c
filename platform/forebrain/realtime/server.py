"""The loop between a transport and a forecaster: a frame comes, its forecast goes, the books are kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from forebrain.errors import FrameError
from forebrain.machine import running_s
from forebrain.realtime.forecaster import LiveForecaster
from forebrain.realtime.messages import ABOUT_PLANS, Forecast, Frame, Question
from forebrain.realtime.state import StateFile
from forebrain.realtime.watch import Watch

POLL_S = 0.1  # how long a stop request, or a state to be saved, may wait on a silent stream
_log = logging.getLogger(__name__)


class Port(Protocol):
    """One end of a transport: where frames come from and forecasts go to."""

    def receive(self, timeout_s: float) -> Frame | Question | None:
        """The next message, None if none comes in time.

        Raises:
            FrameError: something came that is no message.
        """

    def is_behind(self) -> bool:
        """Whether a newer frame waits already, so that a forecast from this one helps nobody."""

    def send(self, forecast: Forecast) -> None: ...

    def answer(self, answer: dict[str, Any]) -> None:
        """Answers a question."""

    def refuse(self, error: FrameError) -> None:
        """Answers a message that cannot be used."""

    def close(self) -> None: ...


class Follower(Protocol):
    """One who is shown the stream: between frames, not in their path. None of its calls may wait."""

    def frame(self, live: LiveForecaster) -> None:
        """A new frame was taken in and settled: `live.frame`, `live.answer`, `live.step_ms`."""

    def event(self, live: LiveForecaster, text: str) -> None:
        """Something happened to the stream."""

    def idle(self, live: LiveForecaster) -> None:
        """Nothing came for `POLL_S`."""


def serve(
    live: LiveForecaster,
    port: Port,
    should_stop: Callable[[], bool],
    after_frame: Callable[[LiveForecaster], None],
    followers: Sequence[Follower] = (),
    state: StateFile | None = None,
) -> None:
    """Forecasts what comes until asked to stop.

    A message that cannot be used is refused and counted, and the stream goes on. A frame behind which
    another waits already is taken in without a forecast of its own, so the forecaster never falls behind.
    What changes in the stream is logged as it happens.

    Args:
        after_frame: called once a new frame is answered and settled: between frames, not in their path.
        followers: shown frames and events then.
        state: offered the forecaster after each new frame and each refusal; a reset is in it before it is
            answered.
    """
    watch, num_refused = Watch(live), 0
    while not should_stop():
        events: list[str] = []
        try:
            message = port.receive(POLL_S)
            if isinstance(message, Question):
                answer = _answer(live, message)
                if state is not None and message.ask == "reset":
                    state.keep(live)
                port.answer(answer)
            elif message is None:
                for follower in followers:
                    follower.idle(live)
            elif _handle(live, port, message):
                if state is not None:
                    state.offer(live)
                after_frame(live)
                for follower in followers:
                    follower.frame(live)
        except FrameError as error:
            live.counts["refused"] += 1
            num_refused += 1
            port.refuse(error)
            if state is not None:  # frames without names may be refused from now on
                state.offer(live)
            if watch.may_say("refused"):
                events.append(f"refused{f' ({num_refused} times)' if num_refused > 1 else ''}: {error}")
                num_refused = 0
        for event in events + watch.news():
            _log.warning("%s", event)
            for follower in followers:
                follower.event(live, event)


def describe(live: LiveForecaster) -> dict[str, Any]:
    """The facts a sender must know: who forecasts whom, units, context, horizon, and how frames were made of
    the recording."""
    preprocessing = live.preprocessing
    return {
        **live.about,
        "num_units": live.num_units,
        "unit_names": live.unit_names,
        "num_recorded": preprocessing.num_recorded,
        "columns": preprocessing.columns.tolist(),
        "context": live.context,
        "horizon": live.horizon,
        "rate_hz": preprocessing.rate_hz,
        "recorded_rate_hz": preprocessing.recorded_rate_hz,
        "event_rate_hz": preprocessing.event_rate_hz,
        "resample_hz": preprocessing.resample_hz,
        "quantiles": live.intervals is not None,
        "inputs": list(live.input_names),
    }


def _answer(live: LiveForecaster, question: Question) -> dict[str, Any]:
    if question.ask == "describe":
        return describe(live)
    if question.ask in ABOUT_PLANS:
        assert question.plans is not None
        asked = live.what_if if question.ask == "what_if" else live.effect
        plans = [_by_name(plan, question.plan_names, "the plan") for plan in question.plans]
        forecasts = asked(plans, question.quantiles)
        return {"forecasts": forecasts.astype("<f4").tobytes(), "shape": list(forecasts.shape)}
    if question.ask == "reset":
        live.reset()
    return live.status()


def _handle(live: LiveForecaster, port: Port, frame: Frame) -> bool:
    """Takes in a frame and answers it; whether it was a new one."""
    began = time.perf_counter()
    levels = frame.quantiles or live.config.quantiles or None
    if levels is not None:
        live.require_intervals(levels)
    is_new = live.ingest(
        frame.values, frame.index, frame.time_s, frame.units, arrived_s=running_s(),
        inputs=_by_name(frame.inputs, frame.input_names, "the frame's inputs"),
        plan=_by_name(_shaped(frame.plan, live), frame.plan_names, "the plan"),
        is_new=frame.is_new, names=frame.names, is_behind=frame.time_s is None and port.is_behind(),
    )  # fmt: skip
    if is_new and port.is_behind():
        live.counts["skipped"] += 1
        live.step_ms = float("nan")
    else:
        score = live.rolling_score
        values = live.forecast() if is_new else live.answer
        quantiles = None if levels is None else live.quantiles(levels)
        step_ms = 1e3 * (time.perf_counter() - began)
        port.send(
            Forecast(
                values, frame.index, frame.time_s, live.source, score, live.drifts, step_ms, *live.made_at,
                live.arrivals.rate_differs, quantiles, levels, live.knows, live.extrapolates,
            )
        )  # fmt: skip
        if is_new:
            live.step_ms = step_ms
    if is_new:
        live.settle()
    return is_new


def _by_name(values: np.ndarray | None, names: Sequence[str] | None, what: str) -> Any:
    """Inputs or a plan as they were named, if they were."""
    if values is None or names is None:
        return values
    if values.shape[-1] != len(names):
        raise FrameError(f"{what}: has shape {values.shape} and {len(names)} names; expected one for each.")
    return dict(zip(names, np.moveaxis(values, -1, 0), strict=True))


def _shaped(plan: np.ndarray | None, live: LiveForecaster) -> np.ndarray | None:
    """A plan [L, D] of the flat values that came."""
    width = len(live.input_names)
    if plan is None or plan.ndim == 2 or not width:
        return plan
    if plan.size % width:
        raise FrameError(f"the plan has {plan.size} values; expected {width} for each frame, of its inputs.")
    return plan.reshape(-1, width)
