"""The one plotting style: how all pictures of the project look, and the colour that a forecaster has in them.

A picture is drawn by a function under `@style()`, on a figure of `canvas` or `panels`, and ends in `save` or
`png`. It neither changes matplotlib's global state nor relies on it, so a notebook with a style of its own
gets the same pictures.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from forebrain_registry.storage import require_anchored

INK, MUTED, FAINT = "#222222", "#767676", "#d9d9d9"
BLUE, GREEN, VERMILION = "#0072b2", "#009e73", "#d55e00"  # Okabe & Ito's, for colour blindness

# Models are in colour and baselines in grey. A name keeps its colour in every picture.
COLOURS: Mapping[str, str] = {
    "POCO": BLUE,
    "UICO": "#56b4e9",
    "POYO": "#5e3c99",
    "TACO": "#35978f",
    "MLP": GREEN,
    "Linear (trained)": "#e3a6c7",
    "NLinear": "#cc79a7",
    "DLinear": "#9c4f7e",
    "TSMixer": "#8c510a",
    "FilterNet": "#e69f00",
    "ModernTCN": VERMILION,
    "Transformer": "#a50026",
    "PLRNN": "#b8a000",
    "NetFormer": "#7fbc41",
    # Ways of adapting a backbone.
    "adapted": BLUE,
    "embeddings": BLUE,
    "embeddings-from-mean": "#56b4e9",
    "embeddings-from-random": "#35978f",
    "forecaster": "#e69f00",
    "full": "#5e3c99",
    "stack": BLUE,
    "scratch": "#a50026",
    "from scratch": "#a50026",
    "none": "#8c510a",
    "not adapted": "#8c510a",
    "backbone alone": "#56b4e9",
    "planned inputs": VERMILION,
    "past inputs": GREEN,
    "wrong plan": "#cc79a7",
    "self": "#cc79a7",
    "era": "#e69f00",
    # Baselines, and the models that are one.
    "copy": "#8c8c8c",
    "Copy": "#8c8c8c",
    "mean": "#ababab",
    "Mean": "#ababab",
    "linear": "#4d4d4d",
    "ridge": INK,
}
_SPARES = ("#c51b7d", "#1b7837", "#2d3e8c", "#bf812d", "#01665e", "#dd3497", "#4d9221", "#7a0177")
BAND_ALPHA = 0.2
DASHES: Mapping[str, Any] = {
    "copy": (0, (2, 1.5)),
    "mean": (0, (1, 1.5)),
    "linear": (0, (5, 2)),
    "ridge": (0, (5, 1.5, 1, 1.5)),
}
# For labels that are no forecasters, such as regions.
CATEGORIES = (
    BLUE,
    VERMILION,
    GREEN,
    "#cc79a7",
    "#56b4e9",
    "#b8a000",
    "#7f3c8d",
    "#a5aa99",
    "#7a1f2b",
    "#3b3b3b",
)

_STYLE: Mapping[str, Any] = {
    "figure.dpi": 160,
    "figure.facecolor": "white",
    "figure.titlesize": 11,
    "savefig.dpi": "figure",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names of sessions and units may hold dollars
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}


class _Shown(Figure):
    """A figure that a notebook shows, whatever its back end."""

    def _repr_png_(self) -> bytes:
        return png(self)


@contextmanager
def style() -> Iterator[None]:
    """Draws what is within, or the function that it decorates, in the style of the project."""
    with matplotlib.style.context(["default", dict(_STYLE)]):
        yield


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of one panel, in inches."""
    figure, axes = panels(width, height, 1, 1)
    return figure, axes[0, 0]


