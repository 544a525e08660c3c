"""How well adaptation does: pretrains on all animals but one and adapts to it, each in turn.

Every way of adapting is compared on the part held back in time. The same command goes on where it was
stopped. Needs no Ray.
"""

from __future__ import annotations

import dataclasses

from rich.console import Console

from forebrain.shards.recordings import find_all
from forebrain.studies.leave_one_out import StudyConfig as Config
from forebrain.studies.leave_one_out import study

__all__ = ["ALIASES", "Config", "run"]
ALIASES = {"--recordings": "--recording"}  # as scripts have it


def run(config: Config, console: Console) -> int:
    """Runs what is not done yet, and sums up."""
    study(dataclasses.replace(config, recording=find_all(config.recording)), console)
    return 0
