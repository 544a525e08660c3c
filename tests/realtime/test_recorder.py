"""What was recorded of a stream reads as a recording, whatever ended it, and nothing is overwritten."""

from __future__ import annotations

import os
import queue
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray
from realtime_small import CONTEXT, HORIZON, Small, activity, build_small, known

import forebrain as fb
from forebrain import realtime
from forebrain.errors import ConfigError, RecordingError
from forebrain.realtime import LiveForecaster
from forebrain.realtime import recorder as recorder_module
from forebrain.realtime.recorder import EVENT_BYTES, Recorder
from forebrain.sessions.preprocessing import RateWarning
from forebrain.sessions.repair import repair

Open = Callable[..., LiveForecaster]
ABOUT = {"species": "celegans", "subject": "worm9", "session": "day1", "dataset": "lab"}


def record(
    recorder: Recorder, live: LiveForecaster, frames: np.ndarray, first: int = 0, rate_hz: float = 5.0
) -> np.ndarray:
    """Steps and records each frame; the forecasts [T, H, N]."""
    forecasts = []
    for index, frame in enumerate(frames, start=first):
        forecasts.append(live.step(frame, index, index / rate_hz))
        live.step_ms = 1.0
        recorder.frame(live)
    return np.stack(forecasts)


def recorded(path: Path, live: LiveForecaster, frames: np.ndarray) -> Recorder:
    """Whose file is whole and closed."""
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames)
    recorder.close()
    return recorder


@pytest.fixture
def frames(small: Small) -> np.ndarray:
    frames = activity(40, small.preprocessing)
    frames[7, 2] = np.nan
    return frames


def test_frames_forecasts_and_events_are_read_back(
    open_live: Open, frames: np.ndarray, tmp_path: Path
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    forecasts = record(recorder, live, frames[:20])
    recorder.event(live, "a gap – said")
    recorder.event(live, "drift")
    forecasts = np.concatenate([forecasts, record(recorder, live, frames[20:], first=120)])
    recorder.event(live, "the end")
    recorder.close()

    session = fb.read(path)
    np.testing.assert_array_equal(session.frames(0, 40), frames)
    assert session.id == "lab/worm9/day1" and session.species == "celegans"
    assert session.unit_names == tuple("abcdef") and session.rate_hz == 5
    assert session.segments == [(0, 20), (20, 40)]
    assert session.time_s is not None and session.time_s[-1] == pytest.approx(139 / 5)
    assert session.metadata["events"] == "frame 20: a gap – said; drift; frame 39: the end"

    with xarray.open_dataset(path, engine="scipy") as data:
        assert data.sizes == {"frame": 40, "unit": 6, "step": HORIZON}
        np.testing.assert_array_equal(data.forecast.values, forecasts)
        np.testing.assert_array_equal(data.activity.sel(unit="c"), frames[:, 2])
        assert data["index"].values.tolist() == [*range(20), *range(120, 140)]
        meaning = data.source.attrs["flag_meanings"].split()
        sources = [meaning[each] for each in data.source.values]
        assert sources == 2 * (["warm-up"] * (CONTEXT - 1) + ["model"] * (21 - CONTEXT))
        assert data.step.values.tolist() == [*range(1, HORIZON + 1)] and (data.step_ms == 1).all()


@pytest.mark.parametrize(("came_hz", "read_hz"), [(5.1, 5.0), (6.0, 6.0), (10.0, 10.0), (0.004, 5.0)])
def test_of_frames_at_another_rate_than_was_adapted_to_the_times_count(
    open_live: Open, small: Small, tmp_path: Path, came_hz: float, read_hz: float
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, activity(40, small.preprocessing), rate_hz=came_hz)
    recorder.close()
    session = fb.read(path)
    assert session.rate_hz == pytest.approx(read_hz)
    assert ("expected 5 Hz but the frame times say" in session.metadata.get("rate_note", "")) == (read_hz > 5)
    with warnings.catch_warnings(record=True) as told:
        live.preprocessing.latest_window(session, CONTEXT)
    assert [each.category for each in told] == [RateWarning] * (came_hz != 5.1)
    path.with_name("run.nc.session.yaml").write_text("rate_hz: 7\n")
    assert fb.read(path).rate_hz == 7


@pytest.mark.parametrize(("came_hz", "differs"), [(5.5, False), (20.0, True), (2.0, True)])
def test_of_frames_without_times_a_record_says_where_they_came_at_another_rate(
    open_live: Open,
    small: Small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    came_hz: float,
    differs: bool,
) -> None:
    live, path, now = open_live(), tmp_path / "run.nc", 1.7e9
    recorder = Recorder(path, live, ABOUT)
    monkeypatch.setattr("forebrain.realtime.recorder.time.time", lambda: now)
    for index, frame in enumerate(activity(150, small.preprocessing)):
        now = 1.7e9 + index // 4 * 4 / came_hz + 600 * (index >= 70)  # four at a time, and a pause
        live.step(frame, index)
        live.step_ms = 1.0
        recorder.frame(live)
    recorder.close()
    session = fb.read(path)
    note = session.metadata.get("arrival_note", "")
    assert (
        session.rate_hz == 5
        and (f"expected 5 Hz and frames without times came at {came_hz:.2g}" in note) == differs
    )
    with warnings.catch_warnings(record=True) as told:
        live.preprocessing.latest_window(session, CONTEXT)
    assert [each.category for each in told].count(RateWarning) == differs
    path.with_name("run.nc.session.yaml").write_text("rate_hz: 5\n")
    assert "arrival_note" not in fb.read(path).metadata


def test_a_record_ends_a_segment_where_time_jumps_as_repair_does(
    open_live: Open, small: Small, tmp_path: Path
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    for index, frame in enumerate(activity(120, small.preprocessing)):
        live.step(frame, index, index / 5 + 3600 * (index >= 40) + 0.4 * (index >= 80))
        live.step_ms = 1.0
        recorder.frame(live)
    recorder.close()
    with xarray.open_dataset(path, engine="scipy") as data:
        assert np.flatnonzero(np.diff(data.segment)).tolist() == [39]  # two frames' time are held
    session = fb.read(path)
    assert session.segments == repair(session)[0].segments == [(0, 40), (40, 80), (80, 120)]


def test_a_frame_that_was_not_forecast_has_no_forecast(
    open_live: Open, frames: np.ndarray, tmp_path: Path
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames[:3])
    live.step_ms = float("nan")
    live.ingest(frames[3])
    recorder.frame(live)
    recorder.close()
    with xarray.open_dataset(path, engine="scipy") as data:
        assert np.isnan(data.forecast.values[3]).all() and np.isfinite(data.forecast.values[:3]).all()
        assert data.source.values.tolist() == [0, 0, 0, 3]
        np.testing.assert_array_equal(data.activity.values[3], frames[3])


def test_a_recording_is_gone_on_with_and_another_file_never_overwritten(
    open_live: Open, frames: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "run.nc"
    for number in range(3):
        live = open_live()
        recorder = Recorder(path, live, ABOUT)
        assert recorder.num_recorded == 10 * number
        record(recorder, live, frames[:10])
        recorder.close()
    session = fb.read(path)
    assert session.segments == [(0, 10), (10, 20), (20, 30)]
    np.testing.assert_array_equal(session.frames(20, 30), frames[:10])

    before = path.read_bytes()
    other_units = realtime.open(*known(build_small(5), "abcde", rate_hz=5.0))
    adapted_again = realtime.open(*known(build_small(6, seed=1), "abcdef", rate_hz=5.0))
    other_animal = open_live(), {**ABOUT, "subject": "worm8"}
    for live, about in ((other_units, ABOUT), (adapted_again, ABOUT), other_animal):
        with pytest.raises(ConfigError, match=r"there already.*nothing is overwritten"):
            Recorder(path, live, about)
    notes = tmp_path / "notes.txt"
    notes.write_text("of great value")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        Recorder(notes, open_live(), ABOUT)
    assert path.read_bytes() == before and notes.read_text() == "of great value"
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="cannot be written"):
            Recorder(other, open_live(), ABOUT)


def test_two_forecasters_do_not_record_to_one_file(
    open_live: Open, frames: np.ndarray, tmp_path: Path
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    with pytest.raises(ConfigError, match="another forecaster records to this file"):
        Recorder(path, open_live(), ABOUT)
    record(recorder, live, frames)
    recorder.close()
    assert fb.read(path).num_frames == 40


@pytest.mark.parametrize("cut", [0, 1, 100, 10_000])
def test_a_kill_at_any_byte_leaves_what_was_counted(
    open_live: Open, frames: np.ndarray, tmp_path: Path, cut: int
) -> None:
    """A kill can leave part of a record that is not counted yet; the next server writes over it."""
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames[:10])
    recorder.close()
    with path.open("ab") as file:
        file.write(bytes(range(256)) * 40 if cut == 10_000 else bytes(cut))
    np.testing.assert_array_equal(fb.read(path).frames(0, 10), frames[:10])
    live = open_live()
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames[10:30])
    recorder.close()
    np.testing.assert_array_equal(fb.read(path).frames(0, 30), frames[:30])


def test_a_record_that_was_cut_short_is_gone_on_with_behind_its_last_whole_frame(
    open_live: Open, frames: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a power cut leaves it, after which the disk may have the number of records and not the last ones."""
    live, path = open_live(), tmp_path / "run.nc"
    recorder = recorded(path, live, frames[:20])
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - recorder._dtype.itemsize * 3 // 2)
    session = fb.read(path)
    np.testing.assert_array_equal(session.frames(0, 18), frames[:18])
    assert session.num_frames == 18
    assert session.metadata["record_note"] == "20 frames were recorded and 18 lie there"
    again = Recorder(path, live, ABOUT)
    assert again.num_recorded == 18 and "20 frames were counted and 18 lie there" in caplog.text
    record(again, live, frames[20:], first=20)
    again.close()
    session = fb.read(path)
    np.testing.assert_array_equal(session.frames(0, 38), np.delete(frames, [18, 19], axis=0))
    assert session.segments == [(0, 18), (18, 38)]


@pytest.mark.parametrize("whole", [17, 0])
def test_a_record_whose_last_frames_are_not_what_was_recorded_is_gone_on_with_behind_the_last_that_is(
    open_live: Open, frames: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture, whole: int
) -> None:
    """As a power cut leaves it where the file had grown and its last blocks were not written."""
    live, path = open_live(), tmp_path / "run.nc"
    recorder = recorded(path, live, frames[:20])
    kept = recorder._start + int((whole + 0.5 * (whole > 0)) * recorder._dtype.itemsize)
    size = path.stat().st_size
    os.truncate(path, kept)
    os.truncate(path, size)
    again = Recorder(path, live, ABOUT)
    assert again.num_recorded == whole
    assert f"20 frames were counted and {whole} lie there whole" in caplog.text
    record(again, live, frames[20:], first=20)
    again.close()
    np.testing.assert_array_equal(
        fb.read(path).frames(0, whole + 20), np.delete(frames, range(whole, 20), axis=0)
    )


@pytest.mark.parametrize("counted", [0, 15])
def test_frames_that_lie_behind_the_count_are_gone_on_behind(
    open_live: Open, frames: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture, counted: int
) -> None:
    """As a power cut leaves it where frames reached the disk and their number did not."""
    live, path = open_live(), tmp_path / "run.nc"
    recorded(path, live, frames[:20])
    with path.open("rb+") as file:
        file.seek(4)
        file.write(counted.to_bytes(4, "big"))
        os.truncate(path, path.stat().st_size - 5)  # the last is not whole
    again = Recorder(path, live, ABOUT)
    assert f"{counted} frames were counted and 19 lie there whole" in caplog.text
    record(again, live, frames[20:], first=20)
    again.close()
    session = fb.read(path)
    np.testing.assert_array_equal(session.frames(0, 39), np.delete(frames, 19, axis=0))
    assert session.segments == [(0, 19), (19, 39)]


def test_frames_that_could_not_be_counted_do_not_come_back(
    open_live: Open, frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    write = recorder._write

    def full(at: int, data: bytes) -> None:
        if at == recorder_module._NUM_RECORDS_AT:
            raise OSError(28, "No space left on device")
        write(at, data)

    record(recorder, live, frames[:10])
    wait_for(recorder, 10)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(recorder, "_write", full)
        recorder._append(bytes(recorder_module._checked(recorder._record(3))) * 5)
    record(recorder, live, frames[10:12], first=10)
    recorder.close()
    again = Recorder(path, live, ABOUT)
    again.close()
    np.testing.assert_array_equal(fb.read(path).traces, frames[:12])


@pytest.mark.parametrize("begun", [0, 10, 500])
def test_a_record_whose_first_bytes_alone_were_written_is_begun_again(
    open_live: Open, frames: np.ndarray, tmp_path: Path, begun: int
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    Recorder(path, live, ABOUT).close()
    path.write_bytes(path.read_bytes()[:begun])
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames)
    recorder.close()
    np.testing.assert_array_equal(fb.read(path).frames(0, 40), frames)


def test_a_disk_that_is_full_at_the_start_is_one_line(
    open_live: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recorder, "_write", refuse)
    with pytest.raises(ConfigError, match=r"run\.nc: cannot be written \(No space left on device\)"):
        Recorder(tmp_path / "run.nc", open_live(), ABOUT)


def test_one_record_behind_another_is_neither_read_nor_gone_on_with(
    open_live: Open, frames: np.ndarray, tmp_path: Path
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames)
    recorder.close()
    size, twice = path.stat().st_size, path.read_bytes() * 2
    path.write_bytes(twice)
    with pytest.raises(RecordingError, match=f"the second begins at byte {size:,}"):
        fb.read(path)
    with pytest.raises(ConfigError, match="one recording behind another"):
        Recorder(path, live, ABOUT)
    assert path.read_bytes() == twice


def test_a_file_without_frames_is_told_from_a_damaged_one(open_live: Open, tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    Recorder(path, open_live(), ABOUT).close()
    with pytest.raises(RecordingError, match="holds no frame yet"):
        fb.read(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match="damaged"):
        fb.read(path)


def test_damaged_files_are_read_or_are_one_clear_error(
    open_live: Open, frames: np.ndarray, tmp_path: Path
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames)
    recorder.close()
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    damaged = [bytes(content[: int(share * len(content))]) for share in np.linspace(0, 0.99, 25)]
    for _ in range(100):
        hurt = content.copy()
        for position in rng.integers(0, 2000, 8):  # the header and the first frames
            hurt[position] = rng.integers(256)
        damaged.append(bytes(hurt))
    for number, other in enumerate(damaged):
        hurt_file = tmp_path / f"{number}.nc"
        hurt_file.write_bytes(other)
        try:
            fb.read(hurt_file).frames(0, 5)
        except RecordingError as error:
            assert str(hurt_file) in str(error)


def test_a_frame_of_which_a_bit_has_changed_is_not_read(
    open_live: Open, frames: np.ndarray, tmp_path: Path
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames)
    recorder.event(live, "the end")  # which goes into the last frame's record
    recorder.close()
    whole = path.read_bytes()
    np.testing.assert_array_equal(fb.read(path).frames(0, 40), frames)
    size, start = recorder._dtype.itemsize, recorder._start
    covered = recorder._dtype.fields["crc32"][1] + 4
    assert covered == size - 4 * HORIZON * 6  # the rest is the forecast, which no recording is made of
    rng = np.random.default_rng(0)
    for frame in (0, 17, 39):
        for at in (0, *rng.integers(covered, size=8), covered - 1):
            hurt = bytearray(whole)
            hurt[start + frame * size + at] ^= 1 << rng.integers(8)
            path.write_bytes(hurt)
            with pytest.raises(RecordingError, match=rf"not what was recorded is frame {frame} of 40"):
                fb.read(path)
    hurt[start + 3 * size] ^= 1
    path.write_bytes(hurt)
    with pytest.raises(RecordingError, match="frame 3 and 1 more of 40"):
        fb.read(path)


def test_a_record_of_an_earlier_version_is_read_and_not_gone_on_with(
    open_live: Open, frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no checksums."""
    live, path = open_live(), tmp_path / "run.nc"
    dtype = recorder_module._dtype(live)
    with monkeypatch.context() as patch:
        old = [name for name in dtype.names or () if name != "crc32"]
        fields = [(name, dtype.fields[name][0]) for name in old]
        patch.setattr(recorder_module, "_dtype", lambda live: np.dtype(fields))
        patch.setattr(recorder_module, "_checked", lambda record: record.tobytes())
        recorder = Recorder(path, live, ABOUT)
        record(recorder, live, frames)
        recorder.close()
    np.testing.assert_array_equal(fb.read(path).frames(0, 40), frames)
    with pytest.raises(ConfigError, match="one of an earlier version; nothing is overwritten"):
        Recorder(path, live, ABOUT)


def test_where_the_disk_is_too_slow_frames_are_left_out_and_counted(
    open_live: Open, frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    room = queue.Queue(maxsize=1)
    room.put(None)  # nobody takes anything from it
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "_waiting", room)
        record(recorder, live, frames[:5])
    assert live.counts["lost_records"] == 5
    recorder.event(live, "on again")
    record(recorder, live, frames[5:8], first=5)
    recorder.close()
    session = fb.read(path)
    np.testing.assert_array_equal(session.frames(0, 3), frames[5:8])


def test_a_full_disk_costs_records_and_no_forecasts(
    open_live: Open, frames: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)

    class Full:
        """A disk that is full after so many bytes."""

        def __init__(self, file, room: int) -> None:
            self.file, self.room = file, room

        def write(self, data) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    recorder._file = Full(recorder._file, 3000)
    undisturbed = open_live()
    forecasts = record(recorder, live, frames[:20])
    np.testing.assert_array_equal(
        forecasts, [undisturbed.step(frame, index) for index, frame in enumerate(frames[:20])]
    )
    while recorder._waiting.qsize():
        pass
    recorder._file = recorder._file.file  # someone made room
    record(recorder, live, frames[20:], first=20)
    recorder.close()
    session = fb.read(path)
    assert session.num_frames + recorder._lost == 40
    np.testing.assert_array_equal(session.frames(session.num_frames - 1, session.num_frames)[0], frames[-1])
    assert any("not recorded, forecasting goes on" in each.getMessage() for each in caplog.records)


def wait_for(recorder: Recorder, num_recorded: int) -> None:
    deadline = time.monotonic() + 20
    while recorder.num_recorded != num_recorded and time.monotonic() < deadline:
        time.sleep(0.001)
    assert recorder.num_recorded == num_recorded


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_record_that_is_taken_away_is_said_once_and_counted(
    open_live: Open, frames: np.ndarray, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames[:10])
    wait_for(recorder, 10)
    other = tmp_path / "other"
    other.write_text("another file")
    path.rename(tmp_path / "before.nc")
    if how == "replaced":
        other.rename(path)
    for first in (10, 20, 30):
        record(recorder, live, frames[first : first + 10], first=first)
        wait_for(recorder, 0)
        if how == "moved" and first == 20:  # back, after it was given up
            (tmp_path / "before.nc").rename(path)
    recorder.close()
    assert recorder.num_recorded == 0 and recorder._lost == 40 >= live.counts["lost_records"] >= 10
    said = [each.getMessage() for each in caplog.records if "removed, moved, replaced" in each.getMessage()]
    assert len(said) == 1 and "10 frames went with it" in said[0] and "forecasting goes on" in said[0]
    kept = path if how == "moved" else tmp_path / "before.nc"
    np.testing.assert_array_equal(fb.read(kept).frames(0, 10), frames[:10])
    assert how != "replaced" or path.read_text() == "another file"


@pytest.mark.parametrize("num_frames", [5, 30])
def test_another_record_that_is_copied_over_one_stays_as_it_is(
    open_live: Open, frames: np.ndarray, tmp_path: Path, num_frames: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As `cp` does it, which keeps the file and changes what it holds."""
    live, path, other = open_live(), tmp_path / "run.nc", tmp_path / "other.nc"
    recorder = Recorder(other, live, ABOUT)
    record(recorder, live, frames[:num_frames])
    recorder.close()
    live = open_live()
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames[:10])
    wait_for(recorder, 10)
    shutil.copyfile(other, path)
    record(recorder, live, frames[10:], first=10)
    recorder.event(live, "the end")
    recorder.close()
    assert path.read_bytes() == other.read_bytes() and recorder._lost == 40
    assert "written over, and 10 frames went with it" in caplog.text


@pytest.mark.parametrize("left", ["whole", "half", "header", "nothing"])
def test_a_record_that_is_cut_while_it_is_recorded_to_goes_on_behind_what_lies_there(
    open_live: Open, frames: np.ndarray, tmp_path: Path, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    record(recorder, live, frames[:10])
    wait_for(recorder, 10)
    size, start = recorder._dtype.itemsize, recorder._start
    whole, cut = {
        "whole": (4, start + 4 * size),
        "half": (4, start + 4 * size + size // 2),
        "header": (0, start - 10),
        "nothing": (0, 0),
    }[left]
    os.truncate(path, cut)
    recorder._check_file()  # what was written then did not fit on the disk
    record(recorder, live, frames[10:], first=10)
    recorder.close()
    assert recorder.num_recorded == 30 + whole and recorder._lost == 10 - whole
    assert f"{10 - whole} frames are lost; it goes on behind the other {whole}" in caplog.text
    session = fb.read(path)
    np.testing.assert_array_equal(session.frames(0, 30 + whole), np.delete(frames, range(whole, 10), axis=0))
    assert session.segments == ([(0, 4), (4, 34)] if whole else [(0, 30)])


def test_of_too_many_events_the_newest_are_kept(open_live: Open, frames: np.ndarray, tmp_path: Path) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    for number in range(1000):
        recorder.event(live, f"event {number}")
    record(recorder, live, frames[:1])
    recorder.close()
    events = fb.read(path).metadata["events"]
    assert events.endswith("event 998; event 999") and len(events) < EVENT_BYTES + 20


def test_no_window_crosses_frames_that_were_not_recorded(
    open_live: Open, frames: np.ndarray, tmp_path: Path
) -> None:
    live, path = open_live(), tmp_path / "run.nc"
    recorder = Recorder(path, live, ABOUT)
    for index, frame in enumerate(frames):
        if index == 5:  # it does not come
            continue
        live.step(frame, index)
        if not 12 <= index < 20:  # the disk has no room
            recorder.frame(live)
    recorder.close()
    _, lengths = np.unique(fb.read(path).segment_ids, return_counts=True)
    assert lengths.tolist() == [5, 6, 20]
    again = Recorder(path, live, ABOUT)
    record(again, live, frames[:3], first=40)
    again.close()
    _, lengths = np.unique(fb.read(path).segment_ids, return_counts=True)
    assert lengths.tolist() == [5, 6, 20, 3]
