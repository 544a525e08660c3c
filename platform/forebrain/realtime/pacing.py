"""Keeping time: each moment is due by the clock at the start, so that no delay adds up to a drift."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pacer:
    """Says when the k-th of evenly spaced moments is due.

    Args:
        period_s: between moments; 0 for at once.
        clock: seconds that only run forward.
    """

    def __init__(self, period_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.period_s, self.clock = period_s, clock
        self._began = clock()

    def remaining_s(self, moment: int) -> float:
        """Seconds until moment `moment` (0, 1, 2, ...), negative once it has passed."""
        return self._began + moment * self.period_s - self.clock()

    def wait(self, moment: int, sleep: Callable[[float], None] = time.sleep) -> None:
        """Sleeps until a moment."""
        while (remaining := self.remaining_s(moment)) > 0:
            sleep(remaining)
