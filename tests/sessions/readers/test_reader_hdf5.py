from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.readers import _selected, open_recording, reader_name
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

REAL = "h5_flavell_dag2023/2022-07-26-31-data.h5"


def test_a_real_file_with_many_matrices_asks_which(original_dir: Path) -> None:
    with pytest.raises(RecordingError, match=r"gcamp/trace_array_original \(800, 146\).*variable"):
        open_recording(original_dir / REAL)


def test_a_real_file_equals_its_normalized_twin(original_dir: Path, twin: Callable[[str], Session]) -> None:
    given = Sidecar(
        variable="gcamp/trace_array_original", time_column="timing/timestamp_confocal", species="celegans"
    )
    (session,) = open_recording(original_dir / REAL, given)
    expected = twin("celegans__dag2023__2022-07-26-31")
    np.testing.assert_array_equal(session.frames(0, session.num_frames), expected.traces)
    np.testing.assert_array_equal(session.time_s, expected.time_s)
    assert session.rate_hz == pytest.approx(expected.rate_hz)
    assert session.species == "celegans"


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_the_only_matrix_is_read_in_either_orientation(tmp_path: Path, dtype: type) -> None:
    values = (np.random.default_rng(0).normal(size=(50, 4)) * 100).astype(dtype)
    for name, stored in {"frames_first": values, "units_first": values.T}.items():
        path = tmp_path / f"{name}.whatever"
        with h5py.File(path, "w") as file:
            file["deep/inside/x"] = stored
            file["pairs"] = np.zeros((50, 2))
            file["names"] = ["a", "b"]
        assert reader_name(path) == "hdf5"
        (session,) = open_recording(path)
        np.testing.assert_array_equal(session.frames(0, session.num_frames), values.astype(np.float32))
        assert session.rate_hz is None


def test_a_stated_rate_is_found(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["data/dff"] = traces
        file["data/fs"] = [4.5]
    assert open_recording(path)[0].rate_hz == 4.5
    with h5py.File(path, "r+") as file:
        file.attrs["frame_rate"] = 9.0
    with pytest.raises(RecordingError, match=r"different rates.*4\.5.*rate_hz in the sidecar"):
        open_recording(path)
    assert open_recording(path, Sidecar(rate_hz=9.0))[0].rate_hz == 9.0


def test_an_orientation_that_cannot_be_told_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.ones((60, 50))
    with pytest.raises(RecordingError, match="frames_axis"):
        open_recording(path)
    assert open_recording(path, Sidecar(frames_axis=1))[0].traces.shape == (50, 60)


def test_times_that_do_not_fit_are_an_error(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["t"], file["y"] = traces, np.arange(49), h5py.SoftLink("/nowhere")
    for name, words in {"t": r"shape \(49,\)", "missing": "is not there", "y": "is not there"}.items():
        with pytest.raises(RecordingError, match=words):
            open_recording(path, Sidecar(time_column=name))


def test_large_recordings_are_read_by_slices_and_travel_between_processes(
    tmp_path: Path, traces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selected, "MAX_LOADED_BYTES", 0)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=traces.T, chunks=(2, 10), compression="gzip")
    travelled = pickle.loads(pickle.dumps(open_recording(path)[0]))
    assert not isinstance(travelled.traces, np.ndarray)
    np.testing.assert_array_equal(travelled.frames(18, 23), traces[18:23].astype(np.float32))


def test_a_recording_larger_than_memory_opens_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:  # 4 TB announced, nothing stored
        file.create_dataset("x", shape=(10**8, 10**4), dtype="f4", chunks=(1000, 10))
    (session,) = open_recording(path, Sidecar(frames_axis=0))
    assert session.frames(10**7, 10**7 + 2).shape == (2, 10**4)


@pytest.mark.parametrize("content", [b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(5000)])
def test_garbage_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"a\.h5.*cannot be read"):
        open_recording(path)


def test_no_matrix_and_cyclic_groups_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["self"] = group
        group["volume"] = np.ones((3, 40, 40))
    with pytest.raises(RecordingError, match="no numeric array of two axes"):
        open_recording(path)


@pytest.mark.parametrize("name", ["dff/table", "df/_i_table"])
def test_a_table_of_compound_values_is_named_and_not_called_damaged(
    tmp_path: Path, traces: np.ndarray, name: str
) -> None:
    rows = np.array(list(enumerate(traces)), dtype=[("index", "f8"), ("values_block_0", "f8", (4,))])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = rows
    with pytest.raises(RecordingError, match=rf"{name} is a table of compound values, as pandas") as caught:
        open_recording(tmp_path / "a.h5")
    assert "damaged" not in str(caught.value)


def test_a_frame_that_pandas_wrote_keeps_its_names(tmp_path: Path, traces: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["df/axis0"] = file["df/block0_items"] = np.array([b"a", b"b", b"c", b"d"])
        file["df/axis1"], file["df/block0_values"] = np.arange(50), traces
    (session,) = open_recording(tmp_path / "a.h5")
    np.testing.assert_array_equal(session.frames(0, 50), traces.astype(np.float32))
    assert session.unit_names == ("a", "b", "c", "d")


def test_data_that_a_link_leads_to_are_read_and_a_broken_link_is_named(
    tmp_path: Path, traces: np.ndarray
) -> None:
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["deep/x"] = traces
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dff"] = h5py.ExternalLink("raw.h5", "/deep/x")
    (session,) = open_recording(tmp_path / "a.h5")
    np.testing.assert_array_equal(session.frames(0, 50), traces.astype(np.float32))
    (tmp_path / "raw.h5").unlink()
    with pytest.raises(RecordingError, match=r"dff is a link to raw\.h5:/deep/x, which is not there"):
        open_recording(tmp_path / "a.h5")


def test_data_put_together_of_other_files_need_them_all(tmp_path: Path, traces: np.ndarray) -> None:
    layout = h5py.VirtualLayout(shape=(100, 4), dtype="f8")
    for number in range(2):
        with h5py.File(tmp_path / f"part{number}.h5", "w") as file:
            file["x"] = traces + number
        source = h5py.VirtualSource(f"part{number}.h5", "x", shape=(50, 4))
        layout[50 * number : 50 * number + 50] = source
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("dff", layout)
    (session,) = open_recording(tmp_path / "a.h5")
    np.testing.assert_array_equal(session.frames(50, 100), (traces + 1).astype(np.float32))
    (tmp_path / "part1.h5").unlink()
    with pytest.raises(RecordingError, match=r"part1\.h5 is not there"):
        open_recording(tmp_path / "a.h5")
