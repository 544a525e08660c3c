"""Kills workers, nodes and drivers of a pretraining at random and reports what it cost: its goodput.

    python jobs/chaos.py --pretrain.data DATA --pretrain.out FOLDER --pretrain.workers 2 [--minutes 10]

Starts a cluster of its own on this machine. The run is done twice, left alone and disturbed, and compared.
"""

import sys

from forebrain.commands.chaos import ChaosConfig, chaos
from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError


def main() -> int:
    try:
        chaos(parse(ChaosConfig, description=__doc__), make_console())
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
