"""Compares variants of a run, each with the same seeds, and reports what each part is worth.

`--config NAME` takes a study that comes with the package: ablation, comparison, species. The same command
resumes a study; finished trials are not repeated.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

import forebrain.studies
from forebrain.commands import command_line
from forebrain.studies.ablation import AblateConfig as Config
from forebrain.studies.ablation import ablate

__all__ = ["DEFINITIONS", "Config", "run"]
DEFINITIONS = Path(forebrain.studies.__file__).parent / "definitions"


def run(config: Config, console: Console) -> int:
    """Runs what is not done yet, and writes the report."""
    ablate(config, console, command_line())
    return 0
