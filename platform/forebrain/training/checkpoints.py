"""Checkpoints: complete or absent, checked on reading, the newest good one found.

    checkpoints/00000600-<attempt>/<file>   written first, by any number of workers
    checkpoints/00000600.json               the commit record, created last, only if absent: it is the truth

The record names the folder and lists every file with its size, its sha256 and whose interfaces it holds, so
that a worker reads what it needs. Each start of the training loop is
an attempt and writes into folders of its own, so two that save the same step never touch each other's files;
who creates the record first wins. A folder that no record names is what a killed attempt left, and is removed
when a checkpoint of its step or a later one is committed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from forebrain.errors import CheckpointError, StorageError
from forebrain.sealed import sealed, unsealed
from forebrain_registry.storage import PARTIAL, Folder

if TYPE_CHECKING:
    from forebrain.training.collectives import WorkerGroup

_FORMAT = "forebrain-checkpoint-3"
_READ_TOO = "forebrain-checkpoint-2"  # does not say whose interfaces a file holds
# A folder, or a record that was killed before it had its name.
_LEFT_OVER = re.compile(rf"(\d+)(-.*|\.json\..*{re.escape(PARTIAL)})$")
# Before each look at the records, as long as one is listed that cannot be found.
_LOOK_AGAIN_S = (0.0, 0.0, 0.0, 0.1, 0.5, 2.0)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint, as the commit record lists it.

    Attributes:
        units: of which units [start, stop) it holds the embeddings, by session; None where every worker needs
            it.
    """

    name: str
    size_bytes: int
    sha256: str
    units: dict[str, tuple[int, int]] | None = None

    def is_wanted(self, units: Mapping[str, tuple[int, int]]) -> bool:
        """Whether a worker needs it that owns these units of sessions."""
        return self.units is None or any(
            session in units and max(start, units[session][0]) < min(stop, units[session][1])
            for session, (start, stop) in self.units.items()
        )


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint.

    Attributes:
        step: optimiser steps done.
        folder: where its files lie.
        validation_loss: what the best is chosen by, lower is better; None where it was not measured there.
        record: what else was stored with it (config, data fingerprint, progress of the run).
    """

    step: int
    folder: str
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
        self._damaged: set[str] = set()  # folders of checkpoints that `newest` passed over
        self._told: set[str] = set()  # records that are none

    def folder_of(self, step: int, attempt: str) -> str:
        """The folder that an attempt writes the files of a checkpoint into; `attempt` from `new_attempt`."""
        return f"{step:08d}-{attempt}"

    def write_file(
        self, folder: str, name: str, data: bytes, units: dict[str, tuple[int, int]] | None = None
    ) -> StoredFile:
        """Writes one file of a checkpoint that is not yet committed; `units` as in `StoredFile`.

        Raises:
            CheckpointError: it could not be written, for example because the disk is full.
        """
        try:
            self.folder.write(f"{folder}/{name}", data)
        except (OSError, StorageError) as error:
            raise self._not_written(f"{folder}/{name}", error) from error
        return StoredFile(name, len(data), hashlib.sha256(data).hexdigest(), units)

    def commit(
        self,
        step: int,
        folder: str,
        files: Iterable[StoredFile],
        validation_loss: float | None,
        record: dict[str, Any],
    ) -> Checkpoint:
        """Makes a checkpoint exist, all its files having been written, and removes those no longer kept.

        Returns:
            The checkpoint of this step. Where another attempt was first, or is past this step, its
            checkpoint stands and ours is removed.

        Raises:
            CheckpointError: the record could not be written.
        """
        ours = Checkpoint(step, folder, validation_loss, tuple(files), record)
        newer = [other for other in self.committed() if other.step >= step and other.folder != folder]
        standing = newer[0] if newer else self._create(ours)
        if standing.folder != folder:
            _log.warning(
                "%s: another attempt at this run has saved step %d; the checkpoint of step %d from this one "
                "is not needed. Is the run started twice?",
                self.folder.uri, standing.step, step,
            )  # fmt: skip
            self.folder.remove(folder)
            return standing
        self._remove_old(step)
        return ours

    def committed(self) -> list[Checkpoint]:
        """Committed checkpoints, oldest first. A record that cannot be read is reported and left out.

        Raises:
            CheckpointError: a record is listed and stays away.
        """
        for wait_s in _LOOK_AGAIN_S:
            time.sleep(wait_s)
            found, missing = [], ""
            for name in self._record_names():
                try:
                    found.append(self._parse(self.folder.read(name)))
                except FileNotFoundError:
                    missing = name  # removed by a writer, since it was listed; there are newer ones then
                except (ValueError, KeyError, TypeError) as error:
                    if name not in self._told:
                        _log.warning(
                            "%s: not a commit record (%s); ignored.", self.folder.uri_of(name), error
                        )
                    self._told.add(name)
            if not missing:
                return sorted(found, key=lambda checkpoint: checkpoint.step)
        raise CheckpointError(
            f"{self.folder.uri_of(missing)} is listed and cannot be found; restore it, or remove it if it is "
            "a link to nothing."
        )

    def newest_step(self) -> int:
        """The step of the newest commit record, whole or not; 0 where there is none."""
        return max((int(name.removesuffix(".json")) for name in self._record_names()), default=0)

    def read(
        self, checkpoint: Checkpoint, units: Mapping[str, tuple[int, int]] | None = None
    ) -> dict[str, bytes]:
        """Files of a checkpoint, each checked against its record.

        Args:
            checkpoint: which.
            units: those whose embeddings are wanted, [start, stop) of each session; files that hold only
                others are not read. None: all.

        Raises:
            CheckpointError: a file is missing or is not what was written.
        """
        contents = {}
        for stored in checkpoint.files:
            if units is not None and not stored.is_wanted(units):
                continue
            name = f"{checkpoint.folder}/{stored.name}"
            where = self.folder.uri_of(name)
            try:
                data = self.folder.read(name)
            except FileNotFoundError as error:
                raise CheckpointError(f"{where}: missing; the checkpoint is damaged.") from error
            if len(data) != stored.size_bytes or hashlib.sha256(data).hexdigest() != stored.sha256:
                raise CheckpointError(
                    f"{where}: {len(data)} bytes that do not match the {stored.size_bytes} written; "
                    "the checkpoint is damaged."
                )
            contents[stored.name] = data
        return contents

    def newest(
        self, units: Mapping[str, tuple[int, int]] | None = None, group: WorkerGroup | None = None
    ) -> tuple[Checkpoint, dict[str, bytes]] | None:
        """The newest checkpoint that is whole, with its files; damaged ones are reported and passed over.

        Args:
            units: see `read`.
            group: workers that look for it together: the first one says which is the newest, each reads what
                it needs, and it is whole if each found its part to be. All get the same checkpoint.

        Raises:
            CheckpointError: there are checkpoints, but none is whole.
        """
        gather = _alone if group is None else group.gather_from
        decides = group is None or group.is_first
        self._damaged.clear()
        while checkpoint := gather(lambda: self._newest_besides_damaged() if decides else None)[0]:
            contents, problems = self._read_together(checkpoint, units, gather)
            if not problems:
                return checkpoint, contents
            self._damaged.add(checkpoint.folder)
            for problem in filter(None, problems if decides else ()):
                _log.warning("%s Trying the one before.", problem)
        return None

    def _newest_besides_damaged(self) -> Checkpoint | None:
        left = [checkpoint for checkpoint in self.committed() if checkpoint.folder not in self._damaged]
        if not left and (names := self._record_names()):
            raise CheckpointError(
                f"{self.folder.uri}: every checkpoint is damaged, or of another version of forebrain, the "
                f"newest in {max(names)}. Restore one from a copy, or give another --out to start over."
            )
        return left[-1] if left else None

    def _read_together(
        self,
        checkpoint: Checkpoint,
        units: Mapping[str, tuple[int, int]] | None,
        gather: Callable[..., list[Any]],
    ) -> tuple[dict[str, bytes], list[str]]:
        """The files that this worker needs of a checkpoint, and the faults that any worker found in it."""
        contents: dict[str, bytes] = {}

        def read() -> str | None:
            try:
                contents.update(self.read(checkpoint, units))
            except CheckpointError as error:
                # Not damaged where a writer removed it while it was read; the list then has newer ones.
                return str(error) if self.folder.exists(_record_name(checkpoint.step)) else ""
            return None

        return contents, [problem for problem in gather(read) if problem is not None]

    def remove_damaged(self, step: int) -> None:
        """Removes records after a step that are none, or whose checkpoints `newest` found damaged, so that
        their steps can be saved again; those stay that another attempt has committed meanwhile.

        Their files go when the step is committed again.
        """
        for name in self._record_names():
            if int(name.removesuffix(".json")) <= step:
                continue
            try:
                if self._parse(self.folder.read(name)).folder not in self._damaged:
                    continue
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):
                pass
            _log.warning("%s: damaged; removed. Its step will be saved again.", self.folder.uri_of(name))
            self.folder.remove(name)

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest validation loss."""
        return _best(self.committed())

    def lost_best(self, known: int | None) -> int | None:
        """The step of the run's best checkpoint where that is gone and another is left.

        Args:
            known: the best step, as result.json has it; what is committed after it says more.
        """
        committed = self.committed()
        if not committed:
            return None
        newest = committed[-1]
        best: int | None = newest.record.get("progress", {}).get("best_step")
        if known is not None and known > newest.step:
            best = known
        return None if best in {None, 0, *(checkpoint.step for checkpoint in committed)} else best

    def _create(self, ours: Checkpoint) -> Checkpoint:
        """Creates the record of a checkpoint; returns the checkpoint whose record is there then."""
        name = _record_name(ours.step)
        content = sealed({"format": _FORMAT, **asdict(ours)})
        for _ in range(2):
            try:
                self.folder.create(name, content)
                return ours
            except FileExistsError:
                try:
                    # Ours too can be there: a store may answer "exists" to a request that was sent again
                    # because the answer to the first was lost.
                    return self._parse(self.folder.read(name))
                except FileNotFoundError:
                    continue
                except (ValueError, KeyError, TypeError):
                    _log.warning("%s: not a commit record; replaced.", self.folder.uri_of(name))
                    self.folder.remove(name)
            except (OSError, StorageError) as error:
                raise self._not_written(name, error) from error
        raise CheckpointError(
            f"{self.folder.uri_of(name)}: cannot be created, and another appears and disappears there. "
            "Start only one run at a time on a run folder."
        )

    def _remove_old(self, committed_step: int) -> None:
        checkpoints = self.committed()
        best = _best(checkpoints)
        kept = {found.folder for found in checkpoints[-self.keep :]} | ({best.folder} if best else set())
        for checkpoint in checkpoints:
            if checkpoint.folder not in kept:
                # The record goes first: a kill in between leaves an orphan, never a record without files.
                self.folder.remove(_record_name(checkpoint.step))
        for name in self.folder.names():
            # Those of later steps may belong to an attempt that is still writing them.
            if (left := _LEFT_OVER.match(name)) and name not in kept and int(left[1]) <= committed_step:
                self.folder.remove(name)

    def _record_names(self) -> list[str]:
        return [
            name
            for name in self.folder.names()
            if name.endswith(".json") and name.removesuffix(".json").isdigit()
        ]

    def _parse(self, content: bytes) -> Checkpoint:
        values = unsealed(content)
        if values.pop("format") not in (_FORMAT, _READ_TOO):
            raise ValueError(f"another format than {_FORMAT}")
        values["files"] = tuple(StoredFile(**stored) for stored in values["files"])
        return Checkpoint(**values)

    def _not_written(self, name: str, error: OSError | StorageError) -> CheckpointError:
        return CheckpointError(
            f"{self.folder.uri_of(name)}: could not be written ({error}). The checkpoints before it are "
            "intact; once it can be written again, the same command goes on from the newest."
        )


def _alone(work: Callable[[], Any]) -> list[Any]:
    return [work()]


def new_attempt() -> str:
    """A name that no other start of the training loop has."""
    return uuid.uuid4().hex[:12]


def _best(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    scored = [checkpoint for checkpoint in checkpoints if checkpoint.validation_loss is not None]
    return min(scored, key=lambda checkpoint: (checkpoint.validation_loss, checkpoint.step), default=None)


def _record_name(step: int) -> str:
    return f"{step:08d}.json"
