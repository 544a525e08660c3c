from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebrain.errors import RecordingError
from forebrain.sessions import frames
from forebrain.sessions import repair as repair_module
from forebrain.sessions.repair import repair
from forebrain.sessions.report import RecordingReport
from forebrain.sessions.resample import resample
from forebrain.sessions.session import Session

NAN = np.float32(np.nan)


def finding(report: RecordingReport, kind: str):
    return next(item for item in report.findings if item.kind == kind)


def test_a_clean_recording_passes_unchanged_and_unreported(make_session):
    session = make_session()
    repaired, report = repair(session)
    assert report.findings == ()
    assert str(report) == "nothing found"
    assert repaired.segment_ids is None
    np.testing.assert_array_equal(repaired.frames(0, 400), session.traces)


def test_useless_units_are_dropped_and_each_is_named(make_session):
    session = make_session(
        unit_names=("A", "B", "C", "D", "E", "F"), unit_positions=np.arange(18).reshape(6, 3)
    )
    session.traces[:100, 1] = NAN
    session.traces[:, 3] = 7
    session.traces[:, 4] = session.traces[:, 0]
    repaired, report = repair(session)
    assert repaired.unit_names == ("A", "C", "F")
    np.testing.assert_array_equal(repaired.unit_positions[:, 0], [0, 6, 15])
    assert finding(report, "missing_units").names == ("B",)
    assert finding(report, "constant_units").names == ("D",)
    assert finding(report, "duplicate_units").names == ("E",)
    assert "dropped: 1 unit that never changed (D) (judged on frames 0 to 400)" in str(report)
    np.testing.assert_array_equal(repaired.frames(0, 400), session.traces[:, [0, 2, 5]])


def test_units_that_float32_rounds_away_are_told_from_constant_ones(make_session):
    rng = np.random.default_rng(0)
    traces = rng.standard_normal((400, 7))
    traces[:, 1] = 1e7 + 0.1 * traces[:, 1]
    traces[:, 2] = 1e7 + traces[:, 2]
    traces[:, 3] = 1e7 + 100 * traces[:, 3]
    traces[:, 4] = 0.1
    traces[:, 5] = 0.1 + 1e-16 * rng.integers(0, 2, 400)  # as sums come out
    traces[:, 6] = 1e7 + rng.integers(0, 2, 400)  # float32 holds them
    session = make_session(traces=traces, unit_names=tuple("ABCDEFG"))
    repaired, report = repair(session)
    assert finding(report, "rounded_units").names == ("B", "C")
    assert "too small beside their values for float32; subtract an offset" in str(report)
    assert finding(report, "constant_units").names == ("E", "F")
    assert repaired.unit_names == ("A", "D", "G")
    _, report = repair(replace(session, traces=traces.astype(np.float32)))
    assert finding(report, "constant_units").names == ("B", "E", "F")
    assert "rounded_units" not in report.kinds()  # it is what was recorded, as far as anybody knows
    with pytest.raises(RecordingError, match="subtract an offset"):
        repair(make_session(traces=1e7 + 0.1 * rng.standard_normal((400, 3))))


@pytest.mark.parametrize("mark", [1e30, -3.4e38, 9.96921e36, np.inf])
def test_what_marks_a_missing_value_is_missing_whatever_the_mark(make_session, mark):
    traces = np.random.default_rng(0).standard_normal((400, 4)).astype(np.float32)
    whole, _ = repair(make_session(traces=traces))
    marked = traces.copy()
    marked[[10, 200, 399], 2] = mark
    repaired, report = repair(make_session(traces=marked))
    assert finding(report, "missing_values").count == 3
    expected = whole.frames(0, 400).copy()
    expected[[10, 200, 399], 2] = expected[[9, 199, 398], 2]
    np.testing.assert_array_equal(repaired.frames(0, 400), expected)


def test_units_without_a_finite_value_are_told_from_constant_ones(make_session):
    traces = np.random.default_rng(0).standard_normal((400, 4))
    traces[:, 1] += 1e39
    traces[:, 2] = np.nan
    traces[:, 3] = 1
    repaired, report = repair(make_session(traces=traces, unit_names=tuple("ABCD")))
    assert finding(report, "empty_units").names == ("B", "C")
    assert finding(report, "constant_units").names == ("D",) and repaired.unit_names == ("A",)
    with pytest.raises(RecordingError, match="2 units without a finite value"):
        repair(make_session(traces=1e300 * traces[:, [0, 0]]))


