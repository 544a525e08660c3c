"""A picture of what an adaptation forecasts, for a notebook or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from forebrain import plotting
from forebrain.errors import AdaptationError
from forebrain.sessions.preprocessing import Preprocessing
from forebrain.sessions.session import Session

if TYPE_CHECKING:
    import pandas

NUM_UNITS = 6
# A unit answers when its answer has come this near to its largest.
ANSWERED = 0.5
NUM_FORECASTS = 6


@plotting.style()
def forecasts_at_the_end(
    forecast: Callable[[np.ndarray], np.ndarray],
    session: Session,
    preprocessing: Preprocessing,
    context: int,
    horizon: int,
    band: Callable[[np.ndarray], np.ndarray] | None = None,
    planned: Callable[[int], tuple[np.ndarray, np.ndarray | None]] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """The end of a recording: what came, and what was forecast at the start of each stretch of H frames.

    Units stand at even quantiles of R2 there, best on top, so the picture shows what is usual: how much of
    what came, about its own mean, the forecasts explain.

    Args:
        forecast: [C, N] to [H, N].
        session: as the model is given it.
        preprocessing: of its units.
        context, horizon: C and H.
        band: [C, N] to bounds of intervals [H, N, 2], which are shaded; None for no such.
        planned: the frame that a forecast begins with to the forecast [H, N] under the inputs that came, and
            the bounds [H, N, 2] of its intervals, which are shaded, or None; None for no such.
        inputs: by name [T], drawn on top.

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
    known = bands = None
    if planned is not None:
        made = [planned(first + int(origin)) for origin in origins]
        known = np.stack([points for points, _ in made])
        bounded = [bounds for _, bounds in made if bounds is not None]
        bands = np.stack(bounded) if bounded else None
    elif band is not None:
        bands = np.stack([band(frames[origin - context : origin]) for origin in origins])
    truth = frames[context:].reshape(count, horizon, -1)
    least = np.finfo(np.float32).tiny  # a unit that does not move
    ranked = forecasts if known is None else known
    explained = 1 - ((ranked - truth) ** 2).mean(axis=(0, 1)) / np.maximum(truth.var(axis=(0, 1)), least)
    order = np.argsort(explained)
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(NUM_UNITS, len(order))).round().astype(int))]

    rate_hz = preprocessing.rate_hz
    to_time, unit_of_time = plotting.time_scale(rate_hz)
    time = to_time(first + np.arange(len(frames)))
    lines = {"copy": plotting.line("copy"), "adapted": plotting.line("adapted")}
    if known is not None:
        lines["planned inputs"] = plotting.line("planned inputs")
    shade = lines["adapted" if known is None else "planned inputs"]["color"]
    drawn = inputs or {}
    figure, axes = plotting.canvas(10, 1.4 + 0.9 * (len(shown) + 0.45 * len(drawn)))
    for place, (name, values) in enumerate(drawn.items()):
        strip, base = values[first:stop], len(shown) - 0.35 + 0.45 * place
        heights = base + 0.3 * (strip - values.min()) / max(float(np.ptp(values)), least)
        axes.fill_between(time, base, heights, step="post", color=plotting.MUTED, alpha=0.6, linewidth=0)
        axes.annotate(
            name, (0, base), xycoords=("axes fraction", "data"), xytext=(-6, 0), textcoords="offset points",
            ha="right", va="bottom", fontsize=8, color=plotting.MUTED,
        )  # fmt: skip
    for row, unit in enumerate(shown):
        trace = frames[:, unit]
        scale = 0.8 / max(np.ptp(trace), least)
        base = row - 0.4 - scale * trace.min()
        axes.plot(time, base + scale * trace, color=plotting.INK, linewidth=1.0)
        for number, origin in enumerate(origins):
            last = trace[origin - 1 : origin]
            if bands is not None:
                beginning = np.repeat(last[:, None], 2, axis=1)
                bounds = np.concatenate([beginning, bands[number, :, unit]]).T
                shaded = time[origin - 1 : origin + horizon]
                plotting.band(axes, shaded, base + scale * bounds, shade)
            said = {"copy": np.repeat(last, horizon), "adapted": forecasts[number, :, unit]}
            if known is not None:
                said["planned inputs"] = known[number, :, unit]
            for name, style in lines.items():
                heights = base + scale * np.concatenate([last, said[name]])
                axes.plot(time[origin - 1 : origin + horizon], heights, **style)
        now = origins - 1
        axes.plot(time[now], base + scale * trace[now], "o", color=lines["adapted"]["color"], markersize=3.5)
    axes.set_yticks(
        range(len(shown)), [f"{preprocessing.name(int(unit))}\nR2 {explained[unit]:.2f}" for unit in shown]
    )
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.55, len(shown) - 0.4 + 0.45 * len(drawn))
    axes.set_xlim(time[0], time[-1])
    axes.set_xlabel(f"time in the recording ({unit_of_time})")
    plotting.title(
        axes,
        f"{session.id}, its end",
        f"forecasts of the next {plotting.duration(horizon, rate_hz)} from each dot on; {len(shown)} of "
        f"{len(explained)} units, at even quantiles of R2, best on top, each scaled to its own range",
    )
    activity = Line2D([], [], color=plotting.INK, linewidth=1.2, label="activity")
    named = lines if known is None else {**lines, "without inputs": lines["adapted"]}
    if known is not None:
        del named["adapted"]
    signs = [activity, *(Line2D([], [], label=name, **style) for name, style in named.items())]
    if bands is not None:
        signs.append(plotting.band_sign("80 % interval", shade))
    plotting.legend(figure, signs)
    return figure


@plotting.style()
def responses(table: pandas.DataFrame, name: str, session: str) -> Figure:
    """Each unit's answer to an input: units by time after it, those that rise on top, the fastest first.

    Args:
        table: time after as index, a column for each unit, in its own deviations.
        name: of the input.
        session: whose units they are.
    """
    values = table.to_numpy().T  # [N, T]
    largest = np.abs(values).max(axis=1)
    sign = np.sign(values[np.arange(len(values)), np.abs(values).argmax(axis=1)])
    onset = (sign[:, None] * values >= ANSWERED * np.maximum(largest, 1e-12)[:, None]).argmax(axis=1)
    order = np.lexsort((onset, -sign))
    limit = max(float(np.quantile(np.abs(values), 0.995)), 1e-12)
    figure, axes = plotting.canvas(7, 1.6 + min(5.0, 0.12 * len(values) + 1.0))
    index = table.index.to_numpy()
    step = index[1] - index[0] if len(index) > 1 else 1.0
    image = axes.imshow(
        values[order], aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest",
        extent=(index[0] - step / 2, index[-1] + step / 2, len(values) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_xlabel(str(table.index.name))
    if len(values) <= 30:
        axes.set_yticks(range(len(values)), [str(table.columns[unit]) for unit in order])
    else:
        axes.set_ylabel(f"{len(values)} units")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("deviations of the unit", color=plotting.INK)
    bar.outline.set_visible(False)
    plotting.title(
        axes,
        f"Answer to {name}",
        f"{session}; units that rise on top, then those that fall, the fastest first",
    )
    return figure
