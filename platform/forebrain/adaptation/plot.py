"""A picture of what an adaptation forecasts, for a notebook or a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from forebrain.errors import AdaptationError
from forebrain.sessions.preprocessing import Preprocessing
from forebrain.sessions.session import Session

NUM_UNITS = 6
NUM_FORECASTS = 6
_INK, _MUTED, _BLUE = "#222222", "#8c8c8c", "#0072b2"


class Picture(Figure):
    """A figure that notebooks show, whatever their back end."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def forecasts_at_the_end(
    forecast: Callable[[np.ndarray], np.ndarray],
    session: Session,
    preprocessing: Preprocessing,
    context: int,
    horizon: int,
) -> Picture:
    """The end of a recording: what came, and what was forecast at the start of each stretch of H frames.

    Units stand at even quantiles of R2 there, best on top, so the picture shows what is usual: how much of
    what came, about its own mean, the forecasts explain.

    Args:
        forecast: [C, N] to [H, N].
        session: as the model is given it.
        preprocessing: of its units.
        context, horizon: C and H.

    Raises:
        AdaptationError: its last unbroken stretch is too short for a forecast, and what came after it.
    """
    start, stop = session.segments[-1]
    count = min(NUM_FORECASTS, (stop - start - context) // horizon)
    if count < 1:
        raise AdaptationError(
            f"session {session.id}: its last unbroken stretch has {stop - start} frames; a picture takes "
            f"{context} + {horizon}."
        )
    first = stop - count * horizon - context
    frames = session.frames(first, stop)
    origins = context + horizon * np.arange(count)
    forecasts = np.stack([forecast(frames[origin - context : origin]) for origin in origins])
    truth = frames[context:].reshape(count, horizon, -1)
    least = np.finfo(np.float32).tiny  # a unit that does not move
    explained = 1 - ((forecasts - truth) ** 2).mean(axis=(0, 1)) / np.maximum(truth.var(axis=(0, 1)), least)
    order = np.argsort(explained)
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(NUM_UNITS, len(order))).round().astype(int))]

    rate_hz = preprocessing.rate_hz
    time = (first + np.arange(len(frames))) / (rate_hz or 1)
    figure = Picture(figsize=(10, 1.2 + 0.9 * len(shown)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row, unit in enumerate(shown):
        trace = frames[:, unit]
        scale = 0.8 / max(np.ptp(trace), least)

        def height(values: Any, row: int = row, scale: float = scale, low: float = trace.min()) -> Any:
            return row - 0.4 + scale * (values - low)

        axes.plot(time, height(trace), color=_INK, linewidth=1.0, label=None if row else "activity")
        for number, origin in enumerate(origins):
            known, ahead = trace[origin - 1 : origin], time[origin - 1 : origin + horizon]
            copy = height(np.repeat(known, horizon + 1))
            ours = height(np.concatenate([known, forecasts[number, :, unit]]))
            first_of_all = not (row or number)
            named = {"copy": "copy", "ours": "forecast"} if first_of_all else {}
            axes.plot(ahead, copy, "--", color=_MUTED, linewidth=1.0, label=named.get("copy"))
            axes.plot(ahead, ours, color=_BLUE, linewidth=1.8, label=named.get("ours"))
            axes.plot(ahead[0], copy[0], "o", color=_BLUE, markersize=3.5)
    axes.set_yticks(
        range(len(shown)), [f"{preprocessing.name(int(unit))}\nR2 {explained[unit]:.2f}" for unit in shown]
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"time in the recording ({'frames' if rate_hz is None else 's'})")
    title = f"{session.id}, its end: {horizon} frames forecast from each dot on; units scaled to their range"
    axes.set_title(title, loc="left", fontsize=9)
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8.5)
    for text in figure.findobj(Text):
        cast(Text, text).set_parse_math(False)  # names of sessions and units may hold dollars
    return figure
