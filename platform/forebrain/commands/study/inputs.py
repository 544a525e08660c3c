"""Scores what knowing the inputs is worth: none, past, planned, another's plan, beside ARX and evoked means.

`--config inputs` has the recordings of the committed table. No network is trained; the same command goes on
where it was stopped. Needs no Ray.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

import forebrain.studies
from forebrain.commands import command_line
from forebrain.studies.inputs import InputsConfig as Config
from forebrain.studies.inputs import study

__all__ = ["DEFINITIONS", "Config", "run"]
DEFINITIONS = Path(forebrain.studies.__file__).parent / "definitions"


def run(config: Config, console: Console) -> int:
    """Writes result.json, report.md and a picture, and shows the table."""
    study(config, console, command_line())
    return 0
