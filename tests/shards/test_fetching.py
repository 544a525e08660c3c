"""A far store: what is read does not depend on what comes when, a page is asked for once, memory is bounded.

A set on disk stands for the store, whose answers are delayed, counted, or fail.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from forebrain.errors import BadShardError, ShardError, StorageError
from forebrain.shards import fetching
from forebrain.shards import stream as stream_module
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import FarPages, ShardSet
from forebrain.shards.stream import Batch, MixtureConfig, Stream, build_order
from forebrain.shards.windows import ShardWindows
from forebrain_registry.storage import Folder


class FarStore:
    """Stands in for requests to a store.

    Attributes:
        delay_s: of the n-th request, from n.
        asked: (name, start, stop) of each request, in order.
        most: requests that were under way at a time.
        failing: names whose requests fail.
    """

    def __init__(self) -> None:
        self.delay_s: Callable[[int], float] = lambda number: 0.0
        self.asked: list[tuple[str, int, int]] = []
        self.most = 0
        self.failing: set[str] = set()
        self._under_way = 0
        self._lock = threading.Lock()

    def read_range(self, name: str, start: int, stop: int, read: Callable[[], bytes]) -> bytes:
        with self._lock:
            self.asked.append((name, start, stop))
            number = len(self.asked)
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        try:
            time.sleep(self.delay_s(number))
            if name in self.failing:
                raise StorageError(f"{name}: the store does not answer.")
            return read()
        finally:
            with self._lock:
                self._under_way -= 1

    def num_bytes(self) -> int:
        return sum(stop - start for _, start, stop in self.asked)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FarStore:
    store, read_range = FarStore(), Folder.read_range

    def far(folder: Folder, name: str, start: int, stop: int) -> bytes:
        return store.read_range(name, start, stop, lambda: read_range(folder, name, start, stop))

    monkeypatch.setattr(Folder, "read_range", far)
    return store


@pytest.fixture
def address(tmp_path: Path, walk) -> str:
    """Three sessions of 400 frames in pages of 20 frames."""
    recordings = []
    for seed, num_units in ((1, 5), (2, 10), (3, 20)):
        recordings.append(str(tmp_path / f"{seed}.npz"))
        walk(seed, num_units=num_units).save(recordings[-1])
    config = PrepareConfig(max_window=20, page_bytes=400, stretch_bytes=1)
    prepare(recordings, str(tmp_path / "set"), config, _saved, map_here)
    return str(tmp_path / "set")


def _saved(path: str):
    from forebrain.sessions.session import Session

    return [Session.load(path)]


def far(address: str) -> ShardSet:
    """The set, as if it were far away."""
    shards = ShardSet.open(address)
    shards._pages = FarPages(shards._storage, shards._checksums)
    return shards


def stream(shards: ShardSet, batch_size: int = 6) -> Stream:
    windows = ShardWindows(shards, "chronological", 8, 4)
    return Stream(windows, build_order(windows, batch_size, 0, MixtureConfig()))


def contents(batch: Batch) -> list[bytes]:
    return [group.context.tobytes() + group.target.tobytes() for group in batch.groups]


def test_batches_are_the_same_whatever_comes_when(address: str, store: FarStore) -> None:
    near = [contents(batch) for batch in stream(ShardSet.open(address)).batches(3, 20)]
    for seed in (0, 1):
        delays = np.random.default_rng(seed).exponential(0.003, 10_000)
        store.delay_s = lambda number, delays=delays: float(delays[number])
        shards = far(address)
        shards.fetcher.in_flight = 8
        assert [contents(batch) for batch in stream(shards).batches(3, 20)] == near
    assert store.most > 1


def test_a_page_is_asked_for_once_whoever_needs_it(address: str, store: FarStore) -> None:
    store.delay_s = lambda number: 0.02
    shards = far(address)
    shards.expect(0, [(0, 12), (4, 16), (30, 42)])
    readers = [threading.Thread(target=shards.read, args=(0, start, start + 12)) for start in (0, 4, 7, 30)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    pages = [(name, page) for name, start, stop in store.asked for page in range(start // 400, stop // 400)]
    assert len(set(pages)) == len(pages) == 3


def test_what_is_expected_again_is_kept_before_all_else(
    address: str, store: FarStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "KEPT_BYTES", 5 * 400)
    shards = far(address)
    windows = [(start, start + 20) for start in range(0, 380, 20)]
    again = [*windows[:4], *windows[10:], *windows[:4]]  # 400 bytes each
    shards.expect(0, again)
    for start, stop in again:
        shards.read(0, start, stop)
    asked = [byte for name, start, stop in store.asked for byte in range(start, stop)]
    assert len(set(asked)) == len(asked) >= 400 * len(set(again))
    assert shards.fetcher._num_kept_bytes <= 5 * 400
    assert not shards.fetcher._num_reads


def test_memory_is_bounded_where_all_is_expected_again(
    address: str, store: FarStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "KEPT_BYTES", 5 * 400)
    shards, near = far(address), ShardSet.open(address)
    windows = 3 * [(start, start + 20) for start in range(0, 380, 20)]
    shards.expect(0, windows)
    for start, stop in windows:
        np.testing.assert_array_equal(shards.read(0, start, stop), near.read(0, start, stop))
        assert shards.fetcher._num_kept_bytes <= 5 * 400


def test_all_that_a_step_reads_is_on_its_way_before(
    tmp_path: Path, walk, store: FarStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its inputs too."""
    rng = np.random.default_rng(0)
    inputs = {
        "stimulus": rng.random((400, 1), np.float32),
        "stimulus_names": ("light",),
        "behaviour": rng.random((400, 1), np.float32),
        "behaviour_names": ("speed",),
    }
    recording = str(tmp_path / "a.npz")
    replace(walk(1, num_units=5), **inputs).save(recording)
    prepare([recording], str(tmp_path / "set"), PrepareConfig(max_window=20), _saved, map_here)
    shards = far(str(tmp_path / "set"))
    windows = ShardWindows(shards, "chronological", 8, 4)
    reader = Stream(windows, build_order(windows, 6, 0, MixtureConfig()), inputs=("light", "speed"))
    by_readers: list[str] = []
    make = fetching.PageFetcher._make

    def made(fetcher: fetching.PageFetcher, request: fetching._Request) -> None:
        if threading.current_thread().name != "fetch":
            by_readers.append(request.member.name)
        make(fetcher, request)

    monkeypatch.setattr(fetching.PageFetcher, "_make", made)
    store.delay_s = lambda number: 0.005
    for batch in reader.batches(0, 5):
        assert batch.groups[0].known is not None and batch.groups[0].known.any()
    assert by_readers in ([], ["traces"])  # the very first
    assert len(store.asked) >= 3