def test_names_that_several_units_have_are_told(make_session):
    _, report = repair(make_session(unit_names=("A", "B", "A", "C", "B", "A")))
    assert finding(report, "repeated_names").names == ("A", "B")
    assert "kept: 5 units with a name that another one has too" in str(report)
    _, report = repair(make_session(unit_names=tuple("ABCDEF")))
    assert report.findings == ()


def test_what_statistics_over_frames_decided_tells_the_frames_as_they_were_read(make_session):
    time_s = np.cumsum(np.random.default_rng(0).uniform(0.15, 0.25, 400))
    time_s[150:] += 3
    session = make_session(num_units=10, time_s=time_s)
    session.traces[:150, 0] = NAN
    session.traces[:, 1] = 7
    session.traces[:, 2] = session.traces[:, 3]
    session.traces[:30, 4] = NAN
    session.traces[:10, 5] = NAN
    session.traces[200:250] = NAN
    session.traces[300, 6] = NAN
    _, report = repair(session)
    judged = {item.kind: item.fitted_on for item in report.findings}
    assert judged.pop("missing_values") is None  # each held from the frames before it
    assert judged.pop("short_segments") is None
    expected = ("missing_units", "constant_units", "duplicate_units", "late_units", "leading_frames", "gaps")
    expected += ("time_gaps", "irregular_times", "rate_mismatch")
    assert judged == dict.fromkeys(expected, (0, 400))


def test_equal_fingerprints_of_different_units_are_told_apart(make_session, monkeypatch):
    monkeypatch.setattr(
        repair_module, "_frame_weights", lambda start, stop: np.zeros(stop - start, np.uint64)
    )
    repaired, report = repair(make_session())
    assert repaired.num_units == 6
    assert report.findings == ()


def test_missing_values_hold_the_last_known_one_and_nothing_from_the_future(make_session):
    session = make_session()
    before = session.traces.copy()
    session.traces[50:60, 2] = NAN
    session.traces[70, 2] = np.inf
    repaired, report = repair(session)
    expected = before.copy()
    expected[50:60, 2], expected[70, 2] = before[49, 2], before[69, 2]
    np.testing.assert_array_equal(repaired.frames(0, 400), expected)
    assert finding(report, "missing_values").count == 11


def test_changing_later_frames_never_changes_earlier_repaired_ones(make_session):
    one, other = make_session(), make_session()
    for session in (one, other):
        session.traces[100:120, 1] = NAN
    other.traces[110:] = np.where(np.isnan(other.traces[110:]), NAN, other.traces[110:] + 5)
    np.testing.assert_array_equal(repair(one)[0].frames(0, 110), repair(other)[0].frames(0, 110))


def test_leading_frames_without_a_value_are_cut_off(make_session):
    session = make_session(time_s=np.arange(400) / 10)
    session.traces[:8, 0] = NAN
    repaired, report = repair(session)
    assert repaired.num_frames == 392
    assert repaired.time_s[0] == pytest.approx(0.8)
    assert finding(report, "leading_frames").count == 8


def test_units_that_start_too_late_are_dropped_rather_than_frames(make_session):
    session = make_session()
    session.traces[:30, 0] = NAN  # 7.5 % of the frames
    repaired, report = repair(session)
    assert (repaired.num_frames, repaired.num_units) == (400, 5)
    assert finding(report, "late_units").names == ("unit 0",)


def test_a_run_of_frames_without_most_units_becomes_a_segment_break(make_session):
    session = make_session(stimulus=np.arange(400, dtype=np.float32)[:, None], stimulus_names=("ramp",))
    session.traces[100:200] = NAN  # a quarter of the recording: no unit is to blame
    session.traces[300:303] = NAN  # too short to cut
    repaired, report = repair(session)
    assert (repaired.num_frames, repaired.num_units) == (300, 6)
    np.testing.assert_array_equal(np.flatnonzero(np.diff(repaired.segment_ids)), [99])
    np.testing.assert_array_equal(repaired.stimulus[99:101, 0], [99, 200])
    assert finding(report, "gaps").names == ("frames 100 to 200",)
    assert finding(report, "missing_values").count == 18


