"""Scores how sure forecasts from a recording alone are: intervals beside a random walk and autoregressions.

No network is trained. Adaptations stand beside with --adapted.
"""

from __future__ import annotations

from rich.console import Console

from forebrain.studies.intervals import IntervalsConfig as Config
from forebrain.studies.intervals import study

__all__ = ["ALIASES", "FIRST", "Config", "run"]
FIRST = ("recording", "out", "protocol", "context", "horizon", "adapted")
ALIASES = {"--recordings": "--recording"}  # as scripts have it


def run(config: Config, console: Console) -> int:
    """Writes result.json, report.md and pictures, and shows the tables."""
    study(config, console)
    return 0
