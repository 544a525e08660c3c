"""Pictures of an evaluation, drawn without matplotlib's global state. Each function returns its path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import ArrayLike

from forebrain.evaluation.examples import Example
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.evaluate import Evaluation
from forebrain.scoring.metrics import Scores

# Okabe & Ito's palette, which stays distinct under every colour blindness.
_INK, _MUTED, _FAINT = "#222222", "#767676", "#d9d9d9"
_MODEL_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#5e3c99", "#e69f00", "#8c510a", "#35978f")
_BASELINE_COLOURS = {"copy": _MUTED, "mean": "#b8a000", "linear": "#d55e00"}
_MODEL_LINE: dict[str, Any] = {"color": _MODEL_COLOURS[0], "linewidth": 1.8}
_COPY_LINE: dict[str, Any] = {"color": _MUTED, "linewidth": 1.1, "linestyle": (0, (2, 1.5))}
_DPI = 160
_MAX_NAMED_SESSIONS = 80
_NUM_TRACES = 6
_MAX_NAMED_MODELS = 5


def forecast_traces(
    example: Example, model: str, path: Path, unit_names: Sequence[str] | None = None
) -> Path:
    """Units stacked: what happened, and the forecasts of the model and of copy from a few moments on.

    The units stand at even quantiles of the model's score along the stretch, so the picture shows what is
    usual, failures too. Each is scaled to its own range.

    Args:
        example: the stretch.
        model: the forecaster.
        path: a PNG file.
        unit_names: of all units of the session; None numbers them.
    """
    scores = example.unit_scores(model)
    shown = _even_quantiles(scores, _NUM_TRACES)
    context, horizon = example.context, example.horizon
    now = np.arange(context - 1, context - 1 + len(example.forecasts[model]), horizon + max(4, horizon // 2))
    to_time, unit_of_time = _time_scale(example.session.rate_hz)
    names = unit_names or [f"unit {unit}" for unit in range(example.session.num_units)]
    time = to_time(example.first_frame + np.arange(len(example.activity)))

    figure, axes = _canvas(width=10, height=1.4 + 0.9 * len(shown))
    axes.axvspan(time[0], time[context - 1], color=_FAINT, alpha=0.35, linewidth=0)
    axes.text(time[0], len(shown) - 0.45, " first context", fontsize=8, color=_MUTED, va="top")
    for row, unit in enumerate(shown):
        trace = example.activity[:, unit]
        scale = 0.8 / np.ptp(trace)
        base = row - 0.4 - scale * trace.min()
        axes.plot(time, base + scale * trace, color=_INK, linewidth=1.0, zorder=2)
        for name, style in (("copy", _COPY_LINE), (model, _MODEL_LINE)):
            for frame in now:
                forecast = example.forecasts[name][frame - (context - 1), :, unit]
                line = base + scale * np.concatenate([trace[frame : frame + 1], forecast])
                axes.plot(time[frame : frame + horizon + 1], line, zorder=3, **style)
        axes.plot(
            time[now], base + scale * trace[now], "o", color=_MODEL_COLOURS[0], markersize=3.5, zorder=4
        )
    axes.set_yticks(
        range(len(shown)), [f"{names[example.units[unit]]}\nscore {scores[unit]:.2f}" for unit in shown]
    )
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.55, len(shown) - 0.4)
    axes.set_xlim(time[0], time[-1])
    axes.set_xlabel(f"time in the recording ({unit_of_time})")
    _title(
        axes,
        f"{example.session.id}, {example.part}",
        f"forecasts {_ahead(horizon, example.session.rate_hz)} ahead of each dot; units at even quantiles of "
        "the score, best on top, each scaled to its own range",
    )
    _legend(
        figure,
        [
            Line2D([], [], color=_INK, linewidth=1.2, label="activity"),
            Line2D([], [], marker="o", markersize=3.5, label=model, **_MODEL_LINE),
            Line2D([], [], label="copy", **_COPY_LINE),
        ],
    )
    return _save(figure, path)


def population_raster(example: Example, model: str, step: int, path: Path) -> Path:
    """Heat maps of the population: what happened, and what the model had forecast `step` frames before.

    Units are centred and scaled by what happened in the stretch, alike in both maps, and ordered by their
    part in its first principal component.

    Args:
        example: the stretch.
        model: the forecaster.
        step: horizon step, 1 to H.
        path: a PNG file.
    """
    # By the whole stretch, context included: it moves even where there is but one window of a trial.
    mean, scale = example.activity.mean(axis=0), example.activity.std(axis=0)
    # The spread of a unit that never moves is none, or what rounding made of it.
    scale = np.where(np.ptp(example.activity, axis=0) > 0, scale, 1)
    truth = (example.targets()[:, step - 1] - mean) / scale
    forecast = (example.forecasts[model][:, step - 1] - mean) / scale
    order = _by_first_component(truth)
    to_time, unit_of_time = _time_scale(example.session.rate_hz)
    first = example.first_frame + example.context + step - 1

    figure = Figure(figsize=(10, 5.8), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    ahead = _ahead(step, example.session.rate_hz)
    for axes, values, name in (
        (panels[0], truth, "activity"),
        (
            panels[1],
            forecast,
            f"{model}, forecast {ahead} before (score {example.step_score(model, step):.2f})",
        ),
    ):
        image = axes.imshow(
            values[:, order].T,
            aspect="auto",
            cmap="RdBu_r",
            vmin=-2.5,
            vmax=2.5,
            extent=(to_time(first), to_time(first + len(truth)), len(order), 0),
            interpolation="nearest",
        )
        _plain(axes)
        axes.set_title(name, loc="left", fontsize=10, color=_INK)
        axes.set_ylabel(f"{len(order)} units")
        axes.set_yticks([])
    panels[1].set_xlabel(f"time in the recording ({unit_of_time})")
    bar = figure.colorbar(image, ax=panels, shrink=0.6, aspect=30, pad=0.015, extend="both")
    bar.set_label("activity (s.d. of this stretch)", fontsize=9, color=_INK)
    bar.ax.tick_params(labelsize=8, color=_MUTED, labelcolor=_INK)
    figure.suptitle(f"{example.session.id}, {example.part}", x=0.01, ha="left", fontsize=11, color=_INK)
    return _save(figure, path)


def score_by_horizon(evaluation: Evaluation, path: Path) -> Path:
    """Score by horizon step, with intervals: models in colour beside copy, mean and linear."""
    evaluation.require_baselines()
    summaries = {name: evaluation.summary(name) for name in (*evaluation.models, *BASELINES)}
    steps = np.arange(1, evaluation.horizon + 1)
    rates = {info.rate_hz for info in evaluation.sessions}
    common_rate = rates.pop() if len(rates) == 1 else None

    figure, axes = _canvas(width=7.2, height=4.4)
    low, high = _range_to_show(
        [column for name, scores in summaries.items() if name != "mean" for column in scores.by_step("score")]
    )
    ends = {}
    for name, scores in summaries.items():
        value, lower, upper = scores.by_step("score")
        colour, is_baseline = _colour(evaluation, name), name in BASELINES
        if name != "mean":  # Its band would cover the picture.
            axes.fill_between(steps, lower, upper, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, value, "--" if is_baseline else "o-", color=colour, linewidth=1.6, markersize=4)
        ends[name] = (float(value[-1]), colour)
    axes.set_ylim(low, high)
    axes.set_xlim(0.5, evaluation.horizon + 0.5)
    _label_line_ends(axes, ends)
    axes.set_ylabel("score (0 = copy, 1 = perfect)")
    axes.set_xlabel("frames ahead" + (f" (1 frame = {1 / common_rate:.3g} s)" if common_rate else ""))
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    _title(axes, f"Score by horizon, {evaluation.part}", _interval_text(next(iter(summaries.values()))))
    return _save(figure, path)


def score_by_session(evaluation: Evaluation, model: str, path: Path) -> Path:
    """A row of dots for each session, best on top: the model with its interval, and the baselines."""
    evaluation.require_baselines()
    species = {info.id: info.species for info in evaluation.sessions}
    scored = {name: one for name, one in evaluation.scores[model].items() if one.num_sessions}
    ranked = sorted(scored, key=lambda name: scored[name].value("score"))
    rows = np.arange(len(ranked))
    named = len(ranked) <= _MAX_NAMED_SESSIONS

    figure, axes = _canvas(width=8.4, height=1.5 + (0.21 * max(3, len(ranked)) if named else 10))
    marks = {
        model: ("o", 30, _MODEL_COLOURS[0]),
        "linear": ("D", 20, _BASELINE_COLOURS["linear"]),
        "mean": ("s", 18, _BASELINE_COLOURS["mean"]),
    }
    values = {
        name: np.array([evaluation.scores[name][session].value("score") for session in ranked])
        for name in marks
    }
    bounds = np.array([scored[name].bounds("score") for name in ranked]).reshape(-1, 2)
    low, high = _range_to_show([values[model], *bounds.T, values["linear"]])
    axes.hlines(rows, low, high, color=_FAINT, linewidth=0.5, zorder=0)
    axes.axvline(0, zorder=1, **_COPY_LINE)
    axes.hlines(rows, *bounds.T, color=_MODEL_COLOURS[0], linewidth=1.6, alpha=0.45, zorder=2)
    for name, (marker, size, colour) in reversed(marks.items()):
        style: dict[str, Any] = {"c": colour, "linewidths": 0, "zorder": 3}
        inside = values[name] >= low
        axes.scatter(values[name][inside], rows[inside], s=size, marker=marker, **style)
        edge = np.full(np.count_nonzero(~inside), low)
        axes.scatter(edge, rows[~inside], s=16, marker="<", clip_on=False, **style)
    axes.set_yticks(rows if named else [])
    if named:
        axes.set_yticklabels([f"{session}  ({species[session]})" for session in ranked], fontsize=8)
    else:
        axes.set_ylabel(f"{len(ranked)} sessions by score")
    axes.set_ylim(-0.7, len(ranked) - 0.3)
    axes.set_xlim(low, high)
    axes.set_xlabel("score (0 = copy, 1 = perfect)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _title(
        axes,
        f"Score by session, {evaluation.part}",
        "bars: 95 % interval over blocks of time, where there are enough; ◂ lies further left",
        side="right",
    )
    _legend(
        figure,
        [
            *(
                Line2D([], [], linestyle="", marker=marker, color=colour, markersize=5, label=name)
                for name, (marker, _, colour) in marks.items()
            ),
            Line2D([], [], label="copy", **_COPY_LINE),
        ],
    )
    return _save(figure, path)


def score_by_step(
    curves: Mapping[str, Sequence[tuple[int, float]]], levels: Mapping[str, float], title: str, path: Path
) -> Path:
    """Score against optimiser steps, a line for each way of training; forecasts that need none as levels.

    Args:
        curves: name -> (steps, score) in order, the first the one that the picture is about.
        levels: baselines' scores by name.
        title: whose scores, on which part.
        path: a PNG file.
    """
    figure, axes = _canvas(width=7.2, height=4.4)
    values = [np.array([score for _, score in curve]) for curve in curves.values()]
    shown = [np.array([level]) for name, level in levels.items() if name != "mean"]
    # Scratch begins far below all else, and would press it into a line.
    low, high = _range_to_show([values[0], *shown, *(column[-1:] for column in values[1:])])
    ends = {}
    for number, (name, curve) in enumerate(curves.items()):
        colour = _MODEL_COLOURS[number % len(_MODEL_COLOURS)]
        steps, scores = zip(*curve, strict=True)
        axes.plot(steps, scores, "o-", color=colour, linewidth=1.8 if number == 0 else 1.3, markersize=4)
        ends[name] = (scores[-1], colour)
    for name, level in levels.items():
        axes.axhline(level, color=_BASELINE_COLOURS[name], linewidth=1.2, linestyle="--", zorder=1)
        ends[name] = (level, _BASELINE_COLOURS[name])
    last = max(step for curve in curves.values() for step, _ in curve)
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    marks = [step for step in (0, 1, 5, 20, 50, 200, 1000, 5000) if step < 0.7 * last] + [last]
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
    axes.minorticks_off()
    axes.set_xlim(-0.15, max(1, last) * 1.15)
    axes.set_ylim(low, high)
    _label_line_ends(axes, ends)
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel("score (0 = copy, 1 = perfect)")
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    _title(axes, title, "dashed: forecasts that need no steps")
    return _save(figure, path)


def models_by_dataset(evaluations: Mapping[str, Evaluation], labels: Sequence[str], path: Path) -> Path:
    """A row for each data set: scores of all forecasters with intervals, and their scores by horizon step.

    Only the models that score best on average over the data sets have colours of their own and names at their
    lines; more could not be told apart.

    Args:
        evaluations: by data set.
        labels: forecasters, the models before the baselines.
        path: a PNG file.
    """
    colours = _best_coloured(evaluations, labels)
    height = 0.22 * len(labels) + 1.0
    figure = Figure(figsize=(10, 0.7 + height * len(evaluations)), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(evaluations), 2, squeeze=False, width_ratios=(3, 2))
    for (overall, by_step), (dataset, evaluation) in zip(panels, evaluations.items(), strict=True):
        evaluation.require_baselines()
        scores = {name: evaluation.summary(name) for name in labels if name in evaluation.scores}
        _dots(overall, scores, colours)
        overall.set_title(f"{dataset}\n{_interval_text(scores['copy'])}", loc="left", fontsize=9, color=_INK)
        steps = np.arange(1, evaluation.horizon + 1)
        lines = {name: one.by_step("score")[0] for name, one in scores.items() if name != "mean"}
        named = {name: line for name, line in lines.items() if colours[name] != _FAINT}
        for name, line in lines.items():
            style, is_named = "--" if name in BASELINES else "-", name in named
            width, order = (1.6, 2) if is_named else (0.9, 1)
            by_step.plot(steps, line, style, color=colours[name], linewidth=width, zorder=order)
        by_step.set_ylim(*_range_to_show(list(named.values())))
        by_step.set_title("score by frames ahead", loc="left", fontsize=9, color=_INK)
        by_step.xaxis.get_major_locator().set_params(integer=True)
        by_step.grid(axis="y", color=_FAINT, linewidth=0.6)
        for axes in (overall, by_step):
            _plain(axes)
        _label_line_ends(by_step, {name: (float(line[-1]), colours[name]) for name, line in named.items()})
    panels[-1][0].set_xlabel("score (0 = copy, 1 = perfect)")
    panels[-1][1].set_xlabel("frames ahead")
    return _save(figure, path)


def _best_coloured(evaluations: Mapping[str, Evaluation], labels: Sequence[str]) -> dict[str, str]:
    """Colours by forecaster: the baselines' own, others for the best models, and one for all the rest."""

    def mean_score(name: str) -> float:
        scores = [each.summary(name).value("score") for each in evaluations.values() if name in each.scores]
        return float(np.nan_to_num(np.mean(scores), nan=-np.inf))

    ranked = sorted((name for name in labels if name not in BASELINES), key=mean_score, reverse=True)
    shown = dict(zip(ranked, _MODEL_COLOURS[:_MAX_NAMED_MODELS], strict=False))
    return {name: _BASELINE_COLOURS.get(name) or shown.get(name, _FAINT) for name in labels}


