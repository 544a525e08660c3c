"""How long forecasts took, as a table, as JSON and as a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.console import Table


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
        """The summary of one latency for each frame sent, NaN where no forecast came."""
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
        table = Table(
            "frames", "forecasts", "p50 ms", "p95 ms", "p99 ms", "max ms", "jitter ms", "budget ms", "misses",
            title=title,
        )  # fmt: skip
        table.add_row(
            f"{self.frames:,}",
            f"{self.forecasts:,}",
            *(f"{value:.2f}" for value in (self.p50_ms, self.p95_ms, self.p99_ms, self.max_ms)),
            f"{self.jitter_ms:.2f}",
            f"{self.budget_ms:.4g}",
            f"{self.misses:,} ({self.miss_rate:.2%})",
        )
        return table


def latency_histogram(
    latencies_ms: np.ndarray, latency: Latency, title: str, path: Path, frame_ms: float | None = None
) -> Path:
    """Draws how often each latency occurred, on logarithmic axes: the tail is what matters.

    A forecast is late, and its bar of another colour, where it came after the next frame was due.

    Args:
        latencies_ms: one for each frame, NaN where no forecast came.
        latency: their summary. A budget other than the frame is drawn as a goal.
        title: of the picture.
        path: a PNG file.
        frame_ms: time from a frame to the next on the rig; None takes the budget for it.
    """
    from forebrain import plotting

    came = latencies_ms[np.isfinite(latencies_ms)]
    due_ms = frame_ms or latency.budget_ms
    late = len(latencies_ms) - int(np.count_nonzero(came <= due_ms))
    told = f"{late:,} later than {'the next frame' if frame_ms else 'the budget'} or never"
    marks = [("median", latency.p50_ms), ("99th percentile", latency.p99_ms)]
    if frame_ms and latency.budget_ms < frame_ms:
        marks.append(("goal", latency.budget_ms))
        told += f", {latency.misses:,} later than the goal ({latency.miss_rate:.1%})"
    marks.append(("the next frame" if frame_ms else "budget", due_ms))
    with plotting.style():
        figure, axes = plotting.canvas(8, 4)
        low, high = came.min() / 1.1, max(came.max(), due_ms if np.isfinite(due_ms) else 0) * 1.5
        counts, edges = np.histogram(came, np.geomspace(low, high, 90))
        is_late = edges[:-1] >= due_ms
        for shown, colour in ((~is_late, plotting.BLUE), (is_late, plotting.VERMILION)):
            axes.stairs(np.where(shown, counts, 0), edges, fill=True, color=colour)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        top = counts.max() * 20
        axes.set_ylim(0.7, top)
        for row, (name, value) in enumerate(sorted(marks, key=lambda mark: mark[1])):
            height = 0.96 - 0.06 * row  # each line ends below the names of those to its left
            is_due = value == due_ms
            colour = plotting.VERMILION if is_due else plotting.INK
            dashes = "-" if is_due else (0, (2, 1.5))
            axes.axvline(value, ymax=height + 0.02, color=colour, linewidth=1, linestyle=dashes)
            axes.text(
                value,
                height,
                f" {name} {_ms(value)}",
                transform=axes.get_xaxis_transform(),
                color=colour,
                va="center",
            )
        axes.set_xlabel("from the time a frame is due to the arrival of its forecast (ms)")
        axes.set_ylabel("frames")
        # Of more than two decades there is no room for numbers between.
        plotting.plain_numbers(axes.xaxis, minor="235" if high < 200 * low else "")
        plotting.plain_numbers(axes.yaxis)
        plotting.title(axes, title, f"{latency.frames:,} frames, {told}; slowest {_ms(latency.max_ms)}")
        return plotting.save(figure, path)


def _ms(value: float) -> str:
    """Milliseconds with three digits: `6.78 ms`, `5,140 ms`."""
    return f"{float(f'{value:.3g}'):,.10g} ms"
