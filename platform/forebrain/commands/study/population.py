"""What reading the population is worth, on animals that no backbone has seen.

Pretrains on all animals but one, with the population and without it, each in turn. The same command goes on
where it was stopped, and takes the runs that `study leave-one-out` left in its folder. Needs no Ray.
"""

from __future__ import annotations

import dataclasses

from rich.console import Console

from forebrain.commands import command_line
from forebrain.shards.recordings import find_all
from forebrain.studies.population import PopulationConfig as Config
from forebrain.studies.population import study

__all__ = ["ALIASES", "FIRST", "Config", "run"]
ALIASES = {"--recordings": "--recording"}
FIRST = ("recording", "out", "seeds", "species", "units")


def run(config: Config, console: Console) -> int:
    """Runs what is not done yet, and sums up."""
    study(dataclasses.replace(config, recording=find_all(config.recording)), console, command_line())
    return 0
