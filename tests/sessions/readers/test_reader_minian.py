from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.readers import _selected, find_recordings, open_recording
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

zarr = pytest.importorskip("zarr")

REAL = "minian_zarr_placecell"


@pytest.mark.parametrize("part", ["neural_data", "neural_data/C.zarr"])
def test_a_real_store_equals_its_normalized_twin(
    original_dir: Path, twin: Callable[[str], Session], part: str
) -> None:
    (session,) = open_recording(original_dir / REAL / part)
    expected = twin("mouse__placecell_minian__regression_1d")
    np.testing.assert_array_equal(session.frames(0, session.num_frames), expected.traces)
    np.testing.assert_array_equal(session.time_s, expected.time_s)
    assert session.rate_hz == pytest.approx(expected.rate_hz)
    assert (session.unit_names, session.signal) == (expected.unit_names, expected.signal)
    if part == "neural_data":
        np.testing.assert_allclose(session.unit_positions, expected.unit_positions, rtol=1e-5)


def test_the_folder_of_stores_is_one_recording(original_dir: Path) -> None:
    found = find_recordings([original_dir / REAL])
    assert str(original_dir / REAL / "neural_data") in found
    assert not [path for path in found if ".zarr" in path]


def write(
    folder: Path, traces: np.ndarray, axes: list[str] | None, zarr_format: int = 2, name: str = "C"
) -> Path:
    """A folder with one store of [unit_id, frame], or of the axes given."""
    group = zarr.open_group(folder / f"{name}.zarr", mode="w", zarr_format=zarr_format)
    values = traces if axes == ["frame", "unit_id"] else traces.T
    array = group.create_array(name, data=values, chunks=(2, 20))
    if axes:
        array.attrs["_ARRAY_DIMENSIONS"] = axes
    group.create_array("unit_id", data=np.arange(7, 7 + traces.shape[1]))
    return folder


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("axes", [["unit_id", "frame"], ["frame", "unit_id"], None])
def test_axes_are_told_by_name_or_by_coordinates(
    tmp_path: Path, traces: np.ndarray, axes: list[str] | None, zarr_format: int
) -> None:
    (session,) = open_recording(write(tmp_path / "minian", traces, axes, zarr_format), Sidecar(rate_hz=20.0))
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))
    assert session.unit_names == ("u7", "u8", "u9", "u10")
    assert (session.rate_hz, session.subject) == (20.0, tmp_path.name)


def test_the_sidecar_chooses_another_array(tmp_path: Path, traces: np.ndarray) -> None:
    folder = write(tmp_path / "minian", traces, ["unit_id", "frame"])
    write(folder, traces * 2, ["unit_id", "frame"], name="YrA")
    (session,) = open_recording(folder, Sidecar(variable="YrA"))
    np.testing.assert_array_equal(session.frames(0, session.num_frames), (traces * 2).astype(np.float32))
    with pytest.raises(RecordingError, match=r"no S\.zarr .* C, YrA"):
        open_recording(folder, Sidecar(variable="S"))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_any_other_store_with_one_matrix_is_read(
    tmp_path: Path, traces: np.ndarray, zarr_format: int
) -> None:
    group = zarr.open_group(tmp_path / "group.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("deep/one", data=traces.T)
    group.create_array("deep/pairs", data=np.zeros((2, 50)))
    bare = zarr.create_array(tmp_path / "bare.zarr", shape=traces.shape, dtype="f8", zarr_format=zarr_format)
    bare[:] = traces
    assert find_recordings([tmp_path]) == [str(tmp_path / "bare.zarr"), str(tmp_path / "group.zarr")]
    for name in ("group.zarr", "bare.zarr"):
        (session,) = open_recording(tmp_path / name)
        np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))

    group.create_array("other", data=traces)
    with pytest.raises(RecordingError, match=r"deep/one \(4, 50\), other \(50, 4\)"):
        open_recording(tmp_path / "group.zarr")
    assert open_recording(tmp_path / "group.zarr", Sidecar(variable="other"))[0].signal == "other"


def test_large_recordings_are_read_by_slices_and_travel_between_processes(
    tmp_path: Path, traces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selected, "MAX_LOADED_BYTES", 0)
    (session,) = open_recording(write(tmp_path / "minian", traces, ["unit_id", "frame"]))
    assert not isinstance(session.traces, np.ndarray)
    travelled = pickle.loads(pickle.dumps(session))
    np.testing.assert_array_equal(travelled.frames(18, 23), traces[18:23].astype(np.float32))


def test_damage_is_one_clear_error(tmp_path: Path, traces: np.ndarray) -> None:
    folder = write(tmp_path / "chunk", traces, ["unit_id", "frame"])
    (folder / "C.zarr" / "C" / "0.1").write_bytes(b"not a chunk")
    with pytest.raises(RecordingError, match="chunk"):
        open_recording(folder)

    folder = write(tmp_path / "metadata", traces, ["unit_id", "frame"])
    (folder / "C.zarr" / "C" / ".zarray").write_text("{")
    with pytest.raises(RecordingError, match="metadata"):
        open_recording(folder)

    folder = write(tmp_path / "missing", traces, ["unit_id", "frame"])
    shutil.rmtree(folder / "C.zarr" / "C")
    with pytest.raises(RecordingError, match="no numeric array of two axes"):
        open_recording(folder)


def test_frame_times_that_miss_a_frame_are_an_error(tmp_path: Path, traces: np.ndarray) -> None:
    folder = write(tmp_path / "minian", traces, ["unit_id", "frame"])
    (tmp_path / "neural_timestamp.csv").write_text("frame,timestamp_first\n0,1.5\n")
    with pytest.raises(RecordingError, match=r"neural_timestamp\.csv.*each frame"):
        open_recording(folder)


def test_text_stored_with_pickle_is_refused_before_a_chunk_is_read(
    tmp_path: Path, traces: np.ndarray
) -> None:
    # zarr itself opens this form; only text may have a second filter that can be pickle.
    folder = write(tmp_path / "minian", traces, ["unit_id", "frame"])
    (folder / "C.zarr" / ".zmetadata").unlink(missing_ok=True)
    description = folder / "C.zarr" / "unit_id" / ".zarray"
    filters = [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]
    values = json.loads(description.read_text()) | {"dtype": "|O", "filters": filters, "fill_value": ""}
    description.write_text(json.dumps(values))
    with pytest.raises(RecordingError, match="array unit_id is stored with pickle"):
        open_recording(folder)


def test_units_that_were_labelled_as_bad_are_left_out(tmp_path: Path, traces: np.ndarray) -> None:
    folder = write(tmp_path / "minian", traces, ["unit_id", "frame"])
    group = zarr.open_group(folder / "C.zarr", mode="a")
    group.create_array("unit_labels", data=np.array([3, -1, 3, 8]))
    (session,) = open_recording(folder)
    np.testing.assert_array_equal(session.frames(0, 50), traces[:, [0, 2, 3]].astype(np.float32))
    assert session.unit_names == ("u7", "u9", "u10")
    assert session.metadata["cells"] == (
        "3 of 4 ROIs are cells (unit_labels is not -1); 1 share the label of another, to be merged, and are "
        "read by "
        "themselves"
    )


def test_labels_that_fit_no_units_are_said(tmp_path: Path, traces: np.ndarray) -> None:
    folder = write(tmp_path / "minian", traces, ["unit_id", "frame"])
    zarr.open_group(folder / "C.zarr", mode="a").create_array("unit_labels", data=np.array([3, -1]))
    (session,) = open_recording(folder)
    assert session.num_units == 4
    assert session.metadata["cells"] == "unit_labels does not fit 4 units and was passed over"
