"""The one rule by which a request to a store or a web host is tried again.

It is after throttling (429), an error of the server (5xx), a time-out, or a connection that broke; of an
object store also after a connection that was refused, since a store that restarts takes a while. There are
ATTEMPTS in all, or as many as RETRY_S seconds allow, with a warning and a random pause between them, whose
bound doubles from BACKOFF_S to LONGEST_BACKOFF_S. The download of a large file counts anew from every byte
that came. The variable AWS_MAX_ATTEMPTS is obeyed before ATTEMPTS. Everything else that a store answers is
an error at once.
"""

from __future__ import annotations

import logging
import os
import random
import time

from forebrain_registry.errors import StorageError

ATTEMPTS = 10
RETRY_S = 120.0
BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 15.0
# READ_TIMEOUT_S is without a single byte: a slow transfer goes on.
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
# What a request may last with all its attempts, of which the last can begin as late as RETRY_S.
REQUEST_S = RETRY_S + CONNECT_TIMEOUT_S + READ_TIMEOUT_S

_log = logging.getLogger(__name__)


class Attempts:
    """The attempts at one request for what lies at `where`."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._most = _most_attempts()
        self.count_anew()

    def count_anew(self) -> None:
        """Forgets earlier failures, since something came."""
        self._failed, self._began = 0, time.monotonic()

    def wait(self, error: BaseException, cause: str, answered_by: str, hint: str) -> None:
        """Waits for the next attempt to be due; `cause` is the last one's error in one line.

        Raises:
            StorageError: there were enough of them. It names who should have answered, and a hint.
        """
        self._failed += 1
        spent_s = time.monotonic() - self._began
        pause_s = random.uniform(0, min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** (self._failed - 1)))
        if self._failed >= self._most or spent_s + pause_s >= RETRY_S:
            raise StorageError(
                f"{self._where}: {answered_by} did not answer as it should in {self._failed} attempts over "
                f"{spent_s:.0f} s; the last time: {cause}. {hint}"
            ) from error
        counted = f"Attempt {self._failed} of {self._most}; the next in {pause_s:.1f} s."
        _log.warning("%s: %s. %s", self._where, cause, counted)
        time.sleep(pause_s)


def _most_attempts() -> int:
    given = os.environ.get("AWS_MAX_ATTEMPTS", str(ATTEMPTS))
    if not given.isascii() or not given.isdecimal() or int(given) == 0:
        raise StorageError(f"AWS_MAX_ATTEMPTS is {given!r:.40}; a whole number above 0, or leave it unset.")
    return int(given)
