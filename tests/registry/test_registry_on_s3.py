"""The same promises on a real S3 server."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from registry_storm import metadata, weights

from faulty_proxy import FaultyProxy
from forebrain_registry import (
    ConflictError,
    InvalidError,
    Registry,
    StorageError,
    collect_garbage,
    copy,
    publish,
    pull,
    verify,
)
from forebrain_registry.cli import main


@pytest.fixture
def registry(s3_bucket: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    return Registry(f"{s3_bucket}/{request.node.name}")


def test_a_version_goes_there_and_back(registry: Registry, s3_bucket: str, tmp_path: Path) -> None:
    big = weights(1, 20 * 2**20)
    version = publish(
        registry, "worm", {"model.safetensors": big}, metadata(), {"kato.safetensors": weights(2)}
    )
    registry.set_alias("worm", "champion", 1, expect=None)
    # A neighbour whose address begins alike is another registry.
    publish(Registry(f"{registry.uri}-2"), "fish", {"model.safetensors": weights(3)}, metadata())

    assert registry.names() == ["worm"]
    pulled = pull(registry, "worm@champion", interfaces=True)
    assert (pulled.folder / "model.safetensors").read_bytes() == big
    assert pulled.interfaces and (pulled.interfaces / "kato.safetensors").read_bytes() == weights(2)

    local = Registry(tmp_path / "copy")
    assert copy(registry, "worm", local).digest == version.digest
    for target, name in ((registry, version.blobs[0].sha256), (local, version.blobs[-1].sha256)):
        blob = f"blobs/sha256/{name[:2]}/{name}"
        target.store.write(blob, bytes(target.store.stat(blob).size_bytes))
        source = local if target is registry else registry
        assert len(verify(target).problems) == 1 and copy(source, "worm", target).number == 1
    assert verify(registry).problems == verify(local).problems == []
    with pytest.raises(ConflictError, match="stands for version 1"):
        registry.set_alias("worm", "champion", 1, expect=None)


def test_an_address_where_no_registry_is_is_said(s3_bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--registry", f"{s3_bucket}/mistyped"]) == 1
    assert "there is no registry" in capsys.readouterr().err


def test_publishers_at_once_get_numbers_of_their_own(registry: Registry) -> None:
    numbers: list[int] = []

    def run(seed: int) -> None:
        own = Registry(registry.uri)
        numbers.append(publish(own, "worm", {"model.safetensors": weights(seed)}, metadata()).number)

    def run_all(first: int) -> None:
        threads = [threading.Thread(target=run, args=(first + seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run_all(0)
    assert sorted(numbers) == list(range(1, 9))
    for number in (8, 7):  # are not given again, though nothing else is left of them
        registry.writer().remove(f"models/worm/versions/{number:08}.json")
    run_all(8)
    assert sorted(numbers) == list(range(1, 17))


def test_garbage_goes_once_it_is_old(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "worm", {"model.safetensors": weights(1)}, metadata())
    orphan = tmp_path / "orphan"
    orphan.write_bytes(b"left by a killed publisher")
    name = "blobs/sha256/ab/ab" + "0" * 62
    registry.store.upload(name, orphan)
    assert collect_garbage(registry).removed == []
    assert collect_garbage(Registry(registry.uri, grace_s=-60)).removed == [name]
    assert verify(registry).problems == []


def test_wrong_credentials_are_one_clear_error(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(StorageError, match="credentials"):
            Registry(registry.uri).names()
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_record_that_is_listed_but_gone_or_empty_is_a_clear_error(registry: Registry) -> None:
    publish(registry, "worm", {"model.safetensors": weights(1)}, metadata())
    with pytest.raises(FileNotFoundError):
        registry.store.read_all(["models/worm/versions/00000009.json"], 100)
    registry.store.create("models/worm/versions/00000002.json", b"")
    with pytest.raises(InvalidError, match=r"00000002\.json: not valid JSON"):
        registry.resolve("worm@2")


def test_a_collector_asks_for_nothing_after_the_one_request_that_removes_a_blob(
    registry: Registry, faults: FaultyProxy, tmp_path: Path
) -> None:
    """Else a late answer would find, and remove, what was published again meanwhile."""
    publish(registry, "other", {"model.safetensors": weights(9)}, metadata())
    (tmp_path / "orphan").write_bytes(b"orphan")
    orphan = f"blobs/sha256/ab/ab{'1' * 62}"
    registry.store.upload(orphan, tmp_path / "orphan")
    time.sleep(1.1)  # stores tell ages in seconds
    faults.clear()
    assert collect_garbage(Registry(registry.uri, grace_s=0)).removed == [orphan]
    asked = [method for method, path, _ in faults.log if "ab111" in path]
    assert asked.count("DELETE") == 1 and asked[-1] == "DELETE", faults.log
