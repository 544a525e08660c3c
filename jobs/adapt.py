"""Adapts a backbone to many recordings: python jobs/adapt.py --model REF --recordings PATH... --out URI

The same command goes on with what is not finished. `forebrain adapt` does it for one recording, without Ray.
"""

import sys

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.studies.many_adaptations import ManyConfig, adapt_many, show


def main() -> int:
    console = make_console()
    short = {f"--{name}": f"--fit.{name}" for name in ("steps", "batch_size", "seed")}
    try:
        config = parse(ManyConfig, description=__doc__, short=short)
        rows = adapt_many(config, console)
        show(config, rows, console)
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    return 0 if any(row["status"] != "failed" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
