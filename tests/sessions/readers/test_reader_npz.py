from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebrain.commands import main
from forebrain.errors import RecordingError
from forebrain.sessions.inputs import Input
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers import npz, open_recording
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar


def test_every_normalized_recording_is_read(normalized_dir: Path) -> None:
    paths = sorted(normalized_dir.glob("*.npz"))
    assert len(paths) == 70
    ids = set()
    for path in paths:
        assert npz.recognises(path)
        (session,) = npz.read(path, Sidecar())
        assert "identity_note" not in session.metadata
        ids.add(session.id)
    assert len(ids) == 70


def test_layout_fields_arrive_in_the_session(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    np.savez(
        path, traces=traces, fs=5, species="mouse", subject=7, session=b"s", source="lab", signal="dff",
        segment_id=np.repeat([1, 2], 25), time=np.arange(50) / 5, unit_names=["a", "b", "c", "d"],
        unit_positions=np.ones((4, 3)), brain_region="V1", stimulus=np.ones((50, 1), int),
        stimulus_names=["on"], note="kept", something_else=np.ones(3),
    )  # fmt: skip
    (session,) = npz.read(path, Sidecar())
    assert (session.id, session.species, session.rate_hz, session.signal) == ("lab/7/s", "mouse", 5.0, "dff")
    assert session.segments == [(0, 25), (25, 50)]
    assert session.unit_names == ("a", "b", "c", "d")
    assert session.brain_regions == ("V1",) * 4
    assert session.stimulus.dtype == np.float32
    assert session.metadata["note"] == "kept"
    np.testing.assert_array_equal(session.traces, traces)


def test_several_subjects_where_one_belongs_are_an_error(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, traces=traces, fs=5, subject=["m1", "m1"])
    assert npz.read(path, Sidecar())[0].subject == "m1"
    np.savez(path, traces=traces, fs=5, subject=["m1", "m2"])
    with pytest.raises(RecordingError, match=r"a\.npz: subject holds 2 names, 'm1' and 'm2'.*sidecar"):
        npz.read(path, Sidecar())
    assert npz.read(path, Sidecar(subject="pair"))[0].subject == "pair"


def test_traces_alone_are_enough_and_identity_is_said_to_be_guessed(
    tmp_path: Path, traces: np.ndarray
) -> None:
    path = tmp_path / "mouse7.day2.npz"
    np.savez_compressed(path, traces=traces.astype(np.int16), fs=np.nan)
    (session,) = npz.read(path, Sidecar())
    assert session.id == f"{tmp_path.name}/mouse7.day2/mouse7.day2"
    assert session.rate_hz is None and session.species == "unknown"
    assert session.metadata["identity_note"] == "identity guessed from the file name"


@pytest.mark.parametrize("companion", [{"segment_id": np.zeros(50, int)}, {"unit_names": list("abcd")}])
def test_layout_with_units_in_rows_is_told_by_other_lengths(
    tmp_path: Path, traces: np.ndarray, companion: dict[str, object]
) -> None:
    np.savez(tmp_path / "a.npz", traces=traces.T, **companion)
    np.testing.assert_array_equal(npz.read(tmp_path / "a.npz", Sidecar())[0].traces, traces)


def test_layout_that_seems_to_have_units_in_rows_is_asked_about(tmp_path: Path, traces: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", traces=traces.T)
    with pytest.raises(RecordingError, match="frames_axis"):
        npz.read(tmp_path / "a.npz", Sidecar())
    assert npz.read(tmp_path / "a.npz", Sidecar(frames_axis=0))[0].traces.shape == (4, 50)


def test_sidecar_goes_over_the_file(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, traces=traces.T, fs=5.0, species="mouse")
    given = Sidecar(frames_axis=1, rate_hz=8.0, species="rat", signal="raw", segment_frames=25)
    (session,) = npz.read(path, given)
    assert (session.traces.shape, session.rate_hz, session.species, session.signal) == (
        (50, 4),
        8.0,
        "rat",
        "raw",
    )
    assert session.segments == [(0, 25), (25, 50)]
    (session,) = npz.read(path, Sidecar(frames_axis=1, segment_frames=(10, 40)))
    assert session.segments == [(0, 10), (10, 50)]


def test_saved_session_comes_back(tmp_path: Path, traces: np.ndarray) -> None:
    saved = Session(traces.astype(np.float32), 5.0, "mouse", "m", "s", "lab", unit_names=("a", "b", "c", "d"))
    saved.save(tmp_path / "a.npz")
    (session,) = npz.read(tmp_path / "a.npz", Sidecar(subject="other"))
    assert session.id == "lab/other/s" and session.unit_names == saved.unit_names
    np.testing.assert_array_equal(session.traces, saved.traces)


def test_the_sidecar_goes_over_a_saved_session_too(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    Session(traces.astype(np.float32), 5.0, "mouse", "m", "s", "lab").save(path)
    given = Sidecar(segment_frames=(10, 40), conditions={"dots": ((20, 30),)}, licence="MIT", rate_hz=8.0)
    (session,) = npz.read(path, given)
    assert session.segments == [(0, 10), (10, 20), (20, 30), (30, 50)]
    assert session.condition_ranges == {"dots": [(20, 30)]}
    assert session.metadata == {"licence": "MIT", "rate_from": "the sidecar"}
    with pytest.raises(RecordingError, match="segments of 20 frames"):
        npz.read(path, Sidecar(segment_frames=20))


def test_a_sidecars_axes_and_unit_of_time_hold_in_the_layout(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, traces=traces.T, time=np.arange(50) * 250)
    (session,) = npz.read(path, Sidecar(axes=("units", "frames"), time_unit="ms"))
    assert session.rate_hz == 4.0
    np.testing.assert_array_equal(session.traces, traces)
    with pytest.raises(RecordingError, match="traces have two axes"):
        npz.read(path, Sidecar(axes=("units", "frames", "trials")))


@pytest.mark.parametrize("is_saved", [False, True])
def test_inspect_tells_what_of_a_sidecar_means_nothing(
    tmp_path: Path, traces: np.ndarray, is_saved: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.npz"
    if is_saved:
        Session(traces.astype(np.float32), 5.0, "mouse", "m", "s", "lab").save(path)
    else:
        np.savez(path, traces=traces, fs=5.0)
    (tmp_path / "session.yaml").write_text("columns: [a]\ntime_column: t\n")
    assert main(["inspect", str(path)]) == 0
    words = "not heeded, since it means nothing in this format: the sidecar's columns, time_column"
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    "labels",
    [[0.0, 0.25, 0.5, 0.5], ["a", "b", "a", "a"], [0, 2**32, 2**33, 2**33], [np.nan, 1.0, np.nan, np.nan]],
)
def test_segments_of_any_labels_stay_apart(tmp_path: Path, traces: np.ndarray, labels: list[object]) -> None:
    np.savez(tmp_path / "a.npz", traces=traces, fs=5.0, segment_id=np.repeat(labels, [10, 10, 10, 20]))
    (session,) = open_recording(tmp_path / "a.npz")
    assert session.segments == [(0, 10), (10, 20), (20, 50)]


def test_arrays_of_one_column_are_values_of_frames(tmp_path: Path, traces: np.ndarray) -> None:
    split = np.repeat([0, 1, 2], [30, 10, 10])[:, None]
    time, segment_id = np.arange(50.0)[None], np.repeat([3, 4], 25)[:, None]
    np.savez(tmp_path / "a.npz", traces=traces, split=split, time=time, segment_id=segment_id)
    (session,) = open_recording(tmp_path / "a.npz")
    assert session.split.tolist() == split.ravel().tolist()
    assert session.rate_hz == 1.0 and session.segments == [(0, 25), (25, 50)]


def test_the_rate_has_either_name_and_two_that_differ_are_a_question(tmp_path: Path) -> None:
    traces = np.random.default_rng(0).normal(size=(20, 3))
    for rates in ({"rate_hz": 4.0}, {"fs": 4.0}, {"fs": 4.0, "rate_hz": np.float32(4)}):
        np.savez(tmp_path / "worm.npz", traces=traces, **rates)
        (session,) = open_recording(tmp_path / "worm.npz")
        assert session.rate_hz == 4 and session.metadata["rate_from"] == " and ".join(rates)
    np.savez(tmp_path / "worm.npz", traces=traces, fs=4.0, rate_hz=5.0)
    with pytest.raises(RecordingQuestion, match=r"fs and rate_hz is 4\.0, 5\.0; expected one number"):
        open_recording(tmp_path / "worm.npz")


@pytest.mark.parametrize("fs", [[5.0, 10.0], 5 + 1j, "fast"])
def test_a_rate_that_is_not_one_number_is_asked_about(tmp_path: Path, traces: np.ndarray, fs: object) -> None:
    np.savez(tmp_path / "a.npz", traces=traces, fs=fs)
    with pytest.raises(RecordingQuestion, match=r"fs is .*expected one number"):
        open_recording(tmp_path / "a.npz")
    (session,) = npz.read(tmp_path / "a.npz", Sidecar(rate_hz=7.0))
    assert session.rate_hz == 7.0


def test_the_only_matrix_of_another_archive_is_taken(original_dir: Path, twin) -> None:
    (session,) = npz.read(original_dir / "npz_kato2015" / "raw_full_data_worm_1.npz", Sidecar(rate_hz=2.9046))
    np.testing.assert_allclose(session.traces, twin("celegans__kato2015__worm1").traces, rtol=1e-6)


def test_sidecar_names_one_of_several_matrices(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, F=(traces * 100).astype(np.int16), spks=traces.T, fs=12, ids=np.arange(4))
    with pytest.raises(RecordingError, match=r"F \(50, 4\), spks \(4, 50\)"):
        npz.read(path, Sidecar())
    (session,) = npz.read(path, Sidecar(variable="spks"))
    np.testing.assert_array_equal(session.traces, traces)
    assert session.rate_hz == 12.0


def test_sparse_matrix_is_read_dense(tmp_path: Path) -> None:
    from scipy import sparse

    events = sparse.random(300, 6, 0.01, format="csc", rng=0)
    sparse.save_npz(tmp_path / "events.npz", events)
    (session,) = npz.read(tmp_path / "events.npz", Sidecar())
    np.testing.assert_array_equal(session.traces, events.toarray())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("npz_kato2015/known_neurons.npz", "no numeric array"),
        (
            "extra_celegans_stim_response_atlas/randi2023_funatlas_wt.npz",
            "several arrays could be the traces",
        ),
    ],
)
def test_what_is_no_recording_is_refused(original_dir: Path, name: str, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        npz.read(original_dir / name, Sidecar())


def test_pickled_arrays_are_never_loaded(tmp_path: Path, traces: np.ndarray) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    pickled = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "names.npz", traces=traces, unit_names=pickled)
    (session,) = npz.read(tmp_path / "names.npz", Sidecar())
    assert session.unit_names is None and "unit_names" in session.metadata["unread"]
    np.savez(tmp_path / "traces.npz", traces=pickled)
    with pytest.raises(RecordingError, match="traces holds no numbers"):
        npz.read(tmp_path / "traces.npz", Sidecar())
    assert not (tmp_path / "executed").exists()


def test_cut_off_archive_is_told(tmp_path: Path, traces: np.ndarray) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, traces=traces)
    path.write_bytes(path.read_bytes()[:-40])
    assert npz.recognises(path)
    with pytest.raises(RecordingError, match="cut off"):
        npz.read(path, Sidecar())


