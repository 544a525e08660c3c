"""Scores what a recording can do for itself in closed form, and where its noise ends it.

No network is trained: copy, mean, linear, and ridge heads of each unit's own past and of the population.
"""

from __future__ import annotations

from rich.console import Console

from forebrain.studies.rivals import RivalsConfig as Config
from forebrain.studies.rivals import study

__all__ = ["ALIASES", "FIRST", "Config", "run"]
FIRST = ("recording", "out", "protocol", "context", "horizon")
ALIASES = {"--recordings": "--recording"}  # as scripts have it


def run(config: Config, console: Console) -> int:
    """Writes result.json and report.md, and shows the tables."""
    study(config, console)
    return 0
