"""How long forecasts took, as a table, as JSON and as a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

_INK, _MUTED, _BLUE, _VERMILION = "#222222", "#767676", "#0072b2", "#d55e00"  # Okabe & Ito's palette


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the time a frame is due to its forecast's arrival, over the frames that got one.

    Attributes:
        frames: sent.
        forecasts: that came back.
        p50_ms, p95_ms, p99_ms, max_ms: of the latency; NaN without a forecast.
        jitter_ms: its standard deviation.
        budget_ms: by when a forecast was due.
        misses: frames whose forecast came later than that, or never.
    """

    frames: int
    forecasts: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    jitter_ms: float
    budget_ms: float
    misses: int

    @classmethod
    def of(cls, latencies_ms: np.ndarray, budget_ms: float) -> Latency:
        """Of one latency for each frame sent, NaN where no forecast came."""
        came = latencies_ms[np.isfinite(latencies_ms)]
        quantiles = np.quantile(came, [0.5, 0.95, 0.99, 1.0]) if came.size else np.full(4, np.nan)
        p50, p95, p99, slowest = quantiles.tolist()
        return cls(
            frames=len(latencies_ms),
            forecasts=came.size,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            max_ms=slowest,
            jitter_ms=float(came.std()) if came.size else float("nan"),
            budget_ms=budget_ms,
            misses=len(latencies_ms) - int(np.count_nonzero(came <= budget_ms)),
        )

    @property
    def miss_rate(self) -> float:
        return self.misses / self.frames if self.frames else 0.0

    def to_json(self) -> dict[str, Any]:
        plain = {**asdict(self), "miss_rate": self.miss_rate}
        return {name: value if np.isfinite(value) else None for name, value in plain.items()}

    def as_table(self, title: str) -> Table:
        """One row, in milliseconds."""
        table = Table(title=title, title_justify="left")
        for name in (
            "frames", "forecasts", "p50 ms", "p95 ms", "p99 ms", "max ms", "jitter ms", "budget ms", "misses",
        ):  # fmt: skip
            table.add_column(name, justify="right")
        table.add_row(
            f"{self.frames:,}",
            f"{self.forecasts:,}",
            *(f"{value:.2f}" for value in (self.p50_ms, self.p95_ms, self.p99_ms, self.max_ms)),
            f"{self.jitter_ms:.2f}",
            f"{self.budget_ms:.4g}",
            f"{self.misses:,} ({self.miss_rate:.2%})",
        )
        return table


def latency_histogram(latencies_ms: np.ndarray, latency: Latency, title: str, path: Path) -> Path:
    """Draws how often each latency occurred, on logarithmic axes: the tail is what matters.

    Args:
        latencies_ms: one for each frame, NaN where no forecast came.
        latency: their summary.
        title: of the picture.
        path: a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    came = latencies_ms[np.isfinite(latencies_ms)]
    figure = Figure(figsize=(8, 4), layout="constrained", dpi=160)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    low, high = came.min() / 1.1, max(came.max(), latency.budget_ms) * 1.15
    counts, edges = np.histogram(came, np.geomspace(low, high, 90))
    is_late = edges[:-1] >= latency.budget_ms
    for shown, colour in ((~is_late, _BLUE), (is_late, _VERMILION)):
        axes.stairs(np.where(shown, counts, 0), edges, fill=True, color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    top = counts.max() * 6
    axes.set_ylim(0.7, top)
    marks = [("median", latency.p50_ms), ("p99", latency.p99_ms), ("budget", latency.budget_ms)]
    for row, (name, value) in enumerate(marks):
        colour = _VERMILION if name == "budget" else _INK
        side = "right" if name == "p99" else "left"
        axes.axvline(value, color=colour, linewidth=1, linestyle="-" if name == "budget" else (0, (2, 1.5)))
        axes.annotate(
            f"{name} {value:.3g} ms", (value, top), xytext=(4 if side == "left" else -4, -10 - 12 * row),
            textcoords="offset points", ha=side, fontsize=8.5, color=colour,
        )  # fmt: skip
    axes.set_xlabel("from the time a frame is due to the arrival of its forecast (ms)", color=_INK)
    axes.set_ylabel("frames", color=_INK)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    axes.tick_params(which="both", color=_MUTED, labelcolor=_INK, labelsize=8.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_MUTED)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    axes.set_title(
        f"{latency.frames:,} frames, {latency.misses:,} later than the budget or never "
        f"({latency.miss_rate:.2%}), slowest {latency.max_ms:.3g} ms",
        loc="left", fontsize=8.5, color=_MUTED,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")
    return path
