"""Pictures of studies, as the bytes of PNG files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from forebrain import plotting
from forebrain.plotting import BLUE, CATEGORIES, FAINT, GREEN, MUTED
from forebrain.studies.effects import Effect
from forebrain.studies.laws import FittedLaw, Verdict


@plotting.style()
def effects_figure(effects: Sequence[Effect], reference: str, part: str) -> bytes:
    """A dot and its interval for each variant, the largest gain on top."""
    ranked = sorted(effects, key=lambda effect: effect.difference[0])
    figure, axes = plotting.canvas(8.2, 1.5 + 0.32 * max(3, len(ranked)))
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
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{part} score less that of the {reference}, same seed and session")
    plotting.title(
        axes,
        "What changes the score, the largest gain on top",
        "thick: 95 % interval over seeds and sessions; thin: wide enough for all together; blue: clear of 0",
    )
    return plotting.png(figure)


@plotting.style()
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
    figure, axes = plotting.canvas(8.2, 4.8)
    for scores in by_session.values():
        axes.plot(sizes, scores, color=BLUE, linewidth=0.7, alpha=0.3)
    law = next((fit for fit in verdict.fits if fit.law.name == verdict.law), None)
    if law is not None:
        _draw_law(axes, law, sizes[-1])
    axes.plot(sizes, linear, marker="D", label="linear", **plotting.line("linear"))
    axes.errorbar(
        sizes,
        model[:, 0],
        yerr=np.abs(model[:, 1:].T - model[:, 0]),
        fmt="o-",
        color=BLUE,
        linewidth=1.8,
        capsize=3,
        markersize=6,
        label="model, mean and 95 % interval",
    )
    axes.axhline(0, label="copy", **plotting.line("copy"))
    axes.set_xscale("log")
    axes.set_xticks(sizes)
    plotting.plain_numbers(axes.xaxis)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(axis)
    axes.set_ylabel(f"{part} score (0 = copy, 1 = perfect)")
    axes.grid(axis="y")
    plotting.title(
        axes,
        f"Score over {axis}",
        f"thin: {len(by_session)} sessions, mean over seeds; the same {part} frames at every size",
    )
    figure.legend(loc="outside lower right", ncols=4)
    return plotting.png(figure)


def _draw_law(axes: Axes, fit: FittedLaw, largest: float) -> None:
    at, score, low, high = fit.curve
    inside = at <= largest
    axes.fill_between(at, low, high, color=GREEN, alpha=0.12, linewidth=0)
    axes.plot(at[inside], score[inside], color=GREEN, linewidth=1.4, label=fit.law.name)
    axes.plot(at[~inside], score[~inside], color=GREEN, linewidth=1.4, linestyle=":")


@plotting.style()
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
    figure, axes = plotting.canvas(8.2, 7.2)
    counts = Counter(label for label in labels if label)
    shown = [label for label, _ in counts.most_common(len(CATEGORIES))]
    colour_of = dict(zip(shown, CATEGORIES, strict=False))
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
    plotting.title(
        axes, text, f"{len(places)} units" + (f"; grey: {rest} rarer labels, or none" if rest else "")
    )
    widest = max(map(len, shown), default=0)
    figure.legend(loc="outside lower center", ncols=max(1, min(5, 135 // (widest + 8))), fontsize=7.5)
    return plotting.png(figure)
