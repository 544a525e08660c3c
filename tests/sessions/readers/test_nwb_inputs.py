"""Inputs of NWB files: series, tables of intervals and events, optogenetics, patterns of stimulated ROIs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hdmf.common import DynamicTableRegion
from pynwb import NWBHDF5IO, NWBFile, TimeSeries, get_class, load_namespaces
from pynwb.behavior import BehavioralEvents, BehavioralTimeSeries, SpatialSeries
from pynwb.epoch import TimeIntervals
from pynwb.misc import AbstractFeatureSeries, AnnotationSeries, IntervalSeries
from pynwb.ogen import OptogeneticSeries
from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries
from pynwb.spec import NWBGroupSpec, NWBNamespaceBuilder

from forebrain.sessions.inputs import Input
from forebrain.sessions.readers import _nwb_tree, open_recording
from forebrain.sessions.session import Session

T, RATE = 200, 10.0


class Rig:
    """An NWB file of six ROIs, 20 s from second 3 on at 10 Hz."""

    def __init__(self, start_s: float = 3.0) -> None:
        self.file = NWBFile("words", "ident", datetime(2024, 1, 2, tzinfo=UTC))
        self.device = self.file.create_device("rig")
        plane = self.file.create_imaging_plane(
            name="plane", optical_channel=OpticalChannel(name="c", description="d", emission_lambda=510.0),
            description="d", indicator="GCaMP6s", device=self.device, excitation_lambda=488.0, location="V1",
        )  # fmt: skip
        self.behaviour = self.file.create_processing_module("behavior", "d")
        ophys = self.file.create_processing_module("ophys", "d")
        segmentation = ImageSegmentation()
        ophys.add(segmentation)
        self.cells = segmentation.create_plane_segmentation("d", plane, "cells")
        for roi in range(6):
            self.cells.add_roi(pixel_mask=[(roi, roi, 1.0)], id=100 + roi)
        box = DfOverF()
        ophys.add(box)
        box.add_roi_response_series(
            RoiResponseSeries(
                name="dff",
                data=np.random.default_rng(0).normal(size=(T, 6)),
                unit="a",
                rate=RATE,
                rois=self.cells.create_roi_table_region("d", region=list(range(6))),
                starting_time=start_s,
            )
        )

    def rows(self, *rows: dict[str, Any], name: str) -> TimeIntervals:
        table = TimeIntervals(name=name, description="d")
        for column in rows[0].keys() - {"start_time", "stop_time"}:
            table.add_column(column, "d")
        for row in rows:
            table.add_row(**row)
        self.file.add_time_intervals(table)
        return table


def nonzero(session: Session, name: str) -> dict[int, float]:
    values = session.input_values([name])[:, 0]
    return {int(frame): round(float(values[frame]), 4) for frame in np.flatnonzero(values)}


@pytest.fixture(params=["pynwb", "types"])
def opened(request, tmp_path, monkeypatch):
    """Writes a rig's file and opens it by pynwb, or by the types of the specification alone."""

    def open_it(rig: Rig) -> Session:
        with NWBHDF5IO(tmp_path / "a.nwb", "w") as io:
            io.write(rig.file)
        if request.param == "types":

            def refuse(*_: Any) -> None:
                raise ValueError("an extension is missing")

            monkeypatch.setattr(_nwb_tree, "_by_pynwb", refuse)
        (session,) = open_recording(tmp_path / "a.nwb")
        return session

    return open_it


def test_presented_series_are_inputs_that_can_be_planned_in_their_unit(opened):
    rig = Rig()
    rig.file.add_stimulus(TimeSeries(name="odour", data=np.repeat([0, 20], 100), rate=10.0, starting_time=3.0,
                                     unit="ppm", conversion=0.1))  # fmt: skip
    rig.file.add_stimulus(
        TimeSeries(name="light", data=[0.0, 5.0, 0.0], timestamps=[0.0, 8.0, 8.5], unit="lux")
    )
    session = opened(rig)
    assert session.inputs == (Input("light", "level", "lux"), Input("odour", "level", "ppm"))
    assert nonzero(session, "odour") == dict.fromkeys(range(100, 200), 2.0)
    assert nonzero(session, "light") == dict.fromkeys(range(50, 55), 5.0)
    assert (
        "light: stimulus/presentation/light, 3 samples, known in 200 of 200"
        in session.metadata["inputs_from"]
    )


