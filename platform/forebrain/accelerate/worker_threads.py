"""Threads that share the units of a large session, each bound to a core of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


class WorkerThreads:
    """Threads that help others to forecast, each bound to a core of its own where there are enough: the last.

    A thread that is woken is put on the core of the one that wakes it and shares it for milliseconds before
    it is moved, in which a forecast of 1,000 units is made. So whoever is helped keeps off these cores.

    Args:
        number: of threads.
    """

    def __init__(self, number: int) -> None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._others = cores[: len(cores) - number]
        own = cores[len(self._others) :] if self._others else [None] * number
        self.threads = [ThreadPoolExecutor(1, "forecast", _bind, (core,)) for core in own]

    @contextmanager
    def on_other_cores(self) -> Iterator[None]:
        """A context in which the calling thread keeps off their cores."""
        if not (self.threads and self._others):
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._others)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def _bind(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, [core])
