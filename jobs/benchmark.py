"""Times a training step against the plain formulation: python jobs/benchmark.py [--json FILE]

Both run in this process on the same rows, alternating, so that their ratio holds on a noisy machine.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from forebrain.config import exit_status, parse
from forebrain.console import make_console
from forebrain.errors import ForebrainError
from forebrain.models.contract import Interface, SessionInput
from forebrain.models.plain import plain_forecast
from forebrain.models.poco import Poco, PocoConfig

# Rows (units x windows) and the published implementation's milliseconds for them, on one core.
PUBLISHED_MS = {(120, 20): 212, (125, 64): 720, (300, 64): 2063}
Forecast = Callable[[list[SessionInput]], list[Tensor]]


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to time.

    Attributes:
        threads: CPU threads.
        repetitions: timed steps of each, after one to warm up.
        json: file for the rows, as a JSON list.
    """

    threads: int = 1
    repetitions: int = 5
    json: str | None = None


def main() -> int:
    try:
        config = parse(BenchmarkConfig, description=__doc__)
    except ForebrainError as error:
        return exit_status(error)
    torch.set_num_threads(config.threads)
    console = make_console()
    columns = ("units", "windows", "rows", "ms a step", "plain ms", "plain / ours", "published ms")
    table = Table(*columns, "published / ours")
    rows = []
    for (num_units, num_windows), published_ms in PUBLISHED_MS.items():
        console.print(f"{num_units} units x {num_windows} windows ...")
        row = time_step(num_units, num_windows, config) | {"published_ms": published_ms}
        rows.append(row)
        table.add_row(
            f"{num_units}", f"{num_windows}", f"{num_units * num_windows:,}", f"{row['median_ms']:.0f}",
            f"{row['plain_median_ms']:.0f}", f"{row['plain_median_ms'] / row['median_ms']:.2f}",
            f"{published_ms}", f"{published_ms / row['median_ms']:.2f}",
        )  # fmt: skip
    console.print(table)
    if config.json:
        Path(config.json).write_text(json.dumps(rows, indent=1))
    return 0


def time_step(num_units: int, num_windows: int, config: BenchmarkConfig) -> dict[str, Any]:
    """Median milliseconds of a training step of ours and of the plain formulation."""
    torch.manual_seed(0)
    model = Poco(PocoConfig()).train()
    for parameter in model.forecaster.parameters():
        nn.init.normal_(parameter, std=0.02)
    interface = Interface(num_units, model.config.width)
    inputs = [SessionInput(torch.randn(num_windows, model.config.context, num_units), interface, 0)]
    target = torch.randn(num_windows, model.config.horizon, num_units)
    parameters = [*model.parameters(), *interface.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, amsgrad=True, fused=True)

    def step_ms(forecast: Forecast) -> float:
        began = time.perf_counter()
        optimiser.zero_grad()
        (forecast(inputs)[0] - target).square().mean().backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        return 1e3 * (time.perf_counter() - began)

    def plain(given: list[SessionInput]) -> list[Tensor]:
        return plain_forecast(model, given)

    pairs = [(step_ms(model), step_ms(plain)) for _ in range(1 + config.repetitions)][1:]
    return {
        "what": "train",
        "units": num_units,
        "batch": num_windows,
        "threads": config.threads,
        "device": "cpu",
        "dtype": "float32",
        "median_ms": median(ours for ours, _ in pairs),
        "plain_median_ms": median(plain_ms for _, plain_ms in pairs),
    }


if __name__ == "__main__":
    sys.exit(main())
