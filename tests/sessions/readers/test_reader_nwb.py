from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.file import Subject
from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries
from writing import assert_values, bare_nwb, put_series, read_one

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers import _selected, nwb, open_recording
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

REAL = "nwb_scholz2018_AML175/ScholzEtAl2018.AML175_moving.BrainScanner20180223_141721.nwb"


def test_a_real_file_with_a_series_for_each_unit_equals_its_normalized_twin(
    original_dir: Path, twin: Callable[[str], Session]
) -> None:
    (session,) = open_recording(original_dir / REAL)
    expected = twin("celegans__scholz2018_AML175__BrainScanner20180223_141721")
    np.testing.assert_array_equal(session.frames(0, session.num_frames), expected.traces)
    np.testing.assert_array_equal(session.time_s, expected.time_s)
    # Times in whole milliseconds: their median interval, which gave the twin its 6.02 Hz, is 0.4 % off.
    assert session.rate_hz == pytest.approx(6.0, rel=1e-5)
    assert session.session == expected.session
    assert session.unit_names[:2] == ("Activity_0000", "Activity_0001")


class Writer:
    """An NWB file of one imaging plane, written by pynwb."""

    def __init__(self, num_rois: int, accepted: list[bool] | None = None, **subject: Any) -> None:
        self.file = NWBFile("words", "ident", datetime(2024, 1, 2, tzinfo=UTC), session_id="day2")
        if subject:
            self.file.subject = Subject(**subject)
        optical = OpticalChannel(name="c", description="d", emission_lambda=510.0)
        plane = self.file.create_imaging_plane(
            name="plane", optical_channel=optical, description="d", indicator="GCaMP6s",
            device=self.file.create_device("microscope"), excitation_lambda=488.0, location="tectum",
        )  # fmt: skip
        self.ophys = self.file.create_processing_module("ophys", "d")
        segmentation = ImageSegmentation()
        self.ophys.add(segmentation)
        self.table = segmentation.create_plane_segmentation("d", plane, "cells")
        for roi in range(num_rois):
            self.table.add_roi(pixel_mask=[(roi, roi, 1.0)], id=100 + roi)
        if accepted is not None:
            self.table.add_column("Accepted", "d", data=accepted)
        self.rois = self.table.create_roi_table_region("d", region=list(range(num_rois)))

    def series(self, container: type, name: str, data: np.ndarray, **fields: Any) -> Writer:
        timing = {} if "timestamps" in fields else {"rate": 7.5, "starting_time": 0.0}
        box = container(name=fields.pop("box", container.__name__))
        self.ophys.add(box)
        box.add_roi_response_series(
            RoiResponseSeries(name=name, data=data, rois=self.rois, unit="a", **timing, **fields)
        )
        return self

    def save(self, path: Path) -> Path:
        with NWBHDF5IO(path, "w") as io:
            io.write(self.file)
        return path


def test_one_series_with_all_that_the_file_tells(tmp_path: Path, traces: np.ndarray) -> None:
    writer = Writer(4, species="Danio rerio", subject_id="fish7", age="P8D", sex="U")
    path = writer.series(DfOverF, "RoiResponseSeries", traces).save(tmp_path / "a.nwb")
    (session,) = open_recording(path)
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))
    assert session.id == f"{tmp_path.name}/fish7/day2"
    assert (session.species, session.rate_hz, session.signal) == ("zebrafish", 7.5, "dff")
    assert session.unit_names == ("roi100", "roi101", "roi102", "roi103")
    assert session.brain_regions == ("tectum",) * 4
    assert "identity_note" not in session.metadata


@pytest.mark.parametrize(
    ("species", "expected"),
    [("Caenorhabditis elegans", "celegans"), ("Mus musculus", "mouse"), ("Octopus bocki", "Octopus bocki")],
)
def test_species_take_their_common_names_where_they_have_one(
    tmp_path: Path, traces: np.ndarray, species: str, expected: str
) -> None:
    writer = Writer(4, species=species, subject_id="x", age="P8D", sex="U")
    path = writer.series(Fluorescence, "raw", traces).save(tmp_path / "a.nwb")
    (session,) = open_recording(path)
    assert (session.species, session.signal) == (expected, "fluorescence")


