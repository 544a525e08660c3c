"""A recording is made ready as the backbone expects, or refused with one clear error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forebrain.adaptation.description import Description
from forebrain.adaptation.recording import open_session, prepare_session
from forebrain.errors import AdaptationError, ForebrainError, RecordingError
from forebrain.sessions.session import Session

RATES = [1.5, 2.5]


def test_it_is_repaired_and_every_remaining_unit_can_be_found_again(
    walk: Callable[..., Session], description: Description
) -> None:
    traces = walk(1).frames(0, 400)
    traces[:, 1] = 3.0
    traces[50:60, 2] = np.nan
    session = replace(walk(1), traces=traces, unit_names=("A", "B", "C", "D", "E"))
    prepared = prepare_session(session, description, RATES)
    assert (
        prepared.preprocessing.columns.tolist() == [0, 2, 3, 4] and prepared.preprocessing.num_recorded == 5
    )
    assert prepared.session.unit_names == ("A", "C", "D", "E")
    assert {"constant_units", "missing_values"} <= set(prepared.report.kinds())
    assert np.isfinite(prepared.session.frames(0, 400)).all()
    assert prepare_session(walk(1), description, RATES).session.unit_names[2] == "unit 2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"traces": np.random.default_rng(0).normal(size=(75, 5))}, "too short.*need 80 frames"),
        (
            {"segment_ids": np.arange(400, dtype=np.int32) // 15},
            r"longest unbroken stretch 15.*trials 16 each.*--model.context",
        ),
        ({"traces": np.full((400, 5), np.nan)}, "nothing usable"),
    ],
)
def test_a_recording_that_does_not_fit_is_one_clear_error(
    changes: dict, words: str, walk: Callable[..., Session], description: Description
) -> None:
    with pytest.raises(ForebrainError, match=words):
        prepare_session(replace(walk(1), **changes), description, RATES)


def test_it_is_resampled_when_asked_and_when_the_backbone_always_was(
    walk: Callable[..., Session], description: Description
) -> None:
    fast = replace(walk(1, num_frames=1600), rate_hz=10.0)
    prepared = prepare_session(fast, description, RATES, to_rate=True)
    assert (prepared.session.rate_hz, prepared.session.num_frames) == (2.5, 400)
    assert (prepared.preprocessing.resample_hz, prepared.preprocessing.recorded_rate_hz) == (2.5, 10.0)
    assert "resampled" in prepared.report.kinds()

    always = prepare_session(fast, replace(description, resample_hz=5.0), [5.0])
    assert (always.session.rate_hz, always.preprocessing.resample_hz) == (5.0, 5.0)
    with pytest.raises(RecordingError, match="rate is not known"):
        prepare_session(replace(fast, rate_hz=None), replace(description, resample_hz=5.0), [5.0])


def test_a_recording_of_another_rate_keeps_its_own_frames_and_is_told(
    walk: Callable[..., Session], description: Description
) -> None:
    prepared = prepare_session(replace(walk(1), rate_hz=20.0), description, RATES)
    assert (prepared.session.rate_hz, prepared.session.num_frames) == (20.0, 400)
    assert prepared.preprocessing.resample_hz is None
    (finding,) = (each for each in prepared.report.findings if each.kind == "other_rate")
    assert finding.action == "kept"
    assert "20 frames a second, and the backbone was trained at 1.5, 2.5 Hz" in finding.words
    assert "--resample brings it to 2.5 Hz" in finding.words


def test_a_rate_near_to_a_trained_one_or_unknown_is_taken(
    walk: Callable[..., Session], description: Description
) -> None:
    near = prepare_session(replace(walk(1), rate_hz=2.8), description, RATES)
    assert near.session.rate_hz == 2.8 and near.preprocessing.resample_hz is None
    assert "other_rate" not in near.report.kinds()
    unknown = prepare_session(replace(walk(1), rate_hz=None), description, RATES)
    assert "rate_not_checked" in unknown.report.kinds()
    assert prepare_session(replace(walk(1), rate_hz=77.0), description, []).session.rate_hz == 77.0


def test_events_are_binned_as_the_backbones_were(description: Description) -> None:
    rng = np.random.default_rng(0)
    events = (rng.random((4000, 6)) < 0.01).astype(np.float32)
    session = Session(events, 20.0, "mouse", "m1", "day1", "lab", signal="calcium_events")
    prepared = prepare_session(session, description, [2.0])
    assert (prepared.session.rate_hz, prepared.preprocessing.event_rate_hz) == (2.0, 2.0)
    kept = prepare_session(session, replace(description, event_rate_hz=None), [20.0])
    assert kept.session.num_frames == 4000 and kept.preprocessing.event_rate_hz is None


def test_events_brought_to_another_rate_are_binned_and_not_repeated(description: Description) -> None:
    rng = np.random.default_rng(0)
    events = (rng.random((4000, 6)) < 0.01).astype(np.float32)
    session = Session(events, 20.0, "mouse", "m1", "day1", "lab", signal="calcium_events")
    prepared = prepare_session(session, description, [5.0], to_rate=True)
    preprocessing = prepared.preprocessing
    assert (preprocessing.rate_hz, preprocessing.event_rate_hz, preprocessing.resample_hz) == (5.0, 5.0, None)
    assert prepared.session.rate_hz == 5.0
    np.testing.assert_array_equal(prepared.session.frames(0, 1000).sum(axis=0), events.sum(axis=0))


def test_one_session_of_several_must_be_named(walk: Callable[..., Session], tmp_path: Path) -> None:
    for name in ("one", "two"):
        np.save(tmp_path / f"{name}.npy", walk(1).frames(0, 100))
    with pytest.raises(AdaptationError, match=r"holds 2 sessions.*--session: .*one.*two"):
        open_session(str(tmp_path))
    (name,) = (session.id for session in [open_session(str(tmp_path / "two.npy"))])
    assert open_session(str(tmp_path), name).id == name
    with pytest.raises(AdaptationError, match="holds no session 'nothing'"):
        open_session(str(tmp_path), "nothing")


def test_a_rate_that_frame_times_tell_is_the_recordings_own(
    walk: Callable[..., Session], description: Description
) -> None:
    timed = replace(walk(1, num_frames=1600), rate_hz=None, time_s=np.arange(1600) / 10)
    preprocessing = prepare_session(timed, description, RATES, to_rate=True).preprocessing
    assert preprocessing.recorded_rate_hz == pytest.approx(10) and preprocessing.resample_hz == 2.5
