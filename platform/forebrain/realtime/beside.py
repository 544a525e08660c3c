"""Starts the processes that work beside a forecaster."""

from __future__ import annotations

import signal
import sys
from multiprocessing.process import BaseProcess

END_S = 3.0


def start_beside(process: BaseProcess) -> None:
    """Starts a process that Ctrl-C does not reach, not even while it imports what it needs: a terminal sends
    it to all processes, and it is the forecaster that ends this one."""
    if sys.platform == "win32":
        process.start()
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # else starting it would take the block away
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the new process inherits
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end(process: BaseProcess) -> None:
    """Ends a process: by force if it does not within `END_S`, as one that stands still."""
    process.terminate()
    process.join(END_S)
    process.kill()
    process.join()
