from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.readers import npy
from forebrain.sessions.sidecar import Sidecar


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", ">f4"])
@pytest.mark.parametrize("frames_axis", [0, 1])
def test_the_longer_axis_counts_frames(
    tmp_path: Path, traces: np.ndarray, dtype: str, frames_axis: int
) -> None:
    path = tmp_path / "a.npy"
    stored = (traces * 100).astype(dtype)
    np.save(path, stored.T if frames_axis else stored)
    assert npy.recognises(path)
    (session,) = npy.read(path, Sidecar(rate_hz=3.0))
    assert session.traces.shape == (50, 4) and session.rate_hz == 3.0
    np.testing.assert_array_equal(session.traces[10:20], stored[10:20])


@pytest.mark.parametrize(
    "shape", [(30, 30), (30, 40), (5000, 70_000), (1500, 5000), (30, 100), (501, 2100), (1, 30), (30, 1)]
)
def test_orientation_that_cannot_be_told_is_asked_for(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "a.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()
    with pytest.raises(RecordingError, match="frames_axis"):
        npy.read(path, Sidecar())
    (session,) = npy.read(path, Sidecar(frames_axis=1))
    assert session.traces.shape == shape[::-1]


def test_traces_are_read_on_demand_and_travel_by_path(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"  # sparse on disk, far larger than what this test may hold
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(2_000_000, 1000)).flush()
    (session,) = npy.read(path, Sidecar())
    sent = pickle.dumps(session)
    assert len(sent) < 2000
    assert pickle.loads(sent).frames(1_999_990, 2_000_000).shape == (10, 1000)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(100), "two axes"),
        (np.zeros((10, 20, 3)), "three axes"),
        (np.full((50, 2), "a"), "expected numbers"),
        (np.zeros((50, 2), complex), "expected numbers"),
        (np.array([{"a": 1}], dtype=object), "never loaded"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(RecordingError, match=words):
        npy.read(tmp_path / "a.npy", Sidecar())


def test_cut_off_array_is_told(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.npy"
    np.save(path, traces)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RecordingError, match="cut off"):
        npy.read(path, Sidecar())


def test_label_vector_beside_a_recording_is_refused(original_dir: Path) -> None:
    with pytest.raises(RecordingError, match="two axes"):
        npy.read(original_dir / "npz_kato2015" / "B__worm_0.npy", Sidecar())
