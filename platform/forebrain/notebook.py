"""What a notebook shows: a few facts as a small table, and how far a piece of work is."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_CELL = "text-align: left; padding: 2px 14px 2px 0; vertical-align: top"


def facts(title: str, rows: Iterable[tuple[str, str]], verdict: str = "", warning: str = "") -> str:
    """HTML of a title and rows of a name and a value; all of it is escaped.

    Args:
        title: in bold.
        rows: name and value.
        verdict: a sentence below.
        warning: another, in red.
    """
    cells = "".join(
        f'<tr><td style="{_CELL}; opacity: 0.65">{html.escape(name)}</td>'
        f'<td style="{_CELL}">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    parts = [f"<b>{html.escape(title)}</b>", f'<table style="margin: 4px 0">{cells}</table>']
    if verdict:
        parts.append(f'<div style="max-width: 60em">{html.escape(verdict)}</div>')
    if warning:
        parts.append(f'<div style="max-width: 60em; color: #b3380b"><b>{html.escape(warning)}</b></div>')
    return f"<div>{''.join(parts)}</div>"


class Bars:
    """Bars for pieces of work under a notebook's cell, by IPython alone.

    Args:
        handle: of a display that can be updated.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._work: dict[str, tuple[int, int]] = {}
        self._shown = float("-inf")

    def __call__(self, what: str, done: int, total: int, now_s: float) -> None:
        """Hears how much of a piece of work is done; draws at most ten times a second."""
        self._work[what] = (done, total)
        if done < total and now_s - self._shown < 0.1:
            return
        self._shown = now_s
        rows = [
            f'<div><progress value="{done}" max="{max(1, total)}" style="width: 220px"></progress> '
            f"{html.escape(what)} {done:,} of {total:,}</div>"
            for what, (done, total) in self._work.items()
        ]
        self._update("".join(rows))

    def clear(self) -> None:
        """Takes the bars away."""
        self._update("")

    def _update(self, text: str) -> None:
        self._handle.update({"text/html": text or "<span></span>", "text/plain": ""}, raw=True)


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars under the cell that runs, gone once the work is done."""
    from IPython.display import display

    shown = Bars(display({"text/html": "<span></span>", "text/plain": ""}, raw=True, display_id=True))
    try:
        yield shown
    finally:
        shown.clear()
