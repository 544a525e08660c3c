"""Text that stays on its line, whatever names of files, sessions and models bring in."""

from __future__ import annotations

import logging
import shlex
import unicodedata
from collections.abc import Sequence

# Categories of characters that begin a line, or do worse on a terminal; then those that turn text around.
_BREAKING = {"Cc", "Zl", "Zp"}
_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(text: str) -> str:
    """The text on one line, whatever a name in it holds: line ends, tabs, escape sequences and other control
    characters are shown as Python writes them, `\\n`."""
    return "".join(
        _escaped(letter) if unicodedata.category(letter) in _BREAKING or letter in _TURNING else letter
        for letter in text
    )


def _escaped(letter: str) -> str:
    return repr(letter)[1:-1] if letter.isascii() else f"\\u{ord(letter):04x}"


def quoted(word: str) -> str:
    """A word as a shell takes it, on one line."""
    if one_line(word) == word:
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{one_line(plain)}'"


def some(names: Sequence[str]) -> str:
    """The first five names, for a line."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


class LineFormatter(logging.Formatter):
    """A warning as one line, before its traceback where it has one."""

    def format(self, record: logging.LogRecord) -> str:
        """The message on one line, and the traceback as it is."""
        traceback = [self.formatException(record.exc_info)] if record.exc_info else []
        return "\n".join([one_line(record.getMessage()), *traceback])


def composed(text: str) -> str:
    """A text in the one form of all those that look the same (Unicode NFC), to be compared: accents are
    characters of their own in the names that some systems write."""
    return unicodedata.normalize("NFC", text)
