"""Studies how the score grows: python jobs/scale.py --config FILE --pretrain.data URI --pretrain.out URI

The definitions are in jobs/studies. The same command resumes a study; finished trials are not repeated.
"""

import shlex
import sys

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.studies.scaling import ScaleConfig, scale


def main() -> int:
    try:
        config = parse(ScaleConfig, description=__doc__)
        scale(config, make_console(), shlex.join(["python", *sys.argv]))
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
