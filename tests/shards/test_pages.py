"""Pages of a part of the units, and of inputs: any part of any window is read back, and no more is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import BadShardError, ShardError
from forebrain.sessions.session import Session
from forebrain.shards import pages
from forebrain.shards.options import PrepareConfig
from forebrain.shards.pages import PageShape, page_shape
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import FarPages, ShardSet
from forebrain_registry.storage import Folder

NUM_UNITS = 23
CONFIG = PrepareConfig(max_window=20, page_bytes=160, shard_bytes=20_000, stretch_bytes=1)


@pytest.fixture
def session(make_session) -> Session:
    inputs = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    return make_session(
        num_units=NUM_UNITS,
        segment_ids=np.repeat([0, 1], [150, 250]),
        stimulus=inputs[:, :2],
        stimulus_names=("light", "odour"),
        behaviour=inputs[:, 2:],
        behaviour_names=("speed",),
    )


@pytest.fixture
def address(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(pages, "PAGE_UNITS", 5)
    monkeypatch.setattr(pages, "LEAST_PAGE_BYTES", 16)
    session.save(tmp_path / "a.npz")
    prepare([str(tmp_path / "a.npz")], str(tmp_path / "set"), CONFIG, lambda p: [Session.load(p)], map_here)
    return str(tmp_path / "set")


def opened(address: str, far: bool) -> ShardSet:
    shards = ShardSet.open(address)
    if far:
        shards._pages = FarPages(shards._storage, shards._checksums)
    return shards


@pytest.mark.parametrize("far", [False, True])
def test_any_units_of_any_window_are_read_back_exactly(address: str, session: Session, far: bool) -> None:
    shards = opened(address, far)
    shape = shards.sessions[0].pages["traces"]
    assert shape == PageShape(3, (0, 4, 9, 13, 18, 23))
    rng = np.random.default_rng(1)
    for _ in range(400):
        low, high = [(0, 150), (150, 400)][rng.integers(2)]
        length = int(rng.integers(1, 21))
        start = int(rng.integers(low, high - length + 1))
        first, last = sorted(rng.integers(0, NUM_UNITS + 1, 2).tolist())
        found = shards.read(0, start, start + length, slice(first, last))
        np.testing.assert_array_equal(found, session.traces[start : start + length, first:last])
    np.testing.assert_array_equal(shards.read(0, 150, 170), session.traces[150:170])


@pytest.mark.parametrize("far", [False, True])
def test_inputs_are_read_back_and_checked(address: str, session: Session, far: bool) -> None:
    shards = opened(address, far)
    entry = shards.sessions[0]
    assert (entry.stimulus_names, entry.behaviour_names) == (("light", "odour"), ("speed",))
    for start in range(150, 380, 7):
        found = shards.read_inputs(0, "stimulus", start, start + 20)
        np.testing.assert_array_equal(found, session.stimulus[start : start + 20])
        found = shards.read_inputs(0, "behaviour", start, start + 20)
        np.testing.assert_array_equal(found, session.behaviour[start : start + 20])
    path = Path(address) / entry.shards[0].name
    data = bytearray(path.read_bytes())
    data[entry.stretches[0].offsets["stimulus"]] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadShardError, match="page 0 at byte"):
        opened(address, far).read_inputs(0, "stimulus", 0, 5)
    np.testing.assert_array_equal(opened(address, far).read(0, 0, 5), session.traces[:5])
    with pytest.raises(ShardError, match="has no pupil that can be read; expected one of behaviour"):
        shards.read_inputs(0, "pupil", 0, 5)


def test_a_worker_reads_the_pages_of_its_units_and_no_others(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    read_range = Folder.read_range

    def counted(folder: Folder, name: str, start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return read_range(folder, name, start, stop)

    monkeypatch.setattr(Folder, "read_range", counted)
    opened(address, far=True).read(0, 0, 12, slice(4, 9))
    assert [stop - start for start, stop in asked] == [3 * 5 * 4] * 4
    asked.clear()
    opened(address, far=True).read(0, 0, 12)  # all of them are one range of bytes
    assert [stop - start for start, stop in asked] == [12 * NUM_UNITS * 4]


def test_a_flipped_bit_spoils_the_units_of_its_page_alone(address: str, session: Session) -> None:
    entry = ShardSet.open(address).sessions[0]
    path = Path(address) / entry.shards[0].name
    data = bytearray(path.read_bytes())
    data[entry.stretches[0].offset + 3 * 4 * 4 + 1] ^= 1  # frames 0 to 2, units 4 to 8
    path.write_bytes(data)
    shards = ShardSet.open(address)
    np.testing.assert_array_equal(shards.read(0, 0, 10, slice(0, 4)), session.traces[:10, :4])
    np.testing.assert_array_equal(shards.read(0, 3, 10, slice(4, 9)), session.traces[3:10, 4:9])
    with pytest.raises(BadShardError, match="page 1 at byte"):
        shards.read(0, 0, 10, slice(8, 9))


def test_plain_webdataset_reads_pages_that_its_header_describes(address: str, session: Session) -> None:
    import webdataset

    entry = ShardSet.open(address).sessions[0]
    for shard in entry.shards:
        for sample in webdataset.WebDataset(f"{address}/{shard.name}", shardshuffle=False):
            header = json.loads(sample["json"])
            shape, num_frames = header["pages"]["traces"], header["num_frames"]
            values, rows = np.frombuffer(sample["traces.pages.f32"], "<f4"), []
            for first in range(0, num_frames, shape["frames"]):
                frames = min(shape["frames"], num_frames - first)
                row, values = np.split(values, [frames * NUM_UNITS])
                parts = np.split(row, frames * np.array(shape["edges"][1:-1]))
                rows.append(np.concatenate([part.reshape(frames, -1) for part in parts], axis=1))
            start = header["start"]
            np.testing.assert_array_equal(np.concatenate(rows), session.traces[start : start + num_frames])


@pytest.mark.parametrize(
    ("num_units", "window"), [(1, 64), (300, 320), (4096, 320), (71_721, 320), (10**6, 64)]
)
def test_pages_are_short_beside_a_window_and_few_enough_to_check(num_units: int, window: int) -> None:
    shape = page_shape(num_units, window, 2 << 20)
    widths = np.diff(shape.edges)
    assert shape.edges[0] == 0 and shape.edges[-1] == num_units and widths.max() <= pages.PAGE_UNITS
    assert widths.max() - widths.min() <= 1
    page_bytes = 4 * shape.frames * widths.max()
    assert page_bytes <= 2 << 20
    assert shape.frames <= max(window / 8, (64 << 10) / (4 * widths.max()))
