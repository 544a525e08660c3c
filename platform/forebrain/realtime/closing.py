"""What the end of a forecaster waits for."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

LONG_S = 3.0
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def last_write(path: Path) -> Iterator[None]:
    """Says of a file, once, that its disk takes long to write what is left, as one that stands still does."""
    timer = threading.Timer(
        LONG_S,
        _log.warning,
        (
            "%s: its disk has not written what is left for %g s, which is waited for; kill -9 ends the "
            "forecaster without that.",
            path,
            LONG_S,
        ),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