def test_what_would_unpack_beyond_memory_is_refused(
    tmp_path: Path, traces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebrain.sessions.readers._common.MAX_WHOLE_BYTES", 1000)
    np.savez_compressed(tmp_path / "a.npz", traces=np.zeros_like(traces))
    with pytest.raises(RecordingError, match="read whole"):
        npz.read(tmp_path / "a.npz", Sidecar())


def test_the_layout_states_parts_repetitions_kinds_and_units(tmp_path):
    path = tmp_path / "a.npz"
    known = {
        "traces": np.random.default_rng(0).normal(size=(50, 4)), "fs": 5.0,
        "stimulus": np.ones((50, 2)), "stimulus_names": ["tap", "laser[3]"],
        "stimulus_kinds": ["event", "pattern"], "stimulus_units": ["", "mW"],
        "behaviour": np.ones((50, 1)), "behaviour_names": ["speed"], "behaviour_units": ["mm/s"],
        "split": np.repeat([0, 1, 2], [30, 10, 10]), "repetition": np.arange(50) // 25,
        "valid_frames": [5, 45],
    }  # fmt: skip
    np.savez(path, **known)
    (session,) = open_recording(path)
    assert session.inputs == (
        Input("tap", "event"),
        Input("laser[3]", "pattern", "mW"),
        Input("speed", "level", "mm/s", can_be_planned=False),
    )
    assert session.split.tolist() == [-1] * 5 + [0] * 25 + [1] * 10 + [2] * 5 + [-1] * 5
    assert session.repetition.tolist() == [0] * 25 + [1] * 25
    assert session.metadata["valid_frames"] == "5 to 45; the split leaves out all others"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stimulus_kinds": ["event", "level"]}, "stimulus_kinds has 2 entries; expected one for each of 1"),
        ({"stimulus_kinds": ["pulse"]}, "input_kinds has pulse"),
        ({"split": np.full(50, 7)}, r"split has the values \[7\]"),
        ({"split": np.zeros(40)}, "split has 40 entries; expected 50"),
        ({"split": np.full(50, 0.6)}, r"split holds \[0.6, .*expected whole numbers"),
        ({"split": np.where(np.arange(50) < 9, np.nan, 0)}, r"split holds \[nan, .*expected whole numbers"),
        ({"split": np.zeros((50, 2), int)}, r"split has shape \(50, 2\); expected \(50,\)"),
        ({"time": ["a"] * 50}, "time holds values of type <U1; expected numbers"),
        ({"valid_frames": [0.5, 5]}, r"valid_frames is \[0.5, 5.0\]"),
        ({"valid_frames": [0, 51]}, r"valid_frames is \[0, 51\]; expected two of 50 frames"),
        ({"valid_frames": [45, 5]}, r"valid_frames is \[45, 5\]"),
    ],
)
def test_what_the_layout_says_wrong_of_inputs_is_refused(tmp_path, fields, words):
    path = tmp_path / "a.npz"
    known = {"traces": np.ones((50, 4)), "stimulus": np.ones((50, 1)), "stimulus_names": ["tap"]}
    np.savez(path, **{**known, **fields})
    with pytest.raises(RecordingError, match=words):
        open_recording(path)


def test_channels_without_names_are_numbered(tmp_path):
    path = tmp_path / "a.npz"
    known = {"traces": np.random.default_rng(0).normal(size=(50, 4)), "fs": 5.0}
    np.savez(path, **known, stimulus=np.arange(50), behaviour=np.ones((50, 2)))
    (session,) = open_recording(path)
    assert session.stimulus_names == ("stimulus",) and session.stimulus.shape == (50, 1)
    assert session.behaviour_names == ("behaviour/0", "behaviour/1")
