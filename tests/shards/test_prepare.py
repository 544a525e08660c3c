"""Preparing many recordings: what is skipped, refused, continued. In this process; Ray has its own tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from forebrain.errors import ConfigError, RecordingError, ShardError
from forebrain.sessions import session as session_module
from forebrain.sessions.session import Session
from forebrain.shards import prepare as prepare_module
from forebrain.shards import writer
from forebrain.shards.index import SessionEntry, remarks
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import PrepareResult, map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.recordings import find_all, sha256_of
from forebrain_registry.storage import Folder

SMALL = PrepareConfig(max_window=20, stretch_bytes=1, shard_bytes=5_000, page_bytes=200)


def open_saved(path: str) -> list[Session]:
    return [Session.load(path)]


def run(recordings: list[str], out: Path, config: PrepareConfig = SMALL, opener=open_saved) -> PrepareResult:
    return prepare(recordings, str(out), config, opener, run_each=map_here)


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_the_same_recordings_give_byte_identical_shards(save_session, tmp_path):
    recordings = [save_session("a.npz"), save_session("b.npz", num_units=9)]
    run(recordings, tmp_path / "one")
    run(recordings[::-1], tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_running_again_opens_and_writes_nothing(save_session, out):
    recordings = [save_session("a.npz"), save_session("b.npz")]
    run(recordings, out)
    before = contents(out)

    def refuse(path: str) -> list[Session]:
        raise AssertionError(f"{path} was opened")

    result = run(recordings, out, opener=refuse)
    assert result.num_skipped == len(result.sessions) == 2
    assert contents(out) == before


def test_adding_a_session_leaves_the_others_files_alone(save_session, out):
    run([save_session("a.npz")], out)
    stamps = {path: path.stat().st_mtime_ns for path in (out / "shards").rglob("*.tar")}
    result = run([save_session("b.npz")], out)
    assert [entry.session for entry in result.sessions] == ["b"]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert [entry.session for entry in ShardSet.open(str(out)).sessions] == ["a", "b"]


def test_a_changed_recording_is_prepared_again_and_leaves_nothing_of_the_old(save_session, out):
    recordings = [save_session("a.npz"), save_session("b.npz")]
    run(recordings, out)
    fingerprint = ShardSet.open(str(out)).fingerprint
    save_session("a.npz", num_frames=100)
    assert run(recordings, out).num_skipped == 1
    shards = ShardSet.open(str(out))
    assert shards.sessions[0].num_frames == 100
    assert shards.fingerprint != fingerprint
    listed = {shard.name for entry in shards.sessions for shard in entry.shards}
    assert {path.relative_to(out).as_posix() for path in (out / "shards").rglob("*.*")} == listed


def test_a_session_of_an_earlier_version_whose_accents_were_letters_of_their_own_is_replaced(
    save_session, out, monkeypatch
):
    name = "me\u0301duse"
    with monkeypatch.context() as before_names_were_composed:
        before_names_were_composed.setattr(session_module, "composed", lambda name: name)
        recordings = [save_session("a.npz", name=name), save_session("b.npz")]
        run(recordings, out)
    assert run(recordings, out).num_skipped == 2
    save_session("a.npz", name=name, num_frames=100)
    assert not run(recordings, out).failures
    sessions = ShardSet.open(str(out)).sessions
    assert [(each.session, each.num_frames) for each in sessions] == [("b", 400), ("m\u00e9duse", 100)]
    assert not [path for path in out.rglob("*") if "me-duse" in path.name]


def test_a_lost_shard_is_written_again(save_session, out):
    recordings = [save_session("a.npz"), save_session("b.npz")]
    run(recordings, out)
    before = contents(out)
    next((out / "shards").rglob("lab-m1-b*.tar")).unlink()
    assert run(recordings, out).num_skipped == 1
    assert contents(out) == before


@pytest.mark.parametrize("num_bytes", [0, 100])
def test_arrays_that_were_cut_short_are_written_again(save_session, out, num_bytes):
    recordings = [save_session("a.npz"), save_session("b.npz")]
    run(recordings, out)
    before = contents(out)
    arrays = next((out / "sessions").glob("lab-m1-b*.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:num_bytes])
    assert run(recordings, out).num_skipped == 1
    assert contents(out) == before


def test_a_damaged_entry_is_written_again(save_session, out):
    run([save_session("a.npz")], out)
    before = contents(out)
    next((out / "sessions").glob("*.json")).write_bytes(b"{}")
    assert run([save_session("a.npz")], out).num_skipped == 0
    assert contents(out) == before


def test_other_options_for_the_same_place_are_refused(save_session, out):
    run([save_session("a.npz")], out)
    with pytest.raises(ConfigError, match="prepared with max_window = 20, and 30 was asked for"):
        run([save_session("a.npz")], out, PrepareConfig(max_window=30))


def test_an_unusable_file_is_one_error_and_the_others_go_on(save_session, tmp_path, out):
    def opener(path: str) -> list[Session]:
        if path.endswith("bad.npz"):
            raise RecordingError(f"{path}: no matrix of traces. Name it in a sidecar file.")
        return open_saved(path)

    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"x")
    constant = save_session("constant.npz", traces=np.ones((50, 3), np.float32))
    missing = str(tmp_path / "missing.npz")
    result = run([str(bad), constant, save_session("good.npz"), missing], out, opener=opener)
    assert [entry.session for entry in result.sessions] == ["good"]
    assert {message.split(":")[0] for message in result.failures} == {str(bad), constant, missing}
    assert "nothing usable remains" in "".join(result.failures)
    assert len(ShardSet.open(str(out)).sessions) == 1


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file"), OSError("stale"), ShardError("torn")]
)
def test_a_recording_that_vanishes_between_the_passes_is_one_failure(save_session, out, error):
    vanishing = save_session("vanishing.npz")
    opened: list[str] = []

    def opener(path: str) -> list[Session]:
        opened.append(path)
        if path == vanishing and opened.count(path) > 1:
            raise error
        return open_saved(path)

    result = run([vanishing, save_session("good.npz")], out, opener=opener)
    assert [entry.session for entry in result.sessions] == ["good"]
    (message,) = result.failures
    assert message.startswith(f"{vanishing}: ")


def test_a_disk_error_while_one_recording_is_written_leaves_the_others(save_session, out, monkeypatch):
    full, good = save_session("full.npz"), save_session("good.npz")
    run([full, good], out)  # what an older run left of it is not what was asked for now
    save_session("full.npz", num_frames=300)
    write_session = prepare_module.write_session

    def write(session: Session, *rest: Any) -> SessionEntry:
        if session.session == "full":
            raise OSError(28, "No space left on device")
        return write_session(session, *rest)

    monkeypatch.setattr(prepare_module, "write_session", write)
    result = run([full, good], out)
    assert [entry.session for entry in result.sessions] == ["good"]
    (message,) = result.failures
    assert message.startswith(f"{full}: cannot be prepared (No space left on device)")
    assert str(out) in message


def test_failures_are_reported_again_by_every_run(save_session, out):
    recordings = [save_session("good.npz"), save_session("flat.npz", traces=np.ones((50, 3), np.float32))]
    assert run(recordings, out).failures == run(recordings, out).failures != ()


def test_when_nothing_is_usable_no_index_is_written(save_session, out):
    with pytest.raises(RecordingError, match="none of 1 recordings can be used"):
        run([save_session("flat.npz", traces=np.ones((50, 3), np.float32))], out)
    assert not (out / "index.json").exists()


def test_the_second_recording_with_the_same_id_is_an_error_that_names_both(save_session, out):
    first, second = save_session("a.npz", name="same"), save_session("b.npz", name="same", num_frames=99)
    result = run([first, second], out)
    assert result.sessions[0].num_frames == 400
    (message,) = result.failures
    assert message.startswith(f"{second}: session lab/m1/same was already found in {first}")


def test_one_recording_under_two_names_is_said_however_it_is_cut_into_segments(save_session, out):
    said: list[str] = []
    traces = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    first = save_session("a.npz", name="first", traces=traces)
    second = save_session("b.npz", name="second", traces=traces, segment_ids=np.repeat([0, 1], 200))
    prepare([first, second], str(out), SMALL, open_saved, map_here, said.append)
    (line,) = [line for line in said if "same numbers" in line]
    assert line.startswith("lab/m1/second: holds the same numbers as lab/m1/first.")


def test_a_recording_that_has_another_name_now_is_in_a_set_once(save_session, out):
    said: list[str] = []
    traces = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    other = save_session("b.npz")
    run([save_session("a.npz", name="guessed", traces=traces), other], out)
    named = save_session("a.npz", name="stated", traces=traces, segment_ids=np.repeat([0, 1], 200))
    result = prepare([named], str(out), SMALL, open_saved, map_here, said.append)
    assert [entry.session for entry in result.others] == ["b"]
    assert [entry.session for entry in ShardSet.open(str(out)).sessions] == ["b", "stated"]
    assert not [path for path in out.rglob("*") if "guessed" in path.name]
    assert "lab/m1/guessed is lab/m1/stated now: the same recording; the set does not hold it twice." in said
    assert "1 more sessions of the set are of none of these recordings: lab/m1/b." in said


def test_a_set_of_these_recordings_alone_loses_the_others(save_session, out):
    said: list[str] = []
    first, second = save_session("a.npz"), save_session("b.npz")
    run([first, second], out)
    alone = prepare([first], str(out), SMALL, open_saved, map_here, said.append, "these alone")
    assert [entry.session for entry in ShardSet.open(str(out)).sessions] == ["a"] and not alone.others
    assert "1 sessions of other recordings are no part of the set now: lab/m1/b." in said
    assert not [path for path in out.rglob("*") if "lab-m1-b" in path.name]


def test_names_that_come_from_a_path_are_those_of_the_path_now_unless_it_was_trained_on(tmp_path, out):
    week, lab = tmp_path / "week1", tmp_path / "lab"
    _save_plane(week / "mouse1" / "suite2p" / "plane0")
    week.joinpath("trace.session.yaml").write_text("subject: m7\nsession: one")
    np.save(week / "trace.npy", np.random.default_rng(7).normal(size=(300, 4)).astype(np.float32))
    prepare(find_all([str(week)]), str(out), SMALL, run_each=map_here)
    assert [entry.id for entry in ShardSet.open(str(out)).sessions] == [
        "week1/m7/one", "week1/mouse1/mouse1_plane0",
    ]  # fmt: skip
    before = contents(out)
    (week / "mouse1").rename(week / "mouse2")
    week.rename(lab)
    recordings = find_all([str(lab)])
    assert prepare(recordings, str(out), SMALL, run_each=map_here, holding="as trained").num_skipped == 2
    assert contents(out) == before
    prepare(recordings, str(out), SMALL, run_each=map_here)
    assert [entry.id for entry in ShardSet.open(str(out)).sessions] == [
        "lab/m7/one", "lab/mouse2/mouse2_plane0",
    ]  # fmt: skip
    after = contents(out)
    assert prepare(recordings, str(out), SMALL, run_each=map_here).num_skipped == 2
    assert contents(out) == after


def _save_plane(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "F.npy", np.random.default_rng(0).normal(size=(6, 300)).astype(np.float32))


def test_what_a_reader_took_of_a_recording_is_told_when_it_is_prepared(tmp_path, out):
    _save_plane(tmp_path / "mouse1" / "plane0")
    (entry,) = prepare(find_all([str(tmp_path / "mouse1")]), str(out), SMALL, run_each=map_here).sessions
    told = remarks(entry)
    assert "cells: no iscell.npy: every ROI is taken for a cell" in told
    assert "neuropil: no Fneu.npy: not subtracted" in told


def test_a_recording_of_several_sessions_is_skipped_only_when_all_are_done(save_session, make_session, out):
    path = save_session("a.npz")

    def opener(path: str) -> list[Session]:
        return [make_session("one"), make_session("two")]

    run([path], out, opener=opener)
    next((out / "sessions").glob("lab-m1-two*.json")).unlink()
    result = run([path], out, opener=opener)
    assert result.num_skipped == 1
    assert [entry.session for entry in result.sessions] == ["one", "two"]


# Which of the files that appear is the first not to.
POINTS = {
    "hold": 1, "first shard": 2, "later shard": 4, "arrays": 5, "entry": 6, "all entries": 12, "index": 13,
}  # fmt: skip


@pytest.mark.parametrize("at", [*POINTS])
def test_a_killed_run_leaves_nothing_that_passes_for_complete_and_continues(save_session, tmp_path, out, at):
    recordings = [save_session("a.npz"), save_session("b.npz")]
    run(recordings, tmp_path / "expected")
    script = f"""
