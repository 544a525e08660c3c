"""Inputs of a session: their kinds, what is refused, and that they outlive saving, repair and resampling."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forebrain.errors import RecordingError
from forebrain.sessions.inputs import Input, kind_of
from forebrain.sessions.repair import repair
from forebrain.sessions.resample import bin_events, resample
from forebrain.sessions.session import Session


def marks(frames, num_frames=400, value=1.0):
    channel = np.zeros(num_frames, np.float32)
    channel[list(frames)] = value
    return channel


def channels(*columns):
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.fixture
def with_inputs(make_session):
    light = np.repeat(np.arange(8, dtype=np.float32) % 2, 50)
    return make_session(
        stimulus=channels(marks([7, 123, 250]), light, light * 2),
        stimulus_names=("tap", "light", "laser[3]"),
        behaviour=channels(np.arange(400) / 400),
        behaviour_names=("speed",),
        input_kinds={"laser[3]": "pattern"},
        input_units={"light": "lux"},
        split=np.repeat([0, 0, 1, 2], 100),
        repetition=np.repeat([0, 1], 200),
    )


def test_inputs_are_listed_with_what_is_known_of_them(with_inputs):
    assert with_inputs.inputs == (
        Input("tap", "event"),
        Input("light", "level", "lux"),
        Input("laser[3]", "pattern"),
        Input("speed", "level", can_be_planned=False),
    )
    laser = with_inputs.inputs[2]
    assert (laser.group, laser.target) == ("laser", "3")


def test_values_come_in_the_order_asked_for(with_inputs):
    values = with_inputs.input_values(["speed", "laser", "tap"])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[:, 0], with_inputs.behaviour[:, 0])
    np.testing.assert_array_equal(values[:, 1], with_inputs.stimulus[:, 2])
    np.testing.assert_array_equal(values[:, 2], with_inputs.stimulus[:, 0])
    assert with_inputs.input_values([]).shape == (400, 0)


def test_no_such_input_and_one_named_twice_are_refused(with_inputs, make_session):
    with pytest.raises(RecordingError, match=r"no input 'sound'.*tap, light, laser, speed"):
        with_inputs.input_values(["sound"])
    with pytest.raises(RecordingError, match="name a channel twice"):
        with_inputs.input_values(["laser", "laser[3]"])
    with pytest.raises(RecordingError, match=r"its inputs \(none\)"):
        make_session().input_values(["tap"])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (marks([7, 123, 250]), "event"),
        (marks([7, 123, 250], value=-3.0), "event"),
        (np.where(marks([7, 8]) > 0, np.nan, marks([123])), "event"),
        (marks(range(16, 48)), "level"),
        (np.zeros(400), "level"),
        (np.full(400, np.nan), "level"),
        (np.arange(400), "level"),
        (np.tile([0, 1], 200), "level"),
    ],
)
def test_values_tell_marks_from_levels(values, kind):
    assert kind_of(values) == kind


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"behaviour_names": ("tap",)}, "are called tap"),
        ({"input_kinds": {"sound": "level"}}, "input_kinds speaks of sound"),
        ({"input_units": {"sound": "dB"}}, "input_units speaks of sound"),
        ({"input_kinds": {"tap": "pulse"}}, "input_kinds has pulse"),
        ({"split": np.full(400, 3)}, r"split has the values \[3\]"),
        ({"split": np.zeros(399, int)}, "split has 399 entries; expected 400"),
        ({"repetition": np.zeros(401, int)}, "repetition has 401 entries; expected 400"),
    ],
)
def test_what_does_not_fit_is_refused(make_session, fields, words):
    given = {
        "stimulus": channels(marks([7])), "stimulus_names": ("tap",),
        "behaviour": channels(marks([9])), "behaviour_names": ("lick",), **fields,
    }  # fmt: skip
    with pytest.raises(RecordingError, match=words):
        make_session(**given)


def test_saving_and_loading_keep_them(with_inputs, tmp_path):
    with_inputs.save(tmp_path / "one.npz")
    loaded = Session.load(tmp_path / "one.npz")
    assert loaded.inputs == with_inputs.inputs
    for name in ("stimulus", "behaviour", "split", "repetition"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(with_inputs, name))


def test_an_array_in_memory_takes_them():
    session = Session.from_array(
        np.random.default_rng(0).normal(size=(400, 3)), 5.0, stimulus=channels(marks([7])),
        stimulus_names=("tap",), split=np.zeros(400, np.int8), input_units={"tap": "N"},
    )  # fmt: skip
    assert session.inputs == (Input("tap", "event", "N"),)


def test_tables_and_single_channels_in_memory_are_taken():
    traces = np.random.default_rng(0).normal(size=(400, 3))
    table = pd.DataFrame({"tap": marks([7]), "light": marks(range(9, 30))})
    session = Session.from_array(
        traces, 5.0, stimulus=table, behaviour=list(marks([9])), behaviour_names=("lick",)
    )
    assert [(each.name, each.kind) for each in session.inputs] == [
        ("tap", "event"), ("light", "level"), ("lick", "event"),
    ]  # fmt: skip
    with pytest.raises(RecordingError, match="stimulus has 399 entries; expected 400"):
        Session.from_array(traces, 5.0, stimulus=table[:399])


def test_repair_cuts_them_with_the_frames_and_keeps_kinds(with_inputs):
    frames = with_inputs.traces.copy()
    frames[100:200] = np.nan
    repaired, _ = repair(Session(**{**vars(with_inputs), "traces": frames}))
    kept = np.r_[0:100, 200:400]
    assert repaired.inputs == with_inputs.inputs
    np.testing.assert_array_equal(repaired.split, with_inputs.split[kept])
    np.testing.assert_array_equal(repaired.repetition, with_inputs.repetition[kept])


@pytest.mark.parametrize("change", [lambda session: resample(session, 2.5), lambda s: bin_events(s, 2.5)])
def test_fewer_frames_average_levels_and_add_up_events(with_inputs, change):
    changed, _ = change(with_inputs)
    assert changed.inputs == with_inputs.inputs
    tap = changed.input_values(["tap"])[:, 0]
    assert np.flatnonzero(tap).tolist() == [1, 30, 62] and tap.sum() == 3
    np.testing.assert_array_equal(
        changed.input_values(["light"])[:, 0], with_inputs.stimulus[:, 1].reshape(100, 4).mean(axis=1)
    )
    np.testing.assert_array_equal(changed.split, np.repeat([0, 0, 1, 2], 25))
    np.testing.assert_array_equal(changed.repetition, np.repeat([0, 1], 50))


def test_more_frames_repeat_levels_and_no_event(with_inputs):
    resampled, _ = resample(with_inputs, 30.0)
    assert resampled.inputs == with_inputs.inputs
    tap = resampled.input_values(["tap"])[:, 0]
    assert np.flatnonzero(tap).tolist() == [21, 369, 750]
    np.testing.assert_array_equal(resampled.split, with_inputs.split[np.arange(resampled.num_frames) // 3])


def test_marks_of_a_pattern_add_up_and_what_lasts_does_not(make_session):
    session = make_session(
        stimulus=channels(marks([7, 123]), np.repeat([0.0, 1.0], 200)),
        stimulus_names=("laser[1]", "laser[2]"),
        input_kinds={"laser[1]": "pattern", "laser[2]": "pattern"},
    )  # fmt: skip
    resampled, _ = resample(session, 2.5)
    assert resampled.stimulus.sum(axis=0).tolist() == [2, 50] and resampled.stimulus.max() == 1


def test_a_frame_that_holds_any_of_the_test_part_belongs_to_it(make_session):
    split = np.repeat([0, 2, 0], [150, 101, 149])
    resampled, _ = resample(make_session(split=split), 2.5)
    assert [int((resampled.split == part).sum()) for part in (0, 2)] == [74, 26]
