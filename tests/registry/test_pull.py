"""Pulling: resumed, shared, offline, repaired; from a folder and from a web host."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from registry_storm import metadata, weights

from forebrain_registry import (
    DamagedError,
    InvalidError,
    NotFoundError,
    Registry,
    StorageError,
    export,
    publish,
    pull,
    pulling,
    verify,
    write_index,
)
from forebrain_registry.storage import Folder, retries

ROOT = Path(__file__).parents[2]
BIG = weights(1, 3 * 2**20)


@pytest.fixture
def host(registry: Registry) -> Iterator[SimpleNamespace]:
    """A web host that shows the registry's folder: `uri`, `requests` (path, Range), `faults`, `ranges`."""
    state = SimpleNamespace(requests=[], cuts=[], ranges=True, uri="", raw=b"")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if state.raw:
                self.wfile.write(state.raw)
                self.close_connection = True
                return
            path = Path(registry.uri + self.path)
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            if not path.is_file():
                self.send_error(404)
                return
            data, start = path.read_bytes(), 0
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts and "/blobs/" in self.path and len(data) > 2**20 else None
            self.wfile.write(data[start:][:cut])
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.uri = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def published(registry: Registry) -> Registry:
    files = {"model.safetensors": BIG, "config/model.yaml": b"width: 32\n"}
    publish(registry, "worm", files, metadata(), {"kato.safetensors": weights(2)})
    registry.set_alias("worm", "champion", 1)
    write_index(registry)
    return registry


def test_what_is_pulled_is_what_was_published(published: Registry, tmp_path: Path) -> None:
    pulled = pull(published, "worm", interfaces=True)
    assert (pulled.folder / "model.safetensors").read_bytes() == BIG
    assert (pulled.folder / "config/model.yaml").read_bytes() == b"width: 32\n"
    assert (pulled.folder / "version.json").read_bytes() == pulled.version.content
    out = export(pulled, tmp_path / "out")
    assert (out / "interfaces/kato.safetensors").read_bytes() == weights(2)
    with pytest.raises(StorageError, match="exists already"):
        export(pulled, out)


def test_offline_the_cache_is_enough(published: Registry) -> None:
    version = pull(published, "worm@champion").version
    pull(published, "worm")
    shutil.rmtree(published.uri)
    for reference in ("worm", "worm@1", "worm@champion", f"worm@sha256:{version.digest[:12]}"):
        assert pull(published, reference, offline=True).version.number == 1
    # A whole digest can only mean one thing, so nobody need be asked.
    assert pull(published, f"worm@sha256:{version.digest}").version == version
    with pytest.raises(NotFoundError, match="not in the cache"):
        pull(published, "worm@latest", offline=True)
    with pytest.raises(NotFoundError, match="not whole in the cache"):
        pull(published, "worm", offline=True, interfaces=True)


def test_a_whole_digest_in_the_cache_will_do_whichever_registry_it_came_from(
    published: Registry, tmp_path: Path
) -> None:
    pulled = pull(published, "worm")
    exact = f"worm@sha256:{pulled.version.digest}"
    elsewhere = Registry(tmp_path / "elsewhere")  # where there is none, or another of that name
    assert pull(elsewhere, exact) == pull(elsewhere, exact, offline=True) == pulled
    publish(elsewhere, "worm", {"model.safetensors": weights(3)}, metadata())
    assert pull(elsewhere, exact) == pulled
    with pytest.raises(NotFoundError, match="no version with the digest"):  # nor are they in the cache
        pull(elsewhere, exact, interfaces=True)
    (pulled.folder / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="no version with the digest"):
        pull(elsewhere, exact)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "link", "record", "folder"])
