"""A run in this process, without Ray."""

from __future__ import annotations

import torch

from forebrain.errors import StoppedError
from forebrain.machine import num_threads
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.events import Listener
from forebrain.training.loop import Trainer
from forebrain.training.progress import Progress
from forebrain.training.stopping import StopSignals


def train_here(config: PretrainConfig, report: Listener, launched: float | None = None) -> Progress:
    """Trains in this process, on its GPU where there is one; arguments as those of `Trainer`.

    Raises:
        StoppedError: SIGTERM or SIGINT came; the state is saved.
    """
    torch.set_num_threads(config.training.threads or num_threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with StopSignals() as signals:
        trainer = Trainer(config, WorkerGroup(), device, report, requests=signals, launched=launched)
        progress = trainer.run()
    if signals.received:
        raise StoppedError(signals.received, trainer.steps_done)
    return progress
