"""Where jobs print: a terminal as wide as it is, a log wide enough for tables to align."""

from __future__ import annotations

import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import rich.table
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from forebrain_registry.lines import one_line

LOG_WIDTH = 100
_GAP = 2  # between two columns
_READABLE = 24  # text is not wrapped to less where columns can stand below instead
_LEAST = 12  # names are not broken to less


def make_console() -> Console:
    """As wide as the terminal; LOG_WIDTH columns where it is none."""
    width = None if sys.stdout.isatty() else LOG_WIDTH
    # Names of files and sessions may hold brackets, which are not markup.
    return _Lines(width=width, highlight=False, markup=False, soft_wrap=True)


class _Lines(Console):
    """A console on which each text is one line, whatever names are in it."""

    def print(self, *objects: Any, **given: Any) -> None:
        super().print(*(one_line(each) if isinstance(each, str) else each for each in objects), **given)


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


class Table:
    """A table that fits the console: no word is broken that can be kept whole.

    Text wraps between words; columns for which there is no room go into a second table below, beside the
    names of the rows again; a name that is as wide as the console is broken behind a slash or a dash.

    Args:
        columns: their names; "" for none.
        title: what the table shows.
        keys: how many of the first columns name a row.
        left: columns besides the keys that hold text; the others hold numbers, which end below each other.
    """

    def __init__(self, *columns: str, title: str = "", keys: int = 1, left: Iterable[int] = ()) -> None:
        self.columns, self.title, self._keys = columns, title, keys
        self._left = {*range(keys), *left}
        self.rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """Adds a row, a cell for each column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"the row has {len(cells)} cells; expected {len(self.columns)}.")
        self.rows.append(tuple(map(one_line, cells)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        if self.title:
            yield Text(textwrap.fill(self.title, width), style="bold")
        for columns in self._parts(width):
            yield self._part(columns, width)
            yield Text("")

    def _cells(self, column: int) -> list[str]:
        return [row[column] for row in self.rows]

    def _least(self, column: int) -> int:
        """The width that breaks no word."""
        return max(map(_longest_word, (self.columns[column], *self._cells(column))))

    def _readable(self, column: int) -> int:
        """The least width that breaks no number in two lines, and leaves text readable."""
        whole = max(map(cell_len, self._cells(column)), default=0)
        return max(self._least(column), whole if column not in self._left else min(whole, _READABLE))

    def _whole(self, column: int) -> int:
        return max(map(cell_len, (self.columns[column], *self._cells(column))))

    def _parts(self, width: int) -> Iterator[Sequence[int]]:
        """Columns that fit beside each other, the keys first."""
        keys = list(range(self._keys))
        part, used = list(keys), sum(self._readable(key) + _GAP for key in keys)
        for column in range(self._keys, len(self.columns)):
            needed = self._readable(column)
            if used + needed > width and len(part) > self._keys:
                yield part
                part, used = list(keys), sum(self._readable(key) + _GAP for key in keys)
            part.append(column)
            used += needed + _GAP
        yield part

    def _part(self, columns: Sequence[int], width: int) -> rich.table.Table:
        widths = {column: self._readable(column) for column in columns}
        spare = width - sum(widths.values()) - _GAP * (len(columns) - 1)
        if spare < 0:
            longest = max(columns[: self._keys], key=widths.__getitem__)
            widths[longest] = max(widths[longest] + spare, _LEAST)
        for column in columns:  # what is left, to those that can use it
            more = min(max(spare, 0), self._whole(column) - widths[column])
            widths[column] += max(more, 0)
            spare -= max(more, 0)
        table = rich.table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
        for column in columns:
            justify: Literal["left", "right"] = "left" if column in self._left else "right"
            table.add_column(
                Text(self.columns[column]), justify=justify, width=widths[column], overflow="fold"
            )
        for row in self.rows:
            table.add_row(*(Text(_broken(row[column], widths[column])) for column in columns))
        return table


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _broken(text: str, width: int) -> str:
    """The text with words that are wider than a column broken behind a slash, a dash or an underscore."""
    if _longest_word(text) <= width:
        return text
    lines = [""]
    for piece in re.findall(r"[^/_\-\s]*[/_\-\s]*", text):
        if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)
