"""Compares variants of a run: python jobs/ablate.py --config FILE --pretrain.data URI --pretrain.out URI

The definitions are in jobs/studies. The same command resumes a study; finished trials are not repeated.
"""

import shlex
import sys

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.studies.ablation import AblateConfig, ablate


def main() -> int:
    try:
        config = parse(AblateConfig, description=__doc__)
        ablate(config, make_console(), shlex.join(["python", *sys.argv]))
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