import os, signal
from forebrain_registry.storage import local_disk
from forebrain.sessions import session as session_module
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from pathlib import Path
count = 0
def killed_before(name):  # every file appears by a rename, or by a link where it must be new
    def appear(*given):
        global count
        count += 1
        if count == {POINTS[at]}:
            os.kill(os.getpid(), signal.SIGKILL)
        return name(*given)
    return appear
Path.replace, os.link = killed_before(Path.replace), killed_before(os.link)
prepare({recordings!r}, {str(out)!r}, {SMALL!r}, lambda path: [Session.load(path)], run_each=map_here)
"""
    killed = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": _source()}, check=False
    )
    assert killed.returncode == -9
    with pytest.raises(ShardError, match=r"no index\.json"):
        ShardSet.open(str(out))
    run(recordings, out)
    assert contents(out) == contents(tmp_path / "expected")


def test_of_two_prepares_of_one_place_at_once_the_later_waits(save_session, tmp_path, out, monkeypatch):
    recordings = [save_session(name) for name in ("a.npz", "b.npz")]
    run(recordings, tmp_path / "expected")
    file_to_fill = Folder.file_to_fill
    told: list[str] = []

    def stop_waiting(line: str) -> None:
        told.append(line)
        raise InterruptedError

    @contextlib.contextmanager
    def interrupted(folder: Folder, name: str) -> Iterator[Path]:
        """While the first tar is half written, another command comes, of another recording of that name."""
        with file_to_fill(folder, name) as path:
            path.write_bytes(b"half of it")
            if not told:
                before = contents(out)
                other = save_session("other/a.npz", name="a", num_frames=300)
                with pytest.raises(InterruptedError):
                    prepare([other], str(out), SMALL, open_saved, map_here, stop_waiting)
                assert contents(out) == before
            yield path

    monkeypatch.setattr(Folder, "file_to_fill", interrupted)
    result = run(recordings, out)
    (line,) = told
    assert line.startswith(f"{out}: another command works there (process {os.getpid()} on ")
    assert line.endswith("This one waits until it has ended.")
    assert len(result.sessions) == 2 and not result.failures
    assert contents(out) == contents(tmp_path / "expected")


def test_a_session_that_is_lost_before_the_index_is_written_is_named(save_session, out) -> None:
    first, second = save_session("a.npz"), save_session("b.npz")

    def lose(line: str) -> None:
        if line.startswith("[2/2]"):
            next((out / "shards").rglob("lab-m1-b*.tar")).unlink()

    result = prepare([first, second], str(out), SMALL, open_saved, map_here, lose)
    assert [entry.session for entry in result.sessions] == ["a"]
    (message,) = result.failures
    assert "session lab/m1/b was prepared and is not whole any more" in message


def test_a_recording_that_changes_while_it_is_prepared_is_left_out_and_named(save_session, out) -> None:
    growing, good = save_session("growing.npz"), save_session("good.npz")
    opened: list[str] = []

    def opener(path: str) -> list[Session]:
        opened.append(path)
        sessions = open_saved(path)
        if path == growing and opened.count(path) == 2:
            save_session("growing.npz", num_frames=300)
        return sessions

    result = run([growing, good], out, opener=opener)
    assert [entry.session for entry in result.sessions] == ["good"]
    (message,) = result.failures
    assert message.startswith(f"{growing}: changed while it was prepared")
    assert [entry.session for entry in ShardSet.open(str(out)).sessions] == ["good"]
    assert len(run([growing, good], out).sessions) == 2


def test_events_are_binned_and_rates_made_equal_when_asked(save_session, make_session, tmp_path):
    traces = make_session(num_frames=1000).traces.copy()
    traces[np.random.default_rng(0).random(traces.shape) < 0.99] = 0
    events = save_session("events.npz", traces=traces, rate_hz=20.0)
    dense = save_session("dense.npz", rate_hz=8.0)
    result = run([events, dense], tmp_path / "binned")
    assert {entry.session: entry.rate_hz for entry in result.sessions} == {"events": 2.0, "dense": 8.0}
    assert "events_binned" in result.sessions[1].report.kinds()
    result = run([events, dense], tmp_path / "plain", PrepareConfig(event_rate_hz=None))
    assert result.sessions[1].rate_hz == 20.0
    unknown = save_session("unknown.npz", rate_hz=None)
    result = run(
        [events, dense, unknown], tmp_path / "equal", PrepareConfig(event_rate_hz=None, resample_hz=4.0)
    )
    assert {entry.rate_hz for entry in result.sessions} == {4.0}
    assert "its rate is not known" in result.failures[0]


def test_components_replace_units_when_asked(save_session, out):
    run([save_session("a.npz")], out, PrepareConfig(pca=4))
    shards = ShardSet.open(str(out))
    fit = shards.fit(0, "chronological")
    assert fit.num_outputs == 4
    assert fit.apply(shards.read(0, 0, 64)).shape == (64, 4)


def test_simulated_sessions_need_no_file(out):
    address = "sim://sim-celegans/0?seed=0"
    result = prepare([address], str(out), PrepareConfig(), run_each=map_here)
    assert result.sessions[0].source.name == address
    assert result.sessions[0].report.findings == ()


def test_a_source_is_its_bytes_and_its_sidecars(save_session, tmp_path):
    path = Path(save_session("a.npz"))
    hashes = {sha256_of(str(path))}
    for sidecar in ("a.session.yaml", "a.npz.session.json", "session.yaml"):
        (path.parent / sidecar).write_text("rate_hz: 3")
        hashes.add(sha256_of(str(path)))
    folder = tmp_path / "folder.zarr"
    folder.mkdir()
    (folder / "chunk").write_bytes(b"1")
    hashes.add(sha256_of(str(folder)))
    (folder / "chunk").write_bytes(b"2")
    hashes.add(sha256_of(str(folder)))
    (folder.parent / "folder.session.yml").write_text("rate_hz: 3")
    hashes.add(sha256_of(str(folder)))
    (folder.parent / "other.session.yml").write_text("rate_hz: 3")
    hashes.add(sha256_of(str(folder)))
    assert len(hashes) == 7


@pytest.mark.parametrize("kind", ["external link", "virtual", "external bytes", "link to a link"])
def test_other_files_that_an_hdf5_file_is_read_from_are_part_of_the_source(tmp_path, kind):
    far = tmp_path / "raw" / "far.bin"
    far.parent.mkdir()
    recording = tmp_path / "a.h5"
    with h5py.File(far, "w") as file:
        file["x"] = np.zeros((100, 4))
    with h5py.File(tmp_path / "raw" / "near.bin", "w") as file:
        file["x"] = h5py.ExternalLink("far.bin", "x")
    with h5py.File(recording, "w") as file:
        if kind == "virtual":
            layout = h5py.VirtualLayout((100, 4), "f8")
            layout[:] = h5py.VirtualSource("raw/far.bin", "x", (100, 4))
            file.create_virtual_dataset("dff", layout)
        elif kind == "external bytes":
            file.create_dataset("dff", (100, 4), "f4", external=[(str(far), 0, 1600)])
        else:
            file["dff"] = h5py.ExternalLink("raw/near.bin" if "to a" in kind else "raw/far.bin", "x")
    before = sha256_of(str(recording))
    with far.open("r+b") as stream:
        stream.seek(-8, os.SEEK_END)
        stream.write(b"12345678")
    changed = sha256_of(str(recording))
    (tmp_path / "raw").rename(tmp_path / "lost")
    assert len({before, changed, sha256_of(str(recording))}) == 3


def test_a_table_of_frame_times_above_a_folder_is_part_of_the_source(tmp_path):
    store = zarr.open_group(tmp_path / "m4" / "minian" / "C.zarr", mode="w", zarr_format=2)
    store.create_array("C", data=np.zeros((5, 40)))
    hashes = {sha256_of(str(tmp_path / "m4" / "minian"))}
    for text in ("frame,timestamp_first\n0,1\n", "frame,timestamp_first\n0,2\n"):
        (tmp_path / "m4" / "neural_timestamp.csv").write_text(text)
        hashes.add(sha256_of(str(tmp_path / "m4" / "minian")))
    assert len(hashes) == 3


def test_what_lies_behind_links_in_a_folder_is_part_of_the_source(tmp_path):
    folder, elsewhere = tmp_path / "a.zarr", tmp_path / "arrays"
    for each in (folder / "group", elsewhere / "inner"):
        each.mkdir(parents=True)
    (folder / "group" / "chunk").write_bytes(b"1")
    without = sha256_of(str(folder))
    for name, target in {"up": "..", "self": ".", "group/round": "../group"}.items():
        (folder / name).symlink_to(target)
    assert sha256_of(str(folder)) == without
    (elsewhere / "inner" / "chunk").write_bytes(b"1")
    (elsewhere / "back").symlink_to(folder)
    (folder / "linked").symlink_to("../arrays")
    with_link = sha256_of(str(folder))
    (elsewhere / "inner" / "chunk").write_bytes(b"2")
    assert len({without, with_link, sha256_of(str(folder))}) == 3


def test_a_recording_larger_than_memory_is_prepared_and_read_in_pieces(tmp_path):
    """256 MiB of frames, and 100 MiB of memory more than the idle process has."""
    script = f"""
