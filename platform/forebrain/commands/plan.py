"""Calculates a pretraining that is too large to try: requests, bytes, goodput, and what gives way first.

What the code itself decides (sizes of pages, entries, checkpoints and messages, who owns which session) is
asked of the code. What a machine or a store does is assumed, and is an option.
"""

from __future__ import annotations

import json

from rich.console import Console

from forebrain.benchmarking.plan import PlanConfig as Config
from forebrain.benchmarking.plan import as_limits, as_table, calculate
from forebrain.commands._out import require_free, write_out

__all__ = ["ALIASES", "Config", "run"]
ALIASES = {"--json": "--out"}  # as scripts have it; elsewhere --json prints JSON


def run(config: Config, console: Console) -> int:
    """Shows the numbers."""
    require_free(config.out, config.overwrite)
    plan = calculate(config)
    console.print(as_table(plan))
    console.print(as_limits(plan))
    if config.out:
        write_out(config.out, json.dumps(plan, indent=1).encode(), config.overwrite)
    return 0
