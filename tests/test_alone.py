"""Of two commands at once in a folder the later ends before any work, or waits; a killed one bars nobody."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from faulty_proxy import FaultyProxy
from forebrain import alone as module
from forebrain.alone import alone
from forebrain.errors import StorageError, StudyError
from forebrain.sealed import sealed, unsealed
from forebrain.studies.ablation import AblateConfig, ablate
from forebrain.studies.backbone import BackboneConfig
from forebrain.studies.backbone import study as backbone_study
from forebrain.studies.inputs import InputsConfig
from forebrain.studies.inputs import study as inputs_study
from forebrain.studies.intervals import IntervalsConfig
from forebrain.studies.intervals import study as intervals_study
from forebrain.studies.leave_one_out import StudyConfig
from forebrain.studies.leave_one_out import study as leave_one_out_study
from forebrain.studies.many_adaptations import ManyConfig, adapt_many
from forebrain.studies.rivals import RivalsConfig
from forebrain.studies.rivals import study as rivals_study
from forebrain.studies.scaling import ScaleConfig, scale
from forebrain.training.config import PretrainConfig
from forebrain_registry.storage import Folder, carrying_anchors, staying

HOLD = """
import sys, time
from forebrain.alone import alone
from forebrain_registry.storage import Folder

with alone(Folder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return Folder(tmp_path / "new" / "study")
    return Folder(f"{request.getfixturevalue('s3_bucket')}/{request.node.name}")


def is_free(folder: Folder) -> bool:
    """Whether all who held a folder have let go of it: on a disk without a trace."""
    names = folder.names()
    return all(unsealed(folder.read(name)).get("ended") for name in names) and bool(names) != folder.is_local


@pytest.fixture
def holder(folder: Folder) -> Any:
    """A process that holds the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, folder.uri], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_is_there_and_the_next_after_a_kill_goes_on_at_once(
    folder: Folder, holder: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(StudyError) as refused, alone(folder):
        pass
    assert re.fullmatch(
        rf"{re.escape(folder.uri)}: another command works there \(process {holder.pid} on \S+\)\. Wait .*",
        str(refused.value),
    )
    assert folder.names() == ["held-1.json"]
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with alone(folder):
        assert folder.names() == ["held-2.json"]
    assert is_free(folder)


def test_one_who_waits_is_told_who_is_there_and_goes_on_when_it_has_ended(
    folder: Folder, holder: subprocess.Popen[bytes]
) -> None:
    told: list[str] = []

    def end(line: str) -> None:
        told.append(line)
        holder.kill()
        holder.wait()

    with alone(folder, end):
        assert folder.names() == ["held-2.json"]
    (line,) = told
    assert f"another command works there (process {holder.pid} on " in line and "waits" in line


def test_of_a_study_that_does_nothing_no_new_folder_is_left(tmp_path: Path) -> None:
    with alone(Folder(tmp_path / "new" / "study")):
        pass
    assert not list(tmp_path.iterdir())


def test_who_comes_next_removes_files_that_a_kill_left_without_their_name(tmp_path: Path) -> None:
    left = ["report.md.0123abcd.partial", "held-1.json.0123abcd.partial"]
    others = ["film.partial", "report.md", "adapted.0123abcd.partial/x", "trial/result.json.0123abcd.partial"]
    study = Folder(tmp_path)
    for name in (*left, *others):
        study.write(name, b"x")
    with alone(study):
        assert study.files().keys() == {*others, "held-1.json"}


def test_a_stopped_process_that_goes_on_later_keeps_its_folder(
    folder: Folder, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOST_S", 0.0)
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(StudyError, match=f"process {holder.pid}"), alone(folder):
        pass


def test_a_time_that_is_ahead_says_nothing_of_a_file_that_nobody_renews(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was ahead when a machine lost its power."""
    folder = Folder(tmp_path)
    monkeypatch.setattr(module, "RENEW_S", 0.05)
    path = tmp_path / "held-1.json"
    path.write_bytes(sealed({"process": 1, "host": "there", "machine": "another", "born": "1", "id": "a"}))
    ahead = time.time() + 2 * 86_400
    os.utime(path, (ahead, ahead))
    with alone(folder):
        assert [*folder.files()] == ["held-2.json"]
    # Who is at work renews it.
    path.write_bytes(sealed({"process": 1, "host": "there", "machine": "another", "born": "1", "id": "a"}))
    os.utime(path, (ahead, ahead))
    monkeypatch.setattr(time, "sleep", lambda seconds: os.utime(path))
    with pytest.raises(StudyError, match="process 1 on there"), alone(folder):
        pass


def test_from_another_machine_it_counts_as_ended_once_it_gives_no_sign_of_life(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.1)
    with alone(folder):
        first, deadline = folder.stat("held-1.json"), time.monotonic() + 20
        while folder.stat("held-1.json") == first:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        monkeypatch.setattr(module, "_machine", lambda: "another")
        with pytest.raises(StudyError, match=rf"process {os.getpid()} on \S+, seen \d s ago"), alone(folder):
            pass
        left = folder.read("held-1.json")
    folder.write("held-7.json", left)
    written = folder.stat("held-7.json")
    assert written is not None
    ages_s = iter([0.0, 59.0, 61.0])
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(Folder, "clock_s", lambda self: written.modified_s + next(ages_s))
    caplog.clear()
    with alone(folder):
        assert folder.names() == ["held-8.json"]
    assert len(caplog.records) == 1  # it is waited for until then, as after a job that lost its machine
    assert "which counts as ended when it was not for 60 s" in caplog.text


def test_a_copy_of_a_folder_where_a_command_works_is_free_once_its_file_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(module, "LOST_S", 0.2)
    with alone(Folder(tmp_path / "run")):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with alone(Folder(tmp_path / "copy")):
            assert Folder(tmp_path / "copy").names() == ["held-2.json"]


def test_a_file_that_is_listed_and_stays_away_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01)
    (tmp_path / "held-1.json").symlink_to(tmp_path / "annexed")
    with (
        pytest.raises(StorageError, match=r"held-1\.json is listed and cannot be found"),
        alone(Folder(tmp_path)),
    ):
        pass


