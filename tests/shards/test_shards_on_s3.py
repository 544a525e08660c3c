"""The same set on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import BadShardError, RecordingError, ShardError, StorageError
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.recordings import find_all
from forebrain_registry.storage import Folder

pytest.importorskip("s3fs")
SMALL = PrepareConfig(max_window=20, stretch_bytes=1, shard_bytes=5_000, page_bytes=200)


def open_saved(path: str) -> list[Session]:
    return [Session.load(path)]


@pytest.fixture
def recordings(save_session) -> list[str]:
    return [save_session("a.npz"), save_session("b.npz", num_units=9)]


@pytest.fixture
def out(s3_bucket: str, request: pytest.FixtureRequest) -> str:
    return f"{s3_bucket}/{request.node.name}"


def test_a_set_on_s3_equals_the_local_one_byte_for_byte(recordings, out, tmp_path):
    prepare(recordings, out, SMALL, open_saved, run_each=map_here)
    prepare(recordings, str(tmp_path / "out"), SMALL, open_saved, run_each=map_here)
    remote = Folder(out)
    for path in (tmp_path / "out").rglob("*.*"):
        assert remote.read(path.relative_to(tmp_path / "out").as_posix()) == path.read_bytes()
    local, distant = ShardSet.open(str(tmp_path / "out")), ShardSet.open(out)
    assert distant.fingerprint == local.fingerprint
    for start in range(0, 380, 7):
        np.testing.assert_array_equal(distant.read(1, start, start + 20), local.read(1, start, start + 20))
    np.testing.assert_array_equal(distant.fit(0, "poco").scale, local.fit(0, "poco").scale)


def test_running_again_on_s3_skips_what_is_done_and_heals_what_is_lost(recordings, out):
    prepare(recordings, out, SMALL, open_saved, run_each=map_here)
    storage = Folder(out)
    assert prepare(recordings, out, SMALL, open_saved, run_each=map_here).num_skipped == 2
    lost = ShardSet.open(out).sessions[0].shards[0].name
    storage.remove(lost)
    with pytest.raises(ShardError, match=f"{lost} is missing"):
        ShardSet.open(out)
    assert prepare(recordings, out, SMALL, open_saved, run_each=map_here).num_skipped == 1
    assert len(ShardSet.open(out).sessions) == 2


def test_a_window_fetches_only_its_pages_and_neighbours_come_from_memory(recordings, out, monkeypatch):
    prepare(recordings, out, SMALL, open_saved, run_each=map_here)
    shards = ShardSet.open(out)
    requests = []
    read_range = Folder.read_range
    monkeypatch.setattr(Folder, "read_range", lambda *given: requests.append(given[2:]) or read_range(*given))
    entry = shards.sessions[0]
    shards.read(0, 3, 23)
    ((start, stop),) = requests
    offset = entry.stretches[0].offset
    assert (start - offset, stop - offset) == (0, 3 * entry.page_frames * 24)  # 8 frames a page
    shards.read(0, 5, 15)
    assert len(requests) == 1
    shards.read(0, 5, 25)
    assert len(requests) == 2


def test_a_flipped_bit_on_s3_is_found(recordings, out):
    prepare(recordings, out, SMALL, open_saved, run_each=map_here)
    shards = ShardSet.open(out)
    stretch = shards.sessions[0].stretches[0]
    storage = Folder(out)
    name = shards.sessions[0].shards[0].name
    data = bytearray(storage.read(name))
    data[stretch.offset] ^= 1
    storage.write(name, bytes(data))
    with pytest.raises(ShardError, match=f"page 0 at byte {stretch.offset} does not match"):
        shards.read(0, 0, 5)


def test_a_store_that_does_not_answer_is_no_bad_shard(recordings, out, faults):
    prepare(recordings, out, SMALL, open_saved, run_each=map_here)
    shards = ShardSet.open(out, "skip")
    faults.fail("503", times=1000)
    with pytest.raises(StorageError, match="SlowDown"):
        shards.read(0, 0, 5)
    faults.clear()
    assert shards.bad_shards == {}
    shards.read(0, 0, 5)
    lost = shards.sessions[1].shards[0].name
    Folder(out).remove(lost)
    with pytest.raises(BadShardError, match=lost):
        shards.read(1, 0, 5)


def test_nothing_at_an_address_is_a_clear_error(out):
    with pytest.raises(ShardError, match=r"no index\.json"):
        ShardSet.open(out)
    for name in ("sessions/a.json", "shards/a/a-00000.tar"):
        with pytest.raises(RecordingError, match="copy them to a disk"):
            find_all([out])
        Folder(out).write(name, b"")
    with pytest.raises(RecordingError, match=r"holds shards and no index\.json"):
        find_all([out])


def test_temporary_files_of_an_upload_are_removed(recordings, out, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    prepare(recordings, out, SMALL, open_saved, run_each=map_here)
    assert list(Path(temporary).iterdir()) == []
