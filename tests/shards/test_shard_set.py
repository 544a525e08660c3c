"""Reading windows back from a local set."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from forebrain.config import from_values
from forebrain.errors import BadShardError, RecordingError, ShardError
from forebrain.runs.pretrain import pretrain
from forebrain.sessions.session import Session
from forebrain.shards.fits import Moments
from forebrain.shards.index import remarks
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.windows import ShardWindows
from forebrain.training.config import PretrainConfig

SMALL = PrepareConfig(max_window=20, stretch_bytes=1, shard_bytes=5_000, page_bytes=200)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def recordings(save_session) -> list[str]:
    segment_ids = np.repeat([0, 1], [150, 250])
    return [save_session("a.npz", segment_ids=segment_ids), save_session("b.npz", num_units=9)]


@pytest.fixture
def shards(recordings, out) -> ShardSet:
    prepare(recordings, str(out), SMALL, lambda path: [Session.load(path)], run_each=map_here)
    return ShardSet.open(str(out))


def test_every_window_is_read_back_exactly(shards, recordings):
    for number, path in enumerate(recordings):
        traces = Session.load(path).traces
        entry = shards.sessions[number]
        for low, high in entry.segments:
            for start in range(low, high - 20 + 1, 3):
                np.testing.assert_array_equal(
                    shards.read(number, start, start + 20), traces[start : start + 20]
                )
        np.testing.assert_array_equal(shards.read(number, 399, 400), traces[399:])


@pytest.mark.parametrize(("start", "stop"), [(140, 160), (0, 21), (395, 405), (10, 10), (-5, 5)])
def test_what_is_no_window_of_the_session_is_refused(shards, start, stop):
    with pytest.raises(ShardError, match=f"frames {start} to {stop} are no readable window"):
        shards.read(0, start, stop)


def test_fits_normalise_to_zero_mean_and_unit_spread(shards, recordings):
    traces = Session.load(recordings[0]).traces
    normal = shards.fit(0, "chronological").apply(traces)
    np.testing.assert_allclose(normal[:240].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(normal[:240].std(0), 1, atol=1e-5)
    assert shards.fit(0, "poco").num_outputs == 6
    with pytest.raises(ShardError, match="no fit for protocol 'other'"):
        shards.fit(0, "other")


def test_persistence_is_the_correlation_with_the_next_frame_whatever_the_pieces():
    rng = np.random.default_rng(0)
    frames = np.zeros((5000, 3))
    for now in range(1, 5000):
        frames[now] = np.array([0.9, 0.3, 0.0]) * frames[now - 1] + rng.normal(size=3)
    frames[:, 2] = 7  # it never varies, and says nothing
    whole, pieces = Moments(3), Moments(3)
    whole.add(frames.astype(np.float32))
    for piece in np.array_split(frames, 40):
        pieces.add(piece.astype(np.float32))
    assert whole.persistence == pytest.approx(0.6, abs=0.03)
    assert pieces.persistence == pytest.approx(whole.persistence, abs=0.01)
    assert Moments(3).persistence == 1.0


def test_sessions_persist_unless_they_are_like_events(save_session, tmp_path):
    drift = np.cumsum(np.random.default_rng(0).normal(size=(400, 6)), axis=0).astype(np.float32)
    recordings = [save_session("events.npz"), save_session("walk.npz", traces=drift)]
    prepare(
        recordings,
        str(tmp_path / "set"),
        PrepareConfig(),
        lambda path: [Session.load(path)],
        run_each=map_here,
    )
    shards = ShardSet.open(str(tmp_path / "set"))
    windows = ShardWindows(shards, "chronological", 12, 4)
    assert {info.id: info.is_smooth for info in windows.sessions} == {
        "lab/m1/events": False,
        "lab/m1/walk": True,
    }
    said = {entry.id: "; ".join(remarks(entry)) for entry in shards.sessions}
    assert said["lab/m1/events"].count("a frame and the next correlate by") == 1
    assert "correlate" not in said["lab/m1/walk"]
    # A set that was prepared before persistence was known goes on as it did.
    shards.sessions = [replace(entry, persistence={}) for entry in shards.sessions]
    assert all(info.is_smooth for info in ShardWindows(shards, "chronological", 12, 4).sessions)


def test_a_pickled_set_opens_the_same_data(shards):
    again = pickle.loads(pickle.dumps(shards))
    assert again.fingerprint == shards.fingerprint
    np.testing.assert_array_equal(again.read(1, 7, 27), shards.read(1, 7, 27))


def test_a_set_that_changed_is_not_reopened_as_the_same(shards, recordings, out, save_session):
    pickled = pickle.dumps(shards)
    save_session("a.npz", num_frames=300)
    prepare(recordings, str(out), SMALL, lambda path: [Session.load(path)], run_each=map_here)
    with pytest.raises(ShardError, match="changed while they were in use"):
        pickle.loads(pickled)


def test_threads_read_the_same_as_one(shards):
    wrong = []

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(150, 380, 200):
            window = shards.read(0, int(start), int(start) + 20)
            if not np.array_equal(window, expected[start : start + 20]):
                wrong.append(start)

    expected = np.zeros((400, 6), np.float32)
    for start in range(150, 400, 10):
        expected[start : start + 10] = shards.read(0, start, start + 10)
    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_flipped_bit_is_found_and_placed(shards, out):
    entry = shards.sessions[0]
    stretch = entry.stretches[1]
    path = out / entry.shards[stretch.shard].name
    data = bytearray(path.read_bytes())
    page_bytes = entry.page_frames * 24
    data[stretch.offset + page_bytes + 5] ^= 1
    path.write_bytes(data)
    fresh = ShardSet.open(str(out))
    expected = f"{path.name}.*{stretch.key}, page 1 at byte {stretch.offset + page_bytes}"
    with pytest.raises(ShardError, match=expected):
        fresh.read(0, stretch.start + entry.page_frames, stretch.start + entry.page_frames + 5)


def test_a_shard_that_is_cut_short_while_it_is_open_is_an_error_and_what_is_left_is_read(
    shards, recordings, out
):
    entry, traces = shards.sessions[0], Session.load(recordings[0]).traces
    stretch = entry.stretches[0]
    path = out / entry.shards[stretch.shard].name
    shards.read(0, 0, 20)
    shards.read(0, 10, 30)  # checked, and read again below
    left = stretch.offset + 25 * 4 * entry.num_units
    os.truncate(path, left)
    np.testing.assert_array_equal(shards.read(0, 5, 25), traces[5:25])
    with pytest.raises(BadShardError, match=rf"{path.name} ends at byte {left}; expected \d+ bytes"):
        shards.read(0, 6, 26)


def test_a_set_without_an_index_was_not_finished(shards, out):
    (out / "index.json").unlink()
    with pytest.raises(ShardError, match=r"no index\.json"):
        ShardSet.open(str(out))


def test_a_set_without_an_index_given_as_data_says_that_prepare_did_not_finish(shards, out, tmp_path):
    (out / "index.json").unlink()
    config = from_values(PretrainConfig, {"data": str(out), "out": str(tmp_path / "run"), "workers": 0})
    with pytest.raises(RecordingError, match=rf"{out}: holds shards and no index\.json.*same prepare again"):
        pretrain(config, Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_missing_or_short_shard_is_named(shards, out):
    path = out / shards.sessions[1].shards[0].name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match=rf"{path.name} has \d+ bytes; expected"):
        ShardSet.open(str(out))
    path.unlink()
    with pytest.raises(ShardError, match=f"{path.name} is missing"):
        ShardSet.open(str(out))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"forebrain-shards-2", b"forebrain-shards-9", "has format 'forebrain-shards-9'"),
        (b'"entry_sha256":"', b'"entry_sha256":"0', "does not match its own fingerprint"),
        (b"{", b"[", "not valid JSON"),
        (b'"max_window":20,', b'"max_window":40,', "does not match its own fingerprint"),
        (b'"page_bytes":200,', b'"page_bytes":100,', "does not match its own fingerprint"),
        (b'"pca":null', b'"pca":3', "does not match its own fingerprint"),
        (b'"key":', b'"other":1,"key":', "not of format"),
    ],
)
def test_an_index_that_was_changed_is_refused(shards, out, old, new, match):
    path = out / "index.json"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(ShardError, match=match):
        ShardSet.open(str(out))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        *('{"format":"forebrain-shards-1"' + rest for rest in ("}", ',"fingerprint":"","sessions":[3]}')),
    ],
)
def test_what_is_no_index_is_one_clear_error_and_prepare_mends_it(shards, recordings, out, text):
    good = (out / "index.json").read_bytes()
    (out / "index.json").write_text(text)
    with pytest.raises(ShardError, match=r"index\.json is not .*Remove it and run prepare again"):
        ShardSet.open(str(out))
    (out / "index.json").unlink()
    result = prepare(recordings, str(out), SMALL, lambda path: [Session.load(path)], run_each=map_here)
    assert result.num_skipped == 2
    assert (out / "index.json").read_bytes() == good


def test_an_entry_other_than_the_indexed_one_is_never_used(shards, out):
    own, of_all = out / shards.sessions[0].name, out / "sessions.jsonl"
    for path in (own, of_all):
        path.write_bytes(path.read_bytes().replace(b'"mouse"', b'"horse"'))
    with pytest.raises(ShardError, match="not the entry that was indexed"):
        ShardSet.open(str(out))
    # Either of the two is enough.
    for path in (own, of_all):
        damaged = path.read_bytes()
        path.write_bytes(damaged.replace(b'"horse"', b'"mouse"'))
        assert ShardSet.open(str(out)).sessions[0].species == "mouse"
        path.write_bytes(damaged)
    own.write_bytes(damaged.splitlines()[0].replace(b'"horse"', b'"mouse"'))
    of_all.unlink()
    assert ShardSet.open(str(out)).sessions[0].species == "mouse"


def test_damaged_fits_are_refused(shards, out):
    path = out / shards.sessions[0].arrays_name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"does not match its checksum\. Remove the file and run prepare"):
        shards.fit(0, "chronological")


def test_a_set_of_more_shards_than_may_be_open_is_read(save_session, out, tmp_path) -> None:
    recordings = [save_session(f"{number:03d}.npz", num_frames=60) for number in range(40)]
    prepare(recordings, str(out), SMALL, lambda path: [Session.load(path)], run_each=map_here)
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
from forebrain.shards.reader import ShardSet
sets = [ShardSet.open({str(out)!r}) for _ in range(2)]
for shards in sets:
    for number in range(40):
        shards.read(number, 0, 20)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_file_that_another_thread_makes_leave_the_cache_stays_open_while_it_is_read(
    shards, recordings, monkeypatch
) -> None:
    pages, preadv = shards._pages, os.preadv
    pages._open = lru_cache(1)(pages._open_shard)

    def while_another_reads(descriptor: int, buffers: list, begin: int) -> int:
        monkeypatch.setattr(os, "preadv", preadv)
        shards.read(1, 0, 20)
        return preadv(descriptor, buffers, begin)

    shards.read(0, 0, 20)  # is checked, so that what is read again is not
    monkeypatch.setattr(os, "preadv", while_another_reads)
    np.testing.assert_array_equal(shards.read(0, 0, 20), Session.load(recordings[0]).traces[:20])


def test_a_shard_that_is_replaced_while_the_set_is_open_is_checked_again(shards, out) -> None:
    shards._pages._open = lru_cache(1)(shards._pages._open_shard)
    name = shards.sessions[0].shards[0].name
    before = shards.read(0, 0, 20).copy()
    other = out / "other"
    data = bytearray((out / name).read_bytes())
    data[shards.sessions[0].stretches[0].offset] ^= 1
    other.write_bytes(data)
    other.replace(out / name)
    np.testing.assert_array_equal(shards.read(0, 0, 20), before)  # the file that was opened
    shards.read(1, 0, 20)  # makes it leave the cache of open files
    with pytest.raises(BadShardError, match=r"is damaged: .* does not match its checksum"):
        shards.read(0, 0, 20)