def test_one_that_seemed_to_have_ended_says_so_and_takes_nothing_of_another_away(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(StorageError, match="may be of both, or in part elsewhere: run"),
        alone(folder),
        monkeypatch.context() as elsewhere,
    ):
        elsewhere.setattr(module, "_machine", lambda: "another")
        elsewhere.setattr(module, "LOST_S", 0.0)
        elsewhere.setattr(staying, "_dropped", [])
        with alone(folder):
            assert folder.names() == ["held-2.json"]
        folder.write("held-1.json", b"of a third")
    assert folder.read("held-1.json") == b"of a third"


def test_nothing_is_made_below_a_folder_that_is_held_and_gone_nor_by_who_works_for_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its disk is unmounted and what it was mounted at is left, or another command began there."""
    out, elsewhere = Folder(tmp_path / "disk" / "study"), tmp_path / "elsewhere"
    with alone(out):
        out.write("trials/1/result.json", b"{}")
        (tmp_path / "disk").rename(elsewhere)
        for name in ("report.html", "trials/1/result.json", "trials/2/held-1.json"):
            with pytest.raises(StorageError, match=r"study: is not there any more.*held-1\.json is missing"):
                out.write(name, b"{}")
        of_its_worker = carrying_anchors(Folder.write)
        with monkeypatch.context() as worker:
            worker.setattr(staying, "_dropped", [])
            with pytest.raises(StorageError, match="nothing is made in its place"):
                of_its_worker(out.child("trials/3"), "result.json", b"{}")
        assert not (tmp_path / "disk").exists()
        with monkeypatch.context() as another:
            another.setattr(staying, "_dropped", [])
            with alone(Folder(out.uri)):  # begun there since: its numbers begin anew, too
                out.write("report.html", b"of another")
                with pytest.raises(StorageError, match="or another command's by now"):
                    of_its_worker(out, "report.html", b"{}")
        assert out.read("report.html") == b"of another"
        shutil.rmtree(tmp_path / "disk")
        elsewhere.rename(tmp_path / "disk")
        out.write("trials/2/result.json", b"{}")  # it is back


def test_one_that_brought_its_file_back_after_another_had_come_says_so(folder: Folder) -> None:
    with pytest.raises(StorageError, match="may be of both"), alone(folder):
        folder.write("held-2.json", b"of another")
    assert folder.read("held-2.json") == b"of another"


def test_a_file_that_was_taken_away_is_not_renewed(folder: Folder) -> None:
    class Once(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            is_second = self.is_set()
            self.set()
            return is_second

    module._renew(folder, "held-1.json", b"of one that had seemed to have ended", Once())
    assert folder.names() == []


def test_a_number_that_another_process_has_now_bars_nobody(folder: Folder) -> None:
    with alone(folder):
        left = unsealed(folder.read("held-1.json"))
    folder.write("held-1.json", sealed({**left, "born": "1"}))
    with alone(folder):
        assert folder.names() == ["held-2.json"]


def test_one_that_stood_still_takes_nothing_of_those_who_came_meanwhile(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had judged a killed one's file, whose name is that of a newer one by the time that it goes on."""
    with alone(folder):
        left = unsealed(folder.read("held-1.json"))
    folder.write("held-1.json", sealed({**left, "born": "1"}))
    create, held = Folder.create, contextlib.ExitStack()
    holds = "held-1.json" if folder.is_local else "held-3.json"  # a number comes again on disks alone

    def stand_still(store: Folder, name: str, data: bytes) -> None:
        monkeypatch.setattr(Folder, "create", create)
        with alone(folder):
            assert folder.names() == ["held-2.json"]
        held.enter_context(alone(folder))
        assert folder.names() == [holds]
        create(store, name, data)

    with held:
        monkeypatch.setattr(
            Folder,
            "create",
            lambda store, name, data: (stand_still if name == "held-2.json" else create)(store, name, data),
        )
        with pytest.raises(StudyError, match=f"process {os.getpid()} on"), alone(folder):
            pass
        assert max(folder.names()) == holds
    assert is_free(folder)


