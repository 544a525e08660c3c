"""What lies on disk: plain WebDataset tars, and fits that match a plain computation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from forebrain.errors import ConfigError, RecordingError
from forebrain.scoring.protocols import fit_ranges
from forebrain.sessions.report import RecordingReport
from forebrain.shards.fits import Fit, Moments, fit_components, scale_of
from forebrain.shards.index import SessionEntry, Source
from forebrain.shards.options import PrepareConfig
from forebrain.shards.writer import write_session
from forebrain_registry.storage import Folder

SMALL = PrepareConfig(max_window=20, stretch_bytes=1, shard_bytes=5_000, page_bytes=200)


def write(session, folder: Path, config: PrepareConfig = SMALL) -> SessionEntry:
    return write_session(
        session, RecordingReport(), Source("a.npz", "0" * 64, 1), Folder(str(folder)), config
    )


def test_plain_webdataset_reads_every_sample(make_session, tmp_path):
    import webdataset

    channels = np.arange(800, dtype=np.float32).reshape(400, 2)
    session = make_session(
        name="with.dots in name" * 6,
        segment_ids=np.repeat([0, 1], [150, 250]),
        stimulus=channels,
        stimulus_names=("a", "b"),
        behaviour=channels[:, :1],
        behaviour_names=("speed",),
        time_s=np.arange(400) / 10,
    )
    entry = write(session, tmp_path)
    assert len(entry.shards) > 1
    samples = {}
    for shard in entry.shards:
        for sample in webdataset.WebDataset(str(tmp_path / shard.name), shardshuffle=False):
            samples[sample["__key__"]] = sample
    assert set(samples) == {stretch.key for stretch in entry.stretches}
    for stretch in entry.stretches:
        sample = samples[stretch.key]
        assert json.loads(sample["json"])["start"] == stretch.start
        part = slice(stretch.start, stretch.stop)
        traces = np.frombuffer(sample["traces.f32"], "<f4").reshape(-1, 6)
        np.testing.assert_array_equal(traces, session.traces[part])
        np.testing.assert_array_equal(
            np.frombuffer(sample["stimulus.f32"], "<f4").reshape(-1, 2), channels[part]
        )
        np.testing.assert_array_equal(np.frombuffer(sample["behaviour.f32"], "<f4"), channels[part, 0])
        np.testing.assert_array_equal(np.frombuffer(sample["time.f64"], "<f8"), session.time_s[part])


@pytest.mark.parametrize("num_frames", [2, 19, 20, 79, 80, 81, 99, 100, 101, 400])
def test_every_window_lies_within_one_stretch_and_no_stretch_crosses_a_segment(
    make_session, tmp_path, num_frames
):
    segment_ids = np.arange(num_frames) >= num_frames // 3
    entry = write(make_session(num_frames=num_frames, segment_ids=segment_ids), tmp_path)
    for start, stop in entry.segments:
        for first in range(start, stop):
            last = min(first + SMALL.max_window, stop)
            assert any(stretch.start <= first and last <= stretch.stop for stretch in entry.stretches)
    for stretch in entry.stretches:
        assert any(start <= stretch.start and stretch.stop <= stop for start, stop in entry.segments)


def test_the_same_session_gives_the_same_bytes(make_session, tmp_path):
    for folder in ("one", "two"):
        write(make_session(), tmp_path / folder, PrepareConfig(max_window=20, pca=3))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_entry_tells_size_and_hash_of_its_shards_and_survives_json(make_session, tmp_path):
    entry = write(make_session(metadata={"licence": "CC BY"}), tmp_path)
    for shard in entry.shards:
        data = (tmp_path / shard.name).read_bytes()
        assert (shard.size, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert SessionEntry.from_bytes(entry.to_bytes(), "") == entry
    assert (tmp_path / entry.name).read_bytes() == entry.to_bytes()


def test_a_session_that_fails_on_the_way_leaves_no_entry(make_session, tmp_path):
    class CutOff:
        shape = (400, 6)

        def __getitem__(self, part: slice) -> np.ndarray:
            if part.stop > 300:
                raise RecordingError("cut off")
            return np.zeros((part.stop - part.start, 6), np.float32)

    write(make_session(), tmp_path)
    with pytest.raises(RecordingError, match="cut off"):
        write(make_session(traces=CutOff()), tmp_path)
    assert list((tmp_path / "sessions").glob("*.json")) == []
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.parametrize("protocol", ["chronological", "poco"])
def test_moments_gathered_in_pieces_equal_those_of_the_whole(make_session, tmp_path, protocol):
    session = make_session(num_frames=2500, segment_ids=np.arange(2500) // 900)
    session.traces[:] += 1e4  # a large offset loses precision in plain sums of squares
    entry = write(session, tmp_path)
    ranges = fit_ranges(protocol, 2500, list(entry.segments))
    assert entry.fits[protocol] == tuple(ranges)
    frames = np.concatenate([session.traces[start:stop] for start, stop in ranges]).astype(np.float64)
    arrays = safetensors.numpy.load((tmp_path / entry.arrays_name).read_bytes())
    np.testing.assert_allclose(arrays[f"{protocol}.mean"], frames.mean(0), rtol=1e-7)
    np.testing.assert_allclose(arrays[f"{protocol}.scale"], frames.std(0), rtol=1e-6)


def test_no_statistic_of_the_default_protocol_sees_the_test_part(make_session, tmp_path):
    one, other = make_session(), make_session()
    other.traces[240:] *= 50
    arrays = []
    for folder, session in (("one", one), ("other", other)):
        entry = write(session, tmp_path / folder, PrepareConfig(max_window=20, pca=3))
        arrays.append(safetensors.numpy.load((tmp_path / folder / entry.arrays_name).read_bytes()))
    for name in arrays[0]:
        assert np.array_equal(arrays[0][name], arrays[1][name]) == name.startswith("chronological"), name


def test_a_unit_silent_during_the_fit_takes_the_typical_spread():
    std = np.array([2.0, 0.0, 4.0, 0.001, 3.0])
    np.testing.assert_array_equal(scale_of("chronological", std), [2, 2.5, 4, 2.5, 3])
    np.testing.assert_array_equal(scale_of("poco", std), [2, 1, 4, 0.001, 3])
    np.testing.assert_array_equal(scale_of("chronological", np.zeros(3)), [1, 1, 1])


def test_rounding_is_no_spread():
    moments = Moments(1)
    for _ in range(10):
        moments.add(np.full((7, 1), 0.1, np.float32))
    assert moments.std == [0.0]


def test_components_are_orthonormal_ordered_and_have_unit_variance_after_the_fit():
    rng = np.random.default_rng(0)
    traces = (rng.standard_normal((500, 3)) * [5, 2, 1] @ rng.standard_normal((3, 8))).astype(np.float32)
    fit = Fit(traces.mean(0), traces.std(0))
    components, spread = fit_components(traces, [(0, 500)], fit, 6)
    assert components.shape == (8, 3)  # the frames have three dimensions
    np.testing.assert_allclose(components.T @ components, np.eye(3), atol=1e-5)
    assert (np.diff(spread) < 0).all()
    fit = Fit(fit.mean, fit.scale, components, spread)
    assert fit.num_outputs == 3
    outputs = fit.apply(traces)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(np.cov(outputs.T, bias=True), np.eye(3), atol=1e-4)


def test_an_impossible_option_is_refused():
    with pytest.raises(ConfigError, match="max_window is 0"):
        PrepareConfig(max_window=0)
