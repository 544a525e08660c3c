"""Pictures of studies, as PNG, drawn without matplotlib's global state."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from forebrain.studies.effects import Effect
from forebrain.studies.laws import FittedLaw, Verdict

INK, MUTED, FAINT = "#222222", "#767676", "#d9d9d9"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
# Okabe & Ito's palette and lighter and darker shades of it.
_COLOURS = (
    BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#b8a000", "#7f3c8d", "#a5aa99", "#7a1f2b", "#3b3b3b",
)  # fmt: skip
_DPI = 150


def effects_figure(effects: Sequence[Effect], reference: str, part: str) -> bytes:
    """A dot and its interval for each variant, the largest gain on top."""
    ranked = sorted(effects, key=lambda effect: effect.difference[0])
    figure, axes = canvas(8.2, 1.5 + 0.32 * max(3, len(ranked)))
    axes.axvline(0, color=MUTED, linewidth=1)
    for row, effect in enumerate(ranked):
        colour = BLUE if effect.is_clear else MUTED
        value, low, high = effect.difference
        if effect.together is not None:
            axes.plot(effect.together, [row, row], color=colour, linewidth=1, alpha=0.5)
        axes.plot([low, high], [row, row], color=colour, linewidth=3, alpha=0.6)
        axes.plot(value, row, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(ranked)), [effect.variant for effect in ranked])
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{part} score less that of the {reference}, same seed and session")
    title(
        axes,
        "What changes the score",
        "thick: 95 % interval over seeds and sessions; thin: wide enough for all together; blue: clear of 0",
    )
    return png(figure)


def curve_figure(
    sizes: Sequence[float],
    axis: str,
    part: str,
    by_session: Mapping[str, np.ndarray],
    model: np.ndarray,
    linear: np.ndarray,
    verdict: Verdict,
) -> bytes:
    """Score over size: each session, their mean with its interval, the linear baseline and the law.

    Args:
        sizes: M sizes, ascending.
        axis: what they are.
        part: validation or test.
        by_session: session -> scores [M], averaged over seeds.
        model: [M, 3], mean over seeds and sessions with its interval.
        linear: [M], of the linear baseline.
        verdict: what the curve supports; its law is drawn.
    """
    figure, axes = canvas(8.2, 4.8)
    for scores in by_session.values():
        axes.plot(sizes, scores, color=BLUE, linewidth=0.7, alpha=0.3)
    law = next((fit for fit in verdict.fits if fit.law.name == verdict.law), None)
    if law is not None:
        _draw_law(axes, law, sizes[-1])
    axes.plot(sizes, linear, "D--", color=ORANGE, linewidth=1.3, markersize=4, label="linear")
    axes.errorbar(
        sizes, model[:, 0], yerr=np.abs(model[:, 1:].T - model[:, 0]), fmt="o-", color=BLUE, linewidth=1.8,
        capsize=3, markersize=6, label="model, mean and 95 % interval",
    )  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (2, 1.5)), label="copy")
    axes.set_xscale("log")
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(axis)
    axes.set_ylabel(f"{part} score (0 = copy, 1 = perfect)")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    title(
        axes,
        f"Score over {axis}",
        f"thin: {len(by_session)} sessions, mean over seeds; the same {part} frames at every size",
    )
    figure.legend(loc="outside lower right", ncols=4, frameon=False, fontsize=8.5)
    return png(figure)


def _draw_law(axes: Axes, fit: FittedLaw, largest: float) -> None:
    at, score, low, high = fit.curve
    inside = at <= largest
    axes.fill_between(at, low, high, color=GREEN, alpha=0.12, linewidth=0)
    axes.plot(at[inside], score[inside], color=GREEN, linewidth=1.4, label=fit.law.name)
    axes.plot(at[~inside], score[~inside], color=GREEN, linewidth=1.4, linestyle=":")


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty picture of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(color=MUTED, labelcolor=INK, labelsize=8.5)
    return figure, axes


def title(axes: Axes, text: str, subtitle: str) -> None:
    """Heads a figure of one panel."""
    axes.figure.suptitle(text, x=0.01, ha="left", fontsize=11, color=INK)
    axes.set_title(subtitle, loc="left", fontsize=8.5, color=MUTED)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white")
    return stream.getvalue()


def scatter_figure(
    places: np.ndarray,
    labels: Sequence[str | None],
    share: np.ndarray,
    text: str,
) -> bytes:
    """Points in the plane, the most frequent labels in colour and above the rest.

    Args:
        places: [U, 2], two principal components.
        labels: of each point; None is grey.
        share: [2], of the variance that each component holds.
        text: the title.
    """
    figure, axes = canvas(8.2, 7.2)
    counts = Counter(label for label in labels if label)
    shown = [label for label, _ in counts.most_common(len(_COLOURS))]
    colour_of = dict(zip(shown, _COLOURS, strict=False))
    known = np.array([label in colour_of for label in labels])
    axes.scatter(places[~known, 0], places[~known, 1], c=FAINT, s=12, linewidths=0)
    colours = [colour_of[label] for label in labels if label in colour_of]
    # A few stand out of many; many would hide one another.
    few = known.sum() < len(known) / 4
    size, alpha = (36, 1.0) if few else (14, 0.8)
    axes.scatter(places[known, 0], places[known, 1], c=colours, s=size, linewidths=0, alpha=alpha)
    for label in shown:
        axes.scatter([], [], c=colour_of[label], s=24, label=f"{label} ({counts[label]})")
    axes.set_xlabel(f"first component, {share[0]:.0%} of the variance")
    axes.set_ylabel(f"second, {share[1]:.0%}")
    rest = len(counts) - len(shown)
    title(axes, text, f"{len(places)} units" + (f"; grey: {rest} rarer labels, or none" if rest else ""))
    widest = max(map(len, shown), default=0)
    figure.legend(
        loc="outside lower center", ncols=max(1, min(5, 135 // (widest + 8))), frameon=False, fontsize=7.5
    )
    return png(figure)
