from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse

from forebrain.errors import RecordingError
from forebrain.sessions.readers import _selected, open_recording, reader_name
from forebrain.sessions.sidecar import Sidecar


def write(path: Path, estimates: Mapping[str, Any], rate_hz: float | None = 30.0) -> Path:
    """A file as CNMF.save lays it out: None as the text NoneType, sparse matrices as groups."""
    with h5py.File(path, "w") as file:
        for name, value in estimates.items():
            if scipy.sparse.issparse(value):
                group = file.create_group(f"estimates/{name}")
                group["data"], group["indices"], group["indptr"] = value.data, value.indices, value.indptr
                group["shape"] = value.shape
            else:
                file[f"estimates/{name}"] = "NoneType" if value is None else value
        if rate_hz is not None:
            file["params/data/fr"] = rate_hz
        file["dims"] = [20, 20]
    return path


def footprints(num_units: int) -> scipy.sparse.csc_matrix:
    return scipy.sparse.random(400, num_units, density=0.05, format="csc", random_state=0)


def test_dff_goes_before_the_denoised_traces(tmp_path: Path, traces: np.ndarray) -> None:
    path = write(
        tmp_path / "a.hdf5", {"A": footprints(4), "C": traces.T + 1, "F_dff": traces.T, "S": traces.T}
    )
    assert reader_name(path) == "caiman"
    (session,) = open_recording(path)
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))
    assert (session.rate_hz, session.signal) == (30.0, "dff (CaImAn F_dff)")


def test_without_dff_the_denoised_traces_are_read_and_it_is_said(tmp_path: Path, traces: np.ndarray) -> None:
    path = write(
        tmp_path / "a.hdf5", {"A": footprints(4), "C": traces.T, "F_dff": None, "idx_components": None}
    )
    (session,) = open_recording(path)
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))
    assert session.signal == "denoised C (CaImAn CNMF)"
    assert "denoised C is read" in session.metadata["traces"]


def test_only_accepted_components_are_units(tmp_path: Path, traces: np.ndarray) -> None:
    path = write(tmp_path / "a.hdf5", {"C": traces.T, "idx_components": np.array([0, 3])})
    (session,) = open_recording(path)
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces[:, [0, 3]].astype(np.float32))
    assert session.metadata["cells"] == "2 of 4 components were accepted (idx_components)"
    path = write(tmp_path / "b.hdf5", {"C": traces.T, "idx_components": np.array([0, 4])})
    with pytest.raises(RecordingError, match="component 4, but there are 4"):
        open_recording(path)


@pytest.mark.parametrize("accepted", [[0.0, 3.0], [[0, 3]], [True, False, False, True]])
def test_accepted_components_may_be_floats_or_flags(
    tmp_path: Path, traces: np.ndarray, accepted: list[object]
) -> None:
    path = write(tmp_path / "a.hdf5", {"C": traces.T, "idx_components": np.array(accepted)})
    (session,) = open_recording(path)
    np.testing.assert_array_equal(session.frames(0, 50), traces[:, [0, 3]].astype(np.float32))


@pytest.mark.parametrize("accepted", [[0.5], [True, False], [-1, 2], [4.0]])
def test_accepted_components_that_are_none_are_refused(
    tmp_path: Path, traces: np.ndarray, accepted: list[object]
) -> None:
    path = write(tmp_path / "a.hdf5", {"C": traces.T, "idx_components": np.array(accepted)})
    with pytest.raises(RecordingError, match="estimates/idx_components"):
        open_recording(path)


@pytest.mark.parametrize("form", ["csc", "csr"])
def test_sparse_traces_are_read_as_they_are_and_footprints_are_not_taken_for_them(
    tmp_path: Path, traces: np.ndarray, form: str
) -> None:
    sparse = scipy.sparse.csc_matrix(np.where(traces.T > 1, traces.T, 0)).asformat(form)
    (session,) = open_recording(write(tmp_path / "a.hdf5", {"A": footprints(4), "C": sparse}))
    np.testing.assert_array_equal(
        session.frames(0, session.num_frames), sparse.toarray().T.astype(np.float32)
    )


def test_sparse_indices_beyond_the_shape_are_an_error(tmp_path: Path, traces: np.ndarray) -> None:
    path = write(tmp_path / "a.hdf5", {"C": scipy.sparse.csc_matrix(traces.T)})
    with h5py.File(path, "r+") as file:
        file["estimates/C/indices"][0] = 1000
    with pytest.raises(RecordingError, match=r"a\.hdf5"):
        open_recording(path)


def test_swapped_axes_are_told_by_the_footprints(tmp_path: Path, traces: np.ndarray) -> None:
    (session,) = open_recording(write(tmp_path / "a.hdf5", {"A": footprints(4), "C": traces}))
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))
    # More units than frames: the footprints tell here, too.
    (session,) = open_recording(write(tmp_path / "b.hdf5", {"A": footprints(50), "C": traces}))
    assert session.traces.shape == (4, 50)
    square = write(tmp_path / "c.hdf5", {"C": np.ones((40, 50))})
    with pytest.raises(RecordingError, match="frames_axis"):
        open_recording(square)
    assert open_recording(square, Sidecar(frames_axis=1))[0].traces.shape == (50, 40)


def test_the_sidecar_chooses_another_array(tmp_path: Path, traces: np.ndarray) -> None:
    path = write(tmp_path / "a.hdf5", {"C": traces.T, "S": traces.T * 2}, rate_hz=None)
    for variable in ("S", "estimates/S"):
        (session,) = open_recording(path, Sidecar(variable=variable, rate_hz=5.0))
        np.testing.assert_array_equal(session.frames(0, session.num_frames), (traces * 2).astype(np.float32))
    with pytest.raises(RecordingError, match="estimates/C, estimates/S"):
        open_recording(path, Sidecar(variable="YrA"))


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_large_recordings_are_read_by_slices_and_travel_between_processes(
    tmp_path: Path, traces: np.ndarray, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selected, "MAX_LOADED_BYTES", 0)
    stored = traces.T if kind == "dense" else scipy.sparse.csc_matrix(traces.T)
    path = write(tmp_path / "a.hdf5", {"C": stored, "idx_components": np.array([1, 2])})
    travelled = pickle.loads(pickle.dumps(open_recording(path)[0]))
    assert not isinstance(travelled.traces, np.ndarray)
    np.testing.assert_array_equal(travelled.frames(18, 23), traces[18:23, 1:3].astype(np.float32))


def test_an_analysis_that_accepted_nothing_gives_nothing(tmp_path: Path, traces: np.ndarray) -> None:
    path = write(
        tmp_path / "a.hdf5",
        {
            "C": traces.T,
            "F_dff": None,
            "idx_components": np.array([], int),
            "idx_components_bad": np.arange(4),
        },
    )
    with pytest.raises(RecordingError, match="none of 4 components was accepted"):
        open_recording(path)
