"""How well adaptation does: python jobs/adaptation_study.py --recordings PATH... --out DIR [--seeds N]

Pretrains on all recordings but one and adapts to the one left out, each in turn. The same command goes on.
"""

import dataclasses
import sys

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.shards.recordings import find_all
from forebrain.studies.leave_one_out import StudyConfig, study


def main() -> int:
    try:
        config = parse(StudyConfig, description=__doc__)
        config = dataclasses.replace(config, recordings=find_all(config.recordings))
        study(config, make_console())
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
