"""Checkpoints: complete or absent, checked, bounded, and the newest good one is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forebrain.errors import CheckpointError
from forebrain.sealed import sealed, unsealed
from forebrain.training import checkpoints
from forebrain.training.checkpoints import Checkpoint, CheckpointStore
from forebrain_registry.storage import Folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Folder(tmp_path / "checkpoints"), keep=2)


def save(
    store: CheckpointStore,
    step: int,
    loss: float | None = None,
    content: bytes = b"weights",
    attempt: str = "a",
    best_step: int | None = None,
) -> Checkpoint:
    folder = store.folder_of(step, attempt)
    files = [store.write_file(folder, "backbone.safetensors", content + b"%d" % step)]
    told = {} if best_step is None else {"progress": {"best_step": best_step}}
    return store.commit(step, folder, files, loss, {"note": "test", **told})


def steps(store: CheckpointStore) -> list[int]:
    return [checkpoint.step for checkpoint in store.committed()]


def test_what_was_committed_is_read_back(store: CheckpointStore) -> None:
    save(store, 10, 0.5)
    found = store.newest()
    assert found is not None
    checkpoint, contents = found
    assert (checkpoint.step, checkpoint.validation_loss) == (10, 0.5)
    assert checkpoint.record == {"note": "test"}
    assert contents == {"backbone.safetensors": b"weights10"}


def test_without_a_commit_record_there_is_no_checkpoint(store: CheckpointStore) -> None:
    store.write_file("00000010-a", "backbone.safetensors", b"half of it")
    assert store.newest() is None


def test_a_damaged_checkpoint_is_passed_over_named_and_saved_again(store: CheckpointStore, caplog) -> None:
    save(store, 10)
    save(store, 20)
    store.folder.local_path("00000020-a/backbone.safetensors").write_bytes(b"weights2X")
    store.folder.write("00000030.json", b"{ not json")
    found = store.newest()
    assert found is not None and found[0].step == 10
    assert "00000020-a/backbone.safetensors" in caplog.text and "00000030.json" in caplog.text
    store.remove_damaged(10)
    assert save(store, 20, attempt="b").folder == "00000020-b"
    found = store.newest()
    assert found is not None and found[1] == {"backbone.safetensors": b"weights20"}
    assert store.folder.names() == ["00000010-a", "00000010.json", "00000020-b", "00000020.json"]


@pytest.mark.parametrize("damage", ["another loss", "no map"])
def test_a_record_that_is_not_what_was_written_is_none(store: CheckpointStore, damage: str, caplog) -> None:
    save(store, 10, 0.9)
    save(store, 20, 0.2)
    content = store.folder.read("00000010.json")
    other = content.replace(b'"validation_loss": 0.9', b'"validation_loss": 0.1')
    assert other != content
    store.folder.write("00000010.json", other if damage == "another loss" else b"[{}]")
    assert steps(store) == [20]
    assert "00000010.json: not a commit record" in caplog.text


def test_a_missing_file_is_an_error_that_names_it(store: CheckpointStore) -> None:
    save(store, 10)
    store.folder.remove("00000010-a/backbone.safetensors")
    with pytest.raises(CheckpointError, match=r"00000010-a/backbone.safetensors: missing"):
        store.read(store.committed()[0])


def test_the_newest_and_the_best_are_kept_and_orphans_removed(store: CheckpointStore) -> None:
    store.write_file("00000005-dead", "backbone.safetensors", b"left by a killed writer")
    store.write_file("00000060-live", "backbone.safetensors", b"being written by another")
    for step, loss in ((10, 0.9), (20, 0.2), (30, 0.5), (40, 0.4), (50, None)):
        save(store, step, loss)
    assert steps(store) == [20, 40, 50]
    best = store.best()
    assert best is not None and best.step == 20
    assert [name for name in store.folder.names() if "-" in name] == [
        "00000020-a", "00000040-a", "00000050-a", "00000060-live",
    ]  # fmt: skip


def test_a_best_checkpoint_that_is_gone_is_missed(store: CheckpointStore) -> None:
    assert store.lost_best(10) is None  # nothing is left
    for step, loss in ((10, 0.2), (20, 0.9), (30, 0.5)):
        save(store, step, loss, best_step=10)
    assert store.lost_best(None) is None and store.lost_best(10) is None
    store.folder.remove("00000010.json")
    assert store.lost_best(None) == 10
    assert store.lost_best(40) == 40  # the newest was the best, and is gone too
    assert store.lost_best(20) == 10  # the run went on after that result


def test_a_checkpoint_that_another_attempt_commits_meanwhile_is_not_taken_for_damaged(
    store: CheckpointStore,
) -> None:
    save(store, 10)
    save(store, 20)
    store.folder.local_path("00000020-a/backbone.safetensors").write_bytes(b"weights2X")
    found = store.newest()
    assert found is not None and found[0].step == 10
    save(CheckpointStore(store.folder, keep=3), 30, attempt="b")
    store.remove_damaged(10)
    assert steps(store) == [10, 30]


@pytest.mark.parametrize("left", [b"", sealed({"format": "forebrain-checkpoint-4", "step": 10})])
def test_records_of_which_none_can_be_read_are_not_taken_for_no_run(
    store: CheckpointStore, left: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 10)
    store.folder.write("00000010.json", left)
    for _ in range(3):
        with pytest.raises(CheckpointError, match=r"damaged, or of another version .* in 00000010\.json"):
            store.newest()
    assert caplog.text.count("not a commit record") == 1


def test_a_record_that_is_listed_and_stays_away_is_an_error(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_LOOK_AGAIN_S", (0.0, 0.0))
    save(store, 10)
    store.folder.local_path("00000020.json").symlink_to(store.folder.local_path("annexed"))
    with pytest.raises(CheckpointError, match=r"00000020\.json is listed and cannot be found"):
        store.best()


def test_who_commits_a_step_first_stands_and_the_other_is_removed(store: CheckpointStore, caplog) -> None:
    save(store, 20, content=b"first", attempt="a")
    for step in (20, 10):
        assert save(store, step, content=b"second", attempt="b").folder == "00000020-a"
        assert "started twice" in caplog.text
    found = store.newest()
    assert found is not None and found[1] == {"backbone.safetensors": b"first20"}
    assert store.folder.names() == ["00000020-a", "00000020.json"]


def test_a_worker_reads_what_holds_its_units_and_of_older_records_everything(store: CheckpointStore) -> None:
    folder = store.folder_of(10, "a")
    held = {"b": None, "i0": {"one": (0, 5), "big": (0, 8)}, "i1": {"two": (0, 3), "big": (8, 16)}, "i2": {}}
    files = [store.write_file(folder, name, name.encode(), units) for name, units in held.items()]
    store.commit(10, folder, files, None, {})

    def read(units: dict[str, tuple[int, int]] | None) -> list[str]:
        found = store.newest(units)
        assert found is not None
        return list(found[1])

    assert read(None) == ["b", "i0", "i1", "i2"]
    assert read({"one": (0, 5), "big": (0, 8)}) == ["b", "i0"]
    assert read({"big": (8, 16)}) == ["b", "i1"]
    assert read({"big": (5, 10)}) == ["b", "i0", "i1"]
    assert read({"none": (0, 5)}) == ["b"]
    record = unsealed(store.folder.read("00000010.json"))
    for stored in record["files"]:
        del stored["units"]
    store.folder.write("00000010.json", json.dumps({**record, "format": "forebrain-checkpoint-2"}).encode())
    assert read({"one": (0, 5)}) == ["b", "i0", "i1", "i2"]


def test_a_record_that_is_already_ours_is_a_commit(store: CheckpointStore, monkeypatch) -> None:
    create = store.folder.create

    def sent_twice(name: str, data: bytes) -> None:
        create(name, data)
        create(name, data)

    monkeypatch.setattr(store.folder, "create", sent_twice)
    assert save(store, 10).folder == "00000010-a"
    assert store.newest() is not None


def test_a_reader_goes_on_when_what_it_reads_is_removed(store: CheckpointStore, monkeypatch) -> None:
    for step in (10, 20):
        save(store, step)
    read, reads = store.folder.read, []

    def read_while_another_saves(name: str) -> bytes:
        reads.append(name)
        if len(reads) in (1, 4):  # while records are listed, and before the file of the newest is read
            for step in range(100 * len(reads), 100 * len(reads) + 3):
                save(CheckpointStore(Folder(store.folder.uri), keep=1), step)
        return read(name)

    monkeypatch.setattr(store.folder, "read", read_while_another_saves)
    found = store.newest()
    assert found is not None and found[0].step == 402


KILLED_WRITER = """
import os, signal, sys
from forebrain_registry.storage import Folder
from forebrain.sealed import sealed, unsealed
from forebrain.training import checkpoints
from forebrain.training.checkpoints import CheckpointStore

