"""Killed and opened again, a forecaster goes on from the next frame as if nothing had been."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from realtime_small import Small, activity, build_small, known
from safetensors.numpy import save
from test_transports import MAX_BYTES, served

import forebrain as fb
from forebrain import realtime
from forebrain.errors import CheckpointError, FrameError, StorageError
from forebrain.machine import since_boot
from forebrain.models.base import Interface
from forebrain.realtime import LiveConfig, LiveForecaster, closing, forecaster
from forebrain.realtime.names import hash_of_names
from forebrain.realtime.recorder import Recorder
from forebrain.realtime.state import StateFile, keeping
from forebrain.realtime.zeromq import RequestPort
from forebrain_registry.storage import Folder, partial_beside

Open = Callable[..., LiveForecaster]


@pytest.mark.parametrize("normalise", ["fit", "running"])
@pytest.mark.parametrize("killed_after", [5, 40])
def test_a_restored_forecaster_goes_on_bit_for_bit(
    small: Small, open_live: Open, tmp_path: Path, normalise: str, killed_after: int
) -> None:
    frames = activity(80, small.preprocessing)
    frames[30:, 2] = np.nan
    undisturbed, killed = open_live(normalise=normalise), open_live(normalise=normalise)
    other = Interface(6, 8)
    for index, frame in enumerate(frames[:killed_after]):
        if index == 3:
            undisturbed.replace_interface(other)
            killed.replace_interface(other)
        undisturbed.step(frame, index)
        killed.step(frame, index)
    state = StateFile(tmp_path / "state", killed, every_s=0)
    state.close(killed)

    again = open_live(normalise=normalise)
    assert StateFile(tmp_path / "state", again, every_s=0).restore(again)
    assert again.status() == killed.status() and again.counts["updates"] == 1
    np.testing.assert_array_equal(again.step(frames[0], killed_after - 1), killed.answer)  # asked once more
    again.counts["repeated"] = 0
    for index, frame in enumerate(frames[killed_after:], start=killed_after):
        np.testing.assert_array_equal(again.step(frame, index), undisturbed.step(frame, index))
    assert again.status() == undisturbed.status()


@pytest.mark.parametrize(
    ("away_s", "rate_hz", "index", "time_s", "gaps"),
    [
        (0.9, 5.0, None, None, 0),  # four frames can have come
        (1.1, 5.0, None, None, 1),
        (1.1, None, None, None, 1),
        (1.9, 5.0, 20, None, 0),
        (2.1, 5.0, 20, None, 1),  # the sender counted on, and may have paused
        (1.9, None, 20, None, 0),
        (3 * 86400, 5.0, 23, None, 1),
        (3 * 86400, 5.0, None, 9.0, 0),
        (3 * 86400, 5.0, 30, None, 1),
    ],
)
def test_frames_that_nothing_places_begin_a_gap_where_the_forecaster_was_away_for_one(
    small: Small,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    away_s: float,
    rate_hz: float | None,
    index: int | None,
    time_s: float | None,
    gaps: int,
) -> None:
    frames = activity(22, small.preprocessing)
    live, again = (realtime.open(*known(small, "abcdef", rate_hz=rate_hz)) for _ in range(2))
    for number, frame in enumerate(frames[:20]):
        live.step(frame, None if index is None else number, None if time_s is None else 5.0 + number / 5)
    StateFile(tmp_path / "state", live, every_s=0, now=lambda: 1.8e9).close(live)
    state = StateFile(tmp_path / "state", again, every_s=0, now=lambda: 1.8e9 + away_s)
    assert state.restore(again)
    again.step(frames[20], index, time_s)
    again.step(frames[21], None if index is None else index + 1, None if time_s is None else time_s + 0.2)
    assert again.counts["gaps"] == gaps and again.source == ("warm-up" if gaps else "model")
    is_blind = gaps and (index is None or index < 30)
    assert len(caplog.records) == is_blind and (not is_blind or "may be missing" in caplog.text)


@pytest.mark.parametrize(
    ("kept", "here", "clock_s", "words"),
    [
        (("a", 50.0), ("a", 50.9), 0.9, ""),
        (("a", 50.0), ("a", 28850.0), 0.9, "frames of 2.88e+04 s"),  # the clock was set to before it slept
        (("a", 50.0), ("a", 50.9), -3600, ""),
        (("a", 50.0), ("a", 50.9), 3600, "frames of 3.6e+03 s"),  # a virtual machine stood still
        (("a", 50.0), ("b", 50.9), 0.9, "any number of frames"),  # another boot, or another machine
        (("a", 50.0), None, 0.9, "any number of frames"),
        (None, ("a", 50.9), 0.9, ""),  # a state of an earlier version, or of another system
        (None, None, 0.9, ""),
        (None, None, -3600, "any number of frames"),  # a clock that was set back tells nothing
    ],
)
def test_the_clock_alone_makes_no_state_young(
    small: Small,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kept: tuple[str, float] | None,
    here: tuple[str, float] | None,
    clock_s: float,
    words: str,
) -> None:
    """At boot it may go on from where it stood."""
    frames, path = activity(21, small.preprocessing), tmp_path / "state"
    live, again = (realtime.open(*known(small, "abcdef", rate_hz=5.0)) for _ in range(2))
    for frame in frames[:20]:
        live.step(frame)
    StateFile(path, live, every_s=0, now=lambda: 1.8e9, since_boot=lambda: kept).close(live)
    now = 1.8e9 + clock_s
    assert StateFile(path, again, every_s=0, now=lambda: now, since_boot=lambda: here).restore(again)
    again.step(frames[20])
    assert again.source == ("warm-up" if words else "model")
    assert f"{words} may be missing" in caplog.text if words else not caplog.records


def test_a_state_says_when_it_was_kept_by_a_clock_that_nobody_sets(
    small: Small, open_live: Open, tmp_path: Path
) -> None:
    live, again = open_live(), open_live()
    for frame in activity(20, small.preprocessing):
        live.step(frame)
    StateFile(tmp_path / "state", live, every_s=0).close(live)
    assert StateFile(tmp_path / "state", again, every_s=0, now=lambda: 0.0).restore(again)
    is_known = since_boot() is not None
    assert math.isfinite(again.state()[1]["away_s"]) == is_known


@pytest.mark.parametrize("index", [None, 20])
def test_what_passes_until_the_first_frame_is_a_pause_too(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int | None
) -> None:
    frames, path, now = activity(21, small.preprocessing), tmp_path / "state", [100.0]
    monkeypatch.setattr(forecaster, "running_s", lambda: now[0])
    live, again = (realtime.open(*known(small, "abcdef", rate_hz=0.5)) for _ in range(2))
    for number, frame in enumerate(frames[:20]):
        live.step(frame, None if index is None else number)
    StateFile(path, live, every_s=0, now=lambda: 1.8e9).close(live)
    assert StateFile(path, again, every_s=0, now=lambda: 1.8e9 + 2).restore(again)
    now[0] += 45
    again.step(frames[20], index)
    assert again.source == "warm-up" and again.counts["gaps"] == 1


def test_starts_that_saw_no_frame_make_no_state_younger(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where its address is taken, and it is started again and again."""
    frames, now, path = activity(21, small.preprocessing), [1.8e9], tmp_path / "state"
    live = realtime.open(*known(small, "abcdef", rate_hz=5.0))
    for frame in frames[:20]:
        live.step(frame)
    StateFile(path, live, every_s=0, now=lambda: now[0]).close(live)
    for _ in range(3):
        now[0] += 0.4  # two frames' time
        live = realtime.open(*known(small, "abcdef", rate_hz=5.0))
        state = StateFile(path, live, every_s=0, now=lambda: now[0])
        assert state.restore(live)
        now[0] += 3600  # it listens, and the stream pauses
        state.close(live)
    live.step(frames[20])
    assert live.source == "warm-up" and re.search(r"frames of 1\.2\d* s may be missing", caplog.text)


