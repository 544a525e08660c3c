from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import io, sparse

from forebrain.errors import RecordingError
from forebrain.sessions.readers import matlab, open_recording
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

SHEINTUCH = "mat_events_cellreg_sheintuch2020/C6_M4/Environment A"


def read(path: Path, sidecar: Sidecar = Sidecar()) -> Session:  # noqa: B008 (frozen)
    assert matlab.recognises(path)
    (session,) = matlab.read(path, sidecar)
    return session


def saved(folder: Path, **content: Any) -> Path:
    io.savemat(folder / "a.mat", content, do_compression=True)
    return folder / "a.mat"


def cells(items: list[np.ndarray]) -> np.ndarray:
    array = np.empty((1, len(items)), dtype=object)
    for position, item in enumerate(items):
        array[0, position] = item
    return array


@pytest.mark.parametrize(
    ("file", "given", "name"),
    [
        (
            "mat_v5_cascade_allen/Experiment_552195520_excerpt.mat",
            Sidecar(rate_hz=30.0),
            "mouse__allen_visual_coding_cascade__exp552195520_excerpt",
        ),
        ("mat_seqnmf/MackeviciusData.mat", Sidecar(), "zebrafinch__mackevicius2019_seqnmf__isolate_bird"),
        (f"{SHEINTUCH}/finalEventsMat_1.mat", Sidecar(), "mouse__sheintuch2020_CA1__C6_M4_envA_s1"),
        (f"{SHEINTUCH}/finalEventsMat_2.mat", Sidecar(), "mouse__sheintuch2020_CA1__C6_M4_envA_s2"),
    ],
)
def test_shipped_files_agree_with_their_twins(
    original_dir: Path, twin: Callable[[str], Session], file: str, given: Sidecar, name: str
) -> None:
    session, expected = read(original_dir / file, given), twin(name)
    np.testing.assert_allclose(session.traces, expected.traces, rtol=1e-6)
    if given != Sidecar():
        assert session.rate_hz == pytest.approx(expected.rate_hz)


def test_binned_spikes_agree_with_their_twin(original_dir: Path, twin: Callable[[str], Session]) -> None:
    session = read(original_dir / "spikes_mat_nelpy" / "spikes.mat", Sidecar(bin_s=0.1))
    expected = twin("rat__nelpy_hippocampus_spikes__linear-track")
    traces = session.traces[:, session.traces.sum(axis=0) > 50]  # the twin lacks two units of few spikes
    assert session.num_units == 31 and session.rate_hz == 10.0
    np.testing.assert_allclose(session.time_s, expected.time_s)
    assert (traces != expected.traces).mean() < 1e-4  # spikes within rounding of an edge


def test_spike_times_need_a_bin_width(original_dir: Path) -> None:
    with pytest.raises(RecordingError, match=r"spikes/time.*bin_s"):
        read(original_dir / "spikes_mat_nelpy" / "spikes.mat")


@pytest.mark.parametrize("name", ["behavior_1.mat", "cell_registration.mat"])
def test_files_of_other_things_are_refused(original_dir: Path, name: str) -> None:
    with pytest.raises(RecordingError, match=name):
        open_recording(original_dir / SHEINTUCH / name)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_only_matrix_is_taken_whatever_its_name(
    tmp_path: Path, traces: np.ndarray, dtype: type, transposed: bool
) -> None:
    values = (traces * 100).astype(dtype)
    path = saved(
        tmp_path, CaTraces=values.T if transposed else values, fs=15.0, labels="abc", ids=np.arange(4)
    )
    session = read(path)
    np.testing.assert_array_equal(session.traces, values)
    assert session.rate_hz == 15.0 and session.metadata["variable"] == "CaTraces"


def test_sparse_matrix_is_read_dense(tmp_path: Path) -> None:
    events = sparse.random(300, 6, 0.01, format="csc", rng=0)
    np.testing.assert_array_equal(read(saved(tmp_path, events=events)).traces, events.toarray())


def test_matrix_in_nested_structs_is_named_by_its_path(tmp_path: Path, traces: np.ndarray) -> None:
    path = saved(tmp_path, data={"raw": {"F": traces, "Fneu": traces + 1}, "info": {"rate_hz": 7.0}})
    with pytest.raises(RecordingError, match=r"data/raw/F \(50, 4\), data/raw/Fneu \(50, 4\).*variable"):
        read(path)
    for name in ("data/raw/Fneu", "data.raw.Fneu"):
        session = read(path, Sidecar(variable=name))
        np.testing.assert_array_equal(session.traces, traces + 1)
        assert session.rate_hz == 7.0
    with pytest.raises(RecordingError, match="no numeric array is called data/G"):
        read(path, Sidecar(variable="data/G"))


def test_dff_goes_before_other_matrices(tmp_path: Path, traces: np.ndarray) -> None:
    session = read(saved(tmp_path, F=traces + 9, dF_F=traces, speed=np.ones((1, 50))))
    np.testing.assert_array_equal(session.traces, traces)


def test_cells_or_struct_elements_of_vectors_are_units(tmp_path: Path, traces: np.ndarray) -> None:
    path = saved(tmp_path, cells=cells([column[None] for column in traces.T]))
    np.testing.assert_array_equal(read(path).traces, traces)
    neurons = np.zeros((1, 4), dtype=[("trace", object), ("id", object)])
    for position in range(4):
        neurons[0, position] = (traces[:, position], position)
    np.testing.assert_array_equal(read(saved(tmp_path, neurons=neurons)).traces, traces)


def test_cells_of_matrices_are_trials(tmp_path: Path, traces: np.ndarray) -> None:
    path = saved(tmp_path, trials=cells([traces[:20].T, traces[20:50].T]))
    session = read(path)
    np.testing.assert_array_equal(session.traces, traces)
    assert session.segments == [(0, 20), (20, 50)]


def test_events_are_counted_in_bins(tmp_path: Path) -> None:
    path = saved(tmp_path, units=cells([np.array([1.0, 1.1, 3.4]), np.array([]), np.array([2.0, 4.0])]))
    session = read(path, Sidecar(bin_s=1.0))
    np.testing.assert_array_equal(session.traces, [[2, 0], [0, 1], [1, 0]])
    np.testing.assert_array_equal(session.time_s, [1.0, 2.0, 3.0])
    assert session.rate_hz == 1.0


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>" * 10, b"MATLAB 5.0 MAT-file" + b"\0" * 300]
)
def test_damaged_files_give_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(RecordingError, match=r"a\.mat"):
        open_recording(tmp_path / "a.mat")


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_cut_off_file_gives_one_clear_error(tmp_path: Path, traces: np.ndarray, keep: float) -> None:
    path = saved(tmp_path, traces=traces)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(RecordingError, match=r"a\.mat"):
        open_recording(path)


def test_what_would_unpack_beyond_memory_is_refused(
    tmp_path: Path, traces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebrain.sessions.readers._common.MAX_WHOLE_BYTES", 1000)
    with pytest.raises(RecordingError, match="read whole"):
        read(saved(tmp_path, traces=np.zeros_like(traces)))


# Messages.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"dff": np.ones((50, 4)) + 0j}, "dff holds complex numbers"),
        ({"dff": np.ones((4, 50, 6))}, "dff has three axes, 4 x 50 x 6"),
        ({"note": "words"}, "no numeric array"),
    ],
)
def test_what_cannot_be_read_is_named_and_not_called_damaged(
    tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecordingError, match=words) as caught:
        read(saved(tmp_path, **content))
    assert "damaged" not in str(caught.value)
