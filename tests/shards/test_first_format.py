"""Sets of format 1 go on: `format1/set` was written, from `format1/recordings`, before there was format 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import BadShardError, ShardError
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import PrepareResult, map_here, prepare
from forebrain.shards.reader import ShardSet

FOLDER = Path(__file__).parent / "format1"
OPTIONS = PrepareConfig(max_window=20, stretch_bytes=1, shard_bytes=5000, page_bytes=100)
FINGERPRINT = "a40b3430063f53bf7d689aa11bcd95c148fc766792937de71348bdf4004c4c32"


@pytest.fixture
def old_set(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER / "set", tmp_path / "set"))


def add(recordings: list[str], out: Path, said: list[str] | None = None) -> PrepareResult:
    return prepare(
        recordings,
        str(out),
        OPTIONS,
        lambda path: [Session.load(path)],
        map_here,
        progress=(said if said is not None else []).append,
    )


def old_recordings() -> list[str]:
    return [str(FOLDER / "recordings" / name) for name in ("a.npz", "b.npz")]


def check_old_sessions(shards: ShardSet) -> None:
    """They hold what was recorded."""
    of_id = {entry.id: position for position, entry in enumerate(shards.sessions)}
    for path in old_recordings():
        session = Session.load(path)
        position = of_id[session.id]
        for low, high in shards.sessions[position].segments:
            for start in range(low, high - 20 + 1):
                window = shards.read(position, start, start + 20)
                np.testing.assert_array_equal(window, session.traces[start : start + 20])
                part = shards.read(position, start, start + 20, slice(1, 3))
                np.testing.assert_array_equal(part, session.traces[start : start + 20, 1:3])
        assert shards.unit_names(position) == session.unit_names
        assert shards.brain_regions(position) == session.brain_regions
        assert (shards.unit_positions(position) is None) == (session.unit_positions is None)
        fitted = shards.fit(position, "chronological").apply(session.traces[:36])
        np.testing.assert_allclose(fitted.mean(axis=0), 0, atol=1e-5)


def test_a_set_of_format_1_reads_and_is_the_same_data_as_before(old_set: Path) -> None:
    shards = ShardSet.open(str(old_set))
    assert shards.fingerprint == FINGERPRINT
    check_old_sessions(shards)
    with pytest.raises(ShardError, match="has no stimulus that can be read"):
        shards.read_inputs(1, "stimulus", 0, 20)


def test_damage_in_a_set_of_format_1_is_found(old_set: Path) -> None:
    entry = ShardSet.open(str(old_set)).sessions[0]
    path = old_set / entry.shards[0].name
    data = bytearray(path.read_bytes())
    data[entry.stretches[0].offset + entry.page_frames * 12 + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadShardError, match="page 1 at byte"):
        ShardSet.open(str(old_set)).read(0, 5, 25)


def test_the_same_recordings_leave_a_set_of_format_1_the_same_data(old_set: Path) -> None:
    said: list[str] = []
    result = add(old_recordings(), old_set, said)
    assert result.num_skipped == len(result.sessions) == 2 and not result.failures
    assert "2 of them by an earlier version, and left as they are" in said
    shards = ShardSet.open(str(old_set))
    assert shards.fingerprint == FINGERPRINT
    check_old_sessions(shards)


def test_what_is_added_to_a_set_of_format_1_leaves_its_sessions_readable(old_set: Path, save_session) -> None:
    kept = {path: path.read_bytes() for path in old_set.glob("s*/*")}
    result = add([save_session("c.npz")], old_set)
    assert [entry.session for entry in result.sessions] == ["c"] and not result.failures
    assert {path: path.read_bytes() for path in kept} == kept
    shards = ShardSet.open(str(old_set))
    assert [entry.session for entry in shards.sessions] == ["c", "a", "b"]
    check_old_sessions(shards)
    assert json.loads((old_set / "index.json").read_bytes())["format"] == "forebrain-shards-2"


def test_a_session_that_an_old_set_has_lost_is_named_when_others_are_added(
    old_set: Path, save_session
) -> None:
    next(old_set.glob("shards/lab-worm-a*")).unlink()
    result = add([save_session("c.npz")], old_set)
    (message,) = result.failures
    assert message.startswith("session lab/worm/a of ") and "prepare its recording again" in message
    assert [entry.session for entry in ShardSet.open(str(old_set)).sessions] == ["c", "b"]
    assert add(old_recordings(), old_set).num_skipped == 1
    shards = ShardSet.open(str(old_set))
    check_old_sessions(shards)
    assert sorted(entry.first_format is None for entry in shards.sessions) == [False, True, True]


def test_an_index_of_an_unknown_format_is_refused_before_anything_is_added(
    old_set: Path, save_session
) -> None:
    index = old_set / "index.json"
    index.write_bytes(index.read_bytes().replace(b"forebrain-shards-1", b"forebrain-shards-9"))
    before = {path: path.read_bytes() for path in old_set.rglob("*.*")}
    with pytest.raises(ShardError, match="has format 'forebrain-shards-9'"):
        add([save_session("c.npz")], old_set)
    assert {path: path.read_bytes() for path in old_set.rglob("*.*")} == before
