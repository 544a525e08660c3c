"""What a backbone gives an animal that it has not seen, by minutes of its recording.

Pretrains on all animals but one and adapts to the last minutes before its validation part, each in turn; all
that the stretch can do for itself stands beside it. The same command goes on where it was stopped. Needs no
Ray.
"""

from __future__ import annotations

import dataclasses

from rich.console import Console

from forebrain.commands import command_line
from forebrain.shards.recordings import find_all
from forebrain.studies.leave_one_out import StudyConfig as Config
from forebrain.studies.leave_one_out import study

__all__ = ["ALIASES", "FIRST", "Config", "run"]
ALIASES = {"--recordings": "--recording"}
FIRST = ("recording", "out", "minutes", "seeds", "species")
MINUTES = (0.5, 1, 2, 5, 10)


def run(config: Config, console: Console) -> int:
    """Runs what is not done yet, and sums up."""
    minutes = config.minutes or list(MINUTES)
    study(
        dataclasses.replace(config, recording=find_all(config.recording), minutes=minutes),
        console,
        command_line(),
    )
    return 0
