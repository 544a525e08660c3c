"""Tables of inputs that a sidecar file names: events, stretches of time and channels, on their own clock."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from forebrain.errors import RecordingError
from forebrain.sessions.inputs import Input
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers import find_recordings, open_recording
from forebrain.shards.recordings import sha256_of


@pytest.fixture
def opened(tmp_path):
    """Writes a recording of 100 frames at 5 Hz with a table of inputs, and opens it."""

    def open_it(text, *, table=None, inputs=None, **recording):
        fields = {"traces": np.random.default_rng(0).normal(size=(100, 4)), "fs": 5.0, **recording}
        np.savez(tmp_path / "a.npz", **{key: value for key, value in fields.items() if value is not None})
        (tmp_path / "in.csv").write_text(text)
        said = {"input_files": [{"file": "in.csv", **(table or {})}]}
        if inputs:
            said["inputs"] = inputs
        (tmp_path / "a.session.yaml").write_text(yaml.safe_dump(said))
        (session,) = open_recording(tmp_path / "a.npz")
        return session

    return open_it


def nonzero(session, name):
    values = session.input_values([name])[:, 0]
    return {int(frame): float(values[frame]) for frame in np.flatnonzero(values)}


def test_labels_name_events_and_fall_into_the_frames_that_last_then(opened):
    session = opened("time,label\n0.0,tap\n1.05,tap\n1.1,tap\n2.39,tone\n-1,tone\n25,tone\n")
    assert session.inputs == (Input("tap", "event"), Input("tone", "event"))
    assert nonzero(session, "tap") == {0: 1, 5: 2}
    assert nonzero(session, "tone") == {11: 1}
    assert (
        session.metadata["inputs_from"] == "tap: in.csv, 3 of 3 marks in frames; "
        "tone: in.csv, 1 of 3 marks in frames"
    )
    assert session.metadata["inputs_outside"] == "tone (2)"


def test_stretches_last_and_cover_frames_by_their_share(opened):
    session = opened("onset,offset,odour,reward\n1.0,2.1,3,1\n10,12,7,0\n")
    assert session.inputs == (
        Input("in", "level"),
        Input("odour", "level"),
        Input("reward", "event", can_be_planned=False),
    )
    odour = session.input_values(["odour"])[:, 0]
    np.testing.assert_allclose(odour[4:12], [0, 3, 3, 3, 3, 3, 1.5, 0], atol=1e-5)
    assert odour[50:60].tolist() == [7] * 10
    assert nonzero(session, "reward") == {10: 1}  # where the row ends: not known before


def test_durations_in_another_unit(opened):
    session = opened("onset_ms,duration_ms,light\n1000,1000,2\n5000,400,2\n")
    assert nonzero(session, "light") == dict.fromkeys((5, 6, 7, 8, 9, 25, 26), 2)


def test_channels_are_averaged_within_frames_or_held(opened):
    times = np.arange(0, 20, 0.05)
    fast = "".join(f"{time:.3f},{time:.3f}\n" for time in times)
    session = opened(f"time_s,lux\n{fast}")
    assert session.inputs[0].kind == "level"
    np.testing.assert_allclose(session.input_values(["lux"])[:3, 0], [0.075, 0.275, 0.475], atol=1e-5)
    slow = "".join(f"{time:.3f},{time:.3f}\n" for time in np.arange(0, 20, 0.4))
    session = opened(f"time_s,lux\n{slow}")
    np.testing.assert_allclose(session.input_values(["lux"])[:4, 0], [0, 0, 0.4, 0.4], atol=1e-5)


def test_what_is_sampled_over_a_part_is_not_known_in_the_rest(opened):
    rows = "".join(f"{time:.2f},1\n" for time in np.arange(5, 10, 0.1))
    session = opened(f"time,lux\n{rows}")
    known = np.flatnonzero(np.isfinite(session.stimulus[:, 0]))
    assert (known[0], known[-1]) == (25, 50)
    assert "known in 26 of 100 frames" in session.metadata["inputs_from"]


def test_a_table_of_amplitudes_is_events(opened):
    session = opened("time,shock\n1.0,0.5\n7.3,0.7\n11.9,0.5\n")
    assert session.inputs == (Input("shock", "event"),)
    assert nonzero(session, "shock") == pytest.approx({5: 0.5, 36: 0.7, 59: 0.5})


def test_even_rows_far_apart_may_be_either_and_are_asked_for(opened):
    text = "time,shock\n" + "".join(f"{time},1.5\n" for time in range(20))
    with pytest.raises(RecordingError, match="content: events or content: channels"):
        opened(text)
    assert len(nonzero(opened(text, table={"content": "events"}), "shock")) == 20
    assert len(nonzero(opened(text, table={"content": "channels"}), "shock")) == 100


def test_a_row_for_each_frame_needs_no_times(opened):
    text = "frame,light\n" + "".join(f"{frame},{frame // 50}\n" for frame in range(100))
    assert nonzero(opened(text), "light") == dict.fromkeys(range(50, 100), 1.0)
    codes = "\n".join("3" if frame == 7 else "12" if frame in (30, 60) else "0" for frame in range(100))
    session = opened(codes, table={"label_column": "0"})
    assert session.inputs == (Input("12", "event"), Input("3", "event"))
    assert nonzero(session, "12") == {30: 1, 60: 1}


def test_numbers_of_frames_count_from_0(opened):
    session = opened("frame,label\n0,tap\n99,tap\n100,tap\n")
    assert nonzero(session, "tap") == {0: 1, 99: 1}
    assert "frames counted from 0, 2 of 3 marks in frames" in session.metadata["inputs_from"]


def test_clocks_are_brought_together_and_it_is_told_how(opened):
    text = "time,label\n1001.0,tap\n1011.0,tap\n"
    assert nonzero(opened(text, table={"offset_s": -1000}), "tap") == {5: 1, 55: 1}
    session = opened(text, table={"sync": [[1000, 0], [1020, 19.0]]})
    assert nonzero(session, "tap") == {4: 1, 52: 1}
    assert "drift -5e+04 ppm by 2 moments, off by at most" in session.metadata["inputs_from"]


def test_times_of_the_wall_clock_count_from_the_start_of_the_recording(opened):
    text = "time,label\n2024-05-01 12:00:04,tap\n2024-05-01T12:00:13.5,tap\n"
    session = opened(text, table={"recording_starts": "2024-05-01 12:00:03"})
    assert nonzero(session, "tap") == {5: 1, 52: 1}
    with pytest.raises(
        RecordingError, match="State when the recording's own clock is at 0 as recording_starts"
    ):
        opened(text)
    with pytest.raises(RecordingError, match="one has a time zone"):
        opened(text, table={"recording_starts": "2024-05-01 12:00:03+02:00"})
    with pytest.raises(RecordingError, match=r"between 3601 and 3610\.5 s, but the frames"):
        opened(text, table={"recording_starts": "2024-05-01 11:00:03"})


def test_frame_times_of_the_recording_are_its_clock(opened):
    session = opened("time,label\n501.0,tap\n", time=500 + np.arange(100) / 5, fs=None)
    assert nonzero(session, "tap") == {5: 1}


def test_frame_times_in_whole_seconds_are_evened_out(opened):
    session = opened("start,stop,light\n2.0,6.0,1\n", time=np.floor(np.arange(100) / 5), fs=None)
    light = session.input_values(["light"])[:, 0]
    assert light.sum() == pytest.approx(20, abs=0.1)
    lit = np.flatnonzero(light > 0.9)  # whole seconds leave open where in them a frame begins
    assert 19 <= lit.size <= 20 and 10 <= lit[0] <= 13 and (np.diff(lit) == 1).all()


def test_frame_times_that_run_back_tell_nothing(opened):
    with pytest.raises(RecordingError, match="states neither a rate nor times of frames that run forward"):
        opened("time,label\n1,tap\n2,tap\n", time=np.tile(np.arange(50) / 5, 2), fs=None)


def test_frames_are_missing_in_gaps(opened):
    times = np.arange(100) / 5 + np.where(np.arange(100) < 50, 0, 30.0)
    session = opened("time,label\n9.9,tap\n20,tap\n40,tap\n", time=times, fs=None)
    assert nonzero(session, "tap") == {49: 1, 50: 1}
    assert session.metadata["inputs_outside"] == "tap (1)"


def test_the_sidecar_goes_over_what_is_told(opened):
    said = {"reward": {"planned": True, "unit": "ul"}, "light": {"kind": "pattern", "planned": False}}
    session = opened("onset,offset,light,reward\n1,2,3,1\n10,12,7,0\n", inputs=said)
    assert session.inputs == (
        Input("in", "level"),
        Input("reward", "event", "ul"),
        Input("light", "pattern", "", False),
    )


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("time,label\n1001,tap\n1002,tap\n", {}, "between 1001 and 1002 s, but the frames between 0 to 20 s"),
        ("light\n" + "1\n0\n" * 45, {}, "has 90 rows and no times, but the recording has 100 frames"),
        ("time,tap,tap\n1,1,1\n2,1,1\n", {}, "several columns are called tap"),
        ("time,label\n1,tap\n2,tap\n", {"table": {"time_column": "when"}}, "no column is called when"),
        ("when,label\nnoon,3\nlate,4\n", {"table": {"time_column": "when"}}, "when holds text"),
        ("time,label\n1,tap\n2,tap\n", {"fs": None}, "states neither a rate nor times"),
        (
            "time,label\n1,tap\n2,tap\n",
            {"stimulus": np.zeros((100, 1)), "stimulus_names": ["tap"]},
            "tap of in.csv is an input already",
        ),
        ("time,label\n1,tap\n2,tap\n", {"inputs": {"tone": {"unit": "dB"}}}, "speak of tone; there are tap"),
        ("", {}, "holds no table"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(opened, text, more, words):
    with pytest.raises(RecordingError, match=words):
        opened(text, **more)


def test_without_a_rate_it_is_asked_for(opened):
    with pytest.raises(RecordingQuestion) as asked:
        opened("time,label\n1,tap\n2,tap\n", fs=None)
    assert list(asked.value.choices) == ["rate_hz"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"input_files": [{"file": "in.csv", "colour": 1}]}, "expected a path, or file with any of"),
        ({"input_files": [{"file": "in.csv", "offset_s": "late"}]}, "input_files has offset_s: 'late'"),
        ({"input_files": [{"file": "in.csv", "sync": [[0, 1]], "offset_s": 1}]}, "sync beside offset_s"),
        ({"input_files": "none.csv"}, "is not there"),
        ({"inputs": {"tap": {"kind": "pulse"}}}, "expected names of inputs, each with kind"),
    ],
)
def test_words_that_mean_nothing_are_refused(tmp_path, said, words):
    np.savez(tmp_path / "a.npz", traces=np.ones((100, 4)), fs=5.0)
    (tmp_path / "a.session.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(RecordingError, match=words):
        open_recording(tmp_path / "a.npz")


def test_a_file_of_inputs_is_no_recording_and_part_of_what_decides_the_recording(opened, tmp_path):
    opened("time,label\n1,tap\n2,tap\n")
    assert find_recordings([tmp_path]) == [str(tmp_path / "a.npz")]
    before = sha256_of(str(tmp_path / "a.npz"))
    (tmp_path / "in.csv").write_text("time,label\n1,tap\n3,tap\n")
    assert sha256_of(str(tmp_path / "a.npz")) != before


def test_stretches_cover_frames_as_counted_one_by_one(opened):
    rng = np.random.default_rng(1)
    starts = rng.uniform(-2, 21, 40)
    stops = starts + rng.uniform(0.01, 3, 40)
    values = rng.integers(1, 9, 40)
    rows = "".join(f"{a:.4f},{b:.4f},{v}\n" for a, b, v in zip(starts, stops, values, strict=True))
    session = opened(f"start,stop,level\n{rows}")
    fine = (np.arange(100 * 2000) + 0.5) / 2000 / 5
    oracle = np.zeros(len(fine))
    for start, stop, value in zip(starts, stops, values, strict=True):
        oracle += value * ((fine >= round(start, 4)) & (fine < round(stop, 4)))
    np.testing.assert_allclose(
        session.input_values(["level"])[:, 0], oracle.reshape(100, 2000).mean(axis=1), atol=0.02
    )
