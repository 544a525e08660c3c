from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import ConfigError
from forebrain.scoring.protocols import frame_parts, part_ranges, windows_of
from forebrain.sessions.session import Session

MakeSession = Callable[..., Session]


def starts_of(session: Session, protocol: str, part: str, context: int, horizon: int, **more: object) -> list:
    windows = SessionWindows(session, protocol, context, horizon, **more)
    count = windows.num_windows(0, part)
    return windows.read(0, part, np.arange(count))[2].tolist()


def test_a_window_belongs_to_the_part_that_holds_its_whole_horizon(make_session: MakeSession) -> None:
    split = np.repeat([0, 1, 2], [50, 20, 30])
    session = make_session(num_frames=100, split=split, segment_ids=np.repeat([0, 1], [80, 20]))
    found = {part: starts_of(session, "given", part, 6, 4) for part in ("train", "validation", "test")}
    # Contexts reach back over the edge of a part, but never over that of a segment.
    assert found["train"] == list(range(0, 50 - 10 + 1))
    assert found["validation"] == list(range(44, 70 - 10 + 1))
    assert found["test"] == [*range(64, 80 - 10 + 1), *range(80, 100 - 10 + 1)]


def test_no_training_window_reads_a_later_part(make_session: MakeSession) -> None:
    split = np.repeat([2, 0, 1, 0], [20, 20, 20, 20])
    session = make_session(num_frames=80, split=split)
    assert starts_of(session, "given", "train", 5, 3) == [*range(20, 33), *range(60, 73)]
    assert starts_of(session, "given", "validation", 5, 3) == list(range(35, 53))
    assert starts_of(session, "given", "test", 5, 3) == list(range(0, 13))


def test_frames_of_no_part_are_read_as_context_and_never_forecast(make_session: MakeSession) -> None:
    session = make_session(num_frames=60, split=np.repeat([-1, 0, 2], [10, 30, 20]))
    assert starts_of(session, "given", "train", 8, 2)[0] == 2
    windows = SessionWindows(session, "given", 8, 2)
    assert windows.preprocessing.fitted_on == ((10, 40),)


def test_the_last_repetition_of_a_condition_is_tested(make_session: MakeSession) -> None:
    trials = np.repeat(np.arange(5), 20)
    conditions = np.repeat([0, 1, 0, 1, 2], 20).astype(np.int32)
    session = make_session(
        num_frames=100, segment_ids=trials, conditions=conditions, condition_names=("a", "b", "once")
    )
    labels = frame_parts("repetition", session)
    assert labels is not None
    assert part_ranges("repetition", "test", 100, session.segments, labels) == [(40, 60), (60, 80)]
    assert part_ranges("repetition", "train", 100, session.segments, labels) == [(0, 20), (20, 40), (80, 100)]
    numbered = make_session(num_frames=100, segment_ids=trials, repetition=np.repeat([0, 1], [40, 60]))
    labels = frame_parts("repetition", numbered)
    assert labels is not None and (labels == np.repeat([0, 2], [40, 60])).all()


def test_trials_under_held_out_values_are_tested(make_session: MakeSession) -> None:
    dose = np.zeros((90, 1), np.float32)
    dose[5:10], dose[35:40], dose[65:70] = 1, 4, 7
    trials = make_session(
        num_frames=90, segment_ids=np.repeat([0, 1, 2], 30), stimulus=dose, stimulus_names=("dose",)
    )
    assert starts_of(trials, "values", "test", 4, 3, hold_out={"dose": [4]}) == list(range(30, 54))
    assert starts_of(trials, "values", "train", 4, 3, hold_out={"dose": [4]}) == [
        *range(0, 24), *range(60, 84)
    ]  # fmt: skip
    whole = make_session(num_frames=90, stimulus=dose, stimulus_names=("dose",))
    labels = frame_parts("values", whole, {"dose": [4]})
    assert labels is not None and np.flatnonzero(labels == 2).tolist() == list(range(35, 65))


def test_what_a_recording_does_not_tell_is_an_error(make_session: MakeSession) -> None:
    plain = make_session(num_frames=60)
    with pytest.raises(ConfigError, match="has none; expected another protocol"):
        frame_parts("given", plain)
    with pytest.raises(ConfigError, match="conditions or repetitions"):
        frame_parts("repetition", plain)
    with pytest.raises(ConfigError, match="needs values to hold out"):
        frame_parts("values", plain)
    with pytest.raises(ConfigError, match="takes no values to hold out"):
        frame_parts("given", plain, {"dose": [1]})
    with pytest.raises(ConfigError, match="no frame is left for the part test"):
        frame_parts("given", make_session(num_frames=60, split=np.zeros(60, np.int8)))
    with pytest.raises(ConfigError, match="is not known; expected one of chronological"):
        windows_of("given", "train", 60, [(0, 60)], 4, 4)
    dosed = make_session(num_frames=60, stimulus=np.ones((60, 1), np.float32), stimulus_names=("dose",))
    with pytest.raises(ConfigError, match="never takes the value 3"):
        frame_parts("values", dosed, {"dose": [3]})
    assert frame_parts("chronological", plain) is None
