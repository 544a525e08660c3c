"""How well adaptation does: pretrains on all animals but one and adapts to it, each in turn.

All that the recording can do for itself stands beside it. The same command goes on where it was stopped.
Needs no Ray.
"""

from __future__ import annotations

import dataclasses

from rich.console import Console

from forebrain.commands import command_line
from forebrain.shards.recordings import find_all
from forebrain.studies.leave_one_out import StudyConfig as Config
from forebrain.studies.leave_one_out import study

__all__ = ["ALIASES", "FIRST", "Config", "run"]
FIRST = ("recording", "out", "minutes", "seeds", "species")
ALIASES = {"--recordings": "--recording"}  # as scripts have it


def run(config: Config, console: Console) -> int:
    """Runs what is not done yet, and sums up."""
    study(dataclasses.replace(config, recording=find_all(config.recording)), console, command_line())
    return 0
