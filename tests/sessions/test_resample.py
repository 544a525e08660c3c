from __future__ import annotations

import numpy as np
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions import frames
from forebrain.sessions.resample import bin_events, resample


def test_events_are_summed_in_whole_bins_within_segments(make_session):
    segment_ids = np.repeat([0, 1], [205, 195])
    session = make_session(rate_hz=20.0, segment_ids=segment_ids, time_s=np.arange(400) / 20)
    binned, finding = bin_events(session, 2.0)
    assert binned.rate_hz == 2.0
    assert binned.num_frames == 20 + 19
    expected = [
        session.traces[:200].reshape(20, 10, 6).sum(1),
        session.traces[205:395].reshape(19, 10, 6).sum(1),
    ]
    np.testing.assert_allclose(binned.frames(0, 39), np.concatenate(expected), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(binned.segment_ids, np.repeat([0, 1], [20, 19]))
    assert binned.time_s[0] == pytest.approx(0.45)
    assert "20 Hz became 2 Hz" in finding.words


@pytest.mark.parametrize("rate_hz", [None, 2.5])
def test_events_that_cannot_be_binned_are_kept_and_reported(make_session, rate_hz):
    session = make_session(rate_hz=rate_hz)
    binned, finding = bin_events(session, 2.0)
    assert binned is session
    assert (finding.kind, finding.action) == ("events_not_binned", "kept")


def test_downward_a_frame_is_the_mean_of_its_interval(make_session):
    session = make_session(rate_hz=10.0)
    resampled, _ = resample(session, 4.0)  # 2.5 frames each: 3, 2, 3, 2, ...
    assert resampled.num_frames == 160
    np.testing.assert_allclose(resampled.frames(0, 2)[0], session.traces[0:3].mean(0), rtol=1e-5)
    np.testing.assert_allclose(resampled.frames(0, 2)[1], session.traces[3:5].mean(0), rtol=1e-5)


def test_upward_the_last_frame_is_held(make_session):
    session = make_session(num_frames=10, rate_hz=10.0)
    resampled, _ = resample(session, 30.0)
    assert resampled.num_frames == 28
    np.testing.assert_array_equal(resampled.frames(0, 28), session.traces[np.arange(28) // 3])


@pytest.mark.parametrize("rate_hz", [3.0, 7.0, 10.0, 23.0])
def test_no_resampled_frame_sees_a_later_one(make_session, rate_hz):
    session, other = make_session(), make_session()
    other.traces[200:] += 9
    one, two = resample(session, rate_hz)[0], resample(other, rate_hz)[0]
    before = int(200 / 10.0 * rate_hz)
    np.testing.assert_array_equal(one.frames(0, before), two.frames(0, before))


@pytest.mark.parametrize("rate_hz", [3.0, 23.0])
def test_any_cut_of_the_reading_gives_the_same_frames(make_session, monkeypatch, rate_hz):
    resampled, _ = resample(make_session(segment_ids=np.arange(400) // 130), rate_hz)
    whole = resampled.frames(0, resampled.num_frames)
    monkeypatch.setattr(frames, "PIECE_BYTES", 7 * 24)
    np.testing.assert_array_equal(resampled.frames(0, resampled.num_frames), whole)
    np.testing.assert_array_equal(resampled.frames(31, 57), whole[31:57])


def test_channels_follow_the_traces(make_session):
    stimulus = np.arange(400, dtype=np.float32)[:, None]
    resampled, _ = resample(make_session(stimulus=stimulus, stimulus_names=("ramp",)), 5.0)
    np.testing.assert_array_equal(resampled.stimulus[:3, 0], [0.5, 2.5, 4.5])


def test_an_unknown_rate_is_refused(make_session):
    with pytest.raises(RecordingError, match="rate is not known"):
        resample(make_session(rate_hz=None), 5.0)