def test_a_restored_score_is_kept(small: Small, open_live: Open, tmp_path: Path) -> None:
    live, again = open_live(), open_live()
    for frame in activity(60, small.preprocessing):
        live.step(frame)
    StateFile(tmp_path / "state", live, every_s=0).close(live)
    StateFile(tmp_path / "state", again, every_s=0).restore(again)
    assert again.rolling_score == live.rolling_score is not None


def test_there_is_nothing_to_restore_at_first(open_live: Open, tmp_path: Path) -> None:
    live = open_live()
    assert not StateFile(tmp_path / "new" / "state", live, every_s=0).restore(live)


def test_the_state_of_another_model_unit_or_setting_is_refused(
    small: Small, open_live: Open, tmp_path: Path
) -> None:
    live = open_live()
    StateFile(tmp_path / "state", live, every_s=0).close(live)
    others = [
        realtime.open(*known(build_small(6, seed=1), "abcdef")),
        realtime.open(*build_small(5)),
        realtime.open(*known(small, "abcdeg")),
        open_live(score_windows=10),
        open_live(normalise="running"),
    ]
    for other in others:
        before = other.status()
        with pytest.raises(CheckpointError, match="belongs to another"):
            StateFile(tmp_path / "state", other, every_s=0).restore(other)
        assert other.status() == before


