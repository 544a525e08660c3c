"""Where jobs print: a terminal as wide as it is, a log wide enough for tables to align."""

from __future__ import annotations

import sys

from rich.console import Console

LOG_WIDTH = 140


def make_console() -> Console:
    """As wide as the terminal; LOG_WIDTH columns where it is none."""
    width = None if sys.stdout.isatty() else LOG_WIDTH
    # Names of files and sessions may hold brackets, which are not markup.
    return Console(width=width, highlight=False, markup=False, soft_wrap=True)
