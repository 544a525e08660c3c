"""A folder on a disk and in an object store: the same promises, also where the disk is full or poor and the
store, a real server behind a proxy, misbehaves."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from faulty_proxy import FaultyProxy
from forebrain.errors import ForebrainError, StorageError
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain_registry.storage import Folder, local_disk, retries
from forebrain_registry.storage.retries import ATTEMPTS

DATA = bytes(range(256)) * 400


@pytest.fixture
def remote(s3_bucket: str, faults: FaultyProxy, request: pytest.FixtureRequest) -> Folder:
    return Folder(f"{s3_bucket}/{request.node.name}")


def test_a_file_that_was_damaged_on_its_way_is_read_again(
    remote: Folder, faults: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    remote.write("a/one", DATA)
    faults.fail("damage", method="GET")
    assert remote.read("a/one") == DATA
    assert f"{remote.uri}/a/one: " in caplog.text and "checksum" in caplog.text


def test_many_requests_are_under_way_at_a_time(
    s3_bucket: str, faults: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A far store is read as fast as it answers, not as fast as ten connections do."""
    monkeypatch.setattr(retries, "READ_TIMEOUT_S", 30.0)
    folder = Folder(f"{s3_bucket}/many-requests")
    folder.write("a", DATA)
    faults.clear()
    faults.fail("stall", times=40, method="GET")
    found: list[bytes] = []
    readers = [
        threading.Thread(target=lambda at=at: found.append(folder.read_range("a", at, at + 1)))
        for at in range(40)
    ]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + 20
    while len(faults.log) < 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    asked = len(faults.log)
    faults.released.set()
    for reader in readers:
        reader.join()
    assert asked == 40
    assert sorted(found) == [DATA[at : at + 1] for at in range(40)]


def test_a_web_page_in_the_place_of_a_store_is_said_before_any_work(
    remote: Folder, faults: FaultyProxy
) -> None:
    faults.fail("page", times=1000)
    for call in (lambda: remote.exists("a"), lambda: remote.stat("a"), remote.files, remote.require_writable):
        with pytest.raises(StorageError, match=r"127\.0\.0\.1.*not as an object store"):
            call()


def test_what_a_web_page_takes_in_the_place_of_a_store_does_not_pass_for_written(
    remote: Folder, faults: FaultyProxy, tmp_path: Path
) -> None:
    """It answers every request, a PUT too, as if all were well."""
    source = tmp_path / "source"
    source.write_bytes(DATA)

    def fill() -> None:
        with remote.file_to_fill("a") as path:
            path.write_bytes(DATA)

    for write in (
        lambda: remote.write("a", DATA),
        lambda: remote.create("a", DATA),
        lambda: remote.upload("a", source),
        lambda: remote.renew("a", source),
        fill,
    ):
        faults.fail("page", method="PUT")
        with pytest.raises(StorageError, match=r"/a: .*127\.0\.0\.1.*not as an object store does .*'ETag'"):
            write()
        write()
        assert remote.read("a") == DATA
        remote.remove("a")


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
    faults.fail(fault, method="DELETE")
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


def test_a_clock_that_is_off_is_not_taken_for_wrong_credentials(remote: Folder, faults: FaultyProxy) -> None:
    for call in (lambda: remote.write("a", DATA), lambda: remote.read("a"), lambda: remote.remove("a")):
        faults.fail("skewed")
        with pytest.raises(
            StorageError, match=r"RequestTimeTooSkewed.* the clock of this machine is off.*Here it is 20"
        ):
            call()
    faults.fail("skewed", times=3)
    with pytest.raises(StorageError, match="and that this machine's clock is right"):  # HEAD has no text
        remote.stat("a")


