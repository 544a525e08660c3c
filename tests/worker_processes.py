"""Processes that stand for a run's workers, without the seconds that each would take to import torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

import torch.multiprocessing as multiprocessing


def start_workers(work: Callable[..., None], size: int, *given: Any) -> None:
    """Runs `work(rank, *given)` in so many processes, and raises what one of them raised.

    They are forked from a process that imports what they all need, once, and does nothing else.
    """
    forkserver.set_forkserver_preload(["pytest", "forebrain.training.loop", "forebrain.runs.trained"])
    multiprocessing.start_processes(
        _work, (dict(os.environ), work, given), nprocs=size, start_method="forkserver"
    )


def _work(rank: int, environment: dict[str, str], work: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.environ.update(environment)  # the server's own is that of its start
    work(rank, *given)