def test_optogenetic_stimulation_is_an_input(opened):
    rig = Rig()
    site = rig.file.create_ogen_site(
        name="site", device=rig.device, description="d", excitation_lambda=600.0, location="V1"
    )
    laser = OptogeneticSeries(name="laser", data=[0.0, 2e-3, 0.0], timestamps=[3.0, 4.0, 5.0], site=site)
    rig.file.add_stimulus(laser)
    session = opened(rig)
    assert session.inputs == (Input("laser", "level", "watts"),)
    assert nonzero(session, "laser") == dict.fromkeys(range(10, 20), 0.002)


def test_what_the_animal_does_cannot_be_planned(opened):
    rig = Rig()
    box = BehavioralTimeSeries()
    box.add_timeseries(
        TimeSeries(name="pupil", data=np.arange(T) / T, rate=RATE, starting_time=3.0, unit="mm")
    )
    rig.behaviour.add(box)
    events = BehavioralEvents()
    events.add_timeseries(
        TimeSeries(name="lick", data=[1.0, 1.0, 1.0], timestamps=[4.0, 4.05, 30.0], unit="n.a.")
    )
    rig.behaviour.add(events)
    place = SpatialSeries(
        name="place", data=np.ones((T, 2)), rate=RATE, starting_time=3.0, reference_frame="d"
    )
    rig.file.add_acquisition(place)
    timing = {"rate": RATE, "starting_time": 3.0, "unit": "n.a."}
    rig.file.add_acquisition(TimeSeries(name="odor_valve", data=np.repeat([0, 1], 100), **timing))
    rig.file.add_acquisition(TimeSeries(name="unheard_of", data=np.ones(T), rate=RATE, unit="n.a."))
    session = opened(rig)
    assert session.stimulus_names == ("odor_valve",)
    assert session.behaviour_names == ("place/x", "place/y", "lick", "pupil")
    assert nonzero(session, "lick") == {10: 2.0}
    assert session.metadata["inputs_outside"] == "lick (1)"
    assert "acquisition/unheard_of (nothing tells" in session.metadata["inputs_left_out"]


def test_trials_are_inputs_with_their_columns(opened):
    rig = Rig()
    for name in ("contrast", "side", "cue_time", "choice", "trial"):
        rig.file.add_trial_column(name, "d")
    rig.file.add_trial(
        start_time=4.0, stop_time=6.0, contrast=0.5, side="left", cue_time=4.52, choice="L", trial=1
    )
    rig.file.add_trial(
        start_time=8.0, stop_time=10.0, contrast=1.0, side="right", cue_time=8.5, choice="R", trial=2
    )
    rig.file.add_trial(
        start_time=90.0, stop_time=91.0, contrast=1.0, side="left", cue_time=90.5, choice="R", trial=3
    )
    session = opened(rig)
    assert {each.name: (each.kind, each.can_be_planned) for each in session.inputs} == {
        "trials": ("level", True), "trials/contrast": ("level", True), "trials/side:left": ("level", True),
        "trials/side:right": ("level", True), "trials/cue_time": ("event", True),
        "trials/choice:L": ("event", False), "trials/choice:R": ("event", False),
    }  # fmt: skip
    assert nonzero(session, "trials") == dict.fromkeys([*range(10, 30), *range(50, 70)], 1.0)
    assert nonzero(session, "trials/contrast") == {
        **dict.fromkeys(range(10, 30), 0.5), **dict.fromkeys(range(50, 70), 1.0)
    }  # fmt: skip
    assert nonzero(session, "trials/cue_time") == {15: 1.0, 55: 1.0}
    assert nonzero(session, "trials/choice:L") == {30: 1.0}  # where the trial ends: not known before
    assert "trials (1)" in session.metadata["inputs_outside"]


def test_epochs_that_follow_each_other_are_marked_where_they_begin_and_have_tags(opened):
    rig = Rig()
    rig.file.add_epoch(3.0, 8.0, tags=["base", "dark"])
    rig.file.add_epoch(8.0, 15.0, tags=["light"])
    rig.file.add_epoch(15.0, 23.0, tags=["dark"])
    session = opened(rig)
    assert nonzero(session, "epochs") == {0: 1.0, 50: 1.0, 120: 1.0}
    assert nonzero(session, "epochs/tags:dark") == dict.fromkeys([*range(50), *range(120, 200)], 1.0)