import resource
import numpy as np
from forebrain.sessions import session as session_module
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet

class Generated:  # made as it is read
    shape = (8192, 8192)
    def __getitem__(self, part):
        frame = np.arange(part.start, part.stop, dtype=np.int32)[:, None]
        unit = np.arange(8192, dtype=np.int32)
        values = ((frame * 7919 + unit * 4729) % 10007).astype(np.float32)
        values[(frame + unit) % 5003 == 5002 + (frame == 0)] = np.nan
        return values

status = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("VmData"))
limit = (int(status["VmData"].split()[0]) << 10) + (100 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(200 << 20, np.uint8)
except MemoryError:
    pass
else:
    raise SystemExit("the limit is not enforced")
out = {str(tmp_path / "out")!r}
opener = lambda path: [Session(Generated(), 2.0, "zebrafish", "f", "s", "big")]
prepare([{str(Path(__file__))!r}], out, PrepareConfig(max_window=64), opener, run_each=map_here)
window = ShardSet.open(out).read(0, 6345, 6409)
source = Generated()[slice(6344, 6409)]
missing = np.isnan(source[1:])
assert missing.any()
assert np.array_equal(window, np.where(missing, source[:-1], source[1:]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": _source(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert sum(path.stat().st_size for path in (tmp_path / "out" / "shards").rglob("*.tar")) > 256 << 20


def _source() -> str:
    platform = Path(writer.__file__).parents[2]
    return f"{platform}:{platform.with_name('registry')}"
