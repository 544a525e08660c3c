"""A run in this process, without Ray."""

from __future__ import annotations

import os

import torch

from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.loop import Progress, Report, Trainer


def train_here(config: PretrainConfig, report: Report, launched: float | None = None) -> Progress:
    """Trains in this process, on its GPU where there is one; arguments as those of `Trainer`."""
    torch.set_num_threads(config.training.threads or os.cpu_count() or 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Trainer(config, WorkerGroup(), device, report, launched=launched).run()