def test_short_intervals_are_marks(opened):
    rig = Rig()
    rig.rows(*({"start_time": at, "stop_time": at + 0.005} for at in (4.0, 6.01, 6.05)), name="taps")
    session = opened(rig)
    assert session.inputs == (Input("taps", "event"),)
    assert nonzero(session, "taps") == {10: 1.0, 30: 2.0}


def test_annotations_intervals_and_features_are_inputs(opened):
    rig = Rig()
    rig.file.add_stimulus(
        AnnotationSeries(name="sound", data=["low", "high", "low"], timestamps=[4.0, 5.0, 6.0])
    )
    rig.file.add_stimulus(IntervalSeries(name="gate", data=[1, -1, 2, -2], timestamps=[4.0, 5.0, 6.0, 8.0]))
    grating = AbstractFeatureSeries(
        name="grating", features=["angle", "speed"], feature_units=["deg", "n.a."],
        data=[[0.0, 1.0], [90.0, 2.0]], timestamps=[3.0, 13.0],
    )  # fmt: skip
    rig.file.add_stimulus(grating)
    session = opened(rig)
    assert nonzero(session, "sound:low") == {10: 1.0, 30: 1.0}
    assert nonzero(session, "gate/2") == dict.fromkeys(range(30, 50), 1.0)
    assert nonzero(session, "grating/angle") == dict.fromkeys(range(100, 200), 90.0)


def test_rows_that_point_to_rois_are_a_pattern(opened):
    rig = Rig()
    table = TimeIntervals(name="holo", description="d")
    region = {"name": "stimulated", "description": "d"}
    table.add_column(**region, table=rig.cells, index=True, col_cls=DynamicTableRegion)
    table.add_column("power", "d")
    table.add_row(start_time=4.0, stop_time=5.0, stimulated=[1, 3], power=7.0)
    table.add_row(start_time=9.0, stop_time=10.0, stimulated=[3], power=9.0)
    rig.file.add_time_intervals(table)
    session = opened(rig)
    patterns = [each for each in session.inputs if each.kind == "pattern"]
    assert [(each.group, each.target) for each in patterns] == [
        ("holo/stimulated", "roi101"), ("holo/stimulated", "roi103"),
    ]  # fmt: skip
    assert {each.target for each in patterns} <= set(session.unit_names)
    assert nonzero(session, "holo/stimulated[roi101]") == dict.fromkeys(range(10, 20), 7.0)
    assert nonzero(session, "holo/stimulated[roi103]") == {
        **dict.fromkeys(range(10, 20), 7.0), **dict.fromkeys(range(60, 70), 9.0)
    }  # fmt: skip


