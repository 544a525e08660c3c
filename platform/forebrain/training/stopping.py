"""Requests to stop a run: a signal, or a machine that is about to be taken away."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from forebrain.leaving import asked_to_stop_by, heed


class StopRequests:
    """Requests as one worker hears them; here none ever comes. Others derive from it."""

    def asked(self) -> str | None:
        """Why this worker should save and stop now, or None. Cheap; called at every step."""
        return None

    def is_poll_due(self) -> bool:
        """Whether this worker wants all workers to `poll` after this step. Cheap; called at every step."""
        return False

    def poll(self) -> bool:
        """Called by all workers together. True if they should save now and go on."""
        return False

    def saved(self, seconds: float) -> None:
        """A checkpoint was committed, which took this long."""


class StopSignals(StopRequests):
    """SIGTERM, SIGINT and SIGHUP to this process, for as long as the block lasts.

    The first one is a request; a second does what it would have done without this. Does nothing outside the
    main thread, where Python handles no signals.

    Attributes:
        received: the name of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def asked(self) -> str | None:
        return self.received

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in asked_to_stop_by()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        heed(number)
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
