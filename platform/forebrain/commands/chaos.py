"""Kills workers, nodes and drivers of a pretraining at random and reports what it cost: its goodput.

Starts a cluster of its own on this machine. The run is done twice, left alone and disturbed, and compared.
"""

from __future__ import annotations

from rich.console import Console

from forebrain.benchmarking.chaos import ChaosConfig as Config
from forebrain.benchmarking.chaos import chaos

__all__ = ["ALIASES", "FIRST", "Config", "run"]
FIRST = (
    "pretrain.data",
    "pretrain.out",
    "pretrain.workers",
    "minutes",
    "every_s",
    "kinds",
    "nodes",
    "seed",
    "out",
)
ALIASES = {"--json": "--out"}  # as scripts have it; elsewhere --json prints JSON


def run(config: Config, console: Console) -> int:
    """Runs both, and shows the report."""
    chaos(config, console)
    return 0