def _dots(axes: Axes, scores: Mapping[str, Scores], colours: Mapping[str, str]) -> None:
    """A row of score and interval for each forecaster, best on top."""
    ranked = sorted(scores, key=lambda name: scores[name].value("score"))
    columns = [[one.value("score"), *one.bounds("score")] for name, one in scores.items() if name != "mean"]
    low, high = _range_to_show([np.array(column) for column in columns])
    for row, name in enumerate(ranked):
        value, colour = scores[name].value("score"), colours[name]
        if value < low:
            axes.scatter([low], [row], s=18, marker="<", color=colour, clip_on=False)
            axes.annotate(f"   {value:.2f}", (low, row), fontsize=8, color=_MUTED, va="center")
        else:
            axes.hlines(row, *scores[name].bounds("score"), color=colour, linewidth=1.8, alpha=0.5)
            axes.scatter([value], [row], s=26, color=colour, zorder=3)
    axes.axvline(0, zorder=1, **_COPY_LINE)
    axes.set_yticks(range(len(ranked)), ranked)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_MUTED)
    axes.tick_params(color=_MUTED, labelcolor=_INK, labelsize=8.5)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)


def _title(axes: Axes, title: str, subtitle: str, side: Literal["left", "right"] = "left") -> None:
    axes.figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    axes.set_title(subtitle, loc=side, fontsize=8.5, color=_MUTED)