def test_as_many_requests_at_a_time_as_were_asked_for(address: str, store: FarStore) -> None:
    store.delay_s = lambda number: 0.01
    for in_flight in (0, 1, 2, 5):
        shards, store.most = far(address), 0
        shards.fetcher.in_flight = in_flight
        windows = [(start, start + 12) for start in range(0, 380, 20)]
        shards.expect(2, windows)
        for start, stop in windows:
            shards.read(2, start, stop)
        assert max(in_flight, 1) <= store.most <= in_flight + 1  # the reader's own


@pytest.mark.parametrize(("wait_s", "step_s", "hurries"), [(1.0, 1.0, 6), (0.005, 1.0, 0), (0.02, 1.0, 6)])
def test_a_step_that_waits_asks_for_more_at_a_time_and_one_that_is_fed_does_not(
    address: str, monkeypatch: pytest.MonkeyPatch, wait_s: float, step_s: float, hurries: int
) -> None:
    passed_s = itertools.cycle([0.0, step_s, wait_s])  # until a batch is given, wanted, there
    now = itertools.accumulate(passed_s)
    monkeypatch.setattr(stream_module, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    shards, asked = far(address), []
    monkeypatch.setattr(shards, "hurry", lambda: asked.append(True))
    for _ in stream(shards).batches(0, Stream.READ_AHEAD + 6):
        pass
    assert len(asked) == hurries


def test_more_requests_are_made_at_a_time_only_where_one_waits_for_its_turn(
    address: str, store: FarStore
) -> None:
    def held(number: int) -> float:
        gate.wait(60)
        return 0.0

    shards, gate = far(address), threading.Event()
    store.delay_s = held
    shards.hurry()
    assert shards.fetcher.in_flight == fetching.REQUESTS_IN_FLIGHT  # nothing was asked for
    shards.expect(0, [(start, start + 12) for start in range(0, 380, 20)])
    shards.hurry()
    assert shards.fetcher.in_flight == 2 * fetching.REQUESTS_IN_FLIGHT
    gate.set()
    shards.forget_expected()


def test_no_more_is_fetched_ahead_of_the_reader_than_the_memory_that_is_stated(
    address: str, store: FarStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "AHEAD_BYTES", 4000)
    monkeypatch.setattr(fetching, "KEPT_BYTES", 2000)
    shards = far(address)
    windows = [(start, start + 20) for start in range(0, 380, 20)]
    shards.expect(2, windows)  # 1,600 bytes each, in pages of 400
    deadline = time.monotonic() + 5
    while store.num_bytes() < 4000 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert 4000 <= store.num_bytes() < 4000 + 3 * 1600  # those in flight when the limit was met
    expected = ShardSet.open(address)
    for start, stop in windows:
        np.testing.assert_array_equal(shards.read(2, start, stop), expected.read(2, start, stop))
    assert shards.fetcher._num_kept_bytes <= 2000
    assert shards.fetcher._ahead_bytes == 0


def test_an_error_is_raised_at_the_step_it_belongs_to_and_is_gone_with_its_cause(
    address: str, store: FarStore
) -> None:
    near = [contents(batch) for batch in stream(ShardSet.open(address), 2).batches(0, 12)]
    shards = far(address)
    reader = stream(shards, 2)
    entry = shards.sessions[2]
    first = next(
        step for step in range(12) if entry.id in {group.session for group in reader.batch(step).groups}
    )
    shards = far(address)
    reader = stream(shards, 2)
    store.failing = {shard.name for shard in entry.shards}
    batches = reader.batches(0, 12)
    found = [contents(next(batches)) for _ in range(first)]
    with pytest.raises(StorageError, match="does not answer"):
        next(batches)
    assert found == near[:first]
    store.failing = set()
    assert [contents(batch) for batch in reader.batches(first, 12)] == near[first:]


def test_a_flipped_bit_is_found_in_what_is_fetched_ahead(address: str, store: FarStore) -> None:
    shards = far(address)
    entry = shards.sessions[0]
    path = Path(address) / entry.shards[0].name
    data = bytearray(path.read_bytes())
    data[entry.stretches[0].offset + 401] ^= 1
    path.write_bytes(data)
    shards.expect(0, [(0, 12), (20, 32), (40, 52)])
    with pytest.raises(ShardError, match="page 1 at byte"):
        shards.read(0, 20, 32)
    shards.read(0, 0, 12)
    shards.read(0, 40, 52)


def test_what_is_fetched_together_is_bad_page_by_page(address: str, store: FarStore) -> None:
    entry = ShardSet.open(address).sessions[0]
    path = Path(address) / entry.shards[0].name
    data = bytearray(path.read_bytes())
    data[entry.stretches[0].offset + 401] ^= 1
    path.write_bytes(data)
    shards = far(address)
    with pytest.raises(ShardError, match="page 1 at byte"):
        shards.read(0, 10, 30)  # pages 0 and 1, in one request
    shards.read(0, 0, 20)
    assert len(store.asked) == 1  # page 0 was whole, and is kept
    with pytest.raises(ShardError, match="page 1 at byte"):
        shards.read(0, 25, 40)
    shards.read(0, 40, 60)


def test_a_shard_that_is_cut_short_loses_the_pages_behind_the_cut(address: str, store: FarStore) -> None:
    shards = far(address)
    entry = shards.sessions[0]
    os.truncate(Path(address) / entry.shards[0].name, entry.stretches[0].offset + 450)
    with pytest.raises(BadShardError, match=rf"ends at byte \d+; expected {entry.shards[0].size} bytes"):
        shards.read(0, 10, 30)
    shards.read(0, 0, 20)


def test_damaged_checksums_are_no_bad_shard(address: str) -> None:
    path = Path(address) / ShardSet.open(address).sessions[0].arrays_name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for shards in (ShardSet.open(address, "skip"), far(address)):
        with pytest.raises(ShardError, match="does not match its checksum") as caught:
            shards.read(0, 0, 12)
        assert not isinstance(caught.value, BadShardError) and not shards.bad_shards


def test_nothing_more_is_fetched_once_the_consumer_is_gone(address: str, store: FarStore) -> None:
    store.delay_s = lambda number: 0.01
    shards = far(address)
    batches = stream(shards).batches(0, 1000)
    next(batches)
    batches.close()
    time.sleep(0.05)
    asked = len(store.asked)
    time.sleep(0.05)
    assert len(store.asked) == asked
    assert shards.fetcher._ahead_bytes == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]
