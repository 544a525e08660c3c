"""The measurements of `forebrain benchmark`, one kind after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from rich.console import Console

from forebrain.benchmarking.cases import BATCHES, DTYPES, cases, time_case
from forebrain.benchmarking.ceilings import Ceilings
from forebrain.benchmarking.fitting import time_fits
from forebrain.benchmarking.intervals import time_intervals
from forebrain.benchmarking.large_session import LargeSessionConfig, measure_large_session
from forebrain.benchmarking.live_inputs import time_inputs
from forebrain.benchmarking.loading import time_loading
from forebrain.benchmarking.many_sessions import time_many_sessions
from forebrain.benchmarking.page import time_page
from forebrain.benchmarking.scaling import time_scaling
from forebrain.benchmarking.store import time_store
from forebrain.benchmarking.timing import Patience
from forebrain.errors import ConfigError

What = Literal[
    "forecast",
    "train",
    "adapt",
    "fit",
    "load",
    "scale",
    "large-session",
    "store",
    "many-sessions",
    "intervals",
    "inputs",
    "page",
]
UNITS = (300, 1000, 5000, 20_000, 71_721)
LARGE_SESSION_UNITS = (71_721,)
_BY_THEMSELVES = {"large-session", "store", "many-sessions", "intervals", "inputs", "page"}
INTERVAL_UNITS = (100, 300, 1000)
LIVE_UNITS = (1000,)


@dataclass(frozen=True)
class BenchmarkConfig:
    """The measurements to make.

    Attributes:
        what: forecast, train and adapt are steps of the model; fit is 200 steps of adaptation as a lab would
            wait for them; load is the way from shards to batches; scale is training over one and two workers;
            large-session is memory and time of training on one very large session, whole, in part and split
            over two workers; store is how long steps wait for a store that is far away; many-sessions is
            10,000 small sessions, prepared, opened, trained on and resumed; intervals is what they cost a
            live forecast, inputs what they and a plan do, page what its page costs the live forecaster.
        units: sizes of the session. None: 300 to 71,721; of large-session 71,721, of intervals 100 to
            1,000, of inputs and page 1,000.
        threads: CPU threads, several numbers one after another. Published figures are of one.
        device: cpu or cuda; fit, load and scale are of the CPU.
        quick: few repetitions, to see that it works.
        out: file for the rows, a JSON list; rows that it holds stay, unless they are measured again.
        picture: PNG file.
        large_session: how a large session is trained on.
        store: address in an object store, reached by http, for what is measured of one; a set of shards lies
            there meanwhile. None: a local disk alone.
    """

    what: list[What] = field(default_factory=lambda: ["forecast", "train", "adapt", "fit", "load", "scale"])
    units: list[int] | None = None
    threads: list[int] = field(default_factory=lambda: [1, 2])
    device: Literal["cpu", "cuda"] = "cpu"
    quick: bool = False
    out: str | None = None
    picture: str | None = None
    large_session: LargeSessionConfig = field(default_factory=LargeSessionConfig)
    store: str | None = None

    def __post_init__(self) -> None:
        for name in ("units", "threads"):
            values = getattr(self, name)
            if values is not None and (not values or min(values) < 1):
                raise ConfigError(f"{name} is {values}; expected numbers of 1 or more.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is cuda; expected cpu, since PyTorch sees no CUDA device here.")


def measure(config: BenchmarkConfig, console: Console) -> Iterator[list[dict[str, Any]]]:
    """The rows of each measurement, as it is made."""
    if "large-session" in config.what:
        for units in config.units or LARGE_SESSION_UNITS:
            yield from measure_large_session(units, config.large_session)
    if "store" in config.what:
        torch.set_num_threads(1)
        for row in time_store(config.store, quick=config.quick):
            yield [row]
    if "many-sessions" in config.what:
        for row in time_many_sessions(*((20, 0) if config.quick else ())):
            yield [row]
    if "intervals" in config.what:
        torch.set_num_threads(1)
        for units in config.units or INTERVAL_UNITS:
            yield [time_intervals(units, *((20,) if config.quick else ()))]
    if "inputs" in config.what:
        torch.set_num_threads(1)
        for units in config.units or LIVE_UNITS:
            yield [time_inputs(units, *((120,) if config.quick else ()))]
    if "page" in config.what:
        torch.set_num_threads(1)
        for units in config.units or LIVE_UNITS:
            yield [time_page(units, *((8,) if config.quick else ()))]
    if set(config.what) <= _BY_THEMSELVES:
        return
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
            if what in _BY_THEMSELVES:
                continue
            yield from _rows_of(what, config, device, patience, ceilings)


def _rows_of(
    what: What, config: BenchmarkConfig, device: torch.device, patience: Patience, ceilings: Ceilings
) -> Iterator[list[dict[str, Any]]]:
    if what in BATCHES:
        for case in cases(what, config.units or UNITS, device):
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