def _legend(figure: Figure, handles: list[Line2D]) -> None:
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False, fontsize=8.5)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of sessions and units may hold dollars
    figure.savefig(path, facecolor="white")
    return path


def _colour(evaluation: Evaluation, forecaster: str) -> str:
    if forecaster in BASELINES:
        return _BASELINE_COLOURS[forecaster]
    return _MODEL_COLOURS[evaluation.models.index(forecaster) % len(_MODEL_COLOURS)]


def _range_to_show(columns: Sequence[np.ndarray]) -> tuple[float, float]:
    """Axis limits that hold 0 and the columns, but no score below -1: those are marked at the edge.

    The mean baseline is often far below copy, and would press all else into a line.
    """
    values = np.concatenate([[0.0], *columns])
    values = values[np.isfinite(values)]
    low, high = max(-1.0, values.min()), values.max()
    margin = 0.08 * max(high - low, 0.1)
    return low - margin, min(1.02, high + margin)


def _label_line_ends(axes: Axes, ends: dict[str, tuple[float, str]]) -> None:
    """Names lines at their right end, moved apart where they would overlap.

    Args:
        axes: with its final limits.
        ends: name -> (last value, colour).
    """
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    named = sorted(
        ((name, *end) for name, end in ends.items() if np.isfinite(end[0])), key=lambda item: item[1]
    )
    heights: list[float] = []
    for _, value, _ in named:
        heights.append(max(heights[-1] + gap if heights else low, min(value, high)))
    top = high
    for position in reversed(range(len(heights))):  # what was pushed out of the picture comes down again
        heights[position] = min(heights[position], top)
        top = heights[position] - gap
    for (name, value, colour), height in zip(named, heights, strict=True):
        below = f" ({value:.2f}, below)" if value < low else ""
        axes.annotate(
            name + below,
            (1.01, height),
            xycoords=("axes fraction", "data"),
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def _interval_text(scores: Scores) -> str:
    return {
        "sessions": f"mean over {scores.num_sessions} sessions; bands: 95 % interval over sessions",
        "blocks": "one session; bands: 95 % interval over blocks of time",
        "none": "too few windows for intervals",
    }[scores.interval]


def _time_scale(rate_hz: float | None) -> tuple[Callable[[ArrayLike], np.ndarray], str]:
    """How frames become times on an axis, and the unit's name."""
    if rate_hz is None:
        return np.asarray, "frames"
    return lambda frames: np.asarray(frames) / rate_hz, "s"


def _ahead(frames: int, rate_hz: float | None) -> str:
    return f"{frames} frames" if rate_hz is None else f"{frames / rate_hz:.3g} s"


def _even_quantiles(scores: np.ndarray, count: int) -> np.ndarray:
    """Which units stand at even quantiles of the score, worst first; units without a score left out."""
    ranked = np.argsort(scores)[: np.count_nonzero(np.isfinite(scores))]
    positions = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
    return ranked[positions.round().astype(int)]


def _by_first_component(activity: np.ndarray) -> np.ndarray:
    """Orders units by their part in the first principal component of activity [T, N]."""
    _, _, components = np.linalg.svd(activity - activity.mean(axis=0), full_matrices=False)
    return np.argsort(components[0])
