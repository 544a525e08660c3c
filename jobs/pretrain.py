"""Pretrains a backbone: python jobs/pretrain.py --data URI --out URI [--training.steps N ...]

`--data` is a set of shards (the --out of jobs/prepare.py), a folder of recordings, or sim://default.
`--out` is the run folder; the same command resumes the run that is there.
"""

import sys

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.pretraining import pretrain
from forebrain.training.config import PretrainConfig


def main() -> int:
    console = make_console()
    try:
        config = parse(PretrainConfig, description=__doc__, short={"--full": "--evaluation.full"})
        run = pretrain(config, console)
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    console.print(f"\nNext: tensorboard --logdir {run}/tensorboard, or another --data; the run is in {run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
