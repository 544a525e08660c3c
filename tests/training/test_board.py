"""TensorBoard's files in an object store: all that was added, written a bounded number of times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from forebrain.training import board
from forebrain.training.board import Board
from forebrain_registry.storage import Folder


class Store:
    """A folder that takes itself for an object store and counts the bytes written into it."""

    def __init__(self, path: Path) -> None:
        self._folder, self.written, self.is_local = Folder(path), 0, False

    def write(self, name: str, data: bytes) -> None:
        self.written += len(data)
        self._folder.write(name, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._folder, name)


def test_what_a_long_run_writes_grows_with_its_length_and_no_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "LARGEST_BYTES", 2000)
    # Files begun in one second are read in the order of their numbers as text, from a 10th or 100th on out of
    # order. Here many are; in a run one takes minutes.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100_000))
    written = []
    for flushes in (50, 100, 200):
        store: Any = Store(tmp_path / str(flushes))
        writer = Board(store)
        for step in range(flushes):
            writer.add_scalar("train/loss", step / 7, step)
            writer.flush()
        writer.close()
        written.append(store.written)
        shown = EventAccumulator(str(tmp_path / str(flushes)), size_guidance={"scalars": 0}).Reload()
        assert [item.step for item in shown.Scalars("train/loss")] == list(range(flushes))
    assert written[2] < 2.5 * written[1] < 2.5 * 2.5 * written[0]  # all written anew each time, it would be 4