@pytest.mark.parametrize("value", [0.0, 7.5, None])
def test_an_end_in_which_no_unit_changes_is_told(make_session, monkeypatch, value):
    """Allocated and not written yet, or the last frame for ever; an event matrix may end so."""
    monkeypatch.setattr(frames, "PIECE_BYTES", 64)
    session = make_session(num_frames=300)
    traces = np.array(session.traces)
    traces[-40:] = traces[-41] if value is None else value
    repaired, report = repair(replace(session, traces=traces))
    assert repaired.num_frames == 300
    assert finding(report, "still_end").count == (41 if value is None else 40)
    traces[-1, 0] += 1
    seldom = np.where(np.random.default_rng(0).random(traces.shape) < 0.1, 1.0, 0.0).astype(np.float32)
    seldom[-40:] = 0
    for others in (traces, seldom):
        assert "still_end" not in repair(replace(session, traces=others))[1].kinds()


def test_a_gap_is_seen_beside_units_that_are_missing_throughout(make_session):
    session = make_session(num_units=10)
    session.traces[:, :6] = NAN
    session.traces[100:150] = NAN
    repaired, report = repair(session)
    assert (repaired.num_frames, repaired.num_units) == (350, 4)
    assert finding(report, "empty_units").count == 6


def test_gaps_in_the_frame_times_break_segments(make_session):
    time_s = np.arange(400) / 10
    time_s[150:] += 3
    repaired, report = repair(make_session(time_s=time_s))
    np.testing.assert_array_equal(np.flatnonzero(np.diff(repaired.segment_ids)), [149])
    assert finding(report, "time_gaps").names == ("frame 150",)


def test_irregular_times_and_a_contradicting_rate_are_kept_with_a_warning(make_session):
    time_s = np.cumsum(np.random.default_rng(0).uniform(0.15, 0.25, 400))
    _, report = repair(make_session(time_s=time_s))
    assert finding(report, "irregular_times").action == "kept"
    words = finding(report, "rate_mismatch").words
    assert "10 Hz but the frame times say 4.925 Hz; the stated one counts" in words


def test_an_unknown_rate_is_taken_from_frame_times_or_warned_about(make_session):
    repaired, report = repair(make_session(rate_hz=None, time_s=np.arange(400) / 4))
    assert repaired.rate_hz == pytest.approx(4.0)
    assert finding(report, "rate_from_times").action == "repaired"
    repaired, report = repair(make_session(rate_hz=None))
    assert repaired.rate_hz is None
    assert finding(report, "unknown_rate").action == "kept"