folder, moment = sys.argv[1], int(sys.argv[2])
done = 0
def counted(call):
    def wrapped(self, *arguments, **named):
        global done
        done += 1
        if done == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, *arguments, **named)
    return wrapped
for name in ("write", "create", "remove"):
    setattr(Folder, name, counted(getattr(Folder, name)))
os.link = lambda *a, link=os.link: (counted(lambda self: None)(None), link(*a))[1]
store = CheckpointStore(Folder(folder), keep=1)
for step in (20, 30):
    place = store.folder_of(step, f"attempt{moment}")
    files = [store.write_file(place, f"part-{i}", b"%d of %d" % (i, step)) for i in range(2)]
    store.commit(step, place, files, 1.0 / step, {})
"""


def test_a_kill_at_any_moment_leaves_a_whole_newest_checkpoint(tmp_path: Path) -> None:
    save(CheckpointStore(Folder(tmp_path / "run"), keep=1), 10)
    newest, moments = [], 0
    while True:
        moments += 1
        run = tmp_path / f"run-{moments}"
        subprocess.run(["cp", "-r", str(tmp_path / "run"), str(run)], check=True)
        done = subprocess.run(
            [sys.executable, "-c", KILLED_WRITER, str(run), str(moments)],
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'registry'}"}, check=False,
        )  # fmt: skip
        store = CheckpointStore(Folder(run), keep=1)
        found = store.newest()
        assert found is not None
        newest.append(found[0].step)
        # The next attempt saves the step that was cut off, and leaves nothing behind.
        save(store, 40, 0.001, attempt="after")
        assert store.folder.names() == ["00000040-after", "00000040.json"]
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    # Each step: two files, the record (before it is written, before it is named), old record, old folder.
    assert newest == [10] * 4 + [20] * 6 + [30] * (moments - 10)
    assert moments == 13
