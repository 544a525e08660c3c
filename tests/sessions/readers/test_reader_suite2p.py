from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import io
from writing import assert_values, matlab73, read_all, read_one, stamped

from forebrain.errors import RecordingError
from forebrain.sessions.readers import _selected, find_recordings, open_recording, suite2p
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar


@pytest.mark.parametrize(
    ("folder", "name", "rate_hz"),
    [
        ("suite2p_folder_pynapple", "mouse__pynapple_suite2p__2022_08_08", None),
        ("suite2p_folder_neuronsxnets", "mouse__neuronsxnets_passive__day1_spontaneous", 6.2),
    ],
)
def test_real_folders_equal_their_normalized_twins(
    original_dir: Path, twin: Callable[[str], Session], folder: str, name: str, rate_hz: float | None
) -> None:
    (session,) = open_recording(original_dir / folder, Sidecar(rate_hz=rate_hz))
    expected = twin(name)
    np.testing.assert_array_equal(session.frames(0, session.num_frames), expected.traces)
    assert (session.rate_hz, session.signal) == (expected.rate_hz, expected.signal)


def write(folder: Path, traces: np.ndarray, is_cell: np.ndarray | None, neuropil: bool = True) -> Path:
    """A suite2p folder whose arrays are [ROIs, frames]."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "F.npy", traces.T)
    if neuropil:
        np.save(folder / "Fneu.npy", np.full(traces.T.shape, 2.0))
    if is_cell is not None:
        np.save(folder / "iscell.npy", is_cell)
    return folder


IS_CELL = np.array([[1, 0.9], [0, 0.1], [1, 0.8], [1, 0.7]])


def test_only_cells_are_units_and_neuropil_is_subtracted(tmp_path: Path, traces: np.ndarray) -> None:
    (session,) = open_recording(write(tmp_path / "a", traces, IS_CELL))
    np.testing.assert_allclose(session.frames(5, 9), traces[5:9, [0, 2, 3]] - 1.4, rtol=1e-5)
    assert session.unit_names == ("roi0", "roi2", "roi3")
    assert session.rate_hz is None


def test_pickles_in_the_folder_are_never_opened(tmp_path: Path, traces: np.ndarray) -> None:
    folder = write(tmp_path / "a", traces, IS_CELL)
    trap = pickle.dumps(Trap(str(tmp_path / "sprung")))
    (folder / "ops.npy").write_bytes(b"\x93NUMPY" + trap)
    (folder / "stat.npy").write_bytes(trap)
    np.save(folder / "spks.npy", np.array([{}], dtype=object), allow_pickle=True)
    open_recording(folder)
    (folder / "F.npy").write_bytes(trap)
    with pytest.raises(RecordingError, match=r"F\.npy"):
        open_recording(folder)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (self.path, "w"))


def test_without_iscell_and_neuropil_every_roi_is_read_and_it_is_said(
    tmp_path: Path, traces: np.ndarray
) -> None:
    (session,) = open_recording(write(tmp_path / "a", traces, None, neuropil=False))
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))
    assert session.signal == "F (suite2p)"
    assert "every ROI" in session.metadata["cells"]
    assert "not subtracted" in session.metadata["neuropil"]


def test_transposed_arrays_are_told_by_iscell(tmp_path: Path, traces: np.ndarray) -> None:
    folder = write(tmp_path / "a", traces.T, IS_CELL, neuropil=False)
    (session,) = open_recording(folder)
    np.testing.assert_allclose(session.frames(0, 50), traces[:, [0, 2, 3]], rtol=1e-6)


def test_planes_are_recordings_of_one_animal_named_by_the_folder_above(
    tmp_path: Path, traces: np.ndarray
) -> None:
    for plane in ("plane0", "plane1"):
        write(tmp_path / "mouse1" / "day2" / "suite2p" / plane, traces, IS_CELL)
    found = find_recordings([tmp_path])
    assert [Path(path).name for path in found] == ["plane0", "plane1"]
    assert [open_recording(path)[0].id for path in found] == [
        "mouse1/day2/day2_plane0",
        "mouse1/day2/day2_plane1",
    ]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: np.save(folder / "iscell.npy", np.zeros((4, 2))), "none of 4 ROIs"),
        (lambda folder: np.save(folder / "iscell.npy", np.ones((7, 2))), "7 rows"),
        (lambda folder: np.save(folder / "Fneu.npy", np.ones((4, 49))), "Fneu.npy"),
        (lambda folder: (folder / "F.npy").write_bytes(b""), "F.npy"),
        (lambda folder: (folder / "F.npy").write_bytes((folder / "F.npy").read_bytes()[:300]), "F.npy"),
        (lambda folder: np.save(folder / "F.npy", np.ones(5)), r"shape \(5,\)"),
        (lambda folder: np.save(folder / "F.npy", np.full((4, 50), "a")), "expected numbers"),
        (lambda folder: (folder / "iscell.npy").write_text("<html>"), "iscell.npy"),
    ],
)
def test_damage_is_one_clear_error(
    tmp_path: Path, traces: np.ndarray, damage: Callable[[Path], object], words: str
) -> None:
    folder = write(tmp_path / "a", traces, IS_CELL)
    damage(folder)
    with pytest.raises(RecordingError, match=words):
        open_recording(folder)


def test_large_recordings_are_read_by_slices_and_travel_between_processes(
    tmp_path: Path, traces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selected, "MAX_LOADED_BYTES", 0)
    (session,) = suite2p.read(write(tmp_path / "a", traces, IS_CELL), Sidecar())
    assert not isinstance(session.traces, np.ndarray)
    travelled = pickle.loads(pickle.dumps(session))
    np.testing.assert_allclose(travelled.frames(3, 7), traces[3:7, [0, 2, 3]] - 1.4, rtol=1e-5)


def test_combined_planes_count_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((200, 5)), rng.random((200, 4))
    folder = tmp_path / "fish" / "suite2p"
    for name, values in (("plane0", first), ("plane1", second), ("combined", np.hstack([first, second]))):
        write(folder / name, values, np.ones((values.shape[1], 2)))
    sessions, errors = read_all(tmp_path)
    assert [session.num_units for session in sessions] == [5, 4] and not errors
    assert {session.subject for session in sessions} == {"fish"}
    assert read_one(folder / "combined").num_units == 9  # where it is named itself


def test_without_f_the_deconvolved_activity_of_the_cells_is_read_and_it_is_said(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((200, 4))
    folder = write(tmp_path / "plane0", values, IS_CELL)
    np.save(folder / "spks.npy", values.T)
    np.save(folder / "redcell.npy", IS_CELL)
    (folder / "F.npy").unlink()
    (session,), errors = read_all(tmp_path)
    assert not errors
    assert_values(session, values[:, [0, 2, 3]])
    assert session.signal == "spks (suite2p)"
    assert session.metadata["cells"] == "3 of 4 ROIs are cells (iscell.npy)"
    assert session.metadata["traces"].startswith("there is no F.npy: spks.npy is read")


def test_the_sidecar_names_what_is_read_of_the_cells(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((200, 4))
    folder = write(tmp_path / "a", values, IS_CELL)
    np.save(folder / "spks.npy", values.T + 5)
    raw = read_one(folder, variable="F")
    assert_values(raw, values[:, [0, 2, 3]])
    assert raw.metadata["neuropil"] == "not subtracted: the sidecar names F"
    assert_values(read_one(folder, variable="spks"), values[:, [0, 2, 3]] + 5)
    with pytest.raises(RecordingError, match="it has F, Fneu, spks"):
        read_one(folder, variable="dff")


@pytest.mark.parametrize("generation", ["v5", "v7.3"])
@pytest.mark.parametrize("factor", [None, 0.5, np.nan])
def test_fall_mat_is_read_as_its_folder_is(tmp_path: Path, generation: str, factor: float | None) -> None:
    values = np.random.default_rng(0).random((200, 4)) + 5
    ops: dict[str, Any] = {"fs": 7.5, "meanImg": np.ones((64, 64))}
    ops |= {} if factor is None else {"neucoeff": factor}
    arrays = {"F": values.T, "Fneu": values.T / 2, "spks": values.T * 0, "iscell": IS_CELL}
    path = tmp_path / "Fall.mat"
    if generation == "v5":
        stat = np.array([{"npix": 5}] * 4, object)
        io.savemat(path, {**arrays, "ops": ops, "stat": stat})
    else:
        with matlab73(path) as file:
            for name, value in {**arrays, **{f"ops/{name}": value for name, value in ops.items()}}.items():
                file[name] = np.atleast_2d(value).T
        stamped(path)
    session = read_one(path)
    cells = values[:, [0, 2, 3]]
    assert_values(session, cells - (0.5 if factor == 0.5 else 0.7) * cells / 2, rtol=1e-5)
    assert session.rate_hz == 7.5 and session.metadata["rate_from"] == "ops/fs"
    assert session.unit_names == ("roi0", "roi2", "roi3")
    assert session.metadata["cells"] == "3 of 4 ROIs are cells (iscell)"
    raw = read_one(path, variable="F")
    assert_values(raw, cells)
    assert raw.metadata["neuropil"] == "not subtracted: the sidecar names F"