def test_dff_goes_before_fluorescence_and_the_others_are_named(tmp_path: Path, traces: np.ndarray) -> None:
    writer = Writer(4).series(Fluorescence, "raw", traces + 9).series(DfOverF, "dff", traces)
    (session,) = open_recording(writer.save(tmp_path / "a.nwb"))
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))
    assert session.metadata["variable"] == "processing/ophys/DfOverF/dff"
    assert session.metadata["also_in_the_file"] == "processing/ophys/Fluorescence/raw"


def test_neuropil_and_deconvolved_activity_are_not_taken_for_traces(
    tmp_path: Path, traces: np.ndarray
) -> None:
    writer = Writer(4).series(Fluorescence, "plane0", traces)
    writer.series(Fluorescence, "plane0", traces + 1, box="Neuropil")
    writer.series(Fluorescence, "plane0", traces + 2, box="Deconvolved")
    (session,) = open_recording(writer.save(tmp_path / "a.nwb"))
    assert session.metadata["variable"] == "processing/ophys/Fluorescence/plane0"


def test_several_series_are_one_error_that_names_them_and_the_sidecar_decides(
    tmp_path: Path, traces: np.ndarray
) -> None:
    writer = Writer(4).series(DfOverF, "left", traces, box="A").series(DfOverF, "right", traces + 1)
    path = writer.save(tmp_path / "a.nwb")
    with pytest.raises(RecordingError, match=r"A/left, .*DfOverF/right.*variable"):
        open_recording(path)
    for variable in (
        "right",
        "DfOverF",
        "/processing/ophys/DfOverF/right",
        "processing/ophys/DfOverF/right/data",
    ):
        (session,) = open_recording(path, Sidecar(variable=variable))
        np.testing.assert_array_equal(session.frames(0, session.num_frames), (traces + 1).astype(np.float32))
    with pytest.raises(RecordingError, match=r"fits 0 of the series.*A/left"):
        open_recording(path, Sidecar(variable="middle"))


def test_timestamps_give_times_and_rate(tmp_path: Path, traces: np.ndarray) -> None:
    times = 100 + np.arange(50) / 3.0
    path = Writer(4).series(DfOverF, "dff", traces, timestamps=times).save(tmp_path / "a.nwb")
    (session,) = open_recording(path)
    np.testing.assert_array_equal(session.time_s, times)
    assert session.rate_hz == pytest.approx(3.0)


def test_swapped_axes_are_told_by_the_rois(tmp_path: Path, traces: np.ndarray) -> None:
    path = Writer(4).series(DfOverF, "dff", traces).save(tmp_path / "a.nwb")
    with h5py.File(path, "r+") as file:
        box = file["processing/ophys/DfOverF/dff"]
        attributes = dict(box["data"].attrs)
        del box["data"]
        box["data"] = traces.T
        box["data"].attrs.update(attributes)
    (session,) = open_recording(path)
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))


def test_conversion_and_accepted_rois_are_applied(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 80, (20, 4)).astype(np.int16)
    writer = Writer(4, accepted=[True, False, True, True])
    writer.series(Fluorescence, "raw", counts, conversion=0.5, offset=1.0)
    (session,) = open_recording(writer.save(tmp_path / "a.nwb"))
    np.testing.assert_array_equal(session.traces, counts[:, [0, 2, 3]] * 0.5 + 1)
    assert session.unit_names == ("roi100", "roi102", "roi103")
    assert session.metadata["cells"] == "3 of 4 ROIs are cells (Accepted)"


def test_half_precision_is_converted_without_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selected, "MAX_LOADED_BYTES", 0)
    counts = np.random.default_rng(0).integers(1, 2000, (40, 4)).astype(np.float16)
    for conversion in (1e-9, 100.0):
        writer = Writer(4)
        writer.series(Fluorescence, "raw", counts, conversion=conversion)
        (session,) = open_recording(writer.save(tmp_path / f"{conversion}.nwb"))
        assert not isinstance(session.traces, np.ndarray)
        np.testing.assert_allclose(session.frames(0, 40), counts.astype(float) * conversion, rtol=1e-6)


def test_a_file_without_population_says_so(tmp_path: Path) -> None:
    path = Writer(1).save(tmp_path / "a.nwb")
    with pytest.raises(RecordingError, match="no population recording"):
        open_recording(path)


