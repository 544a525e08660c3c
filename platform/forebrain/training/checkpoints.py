"""Checkpoints: complete or absent, checked on reading, the newest good one found.

    checkpoints/00000600/<file>      written first, by any number of workers
    checkpoints/00000600.json        the commit record, created last and only if absent: it is the truth

The record lists every file with its size and sha256. A folder without a record is what a killed writer
left, and is removed when a later checkpoint is committed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from forebrain.errors import CheckpointError
from forebrain.storage import Folder

_FORMAT = "forebrain-checkpoint-1"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint, as the commit record lists it."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint.

    Attributes:
        step: optimiser steps done.
        validation_loss: what the best is chosen by, lower is better; None where it was not measured there.
        record: what else was stored with it (config, data fingerprint, progress of the run).
    """

    step: int
    validation_loss: float | None
    files: tuple[StoredFile, ...]
    record: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: where they are kept.
        keep: newest ones kept; the one with the lowest validation loss is kept besides.
    """

    def __init__(self, folder: Folder, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def write_file(self, step: int, name: str, data: bytes) -> StoredFile:
        """Writes one file of a checkpoint that is not yet committed."""
        self.folder.write(f"{_name(step)}/{name}", data)
        return StoredFile(name, len(data), hashlib.sha256(data).hexdigest())

    def commit(
        self, step: int, files: Iterable[StoredFile], validation_loss: float | None, record: dict[str, Any]
    ) -> Checkpoint:
        """Makes a checkpoint exist, all its files having been written, and removes those no longer kept."""
        checkpoint = Checkpoint(step, validation_loss, tuple(files), record)
        content = json.dumps({"format": _FORMAT, **asdict(checkpoint)}, indent=1, allow_nan=False).encode()
        try:
            self.folder.create(f"{_name(step)}.json", content)
        except FileExistsError:
            # An earlier attempt at this step was damaged or is being redone after a kill: the files beside
            # it were just replaced, so its record no longer describes them.
            self.folder.write(f"{_name(step)}.json", content)
        self._remove_old(step)
        return checkpoint

    def list(self) -> list[Checkpoint]:
        """Committed checkpoints, oldest first. A record that cannot be read is reported and left out."""
        found = []
        for name in self.folder.names():
            if name.endswith(".json"):
                try:
                    found.append(self._parse(self.folder.read(name)))
                except (ValueError, KeyError, TypeError) as error:
                    _log.warning("%s: not a commit record (%s); ignored.", self.folder.uri_of(name), error)
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def read(self, checkpoint: Checkpoint) -> dict[str, bytes]:
        """All files of a checkpoint, each checked against its record.

        Raises:
            CheckpointError: a file is missing or is not what was written.
        """
        contents = {}
        for stored in checkpoint.files:
            where = self.folder.uri_of(f"{_name(checkpoint.step)}/{stored.name}")
            try:
                data = self.folder.read(f"{_name(checkpoint.step)}/{stored.name}")
            except FileNotFoundError as error:
                raise CheckpointError(f"{where}: missing; the checkpoint is damaged.") from error
            if len(data) != stored.size_bytes or hashlib.sha256(data).hexdigest() != stored.sha256:
                raise CheckpointError(
                    f"{where}: {len(data)} bytes that do not match the {stored.size_bytes} written; "
                    "the checkpoint is damaged."
                )
            contents[stored.name] = data
        return contents

    def newest(self) -> tuple[Checkpoint, dict[str, bytes]] | None:
        """The newest checkpoint that is whole, with its files; damaged ones are reported and passed over.

        Raises:
            CheckpointError: there are checkpoints, but none is whole.
        """
        checkpoints = self.list()
        for checkpoint in reversed(checkpoints):
            try:
                return checkpoint, self.read(checkpoint)
            except CheckpointError as error:
                _log.warning("%s Trying the one before.", error)
        if checkpoints:
            raise CheckpointError(
                f"{self.folder.uri}: every checkpoint is damaged, the newest of step {checkpoints[-1].step}. "
                "Restore one from a copy, or give another --out to start over."
            )
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest validation loss."""
        scored = [checkpoint for checkpoint in self.list() if checkpoint.validation_loss is not None]
        return min(scored, key=lambda checkpoint: (checkpoint.validation_loss, checkpoint.step), default=None)

    def _remove_old(self, committed_step: int) -> None:
        steps = [checkpoint.step for checkpoint in self.list()]
        best = self.best()
        kept = {*steps[-self.keep :], *([best.step] if best else [])}
        for step in steps:
            if step not in kept:
                # The record goes first: a kill in between leaves an orphan, never a record without files.
                self.folder.remove(f"{_name(step)}.json")
        for name in self.folder.names():
            if name.isdigit() and int(name) not in kept and int(name) <= committed_step:
                self.folder.remove(name)

    def _parse(self, content: bytes) -> Checkpoint:
        values = json.loads(content)
        if values.pop("format") != _FORMAT:
            raise ValueError(f"another format than {_FORMAT}")
        values["files"] = tuple(StoredFile(**stored) for stored in values["files"])
        return Checkpoint(**values)


def _name(step: int) -> str:
    return f"{step:08d}"
