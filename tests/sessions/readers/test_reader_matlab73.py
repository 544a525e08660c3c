"""MATLAB v7.3 files, written here as MATLAB lays them out: HDF5 behind text, axes reversed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import sparse
from writing import matlab73 as new_file
from writing import read_one, stamped

from forebrain.errors import RecordingError
from forebrain.sessions.readers import matlab73, open_recording, reader_name
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Callable[[h5py.File], None]], Path]:
    def save(fill: Callable[[h5py.File], None]) -> Path:
        path = tmp_path / "a.mat"
        with h5py.File(path, "w", userblock_size=512) as file:
            fill(file)
        with path.open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
        return path

    return save


def put(group: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
    """Stores an array as MATLAB does."""
    dataset = group.create_dataset(name, data=np.atleast_2d(values).T)
    dataset.attrs["MATLAB_class"] = np.bytes_("double")
    return dataset


def read(path: Path, sidecar: Sidecar = Sidecar()) -> Session:  # noqa: B008 (frozen)
    assert reader_name(path) == "matlab73"
    (session,) = matlab73.read(path, sidecar)
    return session


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_is_read_as_matlab_shows_it(save, traces: np.ndarray, transposed: bool) -> None:
    path = save(lambda file: put(file, "dff", traces.T if transposed else traces))
    np.testing.assert_allclose(read(path).traces, traces, rtol=1e-6)


def test_cells_may_be_animals(save) -> None:
    rng = np.random.default_rng(0)
    fish = [rng.normal(size=(30, num_units, 2)) for num_units in (4, 6, 5)]  # frames, units, trials

    def fill(file: h5py.File) -> None:
        cells = file.create_dataset("responses", (1, 3), h5py.ref_dtype)
        cells.attrs["MATLAB_class"] = np.bytes_("cell")
        for number, values in enumerate(fish):
            file[f"#refs#/{number}"] = values.T
            file[f"#refs#/{number}"].attrs["MATLAB_class"] = np.bytes_("double")
            cells[0, number] = file[f"#refs#/{number}"].ref

    axes = ("subjects", "frames", "units", "trials")
    sidecar = Sidecar(variable="responses", axes=axes, dataset="lab", subject="fish", session="day")
    sessions = matlab73.read(save(fill), sidecar)
    assert [session.id for session in sessions] == ["lab/fish1/day1", "lab/fish2/day2", "lab/fish3/day3"]
    for session, values in zip(sessions, fish, strict=True):
        assert session.segments == [(0, 30), (30, 60)]
        np.testing.assert_allclose(session.traces[30:], values[:, :, 1], rtol=1e-6)


def test_frames_axis_counts_axes_as_matlab_shows_them(save, traces: np.ndarray) -> None:
    square = traces[:40].repeat(10, axis=1)
    path = save(lambda file: put(file, "dff", square))
    with pytest.raises(RecordingError, match="frames_axis"):
        read(path)
    np.testing.assert_allclose(read(path, Sidecar(frames_axis=0)).traces, square, rtol=1e-6)
    np.testing.assert_allclose(read(path, Sidecar(frames_axis=1)).traces, square.T, rtol=1e-6)


def test_structs_and_rates(save, traces: np.ndarray) -> None:
    def fill(file: h5py.File) -> None:
        put(file, "data/raw", traces)
        put(file, "data/clean", traces + 1)
        put(file, "info/fs", np.array([6.0]))
        file["info/fs"].attrs["MATLAB_class"] = np.bytes_("double")
        put(file, "#refs#/junk", traces)
        text = put(file, "label", np.arange(40).reshape(4, 10).astype(np.uint16))
        text.attrs["MATLAB_class"] = np.bytes_("char")

    path = save(fill)
    with pytest.raises(RecordingError, match=r"data/clean \(50, 4\), data/raw \(50, 4\)\."):
        read(path)
    session = read(path, Sidecar(variable="data.clean"))
    np.testing.assert_allclose(session.traces, traces + 1, rtol=1e-6)
    assert session.rate_hz == 6.0


def test_cells_of_vectors_are_units_and_of_matrices_trials(save, traces: np.ndarray) -> None:
    def cell(file: h5py.File, name: str, items: list[np.ndarray]) -> None:
        references = [put(file, f"#refs#/{name}{i}", item).ref for i, item in enumerate(items)]
        dataset = file.create_dataset(name, data=np.array(references, dtype=h5py.ref_dtype)[:, None])
        dataset.attrs["MATLAB_class"] = np.bytes_("cell")

    np.testing.assert_array_equal(read(save(lambda file: cell(file, "units", list(traces.T)))).traces, traces)
    session = read(save(lambda file: cell(file, "trials", [traces[:30].T, traces[30:].T])))
    np.testing.assert_array_equal(session.traces, traces)
    assert session.segments == [(0, 30), (30, 50)]
    spikes = [np.array([0.5, 2.2, 2.3]), np.array([1.5])]
    counts = read(save(lambda file: cell(file, "spikes", spikes)), Sidecar(bin_s=0.6)).traces
    np.testing.assert_array_equal(counts, [[1, 0], [0, 1], [1, 0]])


def test_sparse_matrix_is_read_dense(save) -> None:
    events = sparse.random(300, 6, 0.01, format="csc", rng=0)

    def fill(file: h5py.File) -> None:
        group = file.create_group("events")
        group.attrs["MATLAB_sparse"] = np.uint64(300)
        for name, values in (("data", events.data), ("ir", events.indices), ("jc", events.indptr)):
            group.create_dataset(name, data=values)

    np.testing.assert_array_equal(read(save(fill)).traces, events.toarray())


def test_large_matrix_is_read_on_demand(save) -> None:
    def fill(file: h5py.File) -> None:
        file.create_dataset("dff", shape=(100, 1_000_000), dtype="f4", chunks=(100, 1000))[:, -3:] = 7.0

    session = read(save(fill))
    assert session.traces.shape == (1_000_000, 100) and not isinstance(session.traces, np.ndarray)
    travelled = pickle.loads(pickle.dumps(session))
    assert (travelled.frames(999_996, 1_000_000) == [[0.0]] + [[7.0]] * 3).all()


def test_links_out_of_the_file_are_not_followed(save, tmp_path: Path, traces: np.ndarray) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["dff"] = traces
    path = save(lambda file: file.__setitem__("dff", h5py.ExternalLink("other.h5", "/dff")))
    with pytest.raises(RecordingError, match="no numeric array"):
        read(path)


@pytest.mark.parametrize("keep", [0.1, 0.4, 0.9])
def test_cut_off_file_gives_one_clear_error(save, traces: np.ndarray, keep: float) -> None:
    path = save(lambda file: put(file, "dff", traces.repeat(40, axis=0)))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(RecordingError, match=r"a\.mat"):
        open_recording(path)


@pytest.mark.parametrize("class_name", ["Sources2D", "table", "string"])
def test_an_object_is_named_by_its_class_and_the_way_out(tmp_path: Path, class_name: str) -> None:
    with new_file(tmp_path / "a.mat") as file:
        dataset = file.create_dataset("neuron", data=np.array([[0xDD000000, 2, 1, 1, 1, 1]], "u4"))
        dataset.attrs["MATLAB_class"] = np.bytes_(class_name)
        dataset.attrs["MATLAB_object_decode"] = np.int32(3)
    with pytest.raises(
        RecordingError, match=rf"neuron is a MATLAB object of class {class_name}.*save"
    ) as caught:
        read_one(stamped(tmp_path / "a.mat"))
    assert "damaged" not in str(caught.value)


def test_complex_numbers_are_named(tmp_path: Path) -> None:
    with new_file(tmp_path / "a.mat") as file:
        file["dff"] = np.zeros((4, 50), dtype=[("real", "f8"), ("imag", "f8")])
    with pytest.raises(RecordingError, match="dff holds complex numbers"):
        read_one(stamped(tmp_path / "a.mat"))
