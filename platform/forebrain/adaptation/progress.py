"""Progress of an adaptation, as a person sees it: bars in a terminal or a notebook, lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from forebrain import notebook
from forebrain.console import LOG_WIDTH, Follower

# Is told what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Shows nothing."""


@contextmanager
def progress_shown(
    progress: Progress | bool,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """The function that progress is reported to.

    Args:
        progress: True shows it, False does not; a function is called with it.
        console: where to show it; None for standard error.
        clock: seconds, for tests.
    """
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield silent
    else:
        console = console or Console(stderr=True)
        if console.is_jupyter:
            with notebook.bars() as shown:
                yield lambda what, done, total: shown(what, done, total, clock())
        elif console.is_terminal:
            with _bars(console) as bars:
                yield _Bars(bars)
        else:
            plain = Console(file=console.file, width=LOG_WIDTH, highlight=False, markup=False)
            yield Follower(plain, clock=clock)


def _bars(console: Console) -> Bars:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    return Bars(*columns, TimeRemainingColumn(), console=console, transient=True)


class _Bars:
    """A bar for each piece of work, from when it is first heard of."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done)
