"""Times of adapting: the whole loop that a laboratory waits for, on windows of noise."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, Literal

import torch

from forebrain.adaptation.fit import FitConfig, fit_interface
from forebrain.benchmarking.timing import Patience, time_together
from forebrain.models.poco import Poco, PocoConfig

# What the published implementation was timed at: seconds on one core.
STEPS, UNITS, PUBLISHED_S = 200, 512, 6.7
REPETITIONS = 5


def time_fits(steps: int = STEPS, units: int = UNITS, repetitions: int = REPETITIONS) -> list[dict[str, Any]]:
    """Fits interfaces of batch 1 by `adaptation.fit.fit_interface`, in fp32 and in bf16 in turn."""
    torch.manual_seed(0)
    config = PocoConfig(relative=True)
    model = Poco(config).eval().requires_grad_(False)
    window = torch.randn(1, config.context, units), torch.randn(1, config.horizon, units)

    def fit(precision: Literal["fp32", "bf16"]) -> None:
        interface = model.new_interface(units, torch.Generator().manual_seed(0))
        fit_interface(model, interface, itertools.repeat(window), FitConfig(steps=steps, precision=precision))

    patience = Patience(repetitions, seconds=120, p99_within_s=0)
    times = time_together(
        {name: partial(fit, name) for name in ("fp32", "bf16")}, torch.device("cpu"), patience
    )
    threads = torch.get_num_threads()
    published = PUBLISHED_S if (steps, units, threads) == (STEPS, UNITS, 1) else None
    return [
        {
            "what": "fit",
            "units": units,
            "batch": 1,
            "steps": steps,
            "threads": threads,
            "device": "cpu",
            "dtype": name,
            "seconds": of.median_ms / 1e3,
            "slowest_s": max(of.seconds),
            "peak_bytes": of.peak_bytes,
            "published_s": published,
            "published_ratio": None if published is None else published / (of.median_ms / 1e3),
        }
        for name, of in times.items()
    ]
