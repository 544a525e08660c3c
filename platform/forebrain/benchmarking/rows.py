"""The file of rows: there after each measurement, and gathered over several runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from forebrain.errors import ConfigError
from forebrain_registry.storage import Folder

Row = dict[str, Any]
# What a row is a measurement of; a newer one of the same takes its place.
_SUBJECT = (
    "what",
    "units",
    "batch",
    "threads",
    "device",
    "dtype",
    "workers",
    "units_forecast",
    "source",
    "delay_ms",
    "in_flight",
    "phase",
    "sessions",
)


class RowFile:
    """A JSON list of rows. A run that is cut short leaves what it had, and the next one adds to it.

    Args:
        path: of the file, which need not exist; None keeps the rows of this run only, in memory.

    Raises:
        ConfigError: what is there is no list of rows.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.rows: list[Row] = []
        if path is None or not path.exists():
            return
        try:
            self.rows = json.loads(path.read_bytes())
            for row in self.rows:
                _subject(row)
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is no list of rows ({error}); give another file, or remove it."
            ) from error

    def add(self, rows: list[Row]) -> None:
        """Adds rows in place of older ones of the same; the file is whole at any time."""
        new = {_subject(row) for row in rows}
        self.rows = [row for row in self.rows if _subject(row) not in new] + rows
        if self._path is None:
            return
        Folder(self._path.parent).write(self._path.name, json.dumps(self.rows, indent=1).encode())


def _subject(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in _SUBJECT)