def panels(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure of several panels.

    Args:
        width, height: inches.
        rows, columns: of panels.
        **options: of `Figure.subplots`, such as `sharex`.

    Returns:
        The figure, and its axes [rows, columns].
    """
    figure = _Shown(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG file, and its folder where there is none."""
    require_anchored(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def title(axes: Axes, text: str, subtitle: str, side: Literal["left", "right"] = "left") -> None:
    """Heads a figure: a title over all, and over one panel a line in grey that says how to read it."""
    axes.figure.suptitle(text, x=0.01, ha="left")
    axes.set_title(subtitle, loc=side)


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """One row of signs below the picture."""
    figure.legend(handles=list(handles), loc="outside lower right", ncols=len(handles))


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each forecaster, its own in every picture.

    A run called "POCO (wide)" has POCO's colour, unless POCO or another run of it has taken it; it and names
    that nobody knows then get spare ones, in the order given.
    """
    found: dict[str, str] = {}
    spares = itertools.cycle(_SPARES)
    for name in names:
        of_model = name.split(" (")[0]
        own = COLOURS.get(name)
        if own is None and of_model not in names and COLOURS.get(of_model) not in found.values():
            own = COLOURS.get(of_model)
        found[name] = own or next(spares)
    return found


def band(axes: Axes, x: np.ndarray, bounds: np.ndarray, colour: str) -> None:
    """Shades an interval along x [T] between bounds [2, T]."""
    axes.fill_between(x, *bounds, color=colour, alpha=BAND_ALPHA, linewidth=0, zorder=1)


def band_sign(label: str, colour: str) -> Line2D:
    """The sign of a shaded interval in a legend."""
    return Line2D([], [], color=colour, alpha=BAND_ALPHA, linewidth=7, label=label)


def line(name: str, colour: str | None = None) -> dict[str, Any]:
    """How a forecaster's line is drawn: baselines are dashed and thinner.

    Args:
        name: of the forecaster.
        colour: from `colours`; None for what it has by itself.
    """
    return {
        "color": colour or colours([name])[name],
        "linestyle": DASHES.get(name, "-"),
        "linewidth": 1.2 if name in DASHES else 1.8,
    }


def time_scale(rate_hz: float | None) -> tuple[Callable[[ArrayLike], np.ndarray], str]:
    """How frames become times on an axis, and the unit's name: seconds, or frames where no rate is known."""
    if rate_hz is None:
        return np.asarray, "frames"
    return lambda frames: np.asarray(frames) / rate_hz, "s"


def duration(frames: int, rate_hz: float | None) -> str:
    """So many frames in words: `7.39 s`, or `16 frames` where no rate is known."""
    return f"{frames} frame{'s' * (frames != 1)}" if rate_hz is None else f"{frames / rate_hz:.3g} s"


def ahead_axis(axes: Axes, rate_hz: float | None) -> None:
    """Names an x axis of `time_scale(rate_hz)` that says how far ahead a forecast is."""
    name = "frames ahead" if rate_hz is None else f"seconds ahead (1 frame = {1 / rate_hz:.2g} s)"
    axes.set_xlabel(name)
    if rate_hz is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def scale_bar(axes: Axes, x: float, bottom: float, height: float, label: str = "") -> None:
    """A vertical bar of known size beside a trace that has no axis of its own.

    Args:
        axes: where, with its limits set.
        x: place in the axes' width, 1 at the right edge.
        bottom, height: in data.
        label: beside the bar.
    """
    place = axes.get_yaxis_transform()
    axes.plot([x, x], [bottom, bottom + height], color=INK, linewidth=1.6, transform=place, clip_on=False)
    axes.text(x + 0.006, bottom + height / 2, label, transform=place, fontsize=7.5, va="center")


def plain_numbers(axis: Any, minor: str = "") -> None:
    """Writes a logarithmic axis in whole numbers (1,000), not in powers.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`.
        minor: first digits of the ticks between that are written too.
    """
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(
        FuncFormatter(lambda value, _: f"{value:,.10g}" if f"{value:e}"[0] in minor else "")
    )


def label_line_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
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
    groups: list[list[float]] = []  # names that stand close together, centred on their lines

    def bottom(group: list[float]) -> float:
        span = gap * (len(group) - 1)
        return float(np.clip(np.mean(group) - span / 2, low, max(low, high - span)))

    for _, value, _ in named:
        groups.append([float(np.clip(value, low, high))])
        while len(groups) > 1 and bottom(groups[-1]) < bottom(groups[-2]) + gap * len(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    heights = [bottom(group) + gap * place for group in groups for place in range(len(group))]
    for (name, value, colour), height in zip(named, heights, strict=True):
        below = f" ({value:.2f}, below)" if value < low else ""
        axes.annotate(
            name + below,
            (1.01, height),
            xycoords=("axes fraction", "data"),
            color=colour,
            va="center",
            annotation_clip=False,
        )
