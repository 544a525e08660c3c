"""A file is hashed once for as long as it is the same, and never mistaken for what it was."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from forebrain.shards import hashing
from forebrain.shards.hashing import file_sha256


@pytest.fixture(autouse=True)
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files that were read to be hashed."""
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "LEAST_BYTES", 10)
    monkeypatch.setattr(hashing, "SETTLED_S", -1.0)
    read: list[int] = []
    file_digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda stream, name: read.append(1) or file_digest(stream, name)
    )
    return read


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_read_once_under_whatever_name_it_goes(tmp_path: Path, hashed: list[int]) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    assert file_sha256(path) == file_sha256(path) == sha256(bytes(100))
    (tmp_path / "link").symlink_to("a")
    assert file_sha256(tmp_path / "link") == sha256(bytes(100))
    assert len(hashed) == 1


def test_a_file_that_changed_is_read_again_whatever_its_size_and_time_say(
    tmp_path: Path, hashed: list[int]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    file_sha256(path)
    before = path.stat()
    path.write_bytes(b"x" * 100)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_sha256(path) == sha256(b"x" * 100)
    (tmp_path / "b").write_bytes(b"y" * 100)
    (tmp_path / "b").replace(path)
    assert file_sha256(path) == sha256(b"y" * 100)
    assert len(hashed) == 3


def test_a_file_that_was_just_written_is_not_remembered(
    tmp_path: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "SETTLED_S", 3.0)
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    file_sha256(path)
    file_sha256(path)
    assert len(hashed) == 2


def test_what_is_written_through_a_memory_map_is_seen(tmp_path: Path, hashed: list[int]) -> None:
    """Of several such writes only the first moves a file's time, until they come to the disk."""
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    mapped = np.memmap(path, np.uint8, "r+")
    for value in (1, 2, 3):
        mapped[0] = value
        assert file_sha256(path) == sha256(bytes([value]) + bytes(99))
        time.sleep(0.02)  # several ticks of the clock
    assert file_sha256(path) == sha256(b"\3" + bytes(99))


def test_what_is_written_between_the_flush_and_a_long_reading_is_seen(
    tmp_path: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    mapped = np.memmap(path, np.uint8, "r+")
    flush, digest = hashing._flush, hashlib.file_digest

    def flushed_before_it_is_written(descriptor: int) -> bool:
        can_tell = flush(descriptor)
        mapped[0] = 1
        return can_tell

    with monkeypatch.context() as first:
        first.setattr(hashing, "SETTLED_S", 0.1)
        first.setattr(hashing, "_flush", flushed_before_it_is_written)
        first.setattr(hashlib, "file_digest", lambda *given: time.sleep(0.2) or digest(*given))
        assert file_sha256(path) == sha256(b"\1" + bytes(99))
    mapped[0] = 2
    assert file_sha256(path) == sha256(b"\2" + bytes(99))


def test_in_memory_where_times_do_not_tell_nothing_is_remembered(tmp_path: Path, hashed: list[int]) -> None:
    if not Path("/dev/shm").is_mount():
        pytest.skip("no file system in memory is here")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(100))
        file.flush()
        path = Path(file.name)
        mapped = np.memmap(path, np.uint8, "r+")
        for value in (1, 2, 3):
            mapped[0] = value
            assert file_sha256(path) == sha256(bytes([value]) + bytes(99))
        del mapped


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"state": 3}', None])
def test_a_damaged_or_missing_cache_costs_time_only(
    tmp_path: Path, hashed: list[int], damage: bytes | None
) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    file_sha256(path)
    (note,) = (tmp_path / "cache" / "sha256").iterdir()
    if damage is None:
        note.unlink()
        note.parent.rmdir()
        note.parent.write_text("a file in the way")
    else:
        note.write_bytes(damage)
    assert file_sha256(path) == sha256(bytes(100))
    assert len(hashed) == 2


def test_small_files_are_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"123")
    assert file_sha256(tmp_path / "small") == sha256(b"123")
    assert not (tmp_path / "cache").exists()
