"""The benchmark as tables and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forebrain.console import Table

Rows = Sequence[dict[str, Any]]
_TITLES = {
    "forecast": "forecast, weights and interface fixed",
    "train": "training step",
    "adapt": "step of adaptation, backbone frozen",
}


def line(rows: Rows) -> str:
    """A line that says what was just measured."""
    row = rows[0]
    if row["what"] == "many-sessions":
        return f"{row['sessions']:,} sessions: {row['phase']} {row['seconds']:,.1f} s"
    if row["what"] == "intervals":
        return f"intervals: {row['units']:,} units: {row['share']:.1%} of a forecast"
    if row["what"] == "inputs":
        return f"inputs: {row['units']:,} units: with a plan p99 {row['p99_ratio']:.3f} times as long"
    if row["what"] == "page":
        share, times = row["core_share"], row["p99_ratio"]
        return f"page: {row['units']:,} units: {share:.2%} of a core, p99 {times:.3f} times as long"
    if row["what"] == "store":
        return f"store: {row['source']}, {row['delay_ms']:.0f} ms: steps wait {row['wait_share']:.1%}"
    if _is_large(row):
        return f"{row['what']}: one session of {row['units']:,} units: {row['ms']:,.0f} ms a step"
    times = ", ".join(
        f"{each['dtype']} {_digits(each['seconds'])} s"
        if each["what"] == "fit"
        else f"{each['dtype']} {_digits(each['median_ms'])} ms"
        for each in rows
    )
    plain = f", plain {_digits(row['plain_median_ms'])} ms" if row.get("plain_median_ms") else ""
    return f"{row['what']}: {row['units']:,} units x {row['batch']} windows: {times}{plain}"


def tables(rows: Rows) -> list[Table]:
    """One table for each kind of row that there is."""
    large = [row for row in rows if _is_large(row)]
    rows = [row for row in rows if not _is_large(row)]
    found = [_of_model(what, rows) for what in _TITLES if any(row["what"] == what for row in rows)]
    for what, make in (
        ("fit", _of_fits),
        ("load", _of_loading),
        ("scale", _of_scaling),
        ("store", _of_stores),
        ("many-sessions", _of_many_sessions),
        ("intervals", _of_intervals),
        ("inputs", _of_inputs),
        ("page", _of_page),
    ):
        own = [row for row in rows if row["what"] == what]
        if own:
            found.append(make(own))
    return [*found, _of_large_sessions(large)] if large else found


def is_drawn(rows: Rows) -> bool:
    """Whether there is anything for the picture to show."""
    return any(row["what"] in _TITLES and not _is_large(row) for row in rows)


def _is_large(row: dict[str, Any]) -> bool:
    """Whether a row is of training on one large session."""
    return "units_forecast" in row


def _of_intervals(rows: Rows) -> Table:
    table = Table(
        "units", "forecast", "learning", "of it", "3 quantiles",
        title="what intervals cost a live forecast: ms",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            f"{row['units']:,}", f"{row['forecast_ms']:.2f}", f"{row['learn_ms']:.3f}", f"{row['share']:.1%}",
            f"{row['quantiles_ms']:.3f}",
        )  # fmt: skip
    return table


def _of_inputs(rows: Rows) -> Table:
    table = Table(
        "units", "features", "frames", "median ms", "with a plan", "p99 ms", "with a plan", "95 %",
        title="what inputs and a plan of each frame cost a live forecast by a stack",
    )  # fmt: skip
    for row in rows:
        table.add_row(f"{row['units']:,}", f"{row['features']}", f"{row['frames']:,}", *_compared(row))
    return table


def _compared(row: dict[str, Any]) -> tuple[str, ...]:
    """The median and the 99th percentile without something, and how many times as long both are with it."""
    return (
        f"{row['median_ms']:.2f}", f"x {row['ratio']:.3f}",
        f"{row['p99_ms']:.2f}", f"x {row['p99_ratio']:.3f}",
        f"{row['p99_low']:.3f} to {row['p99_high']:.3f}",
    )  # fmt: skip


def _of_page(rows: Rows) -> Table:
    table = Table(
        "units", "frames", "of a core", "median ms", "with the page", "p99 ms", "with the page", "95 %",
        title="what the live page costs the forecaster, at 30 frames a second",
    )  # fmt: skip
    for row in rows:
        table.add_row(f"{row['units']:,}", f"{row['frames']:,}", f"{row['core_share']:.2%}", *_compared(row))
    return table


def _of_model(what: str, rows: Rows) -> Table:
    table = Table(
        "units", "windows", "threads", "dtype", "ms", "p99", "GFLOP/s", "%", "GB/s", "%", "peak MB",
        "simpler", "plain ms", "ratio", "published", "ratio",
        title=f"{_TITLES[what]}: median ms; % is of the machine's ceiling", keys=4,
    )  # fmt: skip
    own = [row for row in rows if row["what"] == what]
    for row in sorted(own, key=lambda row: (row["units"], row["batch"], row["threads"])):
        table.add_row(
            f"{row['units']:,}", f"{row['batch']}", f"{row['threads']}", row["dtype"],
            _digits(row["median_ms"]), _digits(row["p99_ms"]),
            f"{row['flops_per_s'] / 1e9:.0f}", f"{100 * row['of_flops_ceiling']:.0f}",
            f"{row['bytes_per_s'] / 1e9:.2f}", f"{100 * row['of_bytes_ceiling']:.0f}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            _ratio(row.get("simpler_ratio")), _digits(row["plain_median_ms"]), _ratio(row["plain_ratio"]),
            _digits(row["published_ms"]), _ratio(row["published_ratio"]),
        )  # fmt: skip
    return table


def _of_fits(rows: Rows) -> Table:
    table = Table(
        "units", "steps", "threads", "dtype", "seconds", "slowest", "published s", "ratio",
        title="fitting an interface: median of several", keys=4,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            f"{row['units']:,}", f"{row['steps']}", f"{row['threads']}", row["dtype"],
            _digits(row["seconds"]), _digits(row.get("slowest_s")), _digits(row["published_s"]),
            _ratio(row["published_ratio"]),
        )  # fmt: skip
    return table


def _of_loading(rows: Rows) -> Table:
    table = Table(
        "units", "windows", "ms", "p99", "windows/s", "MB/s", "plain MB/s", "peak MB",
        title="shards to batches; plain is reading as many bytes",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            f"{row['units']:,}", f"{row['batch']}", _digits(row["median_ms"]), _digits(row["p99_ms"]),
            f"{row['windows_per_s']:,.0f}", f"{row['bytes_per_s'] / 1e6:,.0f}",
            f"{row['plain_bytes_per_s'] / 1e6:,.0f}", f"{row['peak_bytes'] / 1e6:,.0f}",
        )  # fmt: skip
    return table


def _of_scaling(rows: Rows) -> Table:
    table = Table(
        "workers", "units", "windows", "ms a step", "efficiency", "waits for data",
        title="training over workers",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            f"{row['workers']}", f"{row['units']:,}", f"{row['batch']}", _digits(row["median_ms"]),
            f"{row['efficiency']:.0%}", f"{row['wait_share']:.1%}",
        )  # fmt: skip
    return table


def _of_stores(rows: Rows) -> Table:
    table = Table(
        "store", "first byte after ms", "requests in flight", "ms a step", "waits",
        title="training from a store: the share of their time that steps wait for their windows",
    )  # fmt: skip
    for row in rows:
        asked = f"{row['in_flight']}" if row["in_flight"] else "one after another"
        if row["in_flight"] is None:
            asked = f"as many as needed: {row['reached']}" if row["delay_ms"] else ""
        table.add_row(
            row["source"],
            f"{row['delay_ms']:.0f}" if row["delay_ms"] else "",
            asked,
            _digits(row["median_ms"]),
            f"{row['wait_share']:.1%}",
        )
    return table


def _of_many_sessions(rows: Rows) -> Table:
    table = Table("phase", "sessions", "units", "seconds", "MB a worker", title="many small sessions")
    for row in rows:
        memory = f"{row['bytes'] / 1e6:,.0f}" if "bytes" in row else ""
        table.add_row(
            row["phase"], f"{row['sessions']:,}", f"{row['units']}", _digits(row["seconds"]), memory
        )
    return table


def _of_large_sessions(rows: Rows) -> Table:
    table = Table(
        "what", "units", "workers", "units forecast", "windows", "ms a step", "peak MB a worker",
        "KB sent a step", "loss",
        title="one large session, one core a worker; fit is of an interface to a frozen backbone",
    )  # fmt: skip
    for row in rows:
        sent = f"{row['bytes_given'] / 1e3:,.0f}" if "bytes_given" in row else ""
        loss = f"{row['loss']:.6f}" if "loss" in row else ""
        table.add_row(
            row["what"], f"{row['units']:,}", f"{row['workers']}", f"{row['units_forecast']:,}",
            f"{row['batch']}", f"{row['ms']:,.0f}", f"{row['peak_bytes'] / 1e6:,.0f}", sent, loss,
        )  # fmt: skip
    return table


def _digits(number: float | None) -> str:
    """Three digits."""
    if number is None:
        return ""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}"


def picture(rows: Rows, path: Path) -> Path:
    """Time against unit-windows, ours in both dtypes beside the plain formulation; a panel a kind of step."""
    from forebrain import plotting

    rows = [row for row in rows if not _is_large(row)]
    threads = min(row["threads"] for row in rows if row["what"] in _TITLES)
    shown = [row for row in rows if row["what"] in _TITLES and row["threads"] == threads]
    # Windows of a fixed session are forecast one after the other, so more of them are no other case.
    shown = [row for row in shown if row["what"] != "forecast" or row["batch"] == 1]
    kinds = [what for what in _TITLES if any(row["what"] == what for row in shown)]
    with plotting.style():
        figure, grid = plotting.panels(max(6.4, 4.3 * len(kinds)), 4.2, 1, len(kinds), sharey=True)
        for what, axes in zip(kinds, grid[0], strict=True):
            own = sorted((row for row in shown if row["what"] == what), key=lambda row: row["rows"])
            exact = [row for row in own if row["dtype"] == "fp32"]
            rounded = [row for row in own if row["dtype"] == "bf16"]
            published = [row for row in exact if row["published_ms"]]
            lines = [
                ("plain formulation, fp32", plotting.MUTED, exact, "plain_median_ms", "o-"),
                ("forebrain, fp32", plotting.BLUE, exact, "median_ms", "o-"),
                ("forebrain, bf16", plotting.VERMILION, rounded, "median_ms", "o-"),
                ("published implementation", plotting.INK, published, "published_ms", "x"),
            ]
            for label, colour, given, name, style in lines:
                counts, times = [row["rows"] for row in given], [row[name] for row in given]
                size = 6 if style == "x" else 3.5
                axes.plot(counts, times, style, color=colour, markersize=size, linewidth=1.3, label=label)
            axes.set(xscale="log", yscale="log", xlabel="unit-windows (units x windows)")
            plotting.plain_numbers(axes.xaxis)
            plotting.plain_numbers(axes.yaxis)
            axes.set_title(_TITLES[what], fontsize=10, color=plotting.INK)
            axes.grid()
        grid[0, 0].set_ylabel(f"median time of a step (ms), {threads} thread{'s' if threads > 1 else ''}")
        grid[0, 0].legend()
        return plotting.save(figure, path)