def test_a_damaged_entry_is_noticed_and_fetched_again(published: Registry, harm: str) -> None:
    folder = pull(published, "worm").folder
    file = folder / ("version.json" if harm == "record" else "model.safetensors")
    data = file.read_bytes()
    file.unlink()
    if harm == "link":
        copy = folder.parent / "elsewhere"
        copy.write_bytes(data)
        file.symlink_to(copy)
    elif harm == "folder":
        (file / "inner").mkdir(parents=True)
    elif harm != "remove":
        file.write_bytes(data[:-1] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    pull(published, "worm")
    assert file.read_bytes() == data and not file.is_symlink()


def test_a_pull_cut_off_goes_on_where_it_was(published: Registry, host: SimpleNamespace) -> None:
    host.cuts = [2**20, 2**20]
    pulled = pull(Registry(host.uri), "worm@champion")
    assert (pulled.folder / "model.safetensors").read_bytes() == BIG
    ranges = [wanted for path, wanted in host.requests if "/blobs/" in path and wanted]
    assert ranges == [f"bytes={2**20}-", f"bytes={2 * 2**20}-"]


def test_a_killed_pull_goes_on_where_it_was(published: Registry, host: SimpleNamespace) -> None:
    code = """
import os, signal, sys
from forebrain_registry import Registry, pull
from forebrain_registry.web import WebStore
whole = WebStore.chunks
def chunks(store, name, start=0):
    size = 0
    for chunk in whole(store, name, start):
        size += len(chunk)
        yield chunk
        if size > 2**20:
            os.kill(os.getpid(), signal.SIGKILL)
WebStore.chunks = chunks
pull(Registry(sys.argv[1]), "worm")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "registry")}
    done = subprocess.run([sys.executable, "-c", code, host.uri], env=environment)
    assert done.returncode == -signal.SIGKILL
    host.requests.clear()
    pulled = pull(Registry(host.uri), "worm")
    assert (pulled.folder / "model.safetensors").read_bytes() == BIG
    assert any(wanted for _, wanted in host.requests), "nothing was resumed"
    assert not (pulled.folder.parent / "partial").exists()


def test_a_host_without_ranges_will_do(published: Registry, host: SimpleNamespace) -> None:
    host.cuts, host.ranges = [2**20], False
    pulled = pull(Registry(host.uri), "worm")
    assert (pulled.folder / "model.safetensors").read_bytes() == BIG


def test_a_host_that_never_sends_it_all_is_given_up(
    published: Registry, host: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF_S", 0.0)
    host.cuts, host.ranges = [100] * 99, False
    with pytest.raises(StorageError, match=f"in {retries.ATTEMPTS} attempts"):
        pull(Registry(host.uri), "worm")


def test_a_web_host_is_checked_and_read_only(published: Registry, host: SimpleNamespace) -> None:
    web = Registry(host.uri)
    assert verify(web).problems == [] and web.aliases("worm") == {"champion": 1}
    with pytest.raises(StorageError, match="can only be read"):
        web.set_alias("worm", "champion", 1)
    with pytest.raises(StorageError, match="only https"):
        Registry("http://example.org/models")
    record = Path(published.uri) / "models/worm/versions/00000001.json"
    record.write_bytes(record.read_bytes().replace(b"Apache", b"Apachf"))
    with pytest.raises(DamagedError, match="not the bytes that index"):
        Registry(host.uri).resolve("worm")
    (Path(published.uri) / "index.json").unlink()
    with pytest.raises(StorageError, match="forebrain-registry index"):
        Registry(host.uri).names()


def test_wrong_bytes_in_the_registry_never_reach_the_cache(published: Registry) -> None:
    version = published.resolve("worm")
    blob = next(file for file in version.blobs if file.path == "model.safetensors")
    path = Path(published.uri) / "blobs/sha256" / blob.sha256[:2] / blob.sha256
    for wrong, message in {
        b"\0" * blob.size_bytes: "is damaged",
        BIG[:-1]: "It was cut",
        BIG + b"x": "longer than",
        None: "is missing",
    }.items():
        path.unlink(missing_ok=True)
        if wrong is not None:
            path.write_bytes(wrong)
        assert any(blob.sha256 in problem for problem in verify(published).problems)
        with pytest.raises(DamagedError, match=message):
            pull(published, "worm")
        with pytest.raises(NotFoundError):
            pull(published, "worm", offline=True)
    path.write_bytes(BIG)
    assert (pull(published, "worm").folder / "model.safetensors").read_bytes() == BIG


def test_a_full_disk_is_one_clear_error(published: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match="1000 are free"):
        pull(published, "worm")


def test_many_processes_share_one_cache(published: Registry, tmp_path: Path) -> None:
    """Eight pull at once, and one fetches; with a file broken under them, one repairs it."""
    code = """
import sys, time
from forebrain_registry import Registry, pull
from forebrain_registry.storage import Folder
whole = Folder.chunks
def chunks(store, name, start=0):
    with open(sys.argv[2], "a") as fetched:
        fetched.write(name + "\\n")
    time.sleep(0.1)
    yield from whole(store, name, start)
Folder.chunks = chunks
for _ in range(5):
    print(len((pull(Registry(sys.argv[1]), "worm").folder / "model.safetensors").read_bytes()))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "registry")}
    for run in ("fresh", "broken"):
        count = tmp_path / run
        command = [sys.executable, "-c", code, published.uri, str(count)]
        running = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(8)
        ]
        for process in running:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0 and set(out.split()) == {str(len(BIG))}
        fetched = count.read_text().split()
        assert len(fetched) == len(set(fetched)) == (4 if run == "fresh" else 1)
        weights_here = pull(published, "worm").folder / "model.safetensors"
        weights_here.write_bytes(BIG[:-1] + b"?")


