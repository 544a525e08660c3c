"""How a command ends at Ctrl-C or SIGTERM: by one line and 128 and the signal's number.

While a command is imported nothing is begun yet, and what is imported may not survive an exception (torch
aborts, or goes round in a circle): the process ends there and then. After that the signal is an exception, so
that what was begun is put away. Handlers that somebody else has set stay.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


def end_at_once() -> None:
    """From here on a signal ends the process, with a line."""
    _handle(dict.fromkeys(_NUMBERS, _end))


def end_in_order() -> None:
    """From here on a signal is an exception: KeyboardInterrupt, or SystemExit with the number of SIGTERM."""
    _handle({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _exit})


def end_as_usual() -> None:
    """From here on signals do what they do in any Python process."""
    _handle({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL})


def _handle(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in handlers.items():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, _end, _exit):
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    if sys.stderr is not None:
        os.write(2, b"stopped\n")
    os._exit(128 + number)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(number)
