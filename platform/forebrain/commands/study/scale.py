"""Studies how the score grows with the size of data, population, context or model, and fits laws.

`--config NAME` takes a study that comes with the package: context, model_size, recording_length, relatives,
sessions, units. The same command resumes a study; finished trials are not repeated.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

import forebrain.studies
from forebrain.commands import command_line
from forebrain.studies.scaling import ScaleConfig as Config
from forebrain.studies.scaling import scale

__all__ = ["DEFINITIONS", "Config", "run"]
DEFINITIONS = Path(forebrain.studies.__file__).parent / "definitions"


def run(config: Config, console: Console) -> int:
    """Runs what is not done yet, and writes the report."""
    scale(config, console, command_line())
    return 0
