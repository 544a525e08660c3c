"""Runs an untrained model for long with everything that can be wrong with a stream.

The exit status is 1 if memory grew or the clock drifted.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from forebrain.commands.live.serve import untrained
from forebrain.console import Table
from forebrain.models.poco import PocoConfig
from forebrain.realtime.forecaster import LiveConfig
from forebrain.realtime.soak import SoakConfig, soak
from forebrain.realtime.state import StateFile

MAX_LATE_S = 1.0  # at the end: a clock that drifts is late by more, a busy machine by less


@dataclass(frozen=True)
class Config:
    """The model to soak, and for how long.

    Attributes:
        units: of the untrained model.
        threads: CPU threads of a forecast.
        model: its size.
        live: the forecaster: gaps, normalisation, scores, drift.
        soak: how long, and what is too much.
    """

    units: int = 64
    threads: int = 1
    model: PocoConfig = field(default_factory=PocoConfig)
    live: LiveConfig = field(default_factory=LiveConfig)
    soak: SoakConfig = field(default_factory=SoakConfig)


def run(config: Config, console: Console) -> int:
    """Soaks it, its state written beside, and shows what it came to."""
    torch.set_num_threads(1)
    live = untrained(config.units, config.model, config.live, config.threads)
    with tempfile.TemporaryDirectory(prefix="forebrain-") as folder:
        state = StateFile(Path(folder) / "state.safetensors", live, every_s=1.0)
        soaked = soak(live, config.soak, state)
        state.close(live)
    table = Table("frames", "memory MiB", "grew by MiB", "last frame late by ms", "latest by ms")
    values = (soaked.rss_bytes / 2**20, soaked.growth_bytes / 2**20, 1e3 * soaked.last_late_s)
    table.add_row(
        f"{soaked.frames:,}", *(f"{value:.1f}" for value in values), f"{1e3 * soaked.worst_late_s:.1f}"
    )
    console.print(table)
    console.print(json.dumps(soaked.status))
    period_s = 1 / config.soak.rate_hz if config.soak.rate_hz else float("inf")
    fine = soaked.growth_bytes <= config.soak.max_growth_mb * 2**20
    return 0 if fine and soaked.last_late_s < max(MAX_LATE_S, period_s) else 1
