"""metrics.jsonl: each row written once, whatever was killed, cut short or done again."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from faulty_proxy import FaultyProxy
from forebrain.errors import StorageError
from forebrain.training.metrics_file import MetricsFile
from forebrain_registry.storage import Folder


def rows(*steps: int, **more: Any) -> list[dict[str, Any]]:
    return [{"kind": "step", "step": step, "loss": 1 / step, **more} for step in steps]


def steps_in(folder: Folder) -> list[int]:
    return [json.loads(line)["step"] for line in folder.read("metrics.jsonl").splitlines()]


def test_rows_are_appended_and_nothing_before_them_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = MetricsFile(Folder(tmp_path))
    metrics.rewind(0)
    metrics.append(rows(1, 2))
    monkeypatch.setattr(Folder, "write", lambda *given: pytest.fail("the file was rewritten"))
    file = (tmp_path / "metrics.jsonl").stat().st_ino
    for step in range(3, 30):
        metrics.append(rows(step))
    metrics.append([])
    metrics.join()
    assert metrics.read() == rows(*range(1, 30))
    assert (tmp_path / "metrics.jsonl").stat().st_ino == file
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_steps_that_are_done_again_stand_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    before = MetricsFile(folder)
    before.rewind(0)
    before.append([*rows(1, 2, 3), {"kind": "checkpoint", "step": 2}, *rows(4, 5)])
    after = MetricsFile(folder)
    after.rewind(2)
    after.append(rows(3, 4, 5, 6))
    assert steps_in(folder) == [1, 2, 2, 3, 4, 5, 6]
    assert [row for row in after.read() if row["kind"] == "step"] == rows(1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(("kept", "lacking"), [((), 3), ((3,), 2), ((1, 3, 4), 1), ((1, 2, 3, 5), 0)])
def test_a_run_that_goes_on_without_rows_of_before_says_so(
    tmp_path: Path, kept: tuple[int, ...], lacking: int, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = MetricsFile(Folder(tmp_path))
    metrics.rewind(0)
    assert not caplog.text
    metrics.append([*rows(*kept), {"kind": "checkpoint", "step": 2}])
    metrics.rewind(3)
    assert (f"{lacking} of the 3 steps that are done have no row" in caplog.text) == bool(lacking)
    assert len(caplog.records) == bool(lacking)


@pytest.mark.parametrize(
    "torn",
    [
        b'{"kind": "step", "step": 4, "lo',
        b'{"kind": "step", "step"\n\x00\x00\n17\n[1]\n',
        b'{"kind": "step", "step": 3, "loss": "low"}\n{"kind": "validation", "step": 3, "score": []}\n',
        b"[" * 3000,
    ],
)
def test_what_a_kill_left_is_dropped_at_the_next_start_which_says_so(
    tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(tmp_path)
    metrics = MetricsFile(folder)
    metrics.rewind(0)
    metrics.append(rows(1, 2, 3))
    with (tmp_path / "metrics.jsonl").open("ab") as stream:
        stream.write(torn)
    assert MetricsFile(folder).read() == rows(1, 2, 3)
    again = MetricsFile(folder)
    again.rewind(3)
    again.append(rows(4))
    assert steps_in(folder) == [1, 2, 3, 4]
    assert "metrics.jsonl" in caplog.text and "damaged" in caplog.text


def test_a_last_line_without_its_end_is_a_line(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(rows(1)[0]))
    metrics = MetricsFile(folder)
    metrics.rewind(1)
    metrics.append(rows(2))
    assert steps_in(folder) == [1, 2]


def test_two_drivers_of_one_run_leave_each_step_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    one, two = MetricsFile(folder), MetricsFile(folder)
    for each in (one, two):
        each.rewind(0)
    one.append(rows(1, 2))
    two.append(rows(1, 2, 3))
    one.append(rows(3, 4))
    two.append(rows(4))
    assert [row["step"] for row in one.read()] == [1, 2, 3, 4]
    two.rewind(4)
    assert steps_in(folder) == [1, 2, 3, 4]


def test_no_row_goes_that_another_driver_adds_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    one, two = MetricsFile(folder), MetricsFile(folder)
    for each in (one, two):
        each.rewind(0)
    one.append(rows(1))
    read = MetricsFile.read

    def then_the_other_adds(metrics: MetricsFile) -> list[dict[str, Any]]:
        found = read(metrics)
        monkeypatch.setattr(MetricsFile, "read", read)
        one.append(rows(2))
        return found

    monkeypatch.setattr(MetricsFile, "read", then_the_other_adds)
    two.append(rows(1))
    one.read()
    assert [row["step"] for row in one.read()] == [1, 2]


def test_rows_stand_on_their_own_behind_a_line_that_another_driver_left_half(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    metrics = MetricsFile(folder)
    metrics.rewind(0)
    metrics.append(rows(1))
    folder.write("metrics.jsonl", folder.read("metrics.jsonl") + b'{"kind": "st')
    metrics.append(rows(2))
    assert [row["step"] for row in metrics.read()] == [1, 2]


def test_on_a_full_disk_nothing_of_the_rows_is_kept_and_the_error_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = MetricsFile(Folder(tmp_path))
    metrics.rewind(0)
    metrics.append(rows(1))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match=r"metrics\.jsonl.*No space left"):
        patch.setattr(os, "fsync", full)
        metrics.append(rows(2))
    assert steps_in(Folder(tmp_path)) == [1]
    metrics.append(rows(2))
    assert steps_in(Folder(tmp_path)) == [1, 2]


class Appending:
    """A folder that counts the bytes written into it, and takes itself for an object store."""

    def __init__(self, path: Path) -> None:
        self._folder, self.written, self.is_local = Folder(path), 0, False

    def write(self, name: str, data: bytes) -> None:
        self.written += len(data)
        self._folder.write(name, data)

    def create(self, name: str, data: bytes) -> None:
        self.written += len(data)
        self._folder.create(name, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._folder, name)


def test_in_an_object_store_what_is_written_grows_with_the_rows_and_no_faster(tmp_path: Path) -> None:
    store: Any = Appending(tmp_path)
    metrics = MetricsFile(store)
    metrics.rewind(0)
    for step in range(1, 101):
        metrics.append(rows(step))
    assert metrics.read() == rows(*range(1, 101))
    metrics.join()
    content = (tmp_path / "metrics.jsonl").read_bytes()
    assert [json.loads(line) for line in content.splitlines()] == rows(*range(1, 101))
    assert store.written == 2 * len(content)
    assert not list(tmp_path.glob("attempts/metrics/*"))


def test_in_an_object_store_a_run_goes_on_and_two_drivers_overwrite_nothing(
    s3_bucket: str, faults: FaultyProxy
) -> None:
    folder = Folder(f"{s3_bucket}/metrics")
    faults.every = 5
    killed = MetricsFile(folder)
    killed.rewind(0)
    killed.append(rows(1, 2))
    killed.append(rows(3, 4))
    after = MetricsFile(folder)
    after.rewind(3)
    assert steps_in(folder) == [1, 2, 3]
    after.append(rows(4, by="after"))
    killed.append(rows(5, by="killed"))
    after.append(rows(5, by="after"))
    assert [row["step"] for row in after.read()] == [1, 2, 3, 4, 5]
    after.join()
    assert steps_in(folder) == [1, 2, 3, 4, 5] and MetricsFile(folder).read() == after.read()
    faults.every = 0
