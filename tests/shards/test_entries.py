"""Entries of a large set: in memory once for the processes of a machine, and never another set's or half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import StorageError
from forebrain.sessions.session import Session
from forebrain.shards import entries
from forebrain.shards.index import ENTRIES_NAME
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.stream import MixtureConfig, Stream, build_order
from forebrain.shards.windows import ShardWindows
from forebrain_registry.storage import Folder

OPEN_AND_TELL = """
import sys
from pathlib import Path
from forebrain.shards import entries
from forebrain.shards.reader import ShardSet
entries.LEAST_SHARED_BYTES = 0
shards = ShardSet.open(sys.argv[1])
print([entry.id for entry in shards.sessions])
print([line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if ".jsonl" in line])
"""
DIE_BEFORE_THE_NAME = """
import os, signal, sys
from forebrain.shards import entries
from forebrain.shards.reader import ShardSet
entries.LEAST_SHARED_BYTES = 0
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
ShardSet.open(sys.argv[1])
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what is shared, in which small sets are too."""
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(entries, "LEAST_SHARED_BYTES", 0)
    return tmp_path / "cache" / "indexes"


@pytest.fixture
def recordings(save_session) -> list[str]:
    return [save_session(f"{name}.npz", num_units=units) for name, units in (("a", 5), ("b", 9), ("c", 4))]


@pytest.fixture
def out(recordings, tmp_path: Path) -> str:
    _prepare(recordings, tmp_path)
    return str(tmp_path / "out")


def _prepare(recordings: list[str], tmp_path: Path) -> None:
    config = PrepareConfig(max_window=20)
    prepare(recordings, str(tmp_path / "out"), config, lambda path: [Session.load(path)], map_here)


def _run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)


def _ids(shards: ShardSet) -> list[str]:
    return [entry.id for entry in shards.sessions]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_map_one_file(out: str, cache: Path) -> None:
    shards = ShardSet.open(out)
    assert shards.sessions.is_shared
    (file,) = cache.iterdir()
    told = _run(OPEN_AND_TELL, out)
    assert told.stdout.splitlines() == [str(_ids(shards)), str([str(file.stat().st_ino)])], told.stderr


def test_of_two_that_find_none_the_first_file_is_mapped_by_both(
    out: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, first = Folder.create, []

    def after_another(folder: Folder, name: str, data: bytes) -> None:
        create(folder, name, data)
        first.append((cache / name).stat().st_ino)
        create(folder, name, data)

    monkeypatch.setattr(Folder, "create", after_another)
    assert ShardSet.open(out).sessions.is_shared
    assert [path.stat().st_ino for path in cache.iterdir()] == first


def test_the_set_itself_is_asked_for_its_entries_once(
    out: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, read_all = [], Folder.read_all

    def note(folder: Folder, names: list[str], max_bytes: int | None = None) -> dict[str, bytes]:
        asked.extend(names)
        return read_all(folder, names, max_bytes)

    monkeypatch.setattr(Folder, "read_all", note)
    for _ in range(3):
        ShardSet.open(out)
    assert asked.count(ENTRIES_NAME) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data.replace(b'"num_units":5', b'"num_units":6'),
        lambda data: b"\n".join(reversed(data.splitlines())) + b"\n",
    ],
)
def test_a_file_that_holds_anything_else_is_made_anew(out: str, cache: Path, damage) -> None:
    before = [vars(entry) for entry in ShardSet.open(out).sessions]
    (file,) = cache.iterdir()
    data = file.read_bytes()
    other = file.with_name("other")
    other.write_bytes(damage(data))
    other.replace(file)
    shards = ShardSet.open(out)
    assert [vars(entry) for entry in shards.sessions] == before
    assert shards.sessions.is_shared and file.read_bytes() == data


def test_what_a_killed_writer_leaves_passes_for_nothing(out: str, cache: Path) -> None:
    assert _run(DIE_BEFORE_THE_NAME, out).returncode == -signal.SIGKILL
    (partial,) = cache.iterdir()
    shards = ShardSet.open(out)
    assert shards.sessions.is_shared and len(_ids(shards)) == 3
    assert len(list(cache.iterdir())) == 2 and partial.exists()
    # It is cleared away in time.
    long_ago = time.time() - 2 * entries.UNUSED_S
    os.utime(partial, (long_ago, long_ago))
    next(path for path in cache.iterdir() if path != partial).unlink()
    ShardSet.open(out)
    assert not partial.exists()


def test_without_a_cache_folder_a_process_has_the_entries_to_itself(
    out: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.write_text("a file where the folder should be")
    shards = ShardSet.open(out)
    assert not shards.sessions.is_shared and len(_ids(shards)) == 3
    cache.parent.unlink()

    def full(folder: Folder, name: str, data: bytes) -> None:
        raise StorageError("No space left on device")

    monkeypatch.setattr(Folder, "create", full)
    shards = ShardSet.open(out)
    assert not shards.sessions.is_shared and len(_ids(shards)) == 3


def test_entries_of_small_sets_are_not_written(out: str, cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(entries, "LEAST_SHARED_BYTES", 1 << 20)
    assert not ShardSet.open(out).sessions.is_shared and not cache.exists()


def test_a_set_that_grows_is_another_while_what_is_open_stays(
    recordings, out: str, cache: Path, save_session, tmp_path: Path
) -> None:
    before = ShardSet.open(out)
    _prepare([*recordings, save_session("d.npz", num_units=3)], tmp_path)
    assert len(_ids(before)) == 3 and len(_ids(ShardSet.open(out))) == 4
    assert len(list(cache.iterdir())) == 2


def test_batches_are_the_same_when_no_entry_stays_parsed(
    out: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches() -> list[bytes]:
        windows = ShardWindows(ShardSet.open(out), "chronological", 8, 4)
        stream = Stream(windows, build_order(windows, 6, 0, MixtureConfig()))
        return [group.context.tobytes() for step in range(5) for group in stream.batch(step).groups]

    kept = batches()
    monkeypatch.setattr(entries, "PARSED_BYTES", 0)
    assert batches() == kept


def test_positions_count_from_either_end_as_in_a_list(out: str, cache: Path) -> None:
    sessions = ShardSet.open(out).sessions
    ids = [entry.id for entry in sessions]
    assert sessions[-1].id == ids[2] and [entry.id for entry in sessions[1:]] == ids[1:]
    assert sessions[np.int64(1)].id == ids[1]
    with pytest.raises(IndexError):
        sessions[3]
