"""Scores the best checkpoint of a run again, or of several runs beside each other.

With several runs, `--run A B C --out URI`, it makes one table of models x data sets, with pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from forebrain.alone import alone
from forebrain.commands._out import require_free
from forebrain.errors import ConfigError
from forebrain.out_folder import COMPARISON, require_own
from forebrain.runs.evaluate import best_step, evaluate_run, evaluation_of, require_best, show_evaluation
from forebrain.scoring.evaluate import WINDOWS_PER_SESSION
from forebrain.training.run_folder import RunFolder
from forebrain_registry.storage import Folder


@dataclass(frozen=True)
class Config:
    """The runs to evaluate.

    Attributes:
        run: run folders, each the --out of `forebrain pretrain`. Of one, what is found is written into it.
        data: of one run: shards to score it on; the run's own where not given.
        full: score every window instead of the stated subset.
        session: of one run: id of the session in the pictures; the one with the median score where not given.
        out: of several runs: a new folder for tables and pictures.
        part: of several runs: the part of the data that they are compared on.
        overwrite: of several runs: replace the comparison that is in the folder.
    """

    run: list[str]
    data: str | None = None
    full: bool = False
    session: str | None = None
    out: str | None = None
    part: Literal["validation", "test", "held_out"] = "test"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.run:
            raise ConfigError("run is empty; expected run folders.")
        for name in ("data", "session"):
            if len(self.run) > 1 and getattr(self, name) is not None:
                raise ConfigError(f"{name} is given with {len(self.run)} runs; expected one run with it.")
        if (len(self.run) > 1) != (self.out is not None):
            raise ConfigError(
                f"{len(self.run)} run folders and out = {self.out} are given; expected --out with several "
                "runs, and none with one, which keeps its own scores."
            )


def run(config: Config, console: Console) -> int:
    """Writes scores and pictures, and shows the scores."""
    if config.out is not None:
        compare_runs(config, config.out, console)
        return 0
    folder = RunFolder(config.run[0])
    with evaluation_of(folder):
        best = best_step(folder)
        scores, evaluations = evaluate_run(folder, config.data, config.full, console, config.session)
        require_best(folder, best)
        folder.write_result({**(folder.read_result() or {}), **scores})
        show_evaluation(folder, evaluations, console)
    return 0


def compare_runs(config: Config, out: str, console: Console) -> None:
    """Writes the comparison of several runs into a folder, and shows it."""
    from forebrain.runs.compare import compare, open_runs
    from forebrain.runs.compare_report import write_comparison

    folder = Folder(out)
    require_own(folder, COMPARISON)
    with alone(folder):
        require_free(folder.uri_of(COMPARISON), config.overwrite)
        comparison = compare(
            open_runs([RunFolder(uri) for uri in config.run]),
            config.part,
            None if config.full else WINDOWS_PER_SESSION,
            progress=console.print,
        )
        tables = write_comparison(comparison, folder)
    for table in tables:
        if table.name in ("scores", "differences"):
            console.print(table.to_rich())
    console.print(f"Tables and pictures: {folder.uri}/report.md")
