"""Pictures of an evaluation, as PNG. Each function returns its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from forebrain import plotting
from forebrain.evaluation.examples import Example
from forebrain.plotting import INK, MUTED
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.evaluate import Evaluation
from forebrain.scoring.metrics import Scores
from forebrain.scoring.quantiles import COVERAGES

_MAX_NAMED_SESSIONS = 80
_NUM_TRACES = 6
_MAX_NAMED_MODELS = 5
_MAX_NAMED_UNITS = 40
_BAR_SIZES = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # standard deviations
_ALIKE = 1.05  # rates of one laboratory differ by less
_SCORE = "score (0 = copy, 1 = perfect)"


def forecast_traces(
    example: Example, model: str, path: Path, unit_names: Sequence[str] | None = None
) -> Path:
    """Units stacked, as `traces_figure` draws them.

    Args:
        example: the stretch.
        model: the forecaster.
        path: a PNG file.
        unit_names: of all units of the session; None numbers them.
    """
    return plotting.save(traces_figure(example, model, unit_names), path)


@plotting.style()
def traces_figure(example: Example, model: str, unit_names: Sequence[str] | None = None) -> Figure:
    """Units stacked: what happened, and the forecasts of the model and of copy from a few moments on.

    The units stand at even quantiles of the variance that the model explains along the stretch, so the
    picture shows what is usual, failures too. Each is scaled to its own range, beside a bar of known size.
    Where the example has them, the model's 80 % intervals are shaded.
    """
    of_units = example.unit_scores(model)
    scores, explained = of_units.score, of_units.explained
    shown = _even_quantiles(np.where(np.isfinite(scores), explained, np.nan), _NUM_TRACES)
    context, horizon, rate_hz = example.context, example.horizon, example.session.rate_hz
    now = np.arange(context - 1, context - 1 + len(example.forecasts[model]), horizon + max(4, horizon // 2))
    to_time, unit_of_time = plotting.time_scale(rate_hz)
    names = unit_names or [f"unit {unit}" for unit in range(example.session.num_units)]
    time = to_time(example.first_frame + np.arange(len(example.activity)))
    lines = {name: plotting.line(name) for name in ("copy", model) if name in example.forecasts}
    bands = example.bands.get(model)

    figure, axes = plotting.canvas(width=10, height=1.4 + 0.9 * len(shown))
    axes.axvspan(time[0], time[context - 1], color=plotting.FAINT, alpha=0.35, linewidth=0)
    seen = plotting.duration(context, rate_hz)
    axes.text(time[0], len(shown) - 0.45, f" the first context, {seen}", fontsize=8, color=MUTED, va="top")
    for row, unit in enumerate(shown):
        trace = example.activity[:, unit]
        scale = 0.8 / np.ptp(trace)
        base = row - 0.4 - scale * trace.min()
        axes.plot(time, base + scale * trace, color=INK, linewidth=1.0, zorder=2)
        if bands is not None:
            for frame in now:
                low_high = bands[:, frame - (context - 1), :, unit]
                heights = base + scale * np.concatenate([np.full((2, 1), trace[frame]), low_high], axis=1)
                plotting.band(axes, time[frame : frame + horizon + 1], heights, lines[model]["color"])
        for name, style in lines.items():
            for frame in now:
                forecast = example.forecasts[name][frame - (context - 1), :, unit]
                heights = base + scale * np.concatenate([trace[frame : frame + 1], forecast])
                axes.plot(time[frame : frame + horizon + 1], heights, zorder=3, **style)
        dots = {"color": lines[model]["color"], "markersize": 3.5, "zorder": 4}
        axes.plot(time[now], base + scale * trace[now], "o", **dots)
        size = next((size for size in _BAR_SIZES if size * scale > 0.15), _BAR_SIZES[-1])
        if size * scale < 1:  # not of a unit that hardly moves, whose bar would reach over all
            plotting.scale_bar(axes, 1.008, row - 0.4, size * scale, f"{size:g} s.d.")
    axes.set_yticks(
        range(len(shown)),
        [
            f"{names[example.units[unit]]}\nexplained {explained[unit]:.2f}, score {scores[unit]:.2f}"
            for unit in shown
        ],
    )
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.55, len(shown) - 0.4)
    axes.set_xlim(time[0], time[-1])
    axes.set_xlabel(f"time in the recording ({unit_of_time})")
    plotting.title(
        axes,
        f"{example.session.id}, {example.part}",
        f"forecasts of the next {plotting.duration(horizon, rate_hz)} from each dot on; "
        f"{len(shown)} of {len(scores)} units, at even quantiles of explained variance, best on top",
    )
    signs = [
        Line2D([], [], color=INK, linewidth=1.2, label="activity"),
        Line2D([], [], marker="o", markersize=3.5, label=model, **lines[model]),
        *(Line2D([], [], label=name, **style) for name, style in lines.items() if name != model),
    ]
    if bands is not None:
        signs.append(plotting.band_sign("80 % interval", lines[model]["color"]))
    plotting.legend(figure, signs)
    return figure


@plotting.style()
def interval_coverage(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """How much the 50, 80 and 90 % intervals cover, a row for each data set: mean, sessions, worst tenth.

    Args:
        rows: of sessions, with `dataset`, `coverage` and `worst_tenth_coverage` by level; and `streamed`
            where it is known what 80 % intervals cover that learn as frames come.
    """
    datasets = sorted({row["dataset"] for row in rows}, reverse=True)
    figure, axes = plotting.canvas(9, 1.6 + 0.36 * max(3, len(datasets)))
    for level, colour in zip(COVERAGES, (plotting.GREEN, plotting.BLUE, plotting.VERMILION), strict=True):
        axes.axvline(100 * level, color=colour, linewidth=1, alpha=0.6)
        for height, dataset in enumerate(datasets):
            group = [row for row in rows if row["dataset"] == dataset]
            covered = np.array([100 * row["coverage"][str(level)] for row in group])
            axes.plot(covered, np.full(len(group), height), "o", color=colour, alpha=0.3, markersize=3)
            axes.plot(covered.mean(), height, "o", color=colour, markersize=6)
            if level == 0.8:
                worst = np.mean([100 * row["worst_tenth_coverage"][str(level)] for row in group])
                axes.plot(worst, height, "|", color=colour, markersize=10, markeredgewidth=1.6)
                if all("streamed" in row for row in group):
                    streamed = np.mean([100 * row["streamed"]["coverage"] for row in group])
                    axes.plot(streamed, height, "o", color=colour, markersize=10, markerfacecolor="none")
    axes.set_yticks(range(len(datasets)), datasets)
    axes.set_ylim(-0.6, len(datasets) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")
    axes.set_xlabel("targets inside the interval, %")
    plotting.title(
        axes,
        "What intervals cover on the test part",
        "lines: asked for; large dots: data sets, small ones: sessions\n"
        "of 80 %: bars: worst tenth of the units; rings: intervals that learn as frames come, as in a stream",
    )
    return plotting.png(figure)


@plotting.style()
def population_raster(
    example: Example, model: str, step: int, path: Path, unit_names: Sequence[str] | None = None
) -> Path:
    """Heat maps: what the population did, what the model forecast `step` frames before, and the difference.

    Units are centred and scaled by what happened in the stretch, alike in all maps, and ordered by the
    variance that the forecast explains, best on top.

    Args:
        example: the stretch.
        model: the forecaster.
        step: horizon step, 1 to H.
        path: a PNG file.
        unit_names: of all units of the session, shown where they are few; None shows their number alone.
    """
    # By the whole stretch, context included: it moves even where there is but one window of a trial.
    mean, scale = example.activity.mean(axis=0), example.activity.std(axis=0)
    # The spread of a unit that never moves is none, or what rounding made of it.
    scale = np.where((np.ptp(example.activity, axis=0) > 0) & (scale > 0), scale, 1)
    truth = (example.targets()[:, step - 1] - mean) / scale
    forecast = (example.forecasts[model][:, step - 1] - mean) / scale
    explained = example.unit_scores(model).explained
    order = np.argsort(-np.nan_to_num(explained, nan=-np.inf), kind="stable")
    rate_hz = example.session.rate_hz
    to_time, unit_of_time = plotting.time_scale(rate_hz)
    first = example.first_frame + example.context + step - 1
    before = f"{plotting.duration(step, rate_hz)} before (score {example.step_score(model, step):.2f})"

    figure, grid = plotting.panels(10, 7.6, 3, 1, sharex=True)
    panels = grid[:, 0]
    for axes, values, name in (
        (panels[0], truth, "activity"),
        (panels[1], forecast, f"{model}, forecast {before}"),
        (panels[2], forecast - truth, "forecast less activity"),
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
        axes.set_title(name, fontsize=10, color=INK)
        if unit_names is None or len(order) > _MAX_NAMED_UNITS:
            axes.set_yticks([])
        else:
            named = [unit_names[example.units[unit]] for unit in order]
            axes.set_yticks(np.arange(len(order)) + 0.5, named, fontsize=min(8, 110 / len(order)))
    figure.supylabel(f"{len(order)} units, by explained variance, best on top", fontsize=9.5)
    panels[-1].set_xlabel(f"time in the recording ({unit_of_time})")
    bar = figure.colorbar(image, ax=panels, shrink=0.6, aspect=30, pad=0.015, extend="both")
    bar.set_label("standard deviations of this stretch", fontsize=9)
    figure.suptitle(f"{example.session.id}, {example.part}", x=0.01, ha="left")
    return plotting.save(figure, path)


@plotting.style()
def score_by_horizon(evaluation: Evaluation, path: Path) -> Path:
    """Score by time ahead, with intervals: models in colour beside copy, mean and linear."""
    evaluation.require_baselines()
    summaries = {name: evaluation.summary(name) for name in (*evaluation.models, *BASELINES)}
    rate_hz = _common_rate(evaluation)
    to_time, _ = plotting.time_scale(rate_hz)
    ahead = to_time(np.arange(1, evaluation.horizon + 1))

    figure, axes = plotting.canvas(width=7.2, height=4.4)
    low, high = _range_to_show(
        [column for name, scores in summaries.items() if name != "mean" for column in scores.by_step("score")]
    )
    ends = {}
    for name, colour in plotting.colours(list(summaries)).items():
        value, lower, upper = summaries[name].by_step("score")
        if name != "mean":  # Its band would cover the picture.
            axes.fill_between(ahead, lower, upper, color=colour, alpha=0.15, linewidth=0)
        axes.plot(ahead, value, marker="" if name in BASELINES else "o", **plotting.line(name, colour))
        ends[name] = (float(value[-1]), colour)
    axes.set_ylim(low, high)
    axes.set_xlim(ahead[0] / 2, ahead[-1] + ahead[0] / 2)
    plotting.label_line_ends(axes, ends)
    axes.set_ylabel(_SCORE)
    plotting.ahead_axis(axes, rate_hz)
    axes.grid(axis="y")
    plotting.title(
        axes, f"Score by time ahead, {evaluation.part}", _interval_text(next(iter(summaries.values())))
    )
    return plotting.save(figure, path)


@plotting.style()
def score_by_session(evaluation: Evaluation, model: str, path: Path) -> Path:
    """A row of dots for each session, best on top: the model with its interval, and the baselines."""
    evaluation.require_baselines()
    species = {info.id: info.species for info in evaluation.sessions}
    scored = {name: one for name, one in evaluation.scores[model].items() if one.num_sessions}
    ranked = sorted(scored, key=lambda name: scored[name].value("score"))
    rows = np.arange(len(ranked))
    named = len(ranked) <= _MAX_NAMED_SESSIONS

    figure, axes = plotting.canvas(width=8.4, height=1.5 + (0.21 * max(3, len(ranked)) if named else 10))
    colours = plotting.colours([model, "linear", "mean"])
    marks = {model: ("o", 30), "linear": ("D", 20), "mean": ("s", 18)}
    values = {
        name: np.array([evaluation.scores[name][session].value("score") for session in ranked])
        for name in marks
    }
    bounds = np.array([scored[name].bounds("score") for name in ranked]).reshape(-1, 2)
    low, high = _range_to_show([values[model], *bounds.T, values["linear"]])
    axes.hlines(rows, low, high, color=plotting.FAINT, linewidth=0.5, zorder=0)
    axes.axvline(0, zorder=1, **plotting.line("copy"))
    axes.hlines(rows, *bounds.T, color=colours[model], linewidth=1.6, alpha=0.45, zorder=2)
    for name, (marker, size) in reversed(marks.items()):
        style: dict[str, Any] = {"c": colours[name], "linewidths": 0, "zorder": 3}
        inside = values[name] >= low
        axes.scatter(values[name][inside], rows[inside], s=size, marker=marker, **style)
        edge = np.full(np.count_nonzero(~inside), low)
        axes.scatter(edge, rows[~inside], s=16, marker="<", clip_on=False, **style)
    axes.set_yticks(rows if named else [])
    if named:
        axes.set_yticklabels([f"{session}  ({species[session]})" for session in ranked], fontsize=8)
    axes.set_ylabel(f"{len(ranked)} sessions, best on top")
    axes.set_ylim(-0.7, len(ranked) - 0.3)
    axes.set_xlim(low, high)
    axes.set_xlabel(_SCORE)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    plotting.title(
        axes,
        f"Score by session, {evaluation.part}",
        "bars: 95 % interval over blocks of time, where there are enough; ◂ lies further left",
        side="right",
    )
    plotting.legend(
        figure,
        [
            *(
                Line2D([], [], linestyle="", marker=marker, color=colours[name], markersize=5, label=name)
                for name, (marker, _) in marks.items()
            ),
            Line2D([], [], label="copy", **plotting.line("copy")),
        ],
    )
    return plotting.save(figure, path)


@plotting.style()
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
    figure, axes = plotting.canvas(width=7.2, height=4.4)
    values = [np.array([score for _, score in curve]) for curve in curves.values()]
    shown = [np.array([level]) for name, level in levels.items() if name != "mean"]
    # Scratch begins far below all else, and would press it into a line.
    low, high = _range_to_show([values[0], *shown, *(column[-1:] for column in values[1:])])
    colours = plotting.colours([*curves, *levels])
    ends = {}
    for number, (name, curve) in enumerate(curves.items()):
        steps, scores = zip(*curve, strict=True)
        style = plotting.line(name, colours[name]) | {"linewidth": 1.8 if number == 0 else 1.3}
        axes.plot(steps, scores, marker="o", **style)
        ends[name] = (scores[-1], colours[name])
    for name, level in levels.items():
        axes.axhline(level, zorder=1, **plotting.line(name))
        ends[name] = (level, colours[name])
    last = max(step for curve in curves.values() for step, _ in curve)
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    marks = [step for step in (0, 1, 5, 20, 50, 200, 1000, 5000) if step < 0.7 * last] + [last]
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
    axes.minorticks_off()
    axes.set_xlim(-0.15, max(1, last) * 1.15)
    axes.set_ylim(low, high)
    plotting.label_line_ends(axes, ends)
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel(_SCORE)
    axes.grid(axis="y")
    plotting.title(axes, title, "dashed: forecasts that need no steps")
    return plotting.save(figure, path)


@plotting.style()
def models_by_dataset(evaluations: Mapping[str, Evaluation], labels: Sequence[str], path: Path) -> Path:
    """A row for each data set: scores of all forecasters with intervals, and their scores by time ahead.

    Names stand only at the lines of the models that score best on average over the data sets; more could not
    be told apart.

    Args:
        evaluations: by data set.
        labels: forecasters, the models before the baselines.
        path: a PNG file.
    """
    colours = plotting.colours(labels)
    named = {*_best(evaluations, labels), *BASELINES}
    height = 0.22 * len(labels) + 1.0
    figure, panels = plotting.panels(
        10, 0.7 + height * len(evaluations), len(evaluations), 2, width_ratios=(3, 2)
    )
    for (overall, by_step), (dataset, evaluation) in zip(panels, evaluations.items(), strict=True):
        evaluation.require_baselines()
        scores = {name: evaluation.summary(name) for name in labels if name in evaluation.scores}
        _dots(overall, scores, colours)
        overall.set_title(f"{dataset}, best on top\n{_interval_text(scores['copy'])}", fontsize=9, color=INK)
        rate_hz = _common_rate(evaluation)
        to_time, _ = plotting.time_scale(rate_hz)
        ahead = to_time(np.arange(1, evaluation.horizon + 1))
        lines = {name: one.by_step("score")[0] for name, one in scores.items() if name != "mean"}
        shown = {name: line for name, line in lines.items() if name in named}
        for name, line in lines.items():
            style = plotting.line(name, colours[name])
            if name not in named:
                style |= {"linewidth": 0.9, "alpha": 0.45, "zorder": 1}
            by_step.plot(ahead, line, **style)
        by_step.set_ylim(*_range_to_show(list(shown.values())))
        by_step.set_title("score by time ahead", fontsize=9, color=INK)
        plotting.ahead_axis(by_step, rate_hz)
        by_step.grid(axis="y")
        plotting.label_line_ends(
            by_step, {name: (float(line[-1]), colours[name]) for name, line in shown.items()}
        )
    panels[-1][0].set_xlabel(_SCORE)
    return plotting.save(figure, path)


def _best(evaluations: Mapping[str, Evaluation], labels: Sequence[str]) -> list[str]:
    """The models that score best on average over the data sets, as many as can be told apart."""

    def mean_score(name: str) -> float:
        scores = [each.summary(name).value("score") for each in evaluations.values() if name in each.scores]
        return float(np.nan_to_num(np.mean(scores), nan=-np.inf))

    models = [name for name in labels if name not in BASELINES]
    return sorted(models, key=mean_score, reverse=True)[:_MAX_NAMED_MODELS]


def _common_rate(evaluation: Evaluation) -> float | None:
    """The mean rate of sessions whose rates are alike, Hz; None where they differ or one is not known."""
    rates = [info.rate_hz for info in evaluation.sessions if info.rate_hz is not None]
    alike = len(rates) == len(evaluation.sessions) and max(rates) < _ALIKE * min(rates)
    return float(np.mean(rates)) if alike else None


def _dots(axes: Axes, scores: Mapping[str, Scores], colours: Mapping[str, str]) -> None:
    """A row of score and interval for each forecaster, best on top."""
    ranked = sorted(scores, key=lambda name: scores[name].value("score"))
    columns = [[one.value("score"), *one.bounds("score")] for name, one in scores.items() if name != "mean"]
    low, high = _range_to_show([np.array(column) for column in columns])
    for row, name in enumerate(ranked):
        value, colour = scores[name].value("score"), colours[name]
        if value < low:
            axes.scatter([low], [row], s=18, marker="<", color=colour, clip_on=False)
            axes.annotate(f"   {value:.2f}", (low, row), fontsize=8, color=MUTED, va="center")
        else:
            axes.hlines(row, *scores[name].bounds("score"), color=colour, linewidth=1.8, alpha=0.5)
            axes.scatter([value], [row], s=26, color=colour, zorder=3)
    axes.axvline(0, zorder=1, **plotting.line("copy"))
    axes.set_yticks(range(len(ranked)), ranked)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.grid(axis="x")


def _range_to_show(columns: Sequence[np.ndarray]) -> tuple[float, float]:
    """Axis limits that hold 0 and the columns, but no score below -1: those are marked at the edge.

    The mean baseline is often far below copy, and would press all else into a line.
    """
    values = np.concatenate([[0.0], *columns])
    values = values[np.isfinite(values)]
    low, high = max(-1.0, values.min()), values.max()
    margin = 0.08 * max(high - low, 0.1)
    return low - margin, min(1.02, high + margin)


def _interval_text(scores: Scores) -> str:
    return {
        "sessions": f"mean over {scores.num_sessions} sessions; bands: 95 % interval over sessions",
        "blocks": "one session; bands: 95 % interval over blocks of time",
        "none": "too few windows for intervals",
    }[scores.interval]


def _even_quantiles(scores: np.ndarray, count: int) -> np.ndarray:
    """The units at even quantiles of a score [N], worst first; units without a score are left out."""
    ranked = np.argsort(scores)[: np.count_nonzero(np.isfinite(scores))]
    positions = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
    return ranked[positions.round().astype(int)]
