"""Processes that stand for a run's workers, without the seconds that each would take to import torch."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

import torch.multiprocessing as multiprocessing


def start_workers(work: Callable[..., None], size: int, *given: Any) -> None:
    """Runs `work(rank, *given)` in so many processes, and raises what one of them raised.

    They are forked from a server that imports what they all need and does nothing else, once. It also keeps
    the environment in which it was started: what a test sets there must be given in another way.
    """
    forkserver.set_forkserver_preload(["pytest", "forebrain.training.loop", "forebrain.training.trained"])
    multiprocessing.start_processes(work, given, nprocs=size, start_method="forkserver")
