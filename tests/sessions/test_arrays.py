"""A session made of what is in memory has its values, its names and its times, and guesses nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray

from forebrain.errors import RecordingError
from forebrain.sessions.arrays import column_names
from forebrain.sessions.session import READER_NOTES, Session

TRACES = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


class TsdFrame:
    """What is looked at of pynapple's: values, times in seconds, columns, and that it has a time support."""

    def __init__(self, t: np.ndarray, d: np.ndarray, columns: list[str]) -> None:
        self.t, self.values, self.columns, self.time_support = t, d, columns, SimpleNamespace()


def test_a_numpy_array_needs_a_rate_and_no_identity() -> None:
    session = Session.from_array(TRACES, rate_hz=30)
    np.testing.assert_array_equal(session.frames(0, 20), TRACES)
    assert session.rate_hz == 30 and session.unit_names is None and session.time_s is None
    assert session.id == "unknown/unnamed/array"
    assert "identity not given" in session.metadata[READER_NOTES[0]]


def test_an_identity_that_is_given_is_no_guess() -> None:
    session = Session.from_array(
        TRACES, 30, species="celegans", subject="worm9", session="day1", dataset="lab", signal="dff",
        unit_names=["AVA", "AVB", "RIM"], metadata={"licence": "MIT"},
    )  # fmt: skip
    assert session.id == "lab/worm9/day1" and session.metadata == {"licence": "MIT"}
    assert session.unit_names == ("AVA", "AVB", "RIM") and session.signal == "dff"


def test_a_data_frame_names_its_units_and_only_true_times_are_times() -> None:
    named = pd.DataFrame(TRACES, columns=["AVA", "AVB", "RIM"])
    assert Session.from_array(named, 30).unit_names == ("AVA", "AVB", "RIM")
    assert Session.from_array(named, 30).time_s is None
    assert Session.from_array(pd.DataFrame(TRACES), 30).unit_names is None
    dates = pd.date_range("2026-01-01", periods=20, freq="100ms")
    for index in (dates, dates - dates[0]):
        session = Session.from_array(named.set_index(index))
        np.testing.assert_allclose(session.time_s, np.arange(20) / 10)
        assert session.rate_hz is None
    counted = named.set_index(np.arange(20) * 7.0)
    assert Session.from_array(counted, 30).time_s is None


def test_an_xarray_names_its_units_and_a_series_is_no_table_whose_columns_have_names() -> None:
    labelled = xarray.DataArray(TRACES, dims=("time", "unit"), coords={"unit": ["AVA", "AVB", "RIM"]})
    odor = pd.Series(np.ones(20), index=pd.date_range("2026-01-01", periods=20))
    session = Session.from_array(labelled, 30, stimulus=odor, stimulus_names=("odor",))
    assert session.unit_names == ("AVA", "AVB", "RIM") and session.stimulus_names == ("odor",)
    with pytest.raises(RecordingError, match="0 names"):
        Session.from_array(TRACES, 30, stimulus=odor)


def test_a_tsd_frame_has_times_in_seconds_and_columns() -> None:
    session = Session.from_array(TsdFrame(np.arange(20) / 4, TRACES, ["a", "b", "c"]))
    np.testing.assert_array_equal(session.frames(0, 20), TRACES)
    np.testing.assert_array_equal(session.time_s, np.arange(20) / 4)
    assert session.unit_names == ("a", "b", "c")


def test_masked_values_are_missing_and_not_what_lies_under_the_mask() -> None:
    masked = np.ma.MaskedArray(np.ones((20, 3), int), mask=np.arange(60).reshape(20, 3) == 4)
    frames = Session.from_array(masked, 30).frames(0, 20)
    assert np.isnan(frames[1, 1]) and np.isnan(frames).sum() == 1 and np.nansum(frames) == 59
    stimulus = np.ma.MaskedArray(np.ones(20, int), mask=np.arange(20) == 4)
    session = Session.from_array(TRACES, 30, stimulus=stimulus, stimulus_names=("odor",))
    assert session.stimulus is not None
    assert np.isnan(session.stimulus[4, 0]) and np.nansum(session.stimulus) == 19


@pytest.mark.parametrize("name", ["segment_ids", "conditions", "time_s", "split", "repetition"])
def test_what_holds_a_value_for_each_frame_has_one_axis(name: str) -> None:
    with pytest.raises(RecordingError, match=rf"{name} has shape \(20, 1\); expected \(20,\)"):
        Session.from_array(TRACES, 30, **{name: np.zeros((20, 1), int)})


def test_dates_of_a_time_zone_are_times() -> None:
    dates = pd.date_range("2024-03-31", periods=20, freq="250ms", tz="Europe/Berlin")
    session = Session.from_array(pd.DataFrame(TRACES, index=dates))
    np.testing.assert_array_equal(session.time_s, np.arange(20) / 4)


@pytest.mark.parametrize(
    ("traces", "words"),
    [
        (TRACES[0], r"expected two axes, \[frames, units\]"),
        (TRACES[None], "expected two axes"),
        (TRACES.astype(complex), "expected real numbers"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), "Leave out columns of text"),
        ({"a": [1.0]}, "expected real numbers"),
        (np.zeros((0, 3)), "empty"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(traces: object, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        Session.from_array(traces, 30)


def test_an_array_of_an_hdf5_file_bears_no_names(tmp_path: Path) -> None:
    traces = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    with h5py.File(tmp_path / "traces.h5", "w") as file:
        file["dff"] = traces
        assert column_names(file["dff"]) is None
        np.testing.assert_array_equal(Session.from_array(file["dff"], 5.0).frames(0, 50), traces)
