"""Scores a run's best checkpoint: python jobs/evaluate.py --run URI [--data URI] [--full]"""

import sys
from dataclasses import dataclass

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.evaluation.run import evaluate_run, show_evaluation
from forebrain.training.run_folder import RunFolder


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate.

    Attributes:
        run: the run folder, the --out of jobs/pretrain.py.
        data: shards to score it on; the run's own where not given.
        full: score every window instead of the stated subset.
        session: id of the session in the pictures; the one with the median score where not given.
    """

    run: str
    data: str | None = None
    full: bool = False
    session: str | None = None


def main() -> int:
    console = make_console()
    try:
        config = parse(EvaluateConfig, description=__doc__)
        run = RunFolder(config.run)
        scores, evaluations = evaluate_run(run, config.data, config.full, console, config.session)
        run.write_result({**(run.read_result() or {}), **scores})
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    show_evaluation(run, evaluations, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
