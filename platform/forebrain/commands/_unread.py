"""Output that nobody can read: a log on a full disk, or a pipe whose reader has gone, ends no work."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any, TextIO

LOST = b"\n[what was printed before this could not be written]\n"


class _Unread(io.FileIO):
    """A stream that takes what it cannot write, and says so where it can again."""

    _has_lost = False

    def write(self, data: Any, /) -> int:
        try:
            if self._has_lost:
                super().write(LOST)
                self._has_lost = False
            return super().write(data)
        except OSError:
            self._has_lost = True
            return memoryview(data).nbytes


@contextlib.contextmanager
def output_may_fail() -> Iterator[None]:
    """As long as the block lasts, what cannot be printed is no error."""
    before = sys.stdout, sys.stderr
    try:
        sys.stdout, sys.stderr = _unread(sys.stdout), _unread(sys.stderr)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _unread(stream: TextIO) -> TextIO:
    """A stream into the same file; the same stream where there is none, as in a notebook."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)  # there is no buffer where PYTHONUNBUFFERED is set
    if not isinstance(raw, io.FileIO):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Unread(raw.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )
