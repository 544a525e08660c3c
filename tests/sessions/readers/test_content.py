"""The rules that hold for every format of arrays: what is activity, what axes count, whose the rate is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from scipy import io
from writing import assert_values, cells, matlab73, read_one, stamped

from forebrain.errors import RecordingError
from forebrain.sessions.inputs import Input
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers import open_recording
from forebrain.sessions.session import READER_NOTES
from forebrain.sessions.sidecar import Sidecar


def write_mat(path: Path, **arrays: Any) -> Path:
    io.savemat(path, arrays)
    return path


def write_mat73(path: Path, **arrays: Any) -> Path:
    def put(group: h5py.Group, name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                put(group.require_group(name), key, item)
        else:
            group[name] = np.atleast_2d(np.asarray(value)).T

    with matlab73(path) as file:
        for name, value in arrays.items():
            put(file, name, value)
    return stamped(path)


def write_h5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            for key, item in value.items() if isinstance(value, dict) else [("", value)]:
                file[f"{name}/{key}" if key else name] = item
    return path


def write_zarr(path: Path, **arrays: Any) -> Path:
    root = zarr.open_group(str(path), mode="w")
    for name, value in arrays.items():
        for key, item in value.items() if isinstance(value, dict) else [("", value)]:
            data = np.asarray(item, np.float64)
            root.create_array(f"{name}/{key}" if key else name, data=data)
    return path


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


Writer = Callable[..., Path]
NESTED: dict[str, tuple[str, Writer]] = {
    "mat": ("a.mat", write_mat),
    "mat73": ("b.mat", write_mat73),
    "h5": ("a.h5", write_h5),
    "zarr": ("a.zarr", write_zarr),
}
FLAT = {**NESTED, "npz": ("a.npz", write_npz)}


@pytest.fixture(params=list(FLAT))
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Writes arrays by name into a file of each format that can hold several."""
    name, writer = FLAT[request.param]
    return lambda **arrays: writer(tmp_path / name, **arrays)


@pytest.fixture(params=list(NESTED))
def write_nested(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Writes arrays and groups of arrays by name into a file of each format that can hold them."""
    name, writer = NESTED[request.param]
    return lambda **arrays: writer(tmp_path / name, **arrays)


# Not neurons.


@pytest.mark.parametrize(
    "name",
    [
        "kinematics",
        "pose",
        "wheel_speed",
        "licks",
        "lick_events",
        "pupilDiameter",
        "psth",
        "peri_event_mean",
        "dff_mean",
        "tuning_curves",
        "corr_matrix",
        "frameTimes",
        "roi_masks",
        "meanImg",
        "spatial_weights",
        "channel_positions",
        "template_feature_ind",
        "cell_to_index_map",
        "p_values_mask",
    ],
)
def test_behaviour_clocks_and_statistics_are_no_recording_and_are_named(
    write: Callable[..., Path], calcium: np.ndarray, name: str
) -> None:
    path = write(**{name: calcium})
    with pytest.raises(RecordingError, match=rf"{name} \(200, 6\) \(") as caught:
        read_one(path)
    assert "variable in the sidecar" in str(caught.value)
    assert_values(read_one(path, variable=name), calcium)


def test_the_unnamed_matrix_is_taken_beside_behaviour_which_is_named(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    session = read_one(write(recording=calcium, wheel_speed=np.random.default_rng(1).random((500, 4))))
    assert_values(session, calcium)
    assert session.metadata["also_in_the_file"] == "wheel_speed (500, 4): behaviour or stimulus, by the name"


def test_two_unnamed_matrices_are_asked_about(write: Callable[..., Path], calcium: np.ndarray) -> None:
    with pytest.raises(RecordingQuestion) as caught:
        read_one(write(one=calcium, two=calcium + 1))
    assert sorted(caught.value.choices["variable"]) == ["one", "two"]


def test_traces_of_three_axes_are_likelier_than_kinematics(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    trials = np.random.default_rng(0).random((6, 100, 10))
    path = write(resp=trials, kinematics=np.random.default_rng(1).standard_normal((1000, 4)))
    with pytest.raises(RecordingQuestion, match="resp has three axes, 6 x 100 x 10") as caught:
        read_one(path)
    assert ["units", "frames", "trials"] in caught.value.choices["axes"]
    session = read_one(path, axes=("units", "frames", "trials"))
    assert_values(session, np.concatenate([trials[:, :, trial].T for trial in range(10)]))
    assert session.segments == [(100 * trial, 100 * trial + 100) for trial in range(10)]


def test_flags_beside_the_traces_leave_out_what_is_no_cell(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    session = read_one(write(dff=calcium, iscell=np.array([1, 0, 1, 1, 0, 1.0])))
    assert_values(session, calcium[:, [0, 2, 3, 5]])
    assert session.metadata["cells"] == "4 of 6 ROIs are cells (iscell)"


def test_flags_that_fit_no_traces_are_said(write: Callable[..., Path], calcium: np.ndarray) -> None:
    session = read_one(write(dff=calcium, iscell=np.array([1, 0, 1, 1.0])))
    assert session.num_units == 6
    assert "does not fit 6 units" in session.metadata["cells"]


# Axes.


def split(values: np.ndarray, trials: int) -> np.ndarray:
    """[units, frames, trials] of [frames, units]."""
    return values.reshape(trials, -1, values.shape[1]).transpose(2, 1, 0)


@pytest.mark.parametrize(
    "axes",
    [
        ("units", "frames", "trials"),
        ("units", "trials", "frames"),
        ("frames", "units", "trials"),
        ("frames", "trials", "units"),
        ("trials", "units", "frames"),
        ("trials", "frames", "units"),
    ],
)
def test_trials_in_any_arrangement_are_segments(
    write: Callable[..., Path], calcium: np.ndarray, axes: tuple[str, ...]
) -> None:
    known = ("units", "frames", "trials")
    array = split(calcium, 4).transpose([known.index(axis) for axis in axes])
    path = write(dff=array)
    with pytest.raises(RecordingQuestion) as caught:
        read_one(path)
    assert list(axes) in caught.value.choices["axes"]
    session = read_one(path, axes=axes)
    assert_values(session, calcium)
    assert session.segments == [(0, 50), (50, 100), (100, 150), (150, 200)]


def test_sessions_of_one_array_are_recordings_of_their_own(tmp_path: Path, calcium: np.ndarray) -> None:
    array = np.stack([calcium, calcium + 1])
    np.save(tmp_path / "dff.npy", array)
    found = open_recording(tmp_path / "dff.npy", Sidecar(axes=("sessions", "frames", "units")))
    assert [session.session for session in found] == ["dff_1", "dff_2"]
    for number, session in enumerate(found):
        assert_values(session, calcium + number)


def test_named_axes_are_told_without_asking(tmp_path: Path, calcium: np.ndarray) -> None:
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    root.create_array("dff", data=split(calcium, 4), dimension_names=["cell", "time", "trial"])
    session = read_one(tmp_path / "a.zarr")
    assert_values(session, calcium)
    assert len(session.segments) == 4


def test_cells_of_units_by_trials_are_asked_about_and_read(tmp_path: Path, calcium: np.ndarray) -> None:
    def vector(unit: int, trial: int) -> np.ndarray:
        return calcium[50 * trial : 50 * trial + 50, unit][None]

    path = write_mat(tmp_path / "a.mat", dff=cells(6, 4, of=vector))
    with pytest.raises(RecordingQuestion, match="cells 6 x 4 of 50") as caught:
        read_one(path)
    assert caught.value.choices["axes"][0] == ["units", "trials", "frames"]
    session = read_one(path, axes=("units", "trials", "frames"))
    assert_values(session, calcium)
    assert len(session.segments) == 4
    turned = write_mat(tmp_path / "b.mat", dff=cells(4, 6, of=lambda trial, unit: vector(unit, trial)))
    assert_values(read_one(turned, axes=("trials", "units", "frames")), calcium)


def test_trials_in_cells_may_differ_in_length(tmp_path: Path, calcium: np.ndarray) -> None:
    edges = [0, 30, 110, 200]
    path = write_mat(
        tmp_path / "a.mat",
        dff=cells(6, 3, of=lambda unit, trial: calcium[edges[trial] : edges[trial + 1], unit]),
    )
    session = read_one(path, axes=("units", "trials", "frames"))
    assert_values(session, calcium)
    assert session.segments == [(0, 30), (30, 110), (110, 200)]


def test_cells_of_trials_by_sessions_are_sessions_of_segments(tmp_path: Path, calcium: np.ndarray) -> None:
    path = write_mat(
        tmp_path / "a.mat",
        dff=cells(2, 3, of=lambda trial, session: calcium[100 * trial : 100 * trial + 100] + session),
    )
    with pytest.raises(RecordingQuestion, match="four axes"):
        read_one(path)
    found = open_recording(path, Sidecar(axes=("trials", "sessions", "frames", "units")))
    assert [len(session.segments) for session in found] == [2, 2, 2]
    for number, session in enumerate(found):
        assert_values(session, calcium + number)


def test_planes_with_other_units_each_are_not_joined_as_trials(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_mat(tmp_path / "a.mat", dff=cells(1, 3, of=lambda _, plane: rng.random((5 + plane, 200))))
    with pytest.raises(RecordingQuestion) as caught:
        read_one(path)
    assert ["sessions", "units", "frames"] in caught.value.choices["axes"]
    found = open_recording(path, Sidecar(axes=("sessions", "units", "frames")))
    assert [session.num_units for session in found] == [5, 6, 7]


def test_sessions_of_other_units_and_frames_each_are_asked_about(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_mat(
        tmp_path / "a.mat", dff=cells(2, 1, of=lambda day, _: rng.random((5 + day, 200 + 50 * day)))
    )
    with pytest.raises(RecordingQuestion, match="dff has three axes") as caught:
        read_one(path)
    assert ["sessions", "units", "frames"] in caught.value.choices["axes"]
    found = open_recording(path, Sidecar(axes=("sessions", "units", "frames")))
    assert [session.traces.shape for session in found] == [(200, 5), (250, 6)]


def test_an_empty_trial_among_others_is_left_out_and_said(tmp_path: Path, calcium: np.ndarray) -> None:
    parts = [calcium[:80].T, np.zeros((0, 0)), calcium[80:].T]
    session = read_one(write_mat(tmp_path / "a.mat", dff=cells(1, 3, of=lambda _, trial: parts[trial])))
    assert_values(session, calcium)
    assert session.segments == [(0, 80), (80, 200)]
    assert session.metadata["cells_left_out"].startswith("cells 2 of dff are empty")


def test_axes_that_do_not_fit_the_array_are_an_error(tmp_path: Path, calcium: np.ndarray) -> None:
    path = write_mat(tmp_path / "a.mat", dff=split(calcium, 4))
    with pytest.raises(RecordingError, match="has 3 axes"):
        read_one(path, axes=("units", "frames", "trials", "sessions"))


def test_frame_times_tell_which_axis_counts_frames(write: Callable[..., Path]) -> None:
    values = np.random.default_rng(0).random((60, 50))
    session = read_one(write(dff=values, frame_times=np.arange(50) / 10))
    assert session.traces.shape == (50, 60) and session.rate_hz == 10


# Rate and time.


def test_another_devices_rate_is_not_the_recordings(
    write_nested: Callable[..., Path], calcium: np.ndarray
) -> None:
    imaging = {"dff": calcium.T, "frameTimes": np.arange(200) / 7.5}
    lick = np.random.default_rng(0).random(5000)
    session = read_one(write_nested(imaging=imaging, daq={"fs": 2000.0, "lick": lick}))
    assert session.rate_hz == 7.5
    assert session.metadata["rate_from"].startswith("the frame times in imaging/frameTimes")


def test_a_bare_rate_that_the_frame_times_contradict_is_said(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    times = np.arange(200) / 8
    session = read_one(write(dff=calcium, frameTimes=times, fs=np.array([20.0])))
    assert session.rate_hz == 8
    assert "fs says 20 Hz but the frame times say 8 Hz; these count" in session.metadata["rate_note"]
    assert "rate_note" in READER_NOTES  # which every report shows
    assert "rate_note" not in read_one(write(dff=calcium, frameTimes=times, fs=np.array([8.1]))).metadata


def test_only_another_devices_rate_leaves_the_rate_unknown(
    write_nested: Callable[..., Path], calcium: np.ndarray
) -> None:
    session = read_one(
        write_nested(imaging={"dff": calcium}, behavior_camera={"fs": 100.0, "speed": calcium})
    )
    assert session.rate_hz is None
    assert session.metadata["rate_from"] == "nothing states a rate"


@pytest.mark.parametrize(
    ("stated", "rate_hz", "where"),
    [
        ({"fs": 7.5}, 7.5, "fs"),
        ({"ops": {"fs": 7.5}}, 7.5, "ops/fs"),
        ({"params": {"data": {"fr": 7.5}}}, 7.5, "params/data/fr"),
        ({"dt": 0.05}, 20.0, "dt"),
        ({"frame_period_ms": 50.0}, 20.0, "frame_period_ms"),
        ({"framePeriod": 0.1}, 10.0, "framePeriod"),
        ({"volumeRate": 2.5}, 2.5, "volumeRate"),
    ],
)
def test_a_rate_is_found_with_its_unit_and_its_place(
    tmp_path: Path, calcium: np.ndarray, stated: dict[str, Any], rate_hz: float, where: str
) -> None:
    for name, writer in (("a.mat", write_mat), ("b.mat", write_mat73)):
        session = read_one(writer(tmp_path / name, dff=calcium, **stated))
        assert session.rate_hz == pytest.approx(rate_hz)
        assert session.metadata["rate_from"] == where


@pytest.mark.parametrize("stated", [0.03, 2000.0])
def test_a_rate_that_no_recording_has_is_asked_about(
    write: Callable[..., Path], calcium: np.ndarray, stated: float
) -> None:
    path = write(dff=calcium, fs=np.array([stated]))
    with pytest.raises(RecordingQuestion, match=f"{stated:g} Hz") as caught:
        read_one(path)
    assert "rate_hz" in caught.value.choices
    assert read_one(path, rate_hz=stated).rate_hz == stated


def test_a_bare_rate_beside_a_longer_series_is_asked_about(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    path = write(dff=calcium, fs=np.array([100.0]), lick=np.random.default_rng(0).random(2000))
    with pytest.raises(RecordingQuestion, match="lick"):
        read_one(path)


def test_frame_times_whose_unit_makes_no_rate_are_asked_about(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    path = write(dff=calcium, frameTimes=np.arange(200) * 100.0)
    with pytest.raises(RecordingQuestion, match=r"time_unit.*ms \(10 Hz\)") as caught:
        read_one(path)
    assert caught.value.choices["time_unit"][0] == "ms"
    session = read_one(path, time_unit="ms")
    assert session.rate_hz == 10 and session.time_s is not None and session.time_s[-1] == pytest.approx(19.9)


def test_one_time_too_many_is_said_and_does_not_shift_the_frames(
    write: Callable[..., Path], calcium: np.ndarray
) -> None:
    session = read_one(write(dff=calcium, frame_times=np.arange(201) / 30))
    assert session.time_s is None and session.rate_hz is None
    assert "frame_times (201)" in session.metadata["times_note"]


# Ramps.


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_column_that_grows_evenly_is_no_unit_in_any_format(
    write: Callable[..., Path], calcium: np.ndarray, place: str
) -> None:
    clock = np.arange(200)[:, None] / 20
    values = np.hstack([clock, calcium] if place == "first" else [calcium, clock])
    for oriented in (values, values.T):
        session = read_one(write(data=oriented))
        assert_values(session, calcium)
        assert "20 Hz" in session.metadata["clocks_left_out"]
        assert session.rate_hz is None


@pytest.mark.parametrize(
    "clock",
    [
        np.arange(200),
        np.arange(200)[::-1],
        np.arange(200) % 41,
        np.repeat(np.arange(20), 10),
        np.round(np.arange(200) / 15, 1),
        np.arange(200) / 7 + 0.03 * np.sin(np.arange(200)),
        np.cumsum(np.random.default_rng(0).uniform(0.03, 0.08, 200)),
    ],
    ids=["frames", "countdown", "frame of trial", "trial", "coarse time", "uneven time", "jittered time"],
)
def test_counters_and_clocks_of_all_kinds_are_left_out(
    tmp_path: Path, calcium: np.ndarray, clock: np.ndarray
) -> None:
    np.save(tmp_path / "a.npy", np.column_stack([clock, calcium]))
    assert_values(read_one(tmp_path / "a.npy"), calcium)


@pytest.mark.parametrize(
    "unit",
    [
        np.exp(-np.arange(200) / 80),
        np.eye(1, 200, 199)[0],
        np.sin(np.arange(200) / 20),
        np.cumsum(np.random.default_rng(0).standard_normal(200)),
        np.zeros(200),
    ],
    ids=["decay", "one event", "wave", "random walk", "silent"],
)
def test_no_unit_is_taken_for_a_clock(tmp_path: Path, calcium: np.ndarray, unit: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", np.column_stack([unit, calcium]))
    assert read_one(tmp_path / "a.npy").num_units == 7


def test_clocks_alone_are_no_recording(write: Callable[..., Path]) -> None:
    with pytest.raises(RecordingError, match="grow evenly"):
        read_one(write(data=np.arange(200)[:, None] * np.arange(1, 5)[None]))


def test_what_is_called_like_stimulus_or_behaviour_beside_the_traces_is_input(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.npz"
    light, pose = (np.arange(500) % 50 == 0).astype(float), rng.random((6, 500))
    np.savez(
        path, dff=rng.random((500, 20)), stim_light=light, wheel_speed=rng.random((500, 1)), pose=pose,
        licks=np.zeros(1200), tuning_curve=rng.random(500),
    )  # fmt: skip
    (session,) = open_recording(path)
    assert session.stimulus_names == ("stim_light",)
    assert session.behaviour_names == ("wheel_speed", *(f"pose/{part}" for part in range(6)))
    assert session.inputs[0] == Input("stim_light", "event")
    np.testing.assert_array_equal(session.input_values(["pose/3"])[:, 0], pose[3].astype(np.float32))


def test_times_of_a_stimulus_beside_the_traces_are_marks_or_stretches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.npz"
    np.savez(
        path, dff=rng.random((500, 20)), t=np.arange(500) / 10, odor=np.arange(500) % 7,
        odorT=[1.0, 5.0, 9.0], tone_onset=[2.0, 20.0], tone_offset=[3.0, 22.0],
        lick_times_ms=[1500.0, 1550.0, 4000.0], stim_times=[900.0, 950.0],
    )  # fmt: skip
    (session,) = open_recording(path)
    assert set(session.inputs) == {
        Input("odor", "level"),
        Input("odorT", "event"),
        Input("tone", "level"),
        Input("lick", "event", can_be_planned=False),
    }
    assert np.flatnonzero(session.input_values(["odorT"])).tolist() == [10, 50, 90]
    tone = session.input_values(["tone"])[:, 0]
    assert np.flatnonzero(tone).tolist() == [*range(20, 30), *range(200, 220)]
    assert session.input_values(["lick"])[:, 0][[15, 40]].tolist() == [2, 1]
