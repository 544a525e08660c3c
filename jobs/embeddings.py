"""Analyses the unit embeddings of a run: python jobs/embeddings.py --run URI [--out URI]

Needs units with names that several sessions share, or sessions with units in several regions.
"""

import shlex
import sys
from dataclasses import dataclass

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.studies.embeddings import analyse_embeddings


@dataclass(frozen=True)
class EmbeddingsConfig:
    """What to analyse.

    Attributes:
        run: the run folder, the --out of jobs/pretrain.py.
        out: where the report goes; embeddings in the run folder where not given.
    """

    run: str
    out: str | None = None


def main() -> int:
    console = make_console()
    try:
        config = parse(EmbeddingsConfig, description=__doc__)
        report = analyse_embeddings(config.run, config.out, shlex.join(["python", *sys.argv]))
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    for sentence in report.verdict:
        console.print(sentence)
    console.print(f"Report: {config.out or config.run + '/embeddings'}/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
