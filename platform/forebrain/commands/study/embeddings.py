"""Analyses the unit embeddings of a run.

Needs units with names that several sessions share, or sessions with units in several regions.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.commands import command_line
from forebrain.studies.embeddings import analyse_embeddings


@dataclass(frozen=True)
class Config:
    """The run to analyse.

    Attributes:
        run: the run folder, the --out of `forebrain pretrain`.
        out: where the report goes; embeddings in the run folder where not given.
    """

    run: str
    out: str | None = None


def run(config: Config, console: Console) -> int:
    """Writes the report, and says what it comes to."""
    report = analyse_embeddings(config.run, config.out, command_line())
    for sentence in report.verdict:
        console.print(sentence)
    console.print(f"Report: {config.out or config.run + '/embeddings'}/report.html")
    return 0