def test_a_removal_that_the_store_refuses_is_said(remote: Folder, faults: FaultyProxy) -> None:
    for name in ("one", "a/one", "a/b/two"):
        remote.write(name, DATA)
    for name in ("one", "a"):
        faults.fail("denied", times=2, method="DELETE")
        faults.fail("denied", method="POST")
        with pytest.raises(StorageError, match=r"refuses access.*AccessDenied"):
            remote.remove(name)
        faults.clear()
    faults.fail("denied", method="DELETE")
    with pytest.raises(StorageError, match=r"refuses access.*AccessDenied"):
        remote.remove_file("one")
    assert sorted(remote.files()) == ["a/b/two", "a/one", "one"]
    faults.fail("denied", method="POST")  # an answer that s3fs passes over
    remote.remove("a")
    assert sorted(remote.files()) == ["one"] and faults.met() == ["denied"] * 2


def test_a_removal_leaves_what_another_creates_under_the_name(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(f"{s3_bucket}/taken [again]")
    place = folder._place
    remove_file = place.remove_file

    def meanwhile(name: str) -> None:
        remove_file(name)
        if name == "a":
            folder.write("a", b"another's")

    monkeypatch.setattr(place, "remove_file", meanwhile)
    for below in ([], ["a/b/one", "a/two"]):
        for name in below:
            folder.write(name, DATA)
        folder.remove("a")
        assert list(folder.files()) == ["a"] and folder.files("a") == {}
        remove_file("a")


def test_a_file_is_removed_by_one_request(remote: Folder, faults: FaultyProxy) -> None:
    """Of which the lease of a registry's collector reckons with one."""
    for name in ("a", "a/b"):
        remote.write(name, DATA)
    faults.clear()
    remote.remove_file("a")
    assert [method for method, _, _ in faults.log] == ["DELETE"]
    assert list(remote.files()) == ["a/b"]
    remote.remove_file("none")


def test_a_bucket_that_is_not_there_is_named(faults: FaultyProxy) -> None:
    folder = Folder("s3://no-such-bucket/run")
    for call in (
        lambda: folder.names(),
        lambda: folder.sizes("shards"),
        lambda: folder.read("a"),
        lambda: folder.read_all(["a", "b"]),
        lambda: folder.read_range("a", 0, 1),
        lambda: folder.files(),
        lambda: list(folder.chunks("a")),
    ):
        with pytest.raises(StorageError, match=r"no-such-bucket.*no such bucket at http"):
            call()


def test_a_bucket_that_is_not_there_when_something_is_written_is_no_file_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server here makes buckets as they are written to; others say that there is none."""
    folder = Folder("memory://bucket")

    def refuse(*given: object, **more: object) -> None:
        raise FileNotFoundError("The specified bucket does not exist")

    monkeypatch.setattr(folder._place._fs, "pipe_file", refuse)
    for call in (lambda: folder.write("a", b""), lambda: folder.create("a", b"")):
        with pytest.raises(StorageError, match="bucket does not exist"):
            call()


def test_an_endpoint_without_a_scheme_is_one_line_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio.lab:9000")
    folder = Folder("s3://bucket-behind-no-scheme/models")
    for call in (lambda: folder.read("a"), lambda: folder.files(), lambda: folder.create("a", b"")):
        with pytest.raises(StorageError, match=r"minio\.lab:9000.*http://") as raised:
            call()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", ["one//form", "one/form/", "/one/./form//"])
def test_an_address_in_an_object_store_has_one_form(s3_bucket: str, given: str) -> None:
    folder = Folder(f"{s3_bucket}/{given}")
    assert folder.uri == f"{s3_bucket}/one/form"
    folder.write("here", given.encode())
    assert Folder(f"{s3_bucket}/one/form").read("here") == given.encode()
    assert folder.names() == ["here"] and list(folder.files()) == ["here"]


def test_an_address_in_a_local_folder_has_one_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "a" / "b").mkdir(parents=True)
    for given in ("a//b/", "./a/b", "~/a/b", f"file://{tmp_path}/a/b", "a/c/../b", "link"):
        assert Folder(given).uri == str(tmp_path / "a" / "b"), given


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("s3:/bucket/models", "two slashes"),
        ("s3://bucket/a/../b", r"no `\.\.`"),
        ("nowhere://x", "not a place that is known"),
        ("~no-such-user/models", "no user of that name"),
    ],
)
def test_an_address_that_is_none_is_one_line(given: str, match: str) -> None:
    with pytest.raises(StorageError, match=match) as raised:
        Folder(given)
    assert "\n" not in str(raised.value)


def test_a_number_of_attempts_that_is_none_is_one_line(
    monkeypatch: pytest.MonkeyPatch, s3_bucket: str
) -> None:
    for given in ("many", "0", "-1", ""):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", given)
        with pytest.raises(StorageError, match="AWS_MAX_ATTEMPTS"):
            Folder(s3_bucket).read("a")


def refuse_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def link(*given: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_on_a_disk_without_hard_links_one_of_many_who_create_a_file_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As exFAT, SMB and many FUSE file systems answer; processes, since each would have its own lock."""
    refuse_links(monkeypatch, number)
    names = [str(i) for i in range(30)]
    workers = []
    for worker in range(4):
        pid = os.fork()
        if pid == 0:
            won = []
            for name in names:
                with contextlib.suppress(FileExistsError):
                    Folder(tmp_path / "records").create(name, f"by {worker}".encode())
                    won.append(name)
            (tmp_path / f"won-{worker}").write_text(" ".join(won))
            os._exit(0)
        workers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 4
    won = {worker: (tmp_path / f"won-{worker}").read_text().split() for worker in range(4)}
    assert sorted(name for own in won.values() for name in own) == sorted(names)
    folder = Folder(tmp_path / "records")
    assert folder.names() == sorted(names)
    assert all(folder.read(name) == f"by {worker}".encode() for worker, own in won.items() for name in own)


@pytest.mark.parametrize("times", [1, 2, 100])
def test_a_file_that_another_process_clears_away_before_it_has_a_name_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As a prepare or a driver removes what killed ones left."""
    flush, cleared = local_disk._flush, list[Path]()

    def clear_away(path: Path) -> None:
        if len(cleared) < times:
            cleared.append(path)
            shutil.rmtree(path.parent)
        flush(path)

    monkeypatch.setattr(local_disk, "_flush", clear_away)
    folder = Folder(tmp_path / "folder")
    for write in (folder.write, folder.create):
        cleared.clear()
        if times < local_disk.ATTEMPTS:
            write("a/b", b"1")
            assert folder.read("a/b") == b"1"
            folder.remove("a/b")
        else:
            with pytest.raises(StorageError, match="is removed as it is written"):
                write("a/b", b"1")


@pytest.mark.parametrize("times", [1, 100])
def test_a_folder_that_another_process_writes_into_or_removes_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    folder, rmtree, met = Folder(tmp_path), shutil.rmtree, list[int]()

    def meet(path: Path) -> None:
        if len(met) < times:
            met.append(1)
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        (path / "b").unlink()  # first, so that listing it again finds it gone
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", meet)
    folder.write("a/b", b"1")
    if times == 1:
        folder.remove("a")
        assert folder.names() == []
    else:
        with pytest.raises(StorageError, match="Directory not empty"):
            folder.remove("a")


def test_links_are_followed_unless_a_folder_is_strangers(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(DATA)
    (tmp_path / "folder" / "shards").mkdir(parents=True)
    (tmp_path / "folder" / "shards" / "a").symlink_to(tmp_path / "elsewhere")
    own, strangers = Folder(tmp_path / "folder"), Folder(tmp_path / "folder", follow_links=False)
    assert own.read("shards/a") == DATA and own.read_range("shards/a", 5, 9) == DATA[5:9]
    assert own.sizes("shards") == {"shards/a": len(DATA)} and list(own.files()) == ["shards/a"]
    assert own.stat("shards/a") and not strangers.stat("shards/a")
    assert strangers.sizes("shards") == {} and strangers.files() == {}
    with pytest.raises(StorageError, match="symbolic links"):
        strangers.read("shards/a")


def test_links_to_folders_are_followed_as_deep_as_is_asked_and_never_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere" / "b" / "c").write_bytes(DATA)
    (tmp_path / "elsewhere" / "b" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").symlink_to(tmp_path / "elsewhere")
    folder = Folder(tmp_path / "folder", follow_links=False)
    assert folder.files() == {} and list(folder.files(linked_levels=1)) == ["a/b/c"]
    assert sorted(folder.files(linked_levels=3)) == ["a/b/back/b/c", "a/b/c"]


def test_a_file_of_another_user_is_made_young_by_storing_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, source = Folder(tmp_path / "folder"), tmp_path / "source"
    source.write_bytes(DATA)
    folder.upload("a", source)
    os.utime(folder.local_path("a"), (0, 0))

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    with monkeypatch.context() as only_owners:
        only_owners.setattr(os, "utime", refuse)
        folder.renew("a", source)
    assert folder.local_path("a").stat().st_mtime > 0 and folder.read("a") == DATA


def both(function: Callable[[Folder], None]) -> Callable[[Any, Path, pytest.FixtureRequest, str], None]:
    """Runs a test on a local disk and in an object store: what a folder promises is the same."""

    @pytest.mark.parametrize("kind", ["disk", "s3"])
    def test(tmp_path: Path, request: pytest.FixtureRequest, kind: str) -> None:
        name = f"{function.__name__}-{kind}"
        function(
            Folder(tmp_path / name if kind == "disk" else f"{request.getfixturevalue('s3_bucket')}/{name}")
        )

    return test


def test_on_a_disk_a_file_is_removed_and_never_a_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("a/b", b"1")
    with pytest.raises(StorageError, match="Check the folder and its rights"):
        folder.remove_file("a")
    for name in ("a/b", "a/b", "none/b"):
        folder.remove_file(name)
    assert folder.files() == {}


@both
def test_a_folder_says_what_is_in_it(folder: Folder) -> None:
    assert folder.names() == [] and folder.sizes("a") == {} and folder.files() == {}
    folder.write("top", b"1")
    folder.write("a/one", b"22")
    folder.write("a/b/two", b"333")
    folder.write("ab", b"")
    assert folder.names() == ["a", "ab", "top"] and folder.names("a") == ["b", "one"]
    assert folder.sizes("a") == {"a/one": 2}
    assert {name: stat.size_bytes for name, stat in folder.files("a").items()} == {"a/one": 2, "a/b/two": 3}
    assert sorted(folder.child("a").files()) == ["b/two", "one"]
    assert folder.names("top") == [] and folder.names("none") == []
    assert folder.stat("a") is None and folder.stat("none") is None
    assert abs(time.time() - folder.stat("top").modified_s) < 60
    assert folder.exists("a") and folder.exists("top") and not folder.exists("none")
    folder.remove("a")
    folder.remove("none")
    assert sorted(folder.files()) == ["ab", "top"]


@both
def test_a_file_is_read_whole_in_part_and_in_pieces(folder: Folder) -> None:
    folder.write("a", DATA)
    folder.write("empty", b"")
    assert folder.read("a") == DATA and folder.read("empty") == folder.read("empty", 10) == b""
    assert folder.read_all(["a", "empty"]) == folder.read_all(["a", "empty"], len(DATA))
    assert folder.read_range("a", 10, 20) == DATA[10:20]
    assert folder.read_range("a", len(DATA) - 5, len(DATA) + 5) == DATA[-5:]
    assert folder.read_range("a", len(DATA), len(DATA) + 5) == b""
    assert b"".join(folder.chunks("a", 1000)) == DATA[1000:]
    for read in (
        lambda: folder.read("none"),
        lambda: folder.read_all(["a", "none"]),
        lambda: folder.read_range("none", 0, 5),
        lambda: list(folder.chunks("none")),
        lambda: folder.read("a/below-a-file"),
    ):
        with pytest.raises(FileNotFoundError):
            read()
    for read in (lambda: folder.read("a", 100), lambda: folder.read_all(["empty", "a"], 100)):
        with pytest.raises(StorageError, match="over 100 bytes"):
            read()


@both
def test_a_file_is_created_once_and_replaced_whole(folder: Folder) -> None:
    assert folder.refuses_second()
    folder.create("a/b", b"first")
    folder.create("a/b", b"first")  # whose answer may have been lost
    with pytest.raises(FileExistsError):
        folder.create("a/b", b"second")
    folder.write("a/b", b"third")
    assert folder.read("a/b") == b"third" and folder.names() == ["a"] and folder.names("a") == ["b"]


@both
def test_whether_a_folder_can_be_written_is_tried_without_a_trace(folder: Folder) -> None:
    folder.child("a/b").require_writable()
    assert not folder.files()
    assert not (folder.is_local and folder.exists(""))
    folder.write("c", b"1")
    folder.require_writable()
    assert list(folder.files()) == ["c"]


def test_what_a_disk_is_tried_with_has_no_name_that_a_kill_could_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = Folder(tmp_path), list[list[str]]()
    monkeypatch.setattr(os, "fsync", lambda number: seen.append(list(folder.files())))
    folder.require_writable()
    assert abs(folder.clock_s() - time.time()) < 60
    assert seen == [[], []]


def test_a_clock_is_the_store_s_or_an_error(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not this machine's, however often others take away what it is tried with."""
    folder = Folder(f"{s3_bucket}/clock")
    put = folder._place.put

    def put_where_others_remove(name: str, data: bytes) -> None:
        put(name, data)
        if name.endswith("0" * 32):  # which all use
            folder.remove_file(name)

    monkeypatch.setattr(folder._place, "put", put_where_others_remove)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert folder.clock_s() > 1e9 and not folder.files()
    monkeypatch.setattr(folder._place, "put", lambda name, data: None)
    with pytest.raises(StorageError, match=r"clock/probe-\w+: is not there though it was written"):
        folder.clock_s()


def test_a_store_that_tells_no_time_is_an_error_where_one_is_needed(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(f"{s3_bucket}/timeless")
    info = folder._place._fs.info
    monkeypatch.setattr(folder._place._fs, "info", lambda path: {**info(path), "LastModified": ""})
    folder.write("a", b"12")
    folder.require_writable()
    stat = folder.stat("a")
    assert stat.size_bytes == 2 and math.isnan(stat.modified_s)
    with pytest.raises(StorageError, match="does not tell when a file was written"):
        folder.clock_s()


def test_what_a_kill_left_of_trying_a_store_goes_with_the_next_try(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(f"{s3_bucket}/tried")
    for again in (folder.require_writable, folder.clock_s):
        with monkeypatch.context() as patch:
            patch.setattr(folder._place, "remove_file", lambda name: None)
            folder.clock_s()
        assert len(folder.files()) == 1
        again()
        assert not folder.files()


def test_a_folder_that_cannot_be_written_says_so_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for out in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(StorageError, match=rf"{out}: nothing can be written .*a file is in its way"):
            Folder(out).require_writable()

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"nothing can be written there .*the disk is full"):
        Folder(tmp_path / "new" / "out").require_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_local_disk_refuses_is_one_line_with_its_path(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("a", b"1")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "redirected").open("wb") as redirected:
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{redirected.fileno()}")
        _refuses_each(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder", "pipe", "redirected", "stdout"]
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "stdout").is_symlink()


def _refuses_each(folder: Folder) -> None:
    for call, match in (
        (lambda: folder.read("folder"), "folder: Is a directory"),
        (lambda: folder.read("pipe"), "pipe: not a regular file"),
        (lambda: folder.write("a/b", b""), "a: cannot be made, since a file is in its way"),
        (lambda: folder.create("a/b/c", b""), "a/b: cannot be made, since a file is in its way"),
        (lambda: folder.write("folder", b""), "folder: Is a directory"),
        (lambda: folder.write("pipe", b""), "pipe: is a device, a pipe or a socket"),
        (lambda: folder.write("stdout", b""), "stdout: is a device, a pipe or a socket"),
        (lambda: folder.write("x" * 300, b""), "File name too long"),
    ):
        with pytest.raises(StorageError, match=match):
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
