"""metrics.jsonl of a run: a line for each step, validation and checkpoint, each once.

    metrics.jsonl                      all lines; on a disk they are appended as checkpoints are committed
    attempts/metrics/<number>.jsonl    in an object store, where nothing can be appended: lines since the loop
                                       started, until it ends, or starts again, and joins them to the others

So each line is written a fixed number of times, however long the run. A kill may leave half a line, or lines
of steps after the checkpoint that the run goes on from; the next start drops both.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable
from typing import Any

from forebrain.errors import StorageError
from forebrain_registry.storage import Folder, require_anchored

Row = dict[str, Any]
NAME = "metrics.jsonl"
PARTS = "attempts/metrics"
_DRAWN = ("loss", "score")  # numbers, or null where there is none
_log = logging.getLogger(__name__)


class MetricsFile:
    """Reads and extends the metrics of a run.

    Args:
        run: the run folder.
    """

    def __init__(self, run: Folder) -> None:
        self._run = run
        self._size = 0  # of metrics.jsonl as this process left it
        self._parts = 0  # that this process knows of

    def read(self) -> list[Row]:
        """Rows in the order in which they were written; of two of one kind and step the later one.

        Lines that are damaged are reported and left out.
        """
        rows: dict[tuple[str, int], Row] = {}
        for name in (NAME, *self._part_names()):
            for row in self._read_file(name):
                key = row["kind"], row["step"]
                rows.pop(key, None)
                rows[key] = row
        return list(rows.values())

    def read_until(self, step: int) -> list[Row]:
        """The rows that a run has which goes on after this step; a line says where steps have none."""
        rows = [row for row in self.read() if row["step"] <= step]
        lacking = step - len({row["step"] for row in rows if row["kind"] == "step" and row["step"] > 0})
        if lacking > 0:
            _log.warning(
                "%s: %d of the %d steps that are done have no row here, and curves will lack them; training "
                "is the same. If the run was copied, copy this file too, and give the command again.",
                self._run.uri_of(NAME),
                lacking,
                step,
            )
        return rows

    def rewind(self, step: int) -> None:
        """Makes the file that of a run that goes on after this step: later rows and damaged lines go."""
        self._rewrite(self.read_until(step))

    def append(self, rows: list[Row]) -> None:
        """Adds rows for good.

        Raises:
            StorageError: they cannot be written; nothing of them is kept.
        """
        if not rows:
            return
        if not self._run.is_local:
            self._add_part(_lines(rows))
        else:
            # Another driver of the same run may write here too, as one that stood still for long. Its steps
            # are the same as ours, and `read` takes each once.
            size = self._size_now()
            is_whole = size in (0, self._size) or self._run.read(NAME).endswith(b"\n")
            self._size = size
            self._append_lines((b"" if is_whole else b"\n") + _lines(rows))

    def join(self) -> None:
        """Brings all rows into metrics.jsonl, where they lie in parts."""
        if self._part_names():
            self._rewrite(self.read())

    def _read_file(self, name: str) -> Iterable[Row]:
        try:
            content = self._run.read(name)
        except FileNotFoundError:
            return
        damaged = 0
        for line in content.splitlines():
            row = _row(line)
            if row is None:
                damaged += 1
            else:
                yield row
        if damaged:
            _log.warning(
                "%s: %d damaged %s left out; a kill or a full disk may have cut it short.",
                self._run.uri_of(name),
                damaged,
                "line is" if damaged == 1 else "lines are",
            )

    def _rewrite(self, rows: Iterable[Row]) -> None:
        unique = {(row["kind"], row["step"]): row for row in rows}
        data = _lines(unique.values())
        if data or self._run.exists(NAME):
            self._run.write(NAME, data)
        # After the whole is there: a kill in between leaves rows twice, of which `read` takes one.
        if self._part_names():
            self._run.remove(PARTS)
        self._size, self._parts = len(data), 0

    def _append_lines(self, data: bytes) -> None:
        path = self._run.local_path(NAME)
        require_anchored(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # else the next start drops what is cut short
                os.truncate(path, self._size)
            raise StorageError(
                f"{path}: could not be written ({error.strerror or error}). Free some space; the same "
                "command goes on from the newest checkpoint."
            ) from error
        self._size += len(data)

    def _add_part(self, data: bytes) -> None:
        while True:
            self._parts += 1
            with contextlib.suppress(FileExistsError):  # another driver of the same run
                return self._run.create(f"{PARTS}/{self._parts:08d}.jsonl", data)

    def _part_names(self) -> list[str]:
        # Some stores go on listing a folder whose last file was removed.
        return [f"{PARTS}/{name}" for name in self._run.names(PARTS) if name.endswith(".jsonl")]

    def _size_now(self) -> int:
        path = self._run.local_path(NAME)
        return path.stat().st_size if path.exists() else 0


def _lines(rows: Iterable[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _row(line: bytes) -> Row | None:
    """The row of a line; None where it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and isinstance(row.get("kind"), str) and isinstance(row.get("step"), int)
    return row if is_row and all(_is_number(row.get(name)) for name in _DRAWN) else None


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)