def test_the_state_of_another_adaptation_to_the_same_units_is_refused(
    small: Small, open_live: Open, tmp_path: Path
) -> None:
    live = open_live()
    state = StateFile(tmp_path / "state", live, every_s=0)
    live.replace_interface(Interface(6, 8))  # fitted on while it was in use: that is what a state is for
    state.close(live)
    again = open_live()
    assert StateFile(tmp_path / "state", again, every_s=0).restore(again)
    other = realtime.open(*known(small._replace(interface=Interface(6, 8)), "abcdef", rate_hz=5.0))
    with pytest.raises(CheckpointError, match="another adaptation to these units"):
        StateFile(tmp_path / "state", other, every_s=0).restore(other)
    assert torch.equal(other.interface.unit, other.opened_with.unit)


def test_names_that_a_sender_told_once_outlive_the_forecaster(
    small: Small, open_live: Open, tmp_path: Path
) -> None:
    frames = activity(40, small.preprocessing)
    live = open_live()
    for index, frame in enumerate(frames[:-1]):
        live.step(frame[::-1], index, units="fedcba" if index == 0 else None)
    StateFile(tmp_path / "state", live, every_s=0).close(live)
    again = open_live()
    assert StateFile(tmp_path / "state", again, every_s=0).restore(again)
    np.testing.assert_array_equal(again.step(frames[-1][::-1], 39), live.step(frames[-1][::-1], 39))
    np.testing.assert_array_equal(again.frame, frames[-1])

    said = hash_of_names("fedcba")
    live.ingest(frames[0][::-1], 40, units="fedcba", names=said)
    StateFile(tmp_path / "state", live, every_s=0).close(live)
    for names, order in ((said, frames[1]), (None, frames[1][::-1])):  # who says no hash is another
        again = open_live()
        StateFile(tmp_path / "state", again, every_s=0).restore(again)
        again.ingest(frames[1][::-1], 41, names=names)
        np.testing.assert_array_equal(again.frame, order)

    with pytest.raises(FrameError):
        live.step(frames[0], 41, units="ghijkl")
    StateFile(tmp_path / "state", live, every_s=0).close(live)
    again = open_live()
    StateFile(tmp_path / "state", again, every_s=0).restore(again)
    with pytest.raises(FrameError, match="frames without names are refused"):
        again.step(frames[0], 41)


def test_frames_that_bring_only_times_are_missing_while_the_forecaster_was_away(
    small: Small, open_live: Open, tmp_path: Path
) -> None:
    frames = activity(60, small.preprocessing)
    live = open_live()
    for number, frame in enumerate(frames[:40]):
        live.step(frame, time_s=number / 5)
    StateFile(tmp_path / "state", live, every_s=0).close(live)
    again = open_live()
    StateFile(tmp_path / "state", again, every_s=0).restore(again)
    again.step(frames[50], time_s=50 / 5)
    assert again.source == "warm-up"
    assert (again.counts["gaps"], again.counts["missing_frames"]) == (1, 10)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "another file"])
def test_a_damaged_state_is_set_aside_and_said(
    open_live: Open, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    live, path = open_live(), tmp_path / "state"
    StateFile(path, live, every_s=0).close(live)
    data = path.read_bytes()
    damaged = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "text": b"no state at all",
        "another file": save({"a": np.zeros(3)}),
    }[damage]
    path.write_bytes(damaged)
    again = open_live()
    state = StateFile(path, again, every_s=0)
    assert not state.restore(again) and again.counts["frames"] == 0
    assert "is now" in caplog.text and path.with_name("state.damaged").read_bytes() == damaged
    state.close(again)
    assert StateFile(path, again, every_s=0).restore(again)


def test_a_damaged_state_that_cannot_be_set_aside_is_one_clear_error(
    open_live: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "state").write_bytes(b"")
    monkeypatch.setattr(Path, "replace", refuse)
    live = open_live()
    with pytest.raises(CheckpointError, match=r"Permission denied.*Delete it"):
        StateFile(tmp_path / "state", live, every_s=0).restore(live)


