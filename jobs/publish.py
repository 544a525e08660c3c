"""Publishes a run's best checkpoint: python jobs/publish.py --run URI --name NAME [--registry URI]"""

import sys

from forebrain.adaptation.publish import PublishConfig, publish_run, say_published
from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError


def main() -> int:
    try:
        config = parse(PublishConfig, description=__doc__)
        say_published(*publish_run(config), make_console())
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
