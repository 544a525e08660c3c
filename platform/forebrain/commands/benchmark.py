"""Times forecasts, training, adaptation and the way of the data.

Ours and the plain formulation run in this process in turn, so that their ratio holds on a noisy machine, and
beside what the machine can do: a matrix product and a copy, in the same run. Rows are in the file as soon as
they are measured; a later run with the same file adds its own, and tables and picture are of all it holds.
"""

from __future__ import annotations

from rich.console import Console

from forebrain.benchmarking import report
from forebrain.benchmarking.measure import BenchmarkConfig as Config
from forebrain.benchmarking.measure import measure
from forebrain.benchmarking.rows import RowFile
from forebrain_registry.storage import path_here

__all__ = ["ALIASES", "Config", "run"]
ALIASES = {
    # As scripts have it; elsewhere --json prints JSON.
    "--json": "--out",
    # Of the job that measured large sessions alone.
    "--units_per_window": "--large_session.units_per_window",
    "--batch_size": "--large_session.batch_size",
    "--steps": "--large_session.steps",
}


def run(config: Config, console: Console) -> int:
    """Measures, and shows tables of all that the file holds."""
    file = RowFile(path_here(config.out) if config.out else None)
    for rows in measure(config, console):
        file.add(rows)
        console.print(f"  {report.line(rows)}")
    for table in report.tables(file.rows):
        console.print(table)
    if config.picture and report.is_drawn(file.rows):
        report.picture(file.rows, path_here(config.picture))
    return 0
