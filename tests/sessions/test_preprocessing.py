"""Preprocessing holds together, and turns frames into what a model sees and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forebrain.errors import AdaptationError, ConfigError
from forebrain.sessions.preprocessing import Preprocessing, ValuesWarning, rates_agree
from forebrain.sessions.session import Session

PLAIN = Preprocessing.none(3)


def test_normalising_is_undone_by_denormalising() -> None:
    rng = np.random.default_rng(0)
    fitted = Preprocessing.of_units(
        rng.normal(50, 9, 4).astype(np.float32), rng.uniform(1, 3, 4).astype(np.float32)
    )
    frames = rng.normal(50, 9, (7, 4)).astype(np.float32)
    normalised = fitted.normalise(frames)
    assert normalised.dtype == np.float32
    np.testing.assert_array_equal(normalised, (frames - fitted.mean) / fitted.scale)
    np.testing.assert_allclose(fitted.denormalise(normalised), frames, rtol=1e-5)
    np.testing.assert_array_equal(PLAIN.normalise(frames[:, :3]), frames[:, :3])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": np.zeros(2, np.float32)}, "expected one for each unit"),
        ({"columns": np.arange(4)}, "expected one for each unit"),
        ({"unit_names": ("a", "b")}, "2 unit names for 3 units"),
        ({"scale": np.array([1, 0, 1], np.float32)}, "not above 0"),
        ({"mean": np.array([1, np.nan, 1], np.float32)}, "not finite"),
        ({"columns": np.array([0, 1, 3])}, "outside of the 3 units recorded"),
        ({"columns": np.array([-1, 1, 2])}, "outside of the 3 units recorded"),
    ],
)
def test_what_does_not_hold_together_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(PLAIN, **changes)


def test_a_unit_without_a_name_is_known_by_its_place_in_the_recording() -> None:
    chosen = replace(PLAIN, columns=np.array([0, 2, 7]), num_recorded=8)
    assert chosen.name(2) == "unit 7"
    assert replace(chosen, unit_names=("AVA", "AVB", "RIM")).name(2) == "RIM"


def test_rates_agree_within_a_quarter_either_way_and_unknown_ones_always() -> None:
    assert rates_agree(10, 12.5) and rates_agree(12.5, 10) and rates_agree(None, 3) and rates_agree(3, None)
    assert not rates_agree(10, 12.6) and not rates_agree(12.6, 10)


def test_a_window_with_an_absurd_or_a_hidden_value_is_refused() -> None:
    frames = np.zeros((8, 3), np.float32)
    fit = Preprocessing.of_units(np.zeros(3, np.float32), np.ones(3, np.float32))
    assert fit.window(frames, 4).shape == (4, 3)
    masked = np.ma.masked_array(frames, mask=np.zeros((8, 3), bool))
    masked[6, 1] = np.ma.masked
    with pytest.raises(AdaptationError, match="unit 1 that are not finite"):
        fit.window(masked, 4)
    frames[6, 2] = 9.97e36
    with pytest.raises(AdaptationError, match=r"unit 2 that are 9.97e.36, absurdly far off"):
        fit.window(frames, 4)


def _fitted(session: Session) -> Preprocessing:
    frames = session.frames(0, session.num_frames)
    return Preprocessing.of_units(
        frames.mean(axis=0), frames.std(axis=0), rate_hz=session.rate_hz, recorded_rate_hz=session.rate_hz
    )


@pytest.mark.parametrize(
    "change",
    [lambda x: 100 * x, lambda x: x + 50],
    ids=["in percent", "raw"],
)
@pytest.mark.parametrize("num_frames", [300, 1000])
def test_a_recording_of_other_values_is_told(
    make_session: Callable[..., Session], change: Callable[[np.ndarray], np.ndarray], num_frames: int
) -> None:
    session = make_session(num_frames=num_frames, num_units=5)
    fitted, traces = _fitted(session), np.array(session.traces)
    few = traces.copy()
    few[:, 0] = change(few[:, 0])  # of one unit in five
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in (traces, few):
            fitted.latest_window(replace(session, traces=same), 16)
    few[:, 1] = change(few[:, 1])
    with pytest.warns(ValuesWarning, match="drift: 2 of 5 units have left what the interface was fitted on"):
        fitted.latest_window(replace(session, traces=few), 16)


@pytest.mark.parametrize("num_frames", [300, 1000])
@pytest.mark.parametrize(
    "change", [lambda x: 0.1 * x, lambda x: (x > 1).astype(np.float32) / 10], ids=["a tenth", "events"]
)
def test_a_recording_that_varies_less_is_told(
    make_session: Callable[..., Session], change: Callable[[np.ndarray], np.ndarray], num_frames: int
) -> None:
    session = make_session(num_frames=num_frames, num_units=5)
    fitted, traces = _fitted(session), np.array(session.traces)
    with pytest.warns(
        ValuesWarning, match=r"drift: units vary by 0\.\d+ of what the interface was fitted on"
    ):
        fitted.latest_window(replace(session, traces=change(traces)), 16)


def test_a_recording_at_whose_end_nothing_changes_is_told(make_session: Callable[..., Session]) -> None:
    session = make_session(num_frames=300, num_units=5)
    traces = np.array(session.traces)
    traces[-20:] = 0
    with pytest.warns(ValuesWarning, match="in the last 20 frames no unit changes, as where they were not"):
        _fitted(session).latest_window(replace(session, traces=traces), 16)


def test_units_that_are_silent_or_slow_have_not_drifted() -> None:
    """Within a minute they have another mean and less spread than over all of it."""
    rng = np.random.default_rng(0)
    slow = np.sin(2 * np.pi * np.arange(4000)[:, None] / np.array([300, 400, 500, 700, 900]))
    seldom = rng.random((4000, 60)) < 0.01
    for traces in (slow, seldom):
        fitted = _fitted(Session.from_array(traces.astype(np.float32), 3.0))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for start in range(0, 3900, 300):
                stretch = traces[start : start + 64].astype(np.float32)
                fitted.latest_window(Session.from_array(stretch, 3.0), 16)


def test_labels_are_no_names_of_units_that_were_recorded_without() -> None:
    table = pd.DataFrame(np.arange(15.0).reshape(5, 3), columns=["roi1", "roi2", "roi3"])
    for names in ((), ("unit 0", "unit 1", "unit 3")):
        unnamed = replace(PLAIN, columns=np.array([0, 1, 3]), num_recorded=4, unit_names=names)
        with pytest.warns(ValuesWarning, match="labelled .roi1, roi2, roi3.*taken in order"):
            found = unnamed.window(table, 3)
        np.testing.assert_array_equal(found, unnamed.window(table.to_numpy(), 3))
    made_up = table.set_axis(["unit 3", "unit 0", "unit 1"], axis=1)
    np.testing.assert_array_equal(unnamed.window(made_up, 3), table.to_numpy()[-3:, [1, 2, 0]])


@pytest.mark.parametrize("num_frames", [600, 9000])
def test_units_without_a_value_in_the_whole_context_are_told_and_since_when(
    make_session: Callable[..., Session], num_frames: int
) -> None:
    session = make_session(num_frames=num_frames, num_units=5)
    fitted, traces = _fitted(session), np.array(session.traces)
    traces[-15:, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.latest_window(replace(session, traces=traces), 16)
    traces[300:, 1] = np.nan
    traces[-16:, 3] = np.nan
    with pytest.warns(ValuesWarning) as told:
        fitted.latest_window(replace(session, traces=traces), 16)
    said = f"2 of 5 units (unit 1, unit 3) have no value in the last 16 to {num_frames - 300} frames"
    assert said in str(told[0].message)


def test_columns_of_a_window_are_found_by_their_names() -> None:
    named = replace(PLAIN, columns=np.array([0, 1, 3]), num_recorded=4, unit_names=("AVA", "AVB", "RIM"))
    table = pd.DataFrame(np.arange(20.0).reshape(5, 4), columns=["AVA", "AVB", "AVC", "RIM"])
    expected = named.window(table.to_numpy(), 3)
    for columns in (["AVA", "AVB", "RIM"], ["RIM", "AVC", "AVA", "AVB"]):
        np.testing.assert_array_equal(named.window(table[columns], 3), expected)
    np.testing.assert_array_equal(named.window(table.set_axis(range(4), axis=1), 3), expected)
    with pytest.raises(AdaptationError, match=r"no column of AVB \(1 of 3 units\)"):
        named.window(table[["RIM", "AVC", "AVA"]], 3)
    with pytest.raises(AdaptationError, match="2 of 3 units are none of the model's: a, b"):
        named.window(table[["AVA", "AVB", "RIM"]].set_axis(["a", "b", "RIM"], axis=1), 3)