def test_series_of_numbered_names_are_units_in_the_order_of_their_numbers(
    tmp_path: Path, traces: np.ndarray
) -> None:
    writer = Writer(1)
    for unit in range(4):
        name = f"cell {unit + 8}"
        series = TimeSeries(name=name, data=traces[:, unit], unit="a", rate=2.0, starting_time=0.0)
        writer.file.add_acquisition(series)
    (session,) = open_recording(writer.save(tmp_path / "a.nwb"))
    np.testing.assert_array_equal(session.frames(0, session.num_frames), traces.astype(np.float32))
    assert session.unit_names == ("cell 8", "cell 9", "cell 10", "cell 11")
    assert session.rate_hz == 2.0


def test_large_recordings_are_read_by_slices_and_travel_between_processes(
    tmp_path: Path, traces: np.ndarray, original_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selected, "MAX_LOADED_BYTES", 0)
    path = Writer(4).series(DfOverF, "dff", traces).save(tmp_path / "a.nwb")
    for recording in (path, original_dir / REAL):
        (session,) = nwb.read(recording, Sidecar())
        assert not isinstance(session.traces, np.ndarray)
        travelled = pickle.loads(pickle.dumps(session))
        np.testing.assert_array_equal(travelled.frames(3, 9), session.frames(0, 20)[3:9])
    np.testing.assert_array_equal(nwb.read(path, Sidecar())[0].frames(3, 9), traces[3:9].astype(np.float32))


