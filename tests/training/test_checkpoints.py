"""Checkpoints: complete or absent, checked, bounded, and the newest good one is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebrain.errors import CheckpointError
from forebrain.storage import Folder
from forebrain.training.checkpoints import CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Folder(tmp_path / "checkpoints"), keep=2)


def save(store: CheckpointStore, step: int, loss: float | None = None, content: bytes = b"weights") -> None:
    files = [store.write_file(step, "backbone.safetensors", content + b"%d" % step)]
    store.commit(step, files, loss, {"note": "test"})


def steps(store: CheckpointStore) -> list[int]:
    return [checkpoint.step for checkpoint in store.list()]


def test_what_was_committed_is_read_back(store: CheckpointStore) -> None:
    save(store, 10, 0.5)
    found = store.newest()
    assert found is not None
    checkpoint, contents = found
    assert (checkpoint.step, checkpoint.validation_loss) == (10, 0.5)
    assert checkpoint.record == {"note": "test"}
    assert contents == {"backbone.safetensors": b"weights10"}


def test_without_a_commit_record_there_is_no_checkpoint(store: CheckpointStore) -> None:
    store.write_file(10, "backbone.safetensors", b"half of it")
    assert store.newest() is None


def test_a_damaged_checkpoint_is_passed_over_and_named(store: CheckpointStore, caplog) -> None:
    save(store, 10)
    save(store, 20)
    store.folder.local_path("00000020/backbone.safetensors").write_bytes(b"weights2X")
    found = store.newest()
    assert found is not None and found[0].step == 10
    assert "00000020/backbone.safetensors" in caplog.text


def test_a_missing_file_is_an_error_that_names_it(store: CheckpointStore) -> None:
    save(store, 10)
    store.folder.remove("00000010/backbone.safetensors")
    with pytest.raises(CheckpointError, match=r"00000010/backbone.safetensors: missing"):
        store.read(store.list()[0])


def test_garbage_for_a_record_is_passed_over(store: CheckpointStore, caplog) -> None:
    save(store, 10)
    store.folder.write("00000020.json", b"{ not json")
    assert steps(store) == [10]
    assert "00000020.json" in caplog.text


def test_the_newest_and_the_best_are_kept_and_orphans_removed(store: CheckpointStore) -> None:
    store.write_file(5, "backbone.safetensors", b"left by a killed writer")
    for step, loss in ((10, 0.9), (20, 0.2), (30, 0.5), (40, 0.4), (50, None)):
        save(store, step, loss)
    assert steps(store) == [20, 40, 50]
    best = store.best()
    assert best is not None and best.step == 20
    assert store.folder.names() == [
        "00000020",
        "00000020.json",
        "00000040",
        "00000040.json",
        "00000050",
        "00000050.json",
    ]


def test_a_step_done_again_replaces_its_damaged_checkpoint(store: CheckpointStore) -> None:
    save(store, 10)
    store.folder.local_path("00000010/backbone.safetensors").write_bytes(b"damaged")
    save(store, 10, 0.3)
    found = store.newest()
    assert found is not None and found[1] == {"backbone.safetensors": b"weights10"}
