"""Checkpoints written while training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from safetensors.torch import save as save_tensors

from forebrain.errors import CheckpointError, ForebrainError, StorageError
from forebrain.training.checkpoints import CheckpointStore, StoredFile, new_attempt
from forebrain.training.collectives import WorkerGroup
from forebrain.training.state import PortableTensors


@dataclass(frozen=True)
class Snapshot:
    """The state after a step, which no later step changes.

    Attributes:
        step: optimiser steps done.
        validation_loss: what the best is chosen by, measured there; or None.
        record: what is stored beside the tensors; the first worker's counts.
        tensors: this worker's files by name.
        units: whose embeddings a file holds, by its name; see `StoredFile`.
    """

    step: int
    validation_loss: float | None
    record: dict[str, Any]
    tensors: dict[str, PortableTensors]
    units: dict[str, dict[str, tuple[int, int]]]


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is committed.

    Attributes:
        seconds: from the snapshot until all workers knew that it is safe.
        stall_s: how much of that this worker's training stood still.
        told: what `before_commit` returned, on the first worker.
    """

    step: int
    seconds: float
    stall_s: float
    told: Any


class Saver:
    """Writes the workers' snapshots, one after another, in a thread of each worker.

    A snapshot goes through two stages: every worker writes its files, then the first worker commits them.
    The threads never talk to other workers. Whether a worker's thread is busy travels in the message that
    every step sends anyway; at the first step where no thread is, all workers `advance` together.

    All workers call `start`, `advance` and `wait` at the same steps.

    Args:
        store: where checkpoints are kept.
        group: the workers of the run.
        before_commit: called in the first worker's thread, with the step, before the record is created: what
            must be on disk by the time a run can resume from there.
    """

    def __init__(
        self, store: CheckpointStore, group: WorkerGroup, before_commit: Callable[[int], Any]
    ) -> None:
        self._store, self._group, self._before_commit = store, group, before_commit
        self._attempt: str = group.gather(new_attempt())[0]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._snapshot: Snapshot | None = None
        self._files: Future[list[StoredFile]] | None = None
        self._commit: Future[Any] | None = None
        self._began = self._stall_s = 0.0

    @property
    def in_flight(self) -> bool:
        """Whether a snapshot is not yet committed, the same on every worker."""
        return self._snapshot is not None

    @property
    def busy(self) -> bool:
        """Whether this worker's thread has something left to do."""
        return any(work is not None and not work.done() for work in (self._files, self._commit))

    @property
    def error(self) -> ForebrainError | None:
        """The error that kept this worker's thread from finishing; None if there is none."""
        for work in (self._files, self._commit):
            if work is not None and work.done() and (error := work.exception()):
                return (
                    error if isinstance(error, ForebrainError) else CheckpointError(f"not saved: {error!r}")
                )
        return None

    def start(self, take: Callable[[], Snapshot]) -> None:
        """Begins to save what `take` gives; nothing may be in flight."""
        assert not self.in_flight
        self._began = time.perf_counter()
        self._snapshot = take()
        self._files = self._thread.submit(self._write, self._snapshot)
        self._stall_s = time.perf_counter() - self._began

    def advance(self) -> Saved | None:
        """Goes to the next stage, no worker's thread being busy; the checkpoint, once it is committed."""
        began = time.perf_counter()
        saved = self._advance()
        self._stall_s += time.perf_counter() - began
        return saved

    def wait(self) -> Saved | None:
        """Stands still until nothing is in flight; the checkpoint that was."""
        began, saved = time.perf_counter(), None
        while self.in_flight:
            saved = self._advance(stalled_since=began)
        return saved

    def close(self) -> None:
        """Ends the thread; what was not committed stays uncommitted."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _advance(self, stalled_since: float | None = None) -> Saved | None:
        snapshot = self._snapshot
        assert snapshot is not None
        if self._files is not None:
            parts = self._group.gather_from(self._files.result)
            self._files = None
            if self._group.is_first:
                files = [stored for part in parts for stored in part]
                self._commit = self._thread.submit(self._make_exist, snapshot, files)
            return None
        # The first worker's answer tells the others that the record is there.
        self._group.gather_from(lambda: self._commit is not None and self._commit.result() is not None)
        told = self._commit.result() if self._commit is not None else None
        self._snapshot = self._commit = None
        now = time.perf_counter()
        stall_s = self._stall_s + (0.0 if stalled_since is None else now - stalled_since)
        return Saved(snapshot.step, now - self._began, stall_s, told)

    def _write(self, snapshot: Snapshot) -> list[StoredFile]:
        folder = self._store.folder_of(snapshot.step, self._attempt)
        return [
            self._store.write_file(folder, name, save_tensors(tensors), snapshot.units.get(name))
            for name, tensors in snapshot.tensors.items()
        ]

    def _make_exist(self, snapshot: Snapshot, files: list[StoredFile]) -> Any:
        try:
            told = self._before_commit(snapshot.step)
        except (OSError, StorageError) as error:
            raise CheckpointError(
                f"{self._store.folder.uri}: step {snapshot.step} not saved: what belongs to it could not be "
                f"written ({error}). The checkpoints before it are intact; the same command goes on."
            ) from error
        folder = self._store.folder_of(snapshot.step, self._attempt)
        self._store.commit(snapshot.step, folder, files, snapshot.validation_loss, snapshot.record)
        return told
