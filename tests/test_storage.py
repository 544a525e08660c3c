"""A folder on a disk that fills up, and in an object store that misbehaves: a real server behind a proxy."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from faulty_proxy import FaultyProxy
from forebrain.errors import ForebrainError, StorageError
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain_registry.storage import Folder
from forebrain_registry.storage.retries import ATTEMPTS

DATA = bytes(range(256)) * 400


@pytest.fixture
def remote(s3_bucket: str, faults: FaultyProxy, request: pytest.FixtureRequest) -> Folder:
    return Folder(f"{s3_bucket}/{request.node.name}")


@pytest.mark.parametrize("fault", ["503", "drop", "cut", "stall", "slow"])
def test_reading_survives_a_fault_with_a_warning_that_names_object_and_cause(
    remote: Folder, faults: FaultyProxy, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    remote.write("a/one", DATA)
    remote.write("a/two", DATA[::-1])
    for read in (
        lambda: remote.read_range("a/one", 1000, 90_000) == DATA[1000:90_000],
        lambda: remote.read("a/one") == DATA,
        lambda: remote.read_all(["a/one", "a/two"]) == {"a/one": DATA, "a/two": DATA[::-1]},
    ):
        caplog.clear()
        faults.fail(fault, times=1, method="GET")
        assert read()
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        # A connection that was dropped while idle is made anew by the HTTP client without a word.
        assert len(warnings) in {"slow": (0,), "drop": (0, 1)}.get(fault, (1,))
        # Two objects are read at once, and either may meet it.
        *_, failed = (path for _, path, met in faults.log if met)
        name = urlsplit(failed).path[-len("a/one") :]
        assert all(f"{remote.uri}/{name}: " in text for text in warnings)
        assert all("SlowDown" in text for text in warnings if fault == "503")


@pytest.mark.parametrize("fault", ["503", "drop", "lose", "stall"])
def test_writing_survives_a_fault(remote: Folder, faults: FaultyProxy, fault: str) -> None:
    faults.fail(fault, method="PUT")
    remote.write("a", DATA)
    with remote.file_to_fill("b") as path:
        path.write_bytes(DATA)
        faults.fail(fault, method="PUT")
    faults.fail(fault, method="GET")  # of the listing
    assert remote.names() == ["a", "b"]
    assert remote.read_all(["a", "b"]) == {"a": DATA, "b": DATA}
    faults.fail(fault)
    assert remote.exists("a") and not remote.exists("c")
    faults.fail(fault, method="POST")
    remote.remove("a")
    assert remote.names() == ["b"]
    assert faults.met() == [fault] * 5


def test_a_put_if_absent_whose_answer_was_lost_is_won_and_a_lost_race_stays_lost(
    remote: Folder, faults: FaultyProxy
) -> None:
    faults.fail("lose", method="PUT")
    remote.create("record", b"ours")
    assert faults.met() == ["lose"]
    assert remote.read("record") == b"ours"
    faults.fail("drop", method="PUT")
    with pytest.raises(FileExistsError):
        remote.create("record", b"theirs")
    assert remote.read("record") == b"ours"


def test_what_aws_answers_to_many_who_create_at_once_is_tried_again(
    remote: Folder, faults: FaultyProxy
) -> None:
    faults.fail("conflict", times=2)
    remote.create("record", b"ours")
    assert faults.met() == ["conflict"] * 2
    faults.fail("conflict", times=1000)
    with pytest.raises(StorageError, match=rf"in {ATTEMPTS} attempts .*ConditionalRequestConflict"):
        remote.create("another", b"ours")


def test_attempts_are_bounded_and_do_not_multiply(
    remote: Folder, faults: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.write("a", DATA)
    faults.log.clear()
    faults.fail("503", times=1000)
    with pytest.raises(StorageError, match=rf"/a: {faults.url}.* in {ATTEMPTS} attempts over .*SlowDown"):
        remote.read_range("a", 0, 10)
    assert len(faults.log) == ATTEMPTS
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(StorageError, match="in 2 attempts"):
        remote.write("a", DATA)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1000")
    monkeypatch.setattr("forebrain_registry.storage.retries.RETRY_S", 0.5)
    faults.log.clear()
    # Without a bound in time it would be read once the thousand faults are used up.
    with pytest.raises(StorageError, match=r"in \d+ attempts") as raised:
        remote.read("a")
    assert f" in {len(faults.log)} attempts over " in str(raised.value)


def test_a_server_that_is_gone_is_an_error_that_names_its_address(
    remote: Folder, faults: FaultyProxy
) -> None:
    faults.close()
    with pytest.raises(StorageError, match=rf"{faults.url}.*AWS_ENDPOINT_URL"):
        remote.read("a")


def test_expired_credentials_are_refused_at_once(remote: Folder, faults: FaultyProxy) -> None:
    for call in (
        lambda: remote.write("a", DATA),
        lambda: remote.create("a", DATA),
        lambda: remote.read_range("a", 0, 10),
        lambda: remote.read_all(["a", "b"]),
        lambda: remote.names(),
        lambda: remote.exists("a"),
    ):
        faults.log.clear()
        faults.fail("expired", times=2)
        with pytest.raises(StorageError, match=rf"{faults.url} refuses access.*expired.*AWS_SESSION_TOKEN"):
            call()
        assert 1 <= len(faults.log) <= 2  # one for each file
        faults.clear()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses access.*AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "refuses access.*AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "refuses access.*credentials"),
    ],
)
def test_wrong_or_missing_credentials_are_refused_at_once(
    s3_bucket: str,
    faults: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str | None],
    match: str,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in changed.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    folder = Folder(f"{s3_bucket}/private")
    for call in (lambda: folder.read("a"), lambda: folder.exists("a"), lambda: folder.write("a", b"")):
        faults.log.clear()
        with pytest.raises(StorageError, match=match):
            call()
        assert len(faults.log) <= 1


def test_a_bucket_that_is_not_there_is_named(faults: FaultyProxy) -> None:
    folder = Folder("s3://no-such-bucket/run")
    for call in (
        lambda: folder.names(),
        lambda: folder.sizes("shards"),
        lambda: folder.read("a"),
        lambda: folder.read_all(["a", "b"]),
        lambda: folder.read_range("a", 0, 1),
        lambda: folder.write("a", b""),
        lambda: folder.create("a", b""),
        lambda: folder.files(),
        lambda: list(folder.chunks("a")),
    ):
        with pytest.raises(StorageError, match=r"no-such-bucket.*no such bucket at http"):
            call()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a disk that can be filled")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_written(small_disk: Path) -> None:
    folder = Folder(small_disk)
    folder.write("a", b"old")
    for call in (
        lambda: folder.write("a", bytes(300_000)),
        lambda: folder.create("b", bytes(300_000)),
    ):
        with pytest.raises(StorageError, match="the disk is full"):
            call()
    assert [path.name for path in small_disk.iterdir()] == ["a"]
    assert folder.read("a") == b"old"


def test_a_full_disk_stops_prepare_and_leaves_only_whole_sessions(small_disk: Path, tmp_path, walk) -> None:
    recordings = []
    for seed, frames in ((1, 400), (2, 20_000)):
        recordings.append(str(tmp_path / f"{seed}.npz"))
        walk(seed, num_frames=frames).save(recordings[-1])
    out = small_disk / "shards"

    def run() -> None:
        prepare(recordings, str(out), PrepareConfig(), lambda path: [Session.load(path)], map_here)

    with pytest.raises(ForebrainError, match=r"the disk is full.*running it again goes on"):
        run()
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert not [name for name in files if name.suffix == ".partial" or name.name == "index.json"]
    assert len([name for name in files if name.suffix == ".tar"]) == 1
