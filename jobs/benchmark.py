"""Times forecasts, training, adaptation and the way of the data: python jobs/benchmark.py [--json FILE]

Ours and the plain formulation run in this process in turn, so that their ratio holds on a noisy machine, and
beside what the machine can do: a matrix product and a copy, in the same run. Rows are in the file as soon as
they are measured; a later run with the same file adds its own, and tables and picture are of all it holds.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from forebrain.benchmarking import report
from forebrain.benchmarking.cases import BATCHES, DTYPES, cases, time_case
from forebrain.benchmarking.ceilings import Ceilings
from forebrain.benchmarking.fitting import time_fits
from forebrain.benchmarking.loading import time_loading
from forebrain.benchmarking.rows import RowFile
from forebrain.benchmarking.scaling import time_scaling
from forebrain.benchmarking.timing import Patience
from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ConfigError, ForebrainError

What = Literal["forecast", "train", "adapt", "fit", "load", "scale"]
UNITS = (300, 1000, 5000, 20_000, 71_721)


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to time.

    Attributes:
        what: forecast, train and adapt are steps of the model; fit is 200 steps of adaptation as a lab would
            wait for them; load is the way from shards to batches; scale is training over one and two workers.
        units: sizes of the session.
        threads: CPU threads, several numbers one after another. Published figures are of one.
        device: cpu or cuda; fit, load and scale are of the CPU.
        quick: few repetitions, to see that it works.
        json: file for the rows, a JSON list; rows that it holds stay, unless they are measured again.
        picture: PNG file.
    """

    what: list[What] = field(default_factory=lambda: ["forecast", "train", "adapt", "fit", "load", "scale"])
    units: list[int] = field(default_factory=lambda: list(UNITS))
    threads: list[int] = field(default_factory=lambda: [1, 2])
    device: Literal["cpu", "cuda"] = "cpu"
    quick: bool = False
    json: str | None = None
    picture: str | None = None

    def __post_init__(self) -> None:
        for name in ("units", "threads"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise ConfigError(f"{name} is {values}; expected numbers of 1 or more.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is cuda; expected cpu, since PyTorch sees no CUDA device here.")


def main() -> int:
    try:
        config = parse(BenchmarkConfig, description=__doc__)
        file = RowFile(Path(config.json) if config.json else None)
    except (ForebrainError, OSError) as error:
        return exit_status(error)
    console = make_console()
    for rows in measure(config, console):
        file.add(rows)
        console.print(f"  {report.line(rows)}")
    for table in report.tables(file.rows):
        console.print(table)
    if config.picture and any(row["what"] in BATCHES for row in file.rows):
        report.picture(file.rows, Path(config.picture))
    return 0


def measure(config: BenchmarkConfig, console: Console) -> Iterator[list[dict[str, Any]]]:
    """The rows of each measurement, as it is made."""
    patience = Patience(2, 1, 2.0, 1.0, 0.0) if config.quick else Patience()
    device = torch.device(config.device)
    for threads in config.threads:
        torch.set_num_threads(threads)
        ceilings = Ceilings.measure(device, DTYPES)
        told = ", ".join(f"{name} {flops / 1e9:,.0f}" for name, flops in ceilings.flops_per_s.items())
        console.print(
            f"{threads} thread{'s' if threads > 1 else ''} on {config.device}: a product of matrices {told} "
            f"GFLOP/s, a copy {ceilings.bytes_per_s / 1e9:.1f} GB/s"
        )
        for what in config.what:
            yield from _rows_of(what, config, device, patience, ceilings)


def _rows_of(
    what: What, config: BenchmarkConfig, device: torch.device, patience: Patience, ceilings: Ceilings
) -> Iterator[list[dict[str, Any]]]:
    if what in BATCHES:
        for case in cases(what, config.units, device):
            yield time_case(case, device, patience, ceilings)
    elif what == "fit":
        yield time_fits(*((5, 32, 1) if config.quick else ()))
    elif torch.get_num_threads() != config.threads[0]:
        return  # these have threads of their own
    elif what == "load":
        for units in (120,) if config.quick else (120, 1000):
            yield [time_loading(units, 3 if config.quick else 100)]
    else:
        yield time_scaling(1 if config.quick else 15)


if __name__ == "__main__":
    sys.exit(main())