def test_a_damaged_file_bars_nobody_for_long(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("held-1.json", b"{")
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01)
    with monkeypatch.context() as patch, pytest.raises(StudyError, match=r"\(held-1\.json, seen "):
        patch.setattr(time, "sleep", lambda seconds: folder.write("held-1.json", b"{"))  # somebody is at work
        with alone(folder):
            pass
    monkeypatch.setattr(module, "LOST_S", 0.0)
    with alone(folder):
        assert folder.names() == ["held-2.json"]


@pytest.mark.parametrize("left_by_a_killed_one", [False, True])
def test_of_many_at_once_one_is_let_in(folder: Folder, left_by_a_killed_one: bool) -> None:
    if left_by_a_killed_one:
        with alone(folder):
            left = unsealed(folder.read("held-1.json"))
        folder.write("held-1.json", sealed({**left, "born": "1"}))
    start, refused, inside, most = threading.Barrier(8), [], [], []
    done = threading.Event()

    def enter() -> None:
        start.wait()
        try:
            with alone(folder):
                inside.append(1)
                most.append(len(inside))
                done.wait(20)
                inside.pop()
        except StudyError as error:
            refused.append(error)

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(refused) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert most == [1] and len(refused) == 7
    assert is_free(folder)


STUDIES: dict[str, tuple[Callable[..., Any], Callable[[str], Any]]] = {
    "ablate": (ablate, lambda out: AblateConfig(PretrainConfig("sim://default", out), axes={"seed": [1]})),
    "adapt": (adapt_many, lambda out: ManyConfig("nothing", ["a.npz", "b.npz"], out)),
    "backbone": (backbone_study, lambda out: BackboneConfig("name", ["unknown"], out)),
    "inputs": (inputs_study, lambda out: InputsConfig(out)),
    "intervals": (intervals_study, lambda out: IntervalsConfig(["missing.npz"], out)),
    "leave-one-out": (leave_one_out_study, lambda out: StudyConfig(["missing.npz"], out)),
    "rivals": (rivals_study, lambda out: RivalsConfig(["missing.npz"], out)),
    "scale": (scale, lambda out: ScaleConfig(PretrainConfig("sim://default", out), "units", [4])),
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_works_alone(tmp_path: Path, name: str) -> None:
    """What they are given is wrong, too: they would say so, had they begun."""
    study, config = STUDIES[name]
    console = Console(quiet=True)
    more = ("",) if name in ("ablate", "scale") else ()
    with alone(Folder(tmp_path)):
        with pytest.raises(StudyError, match="another command works there"):
            study(config(str(tmp_path)), console, *more)
        assert [path.name for path in tmp_path.iterdir()] == ["held-1.json"]


def test_in_a_store_no_late_request_of_one_that_has_ended_reaches_the_next(
    s3_bucket: str, faults: FaultyProxy, request: pytest.FixtureRequest
) -> None:
    folder = Folder(f"{s3_bucket}/{request.node.name}")
    with alone(folder):
        faults.clear()
    (end,) = faults.log[-1:]
    assert end[0] == "PUT" and end[1].endswith("/held-1.json")
    assert not [each for each in faults.log if each[0] == "DELETE"]
    for number in (2, 3):
        with alone(folder):
            assert folder.names() == [f"held-{number}.json"]
            folder.remove_file(f"held-{number - 1}.json")
            folder.write(f"held-{number - 1}.json", b"renewed late")