def test_a_truncated_file_is_one_clear_error(tmp_path: Path, original_dir: Path) -> None:
    whole = (original_dir / REAL).read_bytes()
    path = tmp_path / "cut.nwb"
    for size in (100, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(RecordingError, match=r"cut\.nwb"):
            open_recording(path)


def test_many_series_in_one_place_are_units_by_their_own_names(tmp_path: Path, traces: np.ndarray) -> None:
    names = ["AVAL", "AVAR", "RIML", "RIMR", "SMDDL", "SMDDR", "VB2x", "OLQ"]
    values = np.concatenate([traces, traces + 1], axis=1)
    writer = Writer(1)
    for unit, name in enumerate(names):
        series = TimeSeries(name=name, data=values[:, unit], unit="a", rate=2.0, starting_time=0.0)
        writer.file.add_acquisition(series)
    (session,) = open_recording(writer.save(tmp_path / "a.nwb"))
    assert sorted(session.unit_names) == sorted(names)
    expected = values[:, [names.index(name) for name in session.unit_names]]
    np.testing.assert_array_equal(session.frames(0, session.num_frames), expected.astype(np.float32))


# Files that pynwb refuses, which are read by the types that they state.


def test_data_that_a_link_leads_to_are_read_in_the_file_they_lie_in(
    tmp_path: Path, calcium: np.ndarray
) -> None:
    with bare_nwb(tmp_path / "raw.nwb") as file:
        put_series(
            file.require_group("processing/ophys/Fluorescence"), "raw", calcium, "RoiResponseSeries", 30.0
        )
    with bare_nwb(tmp_path / "linked.nwb") as file:
        group = file.require_group("processing/ophys/DfOverF")
        group.attrs["neurodata_type"] = "DfOverF"
        series = put_series(group, "dff", None, "RoiResponseSeries", 30.0)
        series["data"] = h5py.ExternalLink("raw.nwb", "/processing/ophys/Fluorescence/raw/data")
    session = read_one(tmp_path / "linked.nwb")
    assert_values(session, calcium)
    assert session.signal == "dff"
    assert "pynwb does not open the file" in session.metadata["read_by"]


def test_links_that_pynwb_writes_between_and_within_files_are_followed(
    tmp_path: Path, calcium: np.ndarray
) -> None:
    Writer(6).series(Fluorescence, "raw", calcium).save(tmp_path / "raw.nwb")
    writer = Writer(6)
    with NWBHDF5IO(tmp_path / "raw.nwb", "r") as source:
        raw = source.read().processing["ophys"]["Fluorescence"]["raw"]
        writer.series(DfOverF, "dff", raw.data)
        with NWBHDF5IO(tmp_path / "linked.nwb", "w", manager=source.manager) as io:
            io.write(writer.file, link_data=True)
    with h5py.File(tmp_path / "linked.nwb") as file:
        link = file["processing/ophys/DfOverF/dff"].get("data", getlink=True)
        assert isinstance(link, h5py.ExternalLink)
    session = read_one(tmp_path / "linked.nwb")
    assert_values(session, calcium)
    assert "read_by" not in session.metadata


def test_a_link_that_leads_nowhere_is_named_and_the_file_is_not_called_damaged(tmp_path: Path) -> None:
    with bare_nwb(tmp_path / "a.nwb") as file:
        series = put_series(
            file.require_group("processing/ophys/DfOverF"), "dff", None, "RoiResponseSeries", 30.0
        )
        series["data"] = h5py.ExternalLink("raw.nwb", "/x")
    with pytest.raises(
        RecordingError, match=r"dff/data is a link to raw\.nwb:/x, which is not there"
    ) as caught:
        read_one(tmp_path / "a.nwb")
    assert "damaged" not in str(caught.value)


def test_compression_without_its_plugin_is_named() -> None:
    path = Path(__file__).parent / "fixtures" / "blosc.nwb"
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        with pytest.raises(RecordingError, match=r"compressed by Blosc .*hdf5plugin") as caught:
            read_one(path)
        assert "damaged" not in str(caught.value)
    else:
        assert read_one(path).num_frames > 0


# Not neurons.


def test_a_pose_beside_sorted_units_is_no_population_and_the_units_are_asked_about(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = Writer(1)
    behavior = writer.file.create_processing_module("behavior", "d")
    pose = rng.standard_normal((200, 8)).cumsum(0)
    behavior.add(TimeSeries(name="pose_keypoints", data=pose, unit="m", rate=30.0, starting_time=0.0))
    spikes = [np.sort(rng.random(40) * 20) for _ in range(3)]
    for unit, times in enumerate(spikes):
        writer.file.add_unit(spike_times=times, id=7 + unit)
    path = writer.save(tmp_path / "a.nwb")
    with pytest.raises(RecordingQuestion, match=r"spike times of 3 units.*bin_s"):
        read_one(path)
    session = read_one(path, bin_s=0.5)
    assert session.unit_names == ("unit7", "unit8", "unit9") and session.rate_hz == 2.0
    first, last = min(map(np.min, spikes)), max(map(np.max, spikes))
    edges = first + 0.5 * np.arange(int((last - first) / 0.5) + 1)
    expected = [np.histogram(times[times < edges[-1]], edges)[0] for times in spikes]
    assert_values(session, np.stack(expected, axis=1))
    assert "pose_keypoints" in session.metadata["also_in_the_file"]


def test_of_sorted_units_those_of_good_quality_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = Writer(1)
    writer.file.add_unit_column("quality", "d")
    for label in ("good", "noise", "mua", "good"):
        writer.file.add_unit(spike_times=np.sort(rng.random(40) * 20), quality=label)
    session = read_one(writer.save(tmp_path / "a.nwb"), bin_s=0.5)
    assert session.unit_names == ("unit0", "unit3")
    assert session.metadata["cells"] == "2 of 4 units are good (quality)"


@pytest.mark.parametrize("kind", ["ElectricalSeries", "SpatialSeries", "TimeSeries"])
def test_other_series_of_two_axes_are_refused_by_name(tmp_path: Path, calcium: np.ndarray, kind: str) -> None:
    with bare_nwb(tmp_path / "a.nwb") as file:
        put_series(file.require_group("processing/behavior/Position"), "tracking", calcium, kind, 30.0)
    with pytest.raises(RecordingError, match=r"no population recording.*tracking \(behaviour"):
        read_one(tmp_path / "a.nwb")


def test_many_behaviours_in_one_place_are_no_population(tmp_path: Path, calcium: np.ndarray) -> None:
    with bare_nwb(tmp_path / "a.nwb") as file:
        for name in ("speed", "lick", "pupil", "a", "b", "c", "whisk", "reward", "nose"):
            group = file.require_group("processing/behavior/BehavioralTimeSeries")
            group.attrs["neurodata_type"] = "BehavioralTimeSeries"
            put_series(group, name, calcium[:, 0], "TimeSeries", 30.0)
    with pytest.raises(RecordingError, match="no population recording"):
        read_one(tmp_path / "a.nwb")


def test_an_unnamed_matrix_in_acquisition_is_read_where_nothing_is_likelier(
    tmp_path: Path, calcium: np.ndarray
) -> None:
    with bare_nwb(tmp_path / "a.nwb") as file:
        put_series(file.require_group("acquisition"), "plane 3", calcium, "TimeSeries", 30.0)
        put_series(file.require_group("acquisition"), "wheel speed", calcium + 1, "TimeSeries", 100.0)
    session = read_one(tmp_path / "a.nwb")
    assert_values(session, calcium)
    assert session.metadata["also_in_the_file"] == "acquisition/wheel speed"


# Curation, rate and time.


def test_a_region_that_fits_not_takes_the_rows_of_its_table_and_says_so(
    tmp_path: Path, calcium: np.ndarray
) -> None:
    with bare_nwb(tmp_path / "a.nwb") as file:
        table = file.create_group("processing/ophys/ImageSegmentation/PlaneSegmentation")
        table["iscell"] = np.stack([[1, 0, 1, 1, 0, 1.0], np.ones(6)], 1)
        table["id"] = np.arange(6)
        group = file.require_group("processing/ophys/Fluorescence")
        rois = put_series(group, "F", calcium.T, "RoiResponseSeries", 10.0).create_dataset(
            "rois", data=np.arange(3)
        )
        rois.attrs["table"] = table.ref
    session = read_one(tmp_path / "a.nwb")
    assert_values(session, calcium[:, [0, 2, 3, 5]])
    assert session.metadata["cells"] == "4 of 6 ROIs are cells (iscell)"
    assert "names 3 ROIs of a table of 6, but the data has 6 units" in session.metadata["rois_note"]


def test_a_table_that_fits_no_data_is_passed_over_and_said(tmp_path: Path, calcium: np.ndarray) -> None:
    with bare_nwb(tmp_path / "a.nwb") as file:
        table = file.create_group("processing/ophys/ImageSegmentation/PlaneSegmentation")
        table["iscell"], table["id"] = np.ones((4, 2)), np.arange(4)
        group = file.require_group("processing/ophys/Fluorescence")
        rois = put_series(group, "F", calcium, "RoiResponseSeries", 10.0).create_dataset(
            "rois", data=np.arange(3)
        )
        rois.attrs["table"] = table.ref
    session = read_one(tmp_path / "a.nwb")
    assert_values(session, calcium)
    assert "iscell was passed over" in session.metadata["cells"]


@pytest.mark.parametrize("count", [199, 201, 400])
def test_times_more_or_fewer_than_frames_ask_for_the_rate_which_lets_the_recording_in(
    tmp_path: Path, calcium: np.ndarray, count: int
) -> None:
    with bare_nwb(tmp_path / "a.nwb") as file:
        series = put_series(
            file.require_group("processing/ophys/Fluorescence"), "F", calcium, "RoiResponseSeries"
        )
        series["timestamps"] = np.arange(count) / 30
    with pytest.raises(RecordingQuestion, match=f"200 frames but {count} times.*rate_hz") as caught:
        read_one(tmp_path / "a.nwb")
    assert caught.value.choices == {"rate_hz": [30.0]}
    session = read_one(tmp_path / "a.nwb", rate_hz=30.0)
    assert_values(session, calcium)
    assert session.rate_hz == 30 and session.time_s is None
    assert f"{count} frame times for 200 frames" in session.metadata["times_note"]


def test_where_rate_axis_and_identity_come_from_is_told(tmp_path: Path, calcium: np.ndarray) -> None:
    path = (
        Writer(6, species="Mus musculus", subject_id="010", age="P8D", sex="U")
        .series(DfOverF, "dff", calcium)
        .save(tmp_path / "a.nwb")
    )
    session = read_one(path, session="12:30:00")
    assert session.metadata["rate_from"] == "the rate of processing/ophys/DfOverF/dff/starting_time"
    assert session.metadata["axis_from"] == "the number of ROIs"
    assert session.metadata["identity_from"] == (
        "dataset from the folder's name; subject, species from the file; session from the sidecar"
    )