def test_the_state_is_written_at_most_once_in_an_interval(
    small: Small, open_live: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, now = [], [0.0]
    monkeypatch.setattr(Folder, "write", lambda self, name, data: written.append(data))
    live = open_live()
    state = StateFile(tmp_path / "state", live, every_s=10, clock=lambda: now[0])
    for number, frame in enumerate(activity(50, small.preprocessing)):
        live.step(frame)
        now[0] = float(number)
        state.offer(live)
    state.close(live)
    assert 1 < len(written) <= 6  # at 0, 10, ... 40 and at the end; fewer where a write was still on its way


def test_a_reset_and_other_names_are_in_the_state_before_its_time(
    small: Small, open_live: Open, tmp_path: Path
) -> None:
    path, live, port = tmp_path / "state", open_live(), RequestPort("tcp://127.0.0.1:*", MAX_BYTES)

    def killed() -> LiveForecaster:
        again = open_live()
        assert StateFile(path, again, every_s=0).restore(again)
        return again

    def comes(naming: tuple) -> bool:
        return any((path.exists() and killed().naming == naming) or time.sleep(0.01) for _ in range(500))

    with (
        served(live, port, StateFile(path, live, every_s=1e6, clock=lambda: 0.0)),
        fb.live.Client(port.address, timeout_s=20) as client,
    ):
        client.step(np.zeros(6), 500)
        client.reset()
        assert killed().counts["resets"] == 1
        client.step(np.zeros(6), 0, units="fedcba")
        assert comes((tuple("fedcba"), hash_of_names("fedcba"), None))
        with pytest.raises(FrameError, match="none of the model's"):
            client.step(np.zeros(6), 1, units="uvwxyz")
        assert comes(live.naming)
    again = killed()
    assert again.counts["gaps"] == 0 and again.arrivals.index == 0
    with pytest.raises(FrameError, match="frames without names are refused"):
        again.step(np.zeros(6), 1)


def test_a_reset_waits_for_no_disk_that_stands_still(
    open_live: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(Folder, "write", lambda self, name, data: goes_on.wait(20))
    monkeypatch.setattr(realtime.state, "KEEP_S", 0.05)
    live = open_live()
    state = StateFile(tmp_path / "state", live, every_s=0)
    state.keep(live)
    state.keep(live)
    assert "was not written within 0.05 s, forecasting goes on" in caplog.text
    goes_on.set()
    state.close(live)


@pytest.mark.parametrize("what", ["state", "record"])
def test_the_end_says_which_disk_it_waits_for(
    open_live: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    goes_on, is_said = threading.Event(), threading.Event()
    monkeypatch.setattr(closing, "LONG_S", 0.05)
    monkeypatch.setattr(closing._log, "warning", lambda *said: (logging.warning(*said), is_said.set()))
    live, path = open_live(), tmp_path / what
    if what == "state":
        monkeypatch.setattr(Folder, "write", lambda self, name, data: goes_on.wait(20))
        close = partial(StateFile(path, live, every_s=0).close, live)
    else:
        recorder = Recorder(path, live, {})
        monkeypatch.setattr(Recorder, "_append", lambda self, data: goes_on.wait(20))
        live.step(activity(1, live.preprocessing)[0])
        recorder.frame(live)
        close = recorder.close
    closer = threading.Thread(target=close)
    closer.start()
    assert is_said.wait(20) and closer.is_alive()
    goes_on.set()
    closer.join()
    assert [record.getMessage().split(" ", 1)[0] for record in caplog.records] == [f"{path}:"]


def test_one_forecaster_at_a_time_keeps_a_state_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state"
    with keeping(path):
        with pytest.raises(CheckpointError, match="another forecaster keeps its state there"), keeping(path):
            pass
        with keeping(tmp_path / "other"):
            pass
    with keeping(path):  # what is left of a process that died is no lock
        pass
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="folder cannot be made"), keeping(tmp_path / "file" / "state"):
        pass


@pytest.mark.parametrize("by", ["a link", "a link to its folder", "another spelling"])
def test_a_state_file_is_one_by_whatever_name(open_live: Open, tmp_path: Path, by: str) -> None:
    path = tmp_path / "kept" / "state"
    (tmp_path / "other").mkdir()
    other = {
        "a link": tmp_path / "link",
        "a link to its folder": tmp_path / "folder" / "state",
        "another spelling": tmp_path / "other" / ".." / "kept" / "state",
    }[by]
    with keeping(path):
        (tmp_path / "link").symlink_to(path)
        (tmp_path / "folder").symlink_to(path.parent)
        with pytest.raises(CheckpointError, match="another forecaster keeps its state there"), keeping(other):
            pass
    live = open_live()
    StateFile(other, live, every_s=0).close(live)
    assert (tmp_path / "link").is_symlink() and StateFile(path, live, every_s=0).restore(live)


@pytest.mark.parametrize("what", ["folder", "lock"])
def test_a_state_whose_folder_or_lock_is_taken_away_is_written_nowhere_until_it_is_back(
    open_live: Open, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, path = tmp_path / "kept", tmp_path / "kept" / "state"
    moved, away = (folder, tmp_path / "away") if what == "folder" else (folder / "state.lock", tmp_path / "l")
    live = open_live()
    with keeping(path):
        state = StateFile(path, live, every_s=0)
        state.keep(live)
        before = path.read_bytes()
        moved.rename(away)
        live.reset()
        for _ in range(3):
            state.keep(live)
        said = [each.getMessage() for each in caplog.records]
        assert len(said) == 1 and "state.lock was removed, moved or replaced" in said[0]
        assert what == "lock" or not folder.exists()
        with keeping(path):  # another forecaster, which finds no lock
            other = StateFile(path, open_live(), every_s=0)
            other.close(open_live())
            others = path.read_bytes()
            state.keep(live)
            assert path.read_bytes() == others
        if what == "folder":
            assert (away / "state").read_bytes() == before
            folder.rename(tmp_path / "others")
        away.rename(moved)
        state.close(live)
    again = open_live()
    assert StateFile(path, again, every_s=0).restore(again) and again.counts["resets"] == 1


def test_a_link_in_a_circle_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.symlink_to(path)
    with pytest.raises(CheckpointError, match="cannot be found") as refused, keeping(path):
        pass
    assert "\n" not in str(refused.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "state"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is a folder, device or pipe"), keeping(path):
        pass


def test_what_a_killed_forecaster_left_of_a_state_is_removed_and_no_other(
    open_live: Open, tmp_path: Path
) -> None:
    left = partial_beside(tmp_path / "state")
    others = [
        partial_beside(tmp_path / "state.2"),
        partial_beside(tmp_path / "my state"),
        tmp_path / "state.day1.partial",
    ]
    for each in (left, *others):
        each.write_bytes(b"half")
    with keeping(tmp_path / "state"):
        assert not left.exists() and all(each.exists() for each in others)
        left.write_bytes(b"being written")
        with pytest.raises(CheckpointError), keeping(tmp_path / "state"):
            pass
        assert left.exists()


@pytest.mark.parametrize("error", [StorageError("the disk is full"), TypeError("is nothing that JSON holds")])
def test_a_state_that_cannot_be_written_stops_neither_forecasts_nor_the_end(
    small: Small,
    open_live: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def full(self: Folder, name: str, data: bytes) -> None:
        raise error

    live = open_live()
    path = tmp_path / "state"
    StateFile(path, live, every_s=0).close(live)
    before = path.read_bytes()
    monkeypatch.setattr(Folder, "write", full)
    state = StateFile(path, live, every_s=0)
    for frame in activity(20, small.preprocessing):
        live.step(frame)
        state.offer(live)
    state.close(live)
    assert live.source == "model" and str(error) in caplog.text and path.read_bytes() == before


def test_running_statistics_and_config_of_the_restored_forecaster_are_its_own(small: Small) -> None:
    live = realtime.open(*small, config=LiveConfig(normalise="running"))
    for frame in activity(40, small.preprocessing):
        live.step(frame)
    again = realtime.open(*small, config=LiveConfig(normalise="running"))
    again.restore(live.state())
    with torch.no_grad():
        live.interface.unit.zero_()
    assert again.interface.unit.abs().sum() > 0  # nothing is shared


@pytest.mark.parametrize("of", ["an array", "a count"])
def test_a_state_of_which_a_bit_has_changed_is_set_aside(
    small: Small, open_live: Open, tmp_path: Path, of: str, caplog: pytest.LogCaptureFixture
) -> None:
    live, path = open_live(), tmp_path / "state"
    for frame in activity(40, small.preprocessing):
        live.step(frame)
    StateFile(path, live, every_s=0).close(live)
    data = bytearray(path.read_bytes())
    place = len(data) - 3 if of == "an array" else data.index(b"frames") + len(b'frames\\": ')
    data[place] ^= 1
    path.write_bytes(data)
    again = open_live()
    assert not StateFile(path, again, every_s=0).restore(again)
    assert again.counts["frames"] == 0 and "it is not what was written" in caplog.text