def test_one_who_waits_for_another_s_pull_says_so(
    published: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = published.resolve("worm")
    (tmp_path / "cache/registry/locks").mkdir(parents=True)
    lock = FileLock(tmp_path / f"cache/registry/locks/{version.digest}.lock", thread_local=False)
    lock.acquire()

    class Release(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lock.release()

    logger = logging.getLogger("forebrain_registry.pulling")
    logger.addHandler(handler := Release())
    unsaid = threading.Timer(10, lock.release)
    unsaid.start()
    try:
        pull(published, "worm")
    finally:
        logger.removeHandler(handler)
        unsaid.cancel()
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == f"worm@1: waits until another process has fetched it, which holds {lock.lock_file}."
    caplog.clear()
    shutil.rmtree(tmp_path / "cache")
    pull(published, "worm")
    assert not caplog.records


def test_links_in_a_registry_are_not_followed(published: Registry, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(BIG)
    blob = next(file for file in published.resolve("worm").blobs if file.path == "model.safetensors")
    path = Path(published.uri) / "blobs/sha256" / blob.sha256[:2] / blob.sha256
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises((DamagedError, StorageError)):
        list(published.store.chunks(f"blobs/sha256/{blob.sha256[:2]}/{blob.sha256}"))
    record = Path(published.uri) / "models/worm/versions/00000001.json"
    record.unlink()
    record.symlink_to(secret)
    with pytest.raises(NotFoundError):
        published.resolve("worm")
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(NotFoundError):
        published.resolve("worm")
    with pytest.raises(StorageError, match="not a regular file"):
        published.store.read("models/worm/versions/00000001.json", 100)
    assert json.loads((Path(published.uri) / "index.json").read_bytes())["files"]


def test_a_kill_as_the_record_is_written_leaves_nothing_in_the_version_s_folder(
    published: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lay there would be in every export, and would break every signature."""
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name == "version.json":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", lambda *arguments, **options: None)
        pull(published, "worm")
    folder = pull(published, "worm").folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config",
        "hub.yaml",
        "model.safetensors",
        "version.json",
    ]


def test_only_what_the_record_names_is_exported(published: Registry, tmp_path: Path) -> None:
    pulled = pull(published, "worm")
    (pulled.folder / "more.py").write_text("")
    out = export(pulled, tmp_path / "out")
    assert sorted(path.name for path in out.rglob("*")) == [
        "README.md",
        "config",
        "hub.yaml",
        "model.safetensors",
        "model.yaml",
        "version.json",
    ]


def test_what_changes_in_the_cache_while_it_is_exported_is_not_handed_out(
    published: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled, copyfile = pull(published, "worm"), shutil.copyfile

    def after_another(source: Path, copy: Path) -> None:
        if source.name == "model.safetensors":
            source.write_bytes(source.read_bytes()[:-1] + b"\0")
        copyfile(source, copy)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", after_another)
        with pytest.raises(StorageError, match=r"model\.safetensors: was changed while it was copied"):
            export(pulled, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    assert export(pull(published, "worm"), tmp_path / "out").exists()


def test_an_export_whose_folder_is_taken_away_in_the_middle_leaves_no_part_of_it(
    published: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled, copyfile, copied = pull(published, "worm"), shutil.copyfile, []

    def then_taken(source: Path, copy: Path) -> None:
        copyfile(source, copy)
        copied.append(copy)

    def is_good(copy: Path, stored: object) -> bool:
        shutil.rmtree(copy.parent)
        return True

    monkeypatch.setattr(shutil, "copyfile", then_taken)
    monkeypatch.setattr(pulling, "_is_good", is_good)
    with pytest.raises(StorageError):
        export(pulled, tmp_path / "out")
    assert len(copied) == 1 and not list(tmp_path.glob("out*"))


def test_a_version_in_a_cache_that_cannot_be_written_is_read(
    published: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = pull(published, "worm").version

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for call in ("write_bytes", "mkdir", "replace"):
        monkeypatch.setattr(Path, call, refuse)
    assert pull(published, "worm").version == version
    with pytest.raises(StorageError, match="Read-only"):
        pull(published, "worm@champion")


def test_an_https_host_may_not_lead_to_this_machine() -> None:
    from urllib.request import Request

    from forebrain_registry.web import _SafeRedirects

    for target in ("http://127.0.0.1:8080/", "http://example.org/", "file:///etc/passwd"):
        with pytest.raises(StorageError):
            _SafeRedirects().redirect_request(Request("https://example.org/"), None, 302, "", {}, target)


def test_a_host_that_counts_ranges_its_own_way_spoils_no_later_pull(
    published: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def chunks(store: Folder, name: str, start: int = 0) -> Iterator[bytes]:
        data = (Path(store.uri) / name).read_bytes()
        if len(data) < 2**20:
            yield data
            return
        starts.append(start)
        if len(starts) == 1:
            yield data[: 2**20]
            raise StorageError("cut off.")
        yield data

    monkeypatch.setattr(Folder, "chunks", chunks)
    with pytest.raises(StorageError, match="cut off"):
        pull(published, "worm")
    pulled = pull(published, "worm")
    assert (pulled.folder / "model.safetensors").read_bytes() == BIG
    assert starts == [0, 2**20, 0]


def test_what_a_host_says_of_its_trouble_is_shown_without_control_characters(
    published: Registry, host: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF_S", 0.0)
    for line in (b"HTTP/1.1 500 \x1b]0;owned\x07\r\n\r\n", b"\x1b]0;owned\x07\r\n\r\n"):
        host.raw = line
        with pytest.raises(StorageError, match=r"\?\]0;owned\?") as caught:
            Registry(host.uri).names()
        assert "\x1b" not in str(caught.value) and "\x07" not in str(caught.value)


def test_interfaces_that_were_not_published_are_not_found(registry: Registry) -> None:
    publish(registry, "worm", {"model.safetensors": weights(0)}, metadata())
    with pytest.raises(NotFoundError, match="without interfaces"):
        pull(registry, "worm", interfaces=True)


def test_digits_that_fit_several_versions_are_refused_online_and_offline(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebrain_registry.records.MIN_DIGEST_PREFIX", 1)
    firsts: list[str] = []
    while len(firsts) == len(set(firsts)):
        publish(registry, "worm", {"model.safetensors": weights(len(firsts))}, metadata())
        firsts.append(pull(registry, "worm").version.digest[0])
    for offline in (False, True):
        with pytest.raises(InvalidError, match="fits several versions"):
            pull(registry, f"worm@sha256:{firsts[-1]}", offline=offline)


def test_a_reference_in_the_cache_cannot_give_a_model_another_name(published: Registry) -> None:
    root = pull(published, "worm").folder.parents[2]
    [known] = (root / "references").glob("*/worm")
    shutil.copytree(known, known.with_name("fish"))
    with pytest.raises(NotFoundError, match="not in the cache"):
        pull(published, "fish", offline=True)


def test_a_reference_in_the_cache_that_was_copied_over_another_brings_no_other_version(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Registry(tmp_path / "other")
    for place, seed in ((registry, 1), (registry, 2), (other, 3)):
        version = publish(place, "worm", {"model.safetensors": weights(seed)}, metadata())
        place.set_alias("worm", f"v{seed}", version.number)
        for selector in (f"v{seed}", str(version.number), f"sha256:{version.digest}"):
            pull(place, f"worm@{selector}")
    pull(other, "worm")
    references = tmp_path / "cache/registry/references"
    folder, elsewhere = (
        references / hashlib.sha256(place.uri.encode()).hexdigest()[:16] / "worm"
        for place in (registry, other)
    )
    own = registry.resolve("worm@1").digest
    for reference, name, copied in (
        ("worm@v1", "v1", folder / "v2.json"),
        ("worm@1", "1", folder / "2.json"),
        (
            f"worm@sha256:{own}",
            f"_sha256-{own}",
            folder / f"_sha256-{registry.resolve('worm@2').digest}.json",
        ),
        ("worm@1", "1", elsewhere / "1.json"),
        ("worm", "_newest", elsewhere / "_newest.json"),
    ):
        shutil.copy(copied, folder / f"{name}.json")
        with pytest.raises(NotFoundError, match="not in the cache"):
            pull(registry, reference, offline=True)
        assert f"{name}.json: was copied here; it is of worm" in caplog.text
        caplog.clear()
        digest = pull(registry, reference).version.digest
        assert digest == registry.resolve(reference).digest
        assert pull(registry, reference, offline=True).version.digest == digest


def test_a_reference_in_the_cache_of_an_earlier_version_is_made_anew(
    published: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = pull(published, "worm").version
    for known in (tmp_path / "cache/registry/references").glob("*/worm/*.json"):
        known.write_text(json.dumps({"digest": version.digest, "number": version.number}))
    with pytest.raises(NotFoundError, match="not in the cache"):
        pull(published, "worm", offline=True)
    assert "_newest.json: an earlier version, which did not say" in caplog.text
    by_digest = f"worm@sha256:{version.digest}"  # of which the record itself shows what it is of
    assert pull(published, by_digest, offline=True).version == version
    pull(published, "worm")
    assert pull(published, "worm", offline=True).version == version


def test_a_number_that_was_another_version_s_before_is_told(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a registry that was brought back from a backup."""
    for seed in (1, 2):
        shutil.rmtree(registry.uri, ignore_errors=True)
        publish(registry, "worm", {"model.safetensors": weights(seed)}, metadata())
        assert "was it brought back from a backup?" not in caplog.text
        pull(registry, "worm@1")
    assert "worm@1 was sha256:" in caplog.text and "was it brought back from a backup?" in caplog.text


def test_an_index_that_was_listed_before_another_s_is_written_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(seed: int) -> None:
        publish(registry, "worm", {"model.safetensors": weights(seed)}, metadata())

    write, counts = Folder.write, list[int]()

    def after_another(store: Folder, name: str, data: bytes) -> None:
        if name == "index.json" and not counts:
            monkeypatch.setattr(Folder, "write", write)
            put(2)
            counts.append(write_index(registry))
        write(store, name, data)

    put(1)
    monkeypatch.setattr(Folder, "write", after_another)
    counts.append(write_index(registry))
    named = json.loads((Path(registry.uri) / "index.json").read_bytes())["files"]
    assert counts == [len(named)] * 2 == [4] * 2  # 2 versions and the notes of their numbers


def test_an_index_ends_though_others_publish_all_the_while(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(registry, "worm", {"model.safetensors": weights(1)}, metadata())
    write, seeds = Folder.write, list[int]()

    def as_another_publishes(store: Folder, name: str, data: bytes) -> None:
        write(store, name, data)
        if name == "index.json":
            seeds.append(len(seeds) + 2)
            assert len(seeds) < 50
            publish(registry, "worm", {"model.safetensors": weights(seeds[-1])}, metadata())

    monkeypatch.setattr(Folder, "write", as_another_publishes)
    number = write_index(registry)
    named = json.loads((Path(registry.uri) / "index.json").read_bytes())["files"]
    assert number == len(named) == 2 * len(seeds)  # all but the last version
    assert "run `index` again" in caplog.text
    monkeypatch.setattr(Folder, "write", write)
    assert write_index(registry) == number + 2


def test_links_in_a_cache_that_others_write_to_lead_nowhere(published: Registry, tmp_path: Path) -> None:
    version = published.resolve("worm")
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    partial = tmp_path / "cache/registry/versions" / version.digest / "partial"
    partial.mkdir(parents=True)
    for stored in version.blobs:
        (partial / stored.sha256).symlink_to(victim)
    with pytest.raises(StorageError, match="symbolic links"):
        pull(published, "worm")
    assert victim.read_bytes() == b""


def test_an_index_without_end_is_not_read_to_its_end(
    published: Registry, host: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebrain_registry.web.MAX_INDEX_BYTES", 100)
    with pytest.raises(StorageError, match="over 100 bytes"):
        Registry(host.uri).names()


def test_what_a_killed_export_left_beside_its_folder_is_said_and_stays(
    published: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pulled = pull(published, "worm")
    left = tmp_path / "out[1].0123abcd.partial"
    left.mkdir()
    (tmp_path / "out.0123abcd.partial").mkdir()
    export(pulled, tmp_path / "out[1]")
    assert [record.getMessage() for record in caplog.records] == [
        f"{left}: is what another command for out[1] has begun. If none is at work, it was killed: remove it."
    ]
    assert left.is_dir()


def test_a_full_disk_of_an_export_is_that_of_the_new_folder(
    published: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = pull(published, "worm")

    def full(source: Path, copy: Path) -> None:  # as shutil says it, which names the source first
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(copy))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match=rf"^{tmp_path}/out\..*make room, or give another --out"):
        export(pulled, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
