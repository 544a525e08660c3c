"""Where jobs print: a terminal as wide as it is, a log wide enough for tables to align."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console

LOG_WIDTH = 100


def make_console() -> Console:
    """As wide as the terminal; LOG_WIDTH columns where it is none."""
    width = None if sys.stdout.isatty() else LOG_WIDTH
    # Names of files and sessions may hold brackets, which are not markup.
    return Console(width=width, highlight=False, markup=False, soft_wrap=True)


class Follower:
    """Prints how far a long piece of work is, a line every few seconds; nothing of what is soon over.

    Args:
        console: where to.
        every_s: seconds between lines.
        clock: seconds, for tests.
    """

    def __init__(
        self, console: Console, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._every_s, self._clock = console, every_s, clock
        self._what, self._began, self._first = "", 0.0, 0
        self._last_line = clock()

    def __call__(self, what: str, done: int, total: int, more: str = "") -> None:
        """Hears that `done` of `total` parts are done; another `what` is another piece of work.

        Args:
            more: what else the line says.
        """
        now = self._clock()
        if what != self._what:
            self._what, self._began, self._first = what, now, done
        if now - self._last_line < self._every_s or done <= self._first:
            return
        self._last_line = now
        left_s = (now - self._began) / (done - self._first) * (total - done)
        self._console.print(f"{what} {of(done, total)}  {more}{clock_time(left_s)} left")


def of(done: int, total: int) -> str:
    """How many of how many, as wide as the most of them, so that lines align: `    50/1,000`."""
    most = f"{total:,}"
    return f"{done:>{len(most)},}/{most}"


def clock_time(seconds: float) -> str:
    """Minutes and seconds, as 12:05."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
