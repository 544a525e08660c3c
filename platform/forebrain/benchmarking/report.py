"""The benchmark as tables and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

Rows = Sequence[dict[str, Any]]
_INK, _MUTED, _BLUE, _VERMILION = "#222222", "#767676", "#0072b2", "#d55e00"  # Okabe & Ito's palette
_TITLES = {
    "forecast": "forecast, weights and interface fixed",
    "train": "training step",
    "adapt": "step of adaptation, backbone frozen",
}


def tables(rows: Rows) -> list[Table]:
    """One table for each kind of row that there is."""
    found = [_of_model(what, rows) for what in _TITLES if any(row["what"] == what for row in rows)]
    for what, make in (("fit", _of_fits), ("load", _of_loading), ("scale", _of_scaling)):
        own = [row for row in rows if row["what"] == what]
        if own:
            found.append(make(own))
    return found


def _of_model(what: str, rows: Rows) -> Table:
    table = Table(
        "units", "windows", "threads", "dtype", "ms", "p99", "rows/s", "GFLOP/s", "GB/s", "peak MB",
        "kB a row", "plain ms", "plain / ours", "published / ours",
        title=f"{_TITLES[what]}: median ms; in brackets what part of the machine's ceiling that is",
    )  # fmt: skip
    for row in rows:
        if row["what"] == what:
            ms, published = row["median_ms"], row["published_ms"]
            table.add_row(
                f"{row['units']:,}", f"{row['batch']}", f"{row['threads']}", row["dtype"], _ms(ms),
                _ms(row["p99_ms"]), f"{row['rows_per_s']:,.0f}",
                f"{row['flops_per_s'] / 1e9:.0f} ({row['of_flops_ceiling']:.0%})",
                f"{row['bytes_per_s'] / 1e9:.2f} ({row['of_bytes_ceiling']:.0%})",
                f"{row['peak_bytes'] / 1e6:,.0f}", f"{row['peak_bytes'] / row['rows'] / 1e3:.1f}",
                _ms(row["plain_median_ms"]), f"{row['plain_median_ms'] / ms:.1f}",
                "" if published is None else f"{published / ms:.1f}",
            )  # fmt: skip
    return table


def _of_fits(rows: Rows) -> Table:
    table = Table(
        "units", "steps", "threads", "dtype", "seconds", "published s", title="fitting an interface"
    )
    for row in rows:
        published = row["published_s"]
        table.add_row(
            f"{row['units']:,}", f"{row['steps']}", f"{row['threads']}", row["dtype"],
            f"{row['seconds']:.2f}", "" if published is None else f"{published}",
        )  # fmt: skip
    return table


def _of_loading(rows: Rows) -> Table:
    table = Table(
        "units", "windows", "median ms", "windows/s", "MB/s", "plain reading, MB/s", title="shards to batches"
    )
    for row in rows:
        table.add_row(
            f"{row['units']:,}", f"{row['batch']}", _ms(row["median_ms"]), f"{row['windows_per_s']:,.0f}",
            f"{row['bytes_per_s'] / 1e6:,.0f}", f"{row['plain_bytes_per_s'] / 1e6:,.0f}",
        )  # fmt: skip
    return table


def _of_scaling(rows: Rows) -> Table:
    table = Table(
        "workers",
        "units",
        "windows",
        "ms a step",
        "efficiency",
        "waits for data",
        title="training over workers",
    )
    for row in rows:
        table.add_row(
            f"{row['workers']}", f"{row['units']:,}", f"{row['batch']}", _ms(row["median_ms"]),
            f"{row['efficiency']:.0%}", f"{row['wait_share']:.1%}",
        )  # fmt: skip
    return table


def _ms(milliseconds: float | None) -> str:
    """Three digits."""
    if milliseconds is None:
        return ""
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def picture(rows: Rows, path: Path) -> Path:
    """Time against rows, ours in both dtypes beside the plain formulation; a panel for each kind of step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    threads = min(row["threads"] for row in rows if row["what"] in _TITLES)
    kinds = [what for what in _TITLES if any(row["what"] == what for row in rows)]
    figure = Figure(figsize=(4.3 * len(kinds), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    for number, what in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), 1 + number)
        for dtype, colour in (("fp32", _BLUE), ("bf16", _VERMILION)):
            own = sorted(
                (row["rows"], row["median_ms"], row["plain_median_ms"])
                for row in rows
                if row["what"] == what and row["dtype"] == dtype and row["threads"] == threads
            )
            counts, ours, plain = zip(*own, strict=True)
            if dtype == "fp32":
                axes.plot(counts, plain, "o-", color=_MUTED, markersize=3.5, label="plain formulation, fp32")
            axes.plot(counts, ours, "o-", color=colour, markersize=3.5, label=f"forebrain, {dtype}")
        published = sorted(
            {
                (row["rows"], row["published_ms"])
                for row in rows
                if row["what"] == what and row["published_ms"]
            }
        )
        if published:
            axes.plot(
                *zip(*published, strict=True), "x", color=_INK, markersize=6, label="published implementation"
            )
        axes.set(xscale="log", yscale="log", xlabel="rows (units x windows)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.0f}")
            axis.set_minor_formatter("")
        axes.set_title(_TITLES[what], loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#d9d9d9", linewidth=0.6)
        axes.set_axisbelow(True)
        if number == 0:
            axes.set_ylabel(f"milliseconds, median, {threads} thread{'s' if threads > 1 else ''}")
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)
    return path
