"""How a command ends at Ctrl-C, SIGTERM or SIGHUP: by one line and 128 and the signal's number.

While a command is imported nothing is begun yet, and what is imported may not survive an exception (torch
aborts, or goes round in a circle): the process ends there and then. After that the signal is an exception, so
that what was begun is put away. Handlers that somebody else has set stay.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

# The last one comes where a terminal is closed or its connection is lost; Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
HANGUP = 129  # the status after it
_heeded: list[int] = []  # the numbers of signals that came, in order


def end_at_once() -> None:
    """From here on a signal ends the process, with a line; none has come yet."""
    _heeded.clear()
    _handle(dict.fromkeys(SIGNALS, _end))


def end_in_order() -> None:
    """From here on a signal is an exception: KeyboardInterrupt, or SystemExit with the number of SIGTERM or
    with `HANGUP`."""
    _handle({**dict.fromkeys(SIGNALS, _exit), signal.SIGINT: signal.default_int_handler})


def end_as_usual() -> None:
    """From here on signals do what they do in any Python process."""
    _handle({**dict.fromkeys(SIGNALS, signal.SIG_DFL), signal.SIGINT: signal.default_int_handler})


def asked_to_stop_by() -> tuple[signal.Signals, ...]:
    """The signals that ask this process to stop: not SIGHUP under `nohup`."""
    return tuple(
        number
        for number in SIGNALS
        if signal.Signals(number).name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
    )


def heed(number: int) -> None:
    """To be called first where a signal is handled: a terminal that is gone takes no more lines, and each
    would be an error."""
    _heeded.append(number)
    if 128 + number != HANGUP:
        return
    for stream in (1, 2):
        try:
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        except OSError:  # it is closed
            continue


def status_or(otherwise: int) -> int:
    """128 and the number of the last signal that came; `otherwise` where none has."""
    return 128 + _heeded[-1] if _heeded else otherwise


@contextlib.contextmanager
def hangups_ignored() -> Iterator[None]:
    """Has the processes that are started meanwhile ignore SIGHUP."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _handle(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in handlers.items():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, _end, _exit):
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    heed(number)
    if sys.stderr is not None:
        os.write(2, b"stopped\n")
    os._exit(128 + number)


def _exit(number: int, frame: FrameType | None) -> None:
    heed(number)
    sys.exit(number if number == signal.SIGTERM else 128 + number)
