"""Whatever lies in a folder: each recording goes to its reader, anything else is one clear error."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import io

from forebrain.errors import RecordingError
from forebrain.sessions.readers import find_recordings, open_recording, reader_name
from forebrain.sessions.sidecar import Sidecar


def _h5(path: Path, traces: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["traces"] = traces


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "npz": lambda path, traces: np.savez_compressed(path, traces=traces, species="mouse"),
    "npy": np.save,
    "matlab": lambda path, traces: io.savemat(path, {"traces": traces}, do_compression=True),
    "hdf5": _h5,
    "csv_table": lambda path, traces: np.savetxt(path, traces, delimiter=",", header="a,b,c,d", comments=""),
    "json_table": lambda path, traces: path.write_text(str(traces.tolist())) and None,
}
SUFFIXES = dict(zip(WRITERS, (".npz", ".npy", ".mat", ".h5", ".csv", ".json"), strict=True))


def written(folder: Path, name: str, traces: np.ndarray) -> Path:
    path = folder / f"recording{SUFFIXES[name]}"
    WRITERS[name](path, traces)
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_format_is_told_by_content_not_by_name(tmp_path: Path, traces: np.ndarray, name: str) -> None:
    path = written(tmp_path, name, traces).rename(tmp_path / "recording.dat")
    assert reader_name(path) == name
    (session,) = open_recording(path, Sidecar(rate_hz=4.0))
    np.testing.assert_allclose(session.frames(0, 50), traces, rtol=1e-6)
    assert session.rate_hz == 4.0


@pytest.mark.parametrize("name", ["npy", "matlab", "hdf5", "json_table"])
def test_an_array_that_was_guessed_to_be_turned_says_so(
    tmp_path: Path, traces: np.ndarray, name: str
) -> None:
    path = written(tmp_path, name, traces.T)
    (session,) = open_recording(path)
    assert "4 x 50 was read as 50 frames of 4 units" in session.metadata["orientation_note"]
    (session,) = open_recording(path, Sidecar(frames_axis=1))
    assert "orientation_note" not in session.metadata
    (session,) = open_recording(written(tmp_path, name, traces))
    assert "orientation_note" not in session.metadata


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_are_read_or_are_one_clear_error(tmp_path: Path, traces: np.ndarray, name: str) -> None:
    path = written(tmp_path, name, traces)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    damaged = [bytes(content[: int(share * len(content))]) for share in np.linspace(0, 0.99, 25)]
    for _ in range(50):
        hurt = content.copy()
        for position in rng.integers(0, len(hurt), 8):
            hurt[position] = rng.integers(256)
        damaged.append(bytes(hurt))
    for other in damaged:
        path.write_bytes(other)
        try:
            open_recording(path)[0].frames(0, 5)
        except RecordingError as error:
            assert str(path) in str(error)
        except OSError:
            assert name == "hdf5"  # found when the frames are read; repair names the file then


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (pickle.dumps({"traces": [1.0, 2.0]}), "pickle"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old Excel .*xlsx or CSV"),
        (bytes(range(256)) * 10, "no format that is known"),
        (b"words, and more words\n" * 5, "no format that is known"),
    ],
)
def test_what_is_no_recording_is_called_by_its_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "recording.npz"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=words):
        open_recording(path)


def test_folders_are_searched_and_what_is_no_data_is_passed_over(tmp_path: Path, traces: np.ndarray) -> None:
    (tmp_path / "day1").mkdir()
    expected = [written(tmp_path, "npz", traces), written(tmp_path / "day1", "csv_table", traces)]
    for name in (
        "README.md",
        "session.yaml",
        "recording.npz.session.yaml",
        ".hidden.npz",
        "figure.png",
        "~$a.xlsx",
    ):
        (tmp_path / name).write_text("rate_hz: 3\n")
    assert find_recordings([tmp_path]) == sorted(map(str, expected))
    assert find_recordings([tmp_path, expected[0]]) == sorted(map(str, expected))


def test_nearer_sidecars_go_first(tmp_path: Path, traces: np.ndarray) -> None:
    path = written(tmp_path, "npy", traces)
    (tmp_path / "session.yaml").write_text("rate_hz: 3\nspecies: mouse\n")
    (tmp_path / "recording.npy.session.json").write_text('{"rate_hz": 5, "subject": "m1"}')
    (session,) = open_recording(path, Sidecar(signal="dff"))
    assert (session.rate_hz, session.species, session.subject, session.signal) == (5.0, "mouse", "m1", "dff")


def test_missing_paths_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="nothing is there"):
        find_recordings([tmp_path / "absent"])
    with pytest.raises(RecordingError, match="no recording found"):
        find_recordings([tmp_path])
    with pytest.raises(RecordingError, match="nothing is there"):
        open_recording(tmp_path / "absent.npz")
