"""How long a lab waits for its interface: the whole of the loop that adapts, on windows of noise."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch

from forebrain.adaptation.fit import FitConfig, fit_interface
from forebrain.models.poco import Poco, PocoConfig

# What the published implementation was timed at: seconds on one core.
STEPS, UNITS, PUBLISHED_S = 200, 512, 6.7


def time_fits(steps: int = STEPS, units: int = UNITS) -> list[dict[str, Any]]:
    """Fits an interface of batch 1 by `adaptation.fit.fit_interface`, in fp32 and in bf16."""
    rows = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        config = PocoConfig(relative=True)
        model = Poco(config).eval().requires_grad_(False)
        interface = model.new_interface(units)
        window = torch.randn(1, config.context, units), torch.randn(1, config.horizon, units)
        published = PUBLISHED_S if (steps, units, torch.get_num_threads()) == (STEPS, UNITS, 1) else None
        began = time.perf_counter()
        fit_interface(
            model,
            interface,
            itertools.repeat(window),
            FitConfig(steps=steps, precision=precision),
        )
        seconds = time.perf_counter() - began
        rows.append(
            {
                "what": "fit",
                "units": units,
                "batch": 1,
                "steps": steps,
                "threads": torch.get_num_threads(),
                "device": "cpu",
                "dtype": precision,
                "seconds": seconds,
                "published_s": published,
                "published_ratio": None if published is None else published / seconds,
            }
        )
    return rows
