from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import io

from forebrain.errors import RecordingError
from forebrain.sessions.readers import find_recordings, mat_folder, open_recording
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

BALE = "mat_per_neuron_bale2021"


def test_files_of_one_neuron_each_agree_with_their_twin(
    original_dir: Path, twin: Callable[[str], Session]
) -> None:
    (path,) = find_recordings([original_dir / BALE])
    (session,) = open_recording(path, Sidecar(rate_hz=10.8, segment_frames=41))
    expected = twin("mouse__bale2021_S1__0406_20180409")
    assert session.unit_names == expected.unit_names
    assert session.segments == expected.segments
    np.testing.assert_allclose(session.traces, expected.traces, rtol=1e-6)
    for name in ("stimulus", "behaviour"):
        ours = dict(zip(getattr(session, f"{name}_names"), getattr(session, name).T, strict=True))
        theirs = dict(zip(getattr(expected, f"{name}_names"), getattr(expected, name).T, strict=True))
        assert ours.keys() == theirs.keys()
        for channel, values in ours.items():
            np.testing.assert_array_equal(values, theirs[channel])


def test_segments_that_do_not_divide_the_recording_are_refused(original_dir: Path) -> None:
    with pytest.raises(RecordingError, match="segments of 40 frames"):
        open_recording(original_dir / BALE / "0406_20180409", Sidecar(segment_frames=40))


def test_two_candidates_are_asked_about(tmp_path: Path, traces: np.ndarray) -> None:
    for number, column in enumerate(traces.T):
        io.savemat(tmp_path / f"n{number}.mat", {"F": column, "Fneu": column + 1})
    assert mat_folder.recognises(tmp_path)
    with pytest.raises(RecordingError, match=r"F \(50, 4\), Fneu \(50, 4\)"):
        mat_folder.read(tmp_path, Sidecar())
    (session,) = mat_folder.read(tmp_path, Sidecar(variable="F"))
    np.testing.assert_array_equal(session.traces, traces)
    assert session.unit_names == ("n0", "n1", "n2", "n3")


def test_folders_of_whole_recordings_are_not_one(
    original_dir: Path, tmp_path: Path, traces: np.ndarray
) -> None:
    assert not mat_folder.recognises(original_dir / "mat_seqnmf")
    assert not mat_folder.recognises(original_dir / "mat_events_cellreg_sheintuch2020/C6_M4/Environment A")
    for number in range(3):
        io.savemat(tmp_path / f"session{number}.mat", {"dff": traces, "fs": 3.0})
    assert not mat_folder.recognises(tmp_path)
    assert len(find_recordings([tmp_path])) == 3


def test_vectors_in_every_file_are_inputs_by_their_names_and_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shared = {
        "cue": (np.arange(200) % 40 == 0).astype(float), "contrast": np.repeat([0.0, 0.25], 100),
        "reward": (np.arange(200) % 40 == 9).astype(float), "wheel_speed": rng.random(200),
        "background": rng.random(200), "time": np.arange(200) / 10,
    }  # fmt: skip
    for unit in range(3):
        io.savemat(tmp_path / f"unit_{unit}.mat", {"dff": rng.random(200), **shared})
    (session,) = open_recording(tmp_path)
    assert set(session.stimulus_names) == {"cue", "contrast"}
    assert set(session.behaviour_names) == {"reward", "wheel_speed"}
    assert {each.name: each.kind for each in session.inputs}["cue"] == "event"
    np.testing.assert_array_equal(session.input_values(["contrast"])[:, 0], shared["contrast"])
    assert "background (the same in every file)" in session.metadata["inputs_left_out"]
    (tmp_path / "events.csv").write_text("time,label\n1.05,tap\n2,tap\n")
    (tmp_path / "session.yaml").write_text("rate_hz: 10\ninput_files: events.csv\n")
    assert find_recordings([tmp_path]) == [str(tmp_path)]
    (session,) = open_recording(tmp_path)
    assert np.flatnonzero(session.input_values(["tap"])).tolist() == [10, 20]