def test_targets_as_the_patterned_extension_has_them_are_a_pattern(tmp_path: Path):
    """The extension's types of a target and of the table, by a namespace of the same form."""
    words = {"doc": "d", "name": "ndx-pattern-words", "author": "a", "contact": "a@b.c"}
    builder = NWBNamespaceBuilder(**words, version="0.1.0")
    builder.include_namespace("core")
    target = NWBGroupSpec(doc="d", neurodata_type_def="PatternTarget", neurodata_type_inc="LabMetaData")
    target.add_dataset(doc="d", name="segmented_rois", neurodata_type_inc="DynamicTableRegion")
    table = NWBGroupSpec(doc="d", neurodata_type_def="PatternTable", neurodata_type_inc="TimeIntervals")
    column = table.add_dataset(doc="d", name="targets", neurodata_type_inc="VectorData")
    column["dtype"] = {"target_type": "PatternTarget", "reftype": "object"}
    builder.add_spec("words.extensions.yaml", target)
    builder.add_spec("words.extensions.yaml", table)
    builder.export("words.namespace.yaml", outdir=str(tmp_path))
    load_namespaces(str(tmp_path / "words.namespace.yaml"))
    rig = Rig()
    hit = []
    for name, rows in (("A", [1, 3]), ("B", [5])):
        region = rig.cells.create_roi_table_region(name="segmented_rois", description="d", region=rows)
        hit.append(get_class("PatternTarget", "ndx-pattern-words")(name=name, segmented_rois=region))
        rig.file.add_lab_meta_data(hit[-1])
    pattern = get_class("PatternTable", "ndx-pattern-words")(name="holo", description="d")
    pattern.add_column("power_per_roi", "d", index=True)
    pattern.add_interval(start_time=4.0, stop_time=5.0, targets=hit[0], power_per_roi=[0.1, 0.3])
    pattern.add_interval(start_time=9.0, stop_time=10.0, targets=hit[1], power_per_roi=[0.5])
    rig.file.add_time_intervals(pattern)
    spots = rig.cells.parent.create_plane_segmentation("d", rig.cells.imaging_plane, "spots")
    spots.add_roi(pixel_mask=[(0, 0, 1.0)], id=3)
    region = spots.create_roi_table_region(name="segmented_rois", description="d", region=[0])
    hit.append(get_class("PatternTarget", "ndx-pattern-words")(name="C", segmented_rois=region))
    rig.file.add_lab_meta_data(hit[-1])
    pattern.add_interval(start_time=12.0, stop_time=13.0, targets=hit[2], power_per_roi=[0.7])
    with NWBHDF5IO(tmp_path / "a.nwb", "w") as io:
        io.write(rig.file)
    (session,) = open_recording(tmp_path / "a.nwb")
    assert [each.target for each in session.inputs if each.kind == "pattern"] == [
        "roi101", "roi103", "roi105", "spots/roi3",
    ]  # fmt: skip
    assert nonzero(session, "holo[roi105]") == dict.fromkeys(range(60, 70), 0.5)
    assert nonzero(session, "holo[roi103]") == dict.fromkeys(range(10, 20), 0.3)


def test_what_lies_wholly_elsewhere_in_time_is_left_out_and_said(opened):
    rig = Rig()
    rig.file.add_trial(start_time=500.0, stop_time=501.0)
    rig.file.add_stimulus(
        TimeSeries(name="odour", data=np.ones(20), rate=10.0, starting_time=900.0, unit="ppm")
    )
    session = opened(rig)
    assert session.inputs == ()
    left_out = session.metadata["inputs_left_out"]
    assert "stimulus/presentation/odour (none of it lies in the frames, 3 to 23 s)" in left_out
    assert "intervals/trials (none of its 1 rows lies in the frames, 3 to 23 s)" in left_out


def test_sparse_values_of_what_the_animal_does_are_events_and_of_a_stimulus_last(opened):
    rig = Rig()
    times = [5.0, 9.0, 11.2, 19.9]
    rig.behaviour.add(
        TimeSeries(name="reward_volume", data=[7.0, 7.0, 5.0, 0.0], timestamps=times, unit="uL")
    )
    rig.file.add_stimulus(TimeSeries(name="odour", data=[7.0, 7.0, 5.0, 0.0], timestamps=times, unit="ppm"))
    session = opened(rig)
    assert nonzero(session, "reward_volume") == {20: 7.0, 60: 7.0, 82: 5.0}
    assert session.inputs[1] == Input("reward_volume", "event", "uL", can_be_planned=False)
    odour = session.input_values(["odour"])[:, 0]
    assert np.isnan(odour[:20]).all() and odour[[20, 81, 82, 168, 169]].tolist() == [7, 7, 5, 5, 0]


def test_a_file_without_inputs_reads_as_before(opened):
    session = opened(Rig())
    assert session.inputs == () and session.stimulus is None
    assert not {"inputs_from", "inputs_left_out"} & set(session.metadata)


def test_uneven_times_whose_values_say_nothing_are_events(opened):
    rig = Rig()
    times = [3.5, 4.2, 4.25, 9.0, 30.0]
    rig.file.add_acquisition(TimeSeries(name="licks", data=np.full(5, np.nan), timestamps=times, unit="n.a."))
    rig.file.add_stimulus(TimeSeries(name="shock", data=np.ones(5), timestamps=times, unit="n.a."))
    session = opened(rig)
    assert session.inputs == (Input("shock", "event"), Input("licks", "event", can_be_planned=False))
    assert nonzero(session, "shock") == nonzero(session, "licks") == {5: 1.0, 12: 2.0, 60: 1.0}