@pytest.mark.parametrize(
    ("given_fields", "kind"),
    [
        ({"metadata": {"note": "strain AML175: a GFP strain"}}, "control"),
        ({"signal": "denoised_dff"}, "denoised"),
        ({"signal": "functional_unit_mean"}, "averaged"),
        ({"segment_ids": np.arange(400) // 41}, "short_segments"),
    ],
)
def test_what_flatters_or_voids_a_score_is_kept_with_a_warning(make_session, given_fields, kind):
    repaired, report = repair(make_session(**given_fields))
    assert finding(report, kind).action == "kept"
    assert repaired.num_units == 6


def test_traces_that_a_filter_has_smoothed_are_told_from_slow_ones(make_session):
    rng = np.random.default_rng(0)
    slow = rng.normal(size=(400, 6)).cumsum(axis=0)  # what it does next nobody knows
    segment_ids = np.arange(400) // 200
    _, report = repair(make_session(traces=slow, segment_ids=segment_ids))
    assert all(each.kind != "smoothed" for each in report.findings)
    kernel = np.exp(-0.5 * np.square(np.arange(-12, 13) / 4))
    smooth = np.apply_along_axis(np.convolve, 0, slow, kernel / kernel.sum(), mode="same")
    _, report = repair(make_session(traces=smooth, segment_ids=segment_ids))
    found = finding(report, "smoothed")
    assert found.action == "kept" and found.fitted_on == (0, 400)
    assert "of each change from frame to frame is a sum of the 4 before it" in found.words


def test_gcamp_is_not_taken_for_a_control(make_session):
    _, report = repair(make_session(signal="GCaMP6f dff", metadata={"note": "GCaMP, wild type"}))
    assert report.findings == ()


def test_an_event_matrix_is_recognised_by_its_zeros(make_session):
    session = make_session()
    session.traces[np.random.default_rng(1).random((400, 6)) < 0.985] = 0
    assert "events, not a fluorescence (judged on frames 0 to 400)" in str(repair(session)[1])


@pytest.mark.parametrize("value", [np.nan, 3.0])
def test_a_session_without_anything_usable_is_one_clear_error(make_session, value):
    session = make_session()
    session.traces[:] = value
    with pytest.raises(RecordingError, match=r"lab/m1/s1: nothing usable remains of 400 frames x 6 units"):
        repair(session)


def test_missing_behaviour_holds_its_last_value(make_session):
    behaviour = np.array([[NAN], [1.0], [NAN], [2.0]] * 100, np.float32)
    repaired, report = repair(make_session(behaviour=behaviour, behaviour_names=("speed",)))
    np.testing.assert_array_equal(repaired.behaviour[:5, 0], [0, 1, 1, 2, 2])
    assert finding(report, "missing_behaviour").count == 200


def test_unreadable_frames_are_an_error_that_names_them(make_session):
    class CutOff:
        shape = (400, 6)

        def __getitem__(self, part: slice) -> np.ndarray:
            raise OSError("truncated file")

    with pytest.raises(RecordingError, match=r"frames 0 to 400 cannot be read \(truncated file\)"):
        repair(make_session(traces=CutOff()))


def test_a_report_survives_json(make_session):
    session = make_session()
    session.traces[:, 3] = 7
    report = repair(session)[1]
    assert RecordingReport.from_json(json.loads(json.dumps(report.to_json()))) == report


@given(st.data())
def test_any_cut_of_the_reading_gives_the_same_values(data):
    """Plain oracle: forward fill of the whole array, gaps cut out."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    num_frames, num_units = 120, 5
    traces = rng.standard_normal((num_frames, num_units)).astype(np.float32)
    traces[rng.random(traces.shape) < 0.05] = NAN
    gap = data.draw(st.integers(10, 100))
    traces[gap : gap + 8] = NAN
    traces[0] = 1
    expected = traces.copy()
    for frame in range(1, num_frames):
        expected[frame] = np.where(np.isnan(traces[frame]), expected[frame - 1], traces[frame])
    expected = np.delete(expected, np.s_[gap : gap + 8], axis=0)

    old, frames.pieces.__defaults__ = (
        frames.pieces.__defaults__,
        (data.draw(st.integers(1, 40)) * 4 * num_units,),
    )
    try:
        repaired, _ = repair(Session(traces, 1.0, "mouse", "m", "s", "lab"))
    finally:
        frames.pieces.__defaults__ = old
    if repaired.num_units < num_units or repaired.num_frames != len(expected):
        return  # by chance a unit missed too much, or another frame missed most units
    start = data.draw(st.integers(0, len(expected) - 1))
    stop = data.draw(st.integers(start, len(expected)))
    np.testing.assert_array_equal(repaired.frames(start, stop), expected[start:stop])


def test_every_real_recording_is_repaired_to_finite_frames(data_dir):
    for path in sorted((data_dir / "normalized").glob("*.npz"))[::6]:
        with np.load(path) as archive:
            session = Session(archive["traces"], None, "any", "any", path.stem, "real")
        repaired, _ = repair(session)
        assert np.isfinite(repaired.frames(0, repaired.num_frames)).all(), path.name


def test_the_real_duplicated_unit_is_found(data_dir):
    with np.load(data_dir / "normalized" / "celegans__kato2015__worm2.npz") as archive:
        traces = archive["traces"]
    repaired, report = repair(Session(traces, 2.9, "celegans", "worm2", "s", "kato2015"))
    assert repaired.num_units == 134
    assert finding(report, "duplicate_units").names == ("unit 134",)


def test_conditions_follow_their_frames_and_begin_segments(walk) -> None:
    session = walk(0, num_frames=200)
    conditions = np.repeat([0, 1, -1], [80, 70, 50]).astype(np.int32)
    session = replace(session, conditions=conditions, condition_names=("dots", "dark"))
    assert session.segments == [(0, 80), (80, 150), (150, 200)]
    session.traces[:4] = np.nan  # cut off
    repaired, _ = repair(session)
    assert repaired.condition_ranges == {"dots": [(0, 76)], "dark": [(76, 146)]}
    assert repaired.segments == [(0, 76), (76, 146), (146, 196)]
    slower, _ = resample(repaired, 1.25)
    assert slower.condition_ranges == {"dots": [(0, 38)], "dark": [(38, 73)]}
