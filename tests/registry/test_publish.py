"""Publishing, names, aliases, deprecation, copies, garbage: on a folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Collection
from dataclasses import asdict
from hashlib import sha256 as _sha256
from pathlib import Path

import pytest
import yaml
from registry_storm import metadata, weights

from forebrain_registry import (
    ConflictError,
    DamagedError,
    InvalidError,
    Metadata,
    Metric,
    NotFoundError,
    Registry,
    SeenSession,
    StorageError,
    Version,
    collect_garbage,
    collector,
    copy,
    export,
    publish,
    publishing,
    pull,
    restore,
    verify,
    write_index,
)
from forebrain_registry.cli import main
from forebrain_registry.layout import blob_name
from forebrain_registry.storage import Folder, Stat, retries
from forebrain_registry.storage.local_disk import LocalDisk
from forebrain_registry.verifying import verify_version

ROOT = Path(__file__).parents[2]


def sha256(data: bytes) -> str:
    return _sha256(data).hexdigest()


def put(registry: Registry, name: str = "worm", seed: int = 0, **given: object):
    return publish(registry, name, {"model.safetensors": weights(seed)}, metadata(**given))


def test_a_name_is_its_newest_version_that_is_not_deprecated(registry: Registry) -> None:
    versions = [put(registry, seed=seed) for seed in range(3)]
    assert [version.number for version in registry.versions("worm")] == [1, 2, 3]
    registry.deprecate("worm", 3, "wrong units")
    assert registry.resolve("worm").number == 2
    assert registry.resolve("worm@3").digest == versions[2].digest
    registry.deprecate("worm", 3, None)
    assert registry.resolve("worm").number == 3
    for number in (1, 2, 3):
        registry.deprecate("worm", number, f"reason {number}")
    with pytest.raises(NotFoundError, match="worm@3, because: reason 3"):
        registry.resolve("worm")
    prefix = versions[1].digest[:10]
    assert registry.resolve(f"worm@sha256:{prefix}").number == 2


def test_unknown_names_suggest_the_nearest(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="There is no registry"):
        registry.resolve("worm")
    put(registry, "zebrafish")
    registry.set_alias("zebrafish", "champion", 1)
    for wrong, hint in {
        "zebrafsh": "mean 'zebrafish'",
        "zebrafish@champoin": "mean 'champion'",
        "zebrafish@7": "zebrafish@1",
        "zebrafish@sha256:00000000": "no version with the digest",
    }.items():
        with pytest.raises(NotFoundError, match=hint):
            registry.resolve(wrong)
    for text in ("Zebra", "a@", "a@-1", "a@0", "a@sha256:12", "../a", "a@../b", "con"):
        with pytest.raises(InvalidError):
            registry.resolve(text)


def test_an_alias_moves_by_compare_and_set_and_keeps_its_history(registry: Registry) -> None:
    for seed in range(2):
        put(registry, seed=seed)
    assert registry.set_alias("worm", "champion", 1, expect=None) == 1
    assert registry.set_alias("worm", "champion", 2, expect=1) == 2
    with pytest.raises(ConflictError, match="stands for version 2, not for version 1"):
        registry.set_alias("worm", "champion", 1, expect=1)
    with pytest.raises(NotFoundError):
        registry.set_alias("worm", "champion", 9)
    registry.set_alias("worm", "champion", None)
    assert registry.aliases("worm") == {}
    for unknown in ("champion", "champoin"):
        with pytest.raises(NotFoundError, match=f"worm has no alias '{unknown}'"):
            registry.set_alias("worm", unknown, None)
    assert [move.version for move in registry.alias_history("worm", "champion")] == [1, 2, None]


def test_a_move_that_lost_the_race_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    put(registry)
    rival, create = Registry(registry.uri), Folder.create

    def late(store: Folder, name: str, data: bytes) -> None:
        monkeypatch.setattr(Folder, "create", create)
        rival.set_alias("worm", "champion", 1)
        store.create(name, data)

    registry.writer()
    monkeypatch.setattr(Folder, "create", late)
    with pytest.raises(ConflictError, match="at the same time"):
        registry.set_alias("worm", "champion", 1)
    assert len(registry.alias_history("worm", "champion")) == 1


def test_a_put_whose_answer_was_lost_is_not_published_twice(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = LocalDisk.put

    def twice(disk: LocalDisk, name: str, source: bytes | Path, if_absent: bool = False) -> None:
        put_file(disk, name, source, if_absent)
        put_file(disk, name, source, if_absent)

    registry.writer()
    monkeypatch.setattr(LocalDisk, "put", twice)
    assert put(registry).number == 1
    assert len(registry.versions("worm")) == 1


def test_a_store_that_ignores_conditional_writes_is_refused(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "create", Folder.write)
    with pytest.raises(StorageError, match="ignores conditional writes"):
        put(registry)
    assert registry.store.files("") == {}


def test_blobs_are_shared_and_the_card_is_for_the_hub(registry: Registry) -> None:
    seen = (SeenSession("kato", "w1", "s1", "C. elegans", 2.5), SeenSession("kato", "w2", "s1", "C. elegans"))
    given = {"sessions": seen, "metrics": (Metric("score", 0.2, 0.1, 0.3, "95 %"),), "licence": "Lab-only"}
    first, second = put(registry, **given), put(registry, **given, parent="worm@1")
    weights_of = [file.sha256 for v in (first, second) for file in v.blobs if "model" in file.path]
    assert weights_of[0] == weights_of[1]
    meta = registry.resolve("worm@1").metadata
    assert (meta.species, meta.rates_hz, meta.subjects) == (["C. elegans"], [2.5], ["w1", "w2"])
    assert meta.has_seen("kato", "w2") and not meta.has_seen("kato", "w2", "s9")

    def text_of(path: str) -> str:
        stored = next(file for file in first.blobs if file.path == path)
        return (Path(registry.uri) / f"blobs/sha256/{stored.sha256[:2]}/{stored.sha256}").read_text()

    head = yaml.safe_load(text_of("hub.yaml").split("---")[1])
    assert (head["license"], head["license_name"]) == ("other", "Lab-only")
    assert head["model-index"][0]["results"][0]["metrics"] == [{"type": "score", "value": 0.2}]
    card = text_of("README.md")
    assert card.startswith("# worm\n\nA forebrain backbone") and "forecasts.png" not in card
    assert "2 recordings of 2 animals (C. elegans) at 2.5 Hz. On the test part" in card
    assert "scores 0.200 (95 % interval 0.100 to 0.300)" in card


def test_an_animal_is_found_however_its_accents_are_written(registry: Registry) -> None:
    apart, joined = (unicodedata.normalize(form, "Zoë") for form in ("NFD", "NFC"))
    for stored, asked in ((apart, joined), (joined, apart)):
        version = put(registry, sessions=(SeenSession("lab", stored, "day0", "macaque"),))
        assert version.metadata.has_seen("lab", asked) and version.metadata.has_seen("lab", asked, "day0")
        assert not version.metadata.has_seen("lab", asked, "day1")
        assert [found.number for found in registry.search(f"{asked} LAB")] == [version.number]


def test_a_card_of_ones_own_stays_as_it_is_and_a_picture_stands_in_one_that_is_made(
    registry: Registry,
) -> None:
    files = {"model.safetensors": weights(0), "forecasts.png": b"png"}
    metadata = Metadata(licence="MIT", config={}, preprocessing={})
    for given in ({}, {"README.md": b"# Ours\n"}):
        publish(registry, "worm", files | given, metadata)
    made, own = (
        registry.store.read(blob_name(next(f.sha256 for f in v.blobs if f.path == "README.md")))
        for v in registry.versions("worm")
    )
    assert b"](forecasts.png)" in made.split(b"## Use it")[0] and own == b"# Ours\n"


def test_what_may_not_be_published_leaves_nothing_behind(registry: Registry, tmp_path: Path) -> None:
    good = weights(0)
    (tmp_path / "link.safetensors").symlink_to("/etc/passwd")

    def laid_out(**offsets: tuple[int, int]) -> bytes:
        tensors = {
            name: {"dtype": "U8", "shape": [8], "data_offsets": place} for name, place in offsets.items()
        }
        header = json.dumps(tensors).encode()
        return len(header).to_bytes(8, "little") + header + bytes(8)

    refused = {
        "no model.safetensors": {"other.safetensors": good},
        "programs run": {"model.safetensors": good, "model.pkl": b""},
        "not a path": {"model.safetensors": good, "../x.json": b"{}"},
        "one file on some": {"model.safetensors": good, "A.json": b"", "a.json": b""},
        "both a file and a folder": {"model.safetensors": good, "LICENSE": b"", "license/x.md": b""},
        "not a safetensors": {"model.safetensors": b"\x80\x04pickle, more likely"},
        "cut or grew": {"model.safetensors": good[:-1]},
        "not a regular file": {"model.safetensors": tmp_path / "link.safetensors"},
        "link.safetensors: not a regular": {
            "model.safetensors": good,
            "README.md": tmp_path / "link.safetensors",
        },
        "overlap or leave a gap at 8": {"model.safetensors": laid_out(a=(0, 8), b=(0, 8))},
        "overlap or leave a gap at 0": {"model.safetensors": laid_out(a=(4, 8))},
        "overlap or leave a gap": {"model.safetensors": laid_out(a=(0, -8), b=(-8, 8))},
    }
    for message, files in refused.items():
        with pytest.raises(InvalidError, match=message):
            publish(registry, "worm", files, metadata())
    for message, given in {
        "finite|not valid JSON": {"config": {"x": float("nan")}},
        "as JSON": {"config": {"x": object()}},
        "expected text": {"tags": (1,)},
        "not a reference|not a model": {"parent": "../x"},
        "licence": {"licence": " "},
    }.items():
        with pytest.raises(InvalidError, match=message):
            put(registry, **given)
    assert registry.store.files("") == {}


def test_a_copy_is_deprecated_as_the_version_is(registry: Registry, tmp_path: Path) -> None:
    for seed in range(2):
        put(registry, seed=seed)
    registry.deprecate("worm", 2, "trained on test frames")
    other = Registry(tmp_path / "other")
    assert copy(registry, "worm", other).number == 1  # the first version
    assert copy(registry, "worm@2", other).number == 2
    assert other.deprecations("worm") == {2: "trained on test frames"}
    assert other.resolve("worm").number == 1
    # What was decided there since stands.
    other.deprecate("worm", 2, None)
    assert copy(registry, "worm@2", other).number == 2 and other.deprecations("worm") == {}


def test_copying_keeps_record_and_digest_and_makes_no_second(registry: Registry, tmp_path: Path) -> None:
    other = Registry(tmp_path / "other")
    put(other, seed=9)
    version = put(registry)
    copied = copy(registry, "worm@1", other)
    assert (copied.number, copied.digest) == (2, version.digest)
    assert copy(registry, "worm", other).number == 2
    assert verify(other).problems == []
    blob = Path(registry.uri) / "blobs/sha256" / version.blobs[2].sha256[:2] / version.blobs[2].sha256
    blob.write_bytes(blob.read_bytes()[::-1])
    with pytest.raises(DamagedError, match="damaged"):
        copy(registry, "worm", Registry(tmp_path / "third"))
    assert Registry(tmp_path / "third").names() == []


def test_copying_again_brings_the_blobs_that_were_lost_there(registry: Registry, tmp_path: Path) -> None:
    version, other = put(registry), Registry(tmp_path / "other")
    copy(registry, "worm", other)
    lost, cut, damaged = (Path(other.uri, blob_name(stored.sha256)) for stored in version.blobs[:3])
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assert len(verify(other).problems) == 3
    assert copy(registry, "worm", other).number == 1
    assert verify(other).problems == [] and len(other.versions("worm")) == 1

    # Of what the source has lost as well nothing is said to be copied.
    for each in (registry, other):
        Path(each.uri, blob_name(version.blobs[0].sha256)).unlink()
    with pytest.raises(DamagedError, match="is missing"):
        copy(registry, "worm", other)


def test_garbage_is_spared_until_it_is_old(registry: Registry, tmp_path: Path) -> None:
    version = put(registry)
    orphan = tmp_path / "x"
    orphan.write_bytes(b"orphan")
    name = "blobs/sha256/cd/cd" + "1" * 62
    registry.store.upload(name, orphan)
    young = collect_garbage(registry)
    assert (young.removed, young.kept, young.spared) == ([], len(version.blobs), 1)
    for file in Path(registry.uri).rglob("*"):
        os.utime(file, (time.time() - 25 * 3600,) * 2)
    assert collect_garbage(registry, dry_run=True).removed == [name]
    assert verify(registry).unnamed == 1
    assert collect_garbage(registry).removed == [name]
    assert verify(registry).problems == [] and registry.store.files("collecting") == {}


@pytest.mark.parametrize("moved", ["models/mice", "models/mice/versions", "models"])
def test_what_lies_behind_a_link_to_a_folder_is_seen_by_all(
    registry: Registry, tmp_path: Path, moved: str
) -> None:
    """A group that has its models on a disk of its own must not lose them to the collector."""
    put(registry, "worm", 0)
    put(registry, "mice", 1)
    folder, elsewhere = Path(registry.uri, moved), tmp_path / "disk"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    hasty = Registry(registry.uri, grace_s=-60)
    assert collect_garbage(hasty).removed == [] and verify(registry).problems == []
    assert registry.names() == ["mice", "worm"] and registry.resolve("mice").number == 1
    assert write_index(registry) == 4 and verify(registry, "mice").blobs == 3
    elsewhere.rename(tmp_path / "away")
    for _ in ("nowhere", "to the empty folder that the disk is mounted on"):
        with pytest.raises(InvalidError, match=r"link to no folder.*nothing was removed"):
            collect_garbage(hasty)
        elsewhere.mkdir(exist_ok=True)
    elsewhere.rmdir()
    (tmp_path / "away").rename(elsewhere)
    assert verify(registry).problems == []


@pytest.mark.parametrize("is_mount_point", [False, True])
def test_no_blob_is_collected_where_no_record_is(
    registry: Registry, tmp_path: Path, is_mount_point: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy brings blobs before models, with their old times; a disk may not be mounted."""
    version = put(registry)
    models = Path(registry.uri, "models")
    models.rename(tmp_path / "away")
    if is_mount_point:
        models.mkdir()
    assert collect_garbage(Registry(registry.uri, grace_s=-60)).removed == []
    assert f"{len(version.blobs)} blobs and not one record of a version" in caplog.text
    if is_mount_point:
        models.rmdir()
    (tmp_path / "away").rename(models)
    assert verify(registry).problems == [] and registry.versions("worm") == [version]


@pytest.mark.parametrize("away", ["models/worm", "models/worm/versions", "a record", "a listing"])
@pytest.mark.parametrize("is_linked", [False, True])
def test_no_blob_is_collected_where_one_model_s_records_are_away(
    registry: Registry, tmp_path: Path, away: str, is_linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each model may lie on a disk of its own, and its records on yet another."""
    put(registry, "worm", 0)
    put(registry, "fish", 1)
    root = Path(registry.uri)
    (root / "models/lost+found").mkdir()  # as on a disk of its own
    if is_linked:
        (root / "models/worm").rename(tmp_path / "disk")
        (root / "models/worm").symlink_to(tmp_path / "disk")
    hasty = Registry(registry.uri, grace_s=-60)
    assert collect_garbage(hasty).removed == []
    place = root / ("models/worm/versions/00000001.json" if away == "a record" else away)
    with monkeypatch.context() as patch:
        if away == "a listing":  # as a disk in the network may answer for a moment
            scan = LocalDisk._scan
            patch.setattr(
                LocalDisk,
                "_scan",
                lambda disk, name: [] if name == "models/worm/versions" else scan(disk, name),
            )
        else:
            place.rename(tmp_path / "away")
        if away == "models/worm" and not is_linked:
            place.mkdir()  # what it is mounted on
        elif away == "models/worm/versions" and is_linked:
            shutil.rmtree(root / "models/worm/numbers")  # which earlier versions did not note
            place.symlink_to(tmp_path / "nowhere")
        elif away == "models/worm":
            place.symlink_to(tmp_path / "nowhere")
        with pytest.raises(InvalidError, match="nothing was removed"):
            collect_garbage(hasty)
    if away != "a listing":
        if place.is_symlink():
            place.unlink()
        (tmp_path / "away").rename(place)
    assert verify(registry).problems == [] and verify(registry).versions == 2


def test_versions_that_are_published_as_garbage_is_collected_are_none_that_are_lost(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(registry)
    records, seeds = Registry.records, iter(range(1, 5))

    def before_another(own: Registry, name: str | None = None) -> Collection[str]:
        found = records(own, name)
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "records", records)
            put(Registry(registry.uri), seed=next(seeds))
        return found

    monkeypatch.setattr(Registry, "records", before_another)
    assert collect_garbage(registry).removed == []
    assert next(seeds) > 2  # several listings


def test_no_blob_behind_a_link_is_collected(registry: Registry, tmp_path: Path, old_orphan: str) -> None:
    """Another registry may share it."""
    put(registry)
    Path(registry.uri, "blobs").rename(tmp_path / "blobs")
    Path(registry.uri, "blobs").symlink_to(tmp_path / "blobs")
    assert collect_garbage(registry).removed == [] and registry.store.exists(old_orphan)
    assert verify(registry).problems == []


@pytest.fixture
def old_orphan(registry: Registry) -> str:
    """Name of an old blob that no version names, beside a version."""
    put(registry, "other", 9)
    name = "blobs/sha256/cd/cd" + "1" * 62
    registry.store.write(name, b"orphan")
    os.utime(Path(registry.uri) / name, (0, 0))
    return name


def test_garbage_is_not_collected_around_a_record_that_cannot_be_read(registry: Registry) -> None:
    put(registry)
    record = Path(registry.uri) / "models/worm/versions/00000001.json"
    record.write_bytes(record.read_bytes().replace(b"forebrain-model-1", b"forebrain-model-2"))
    with pytest.raises(InvalidError, match="Update forebrain"):
        collect_garbage(Registry(registry.uri, grace_s=-60))
    assert registry.store.files("blobs")


def test_a_publisher_outwaits_a_collector_that_may_have_seen_its_blob_old(registry: Registry) -> None:
    """The collector looked at the blob before it was renewed, and removes it after."""
    version = put(registry)
    blob = next(file for file in version.blobs if file.path == "model.safetensors")
    path = Path(registry.uri) / f"blobs/sha256/{blob.sha256[:2]}/{blob.sha256}"
    os.utime(path, (0, 0))
    registry.store.create("collecting/1.json", b"{}")

    def collect() -> None:
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        path.unlink()
        registry.store.remove("collecting/1.json")

    collecting = threading.Thread(target=collect)
    collecting.start()
    put(registry)
    collecting.join()
    assert verify(registry).problems == []


class _Clock:
    """In place of the module `time`: it goes on only where somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(collector, "time", clock)
    return clock


@pytest.mark.parametrize("age_s", [0.0, 100.0, 10_000.0])
def test_a_collector_counts_as_killed_when_its_last_request_cannot_last_any_longer(
    registry: Registry, clock: _Clock, caplog: pytest.LogCaptureFixture, age_s: float
) -> None:
    registry.store.create("collecting/1.json", b"{}")
    os.utime(Path(registry.uri) / "collecting/1.json", (time.time() - age_s,) * 2)
    put(registry)
    assert registry.store.files("collecting") == {}
    most_s = collector.BATCH_S + retries.RETRY_S + retries.CONNECT_TIMEOUT_S + retries.READ_TIMEOUT_S - age_s
    assert max(most_s, 0) <= clock.now_s <= max(most_s + 30, 0)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (most_s > 0)
    assert all("waits until the collector of garbage that wrote collecting/1.json" in line for line in lines)


def test_a_collector_begins_no_removal_once_its_batch_has_run_out_of_time(
    registry: Registry, old_orphan: str, clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still while it looked; who saw its announcement then may wait no longer."""
    stat, seen = Folder.stat, list[set[str]]()

    def slow(store: Folder, name: str) -> Stat | None:
        if name == old_orphan:
            seen.append(set(store.files("collecting")))
            clock.sleep(collector.BATCH_S if len(seen) == 1 else 0)
        return stat(store, name)

    monkeypatch.setattr(Folder, "stat", slow)
    assert collect_garbage(registry).removed == [old_orphan]
    first, second = seen
    assert first and second and not first & second
    monkeypatch.setattr(collector, "BATCH_S", 0.0)
    registry.store.write(old_orphan, b"x")
    os.utime(Path(registry.uri) / old_orphan, (0, 0))
    with pytest.raises(StorageError, match="too slow to remove anything safely"):
        collect_garbage(registry)


def test_a_publisher_outwaits_a_collector_whatever_another_has_done_to_its_blob(
    registry: Registry, old_orphan: str, clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other has renewed it since the collector looked, and was killed as it waited."""
    version = put(registry)
    registry.store.create("collecting/1.json", b"{}")

    def collect(seconds: float) -> None:
        registry.store.remove(blob_name(version.blobs[0].sha256))
        registry.store.remove("collecting/1.json")

    monkeypatch.setattr(clock, "sleep", collect)
    put(registry)
    assert registry.store.files("collecting") == {} and verify(registry).problems == []


@pytest.mark.parametrize("trouble", ["an error", "a time-out"])
def test_an_announcement_stays_where_a_store_may_remove_something_later(
    registry: Registry, old_orphan: str, clock: _Clock, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """As it does with a request that it has taken, though nobody waited for its answer."""

    remove = Folder.remove_file

    def troubled(store: Folder, name: str) -> None:
        if name == old_orphan and trouble == "an error":
            raise StorageError("no answer")
        clock.sleep(retries.READ_TIMEOUT_S if name == old_orphan else 0)
        remove(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove_file", troubled)
        for is_local in (True, False):
            assert registry.store.files("collecting") == {}
            patch.setattr(registry.store, "is_local", is_local)
            registry.store.write(old_orphan, b"orphan")
            os.utime(Path(registry.uri) / old_orphan, (0, 0))
            with contextlib.suppress(StorageError):
                collect_garbage(registry)
    (left,) = registry.store.files("collecting")
    os.utime(Path(registry.uri) / left, (0, 0))
    assert left in collect_garbage(registry).removed


def test_a_collector_that_counted_as_killed_says_so(
    registry: Registry, old_orphan: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remove = Folder.remove_file

    def meanwhile(store: Folder, name: str) -> None:
        if name == old_orphan:
            store.remove("collecting")
        remove(store, name)

    monkeypatch.setattr(Folder, "remove_file", meanwhile)
    collect_garbage(registry)
    assert "counted as killed" in caplog.text and "`verify`" in caplog.text


def test_a_publisher_killed_at_any_step_leaves_all_or_nothing(tmp_path: Path) -> None:
    """The publisher dies by SIGKILL at its k-th touch of the registry's files, for every k."""
    script = """
import os, signal, sys
from pathlib import Path
from registry_storm import metadata, weights
from forebrain_registry import Registry, publish, verify

uri, k, old = Path(sys.argv[1]), 0, 0
while True:
    pid = os.fork()
    if pid == 0:
        touched = 0
        def hook(event, arguments):
            global touched
            if event in ("open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.utime", "os.scandir") \\
                    and str(uri) in str(arguments):
                touched += 1
                if touched > k:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        files = {"model.safetensors": weights(k), "notes.md": b"n"}
        publish(Registry(uri), "worm", files, metadata(run_id=str(k)), {"kato.safetensors": weights(k)})
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    registry = Registry(uri)
    versions = registry.versions("worm") if registry.names() else []
    problems = verify(registry).problems if registry.is_there() else []
    assert not problems, (k, problems)
    assert len(versions) - old in (0, 1), k
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        assert versions[-1].metadata.run_id == str(k)
        break
    old, k = len(versions), k + 1
print(k, old)
"""
    path = f"{ROOT / 'registry'}:{Path(__file__).parent}"
    # What is killed leaves its copies in TMPDIR.
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script, str(tmp_path / "registry")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    steps, visible = map(int, done.stdout.split())
    # Only a kill after the record was created, while its partial file is tidied, its number noted and its
    # blobs looked at again, leaves a version visible.
    assert steps > 20 and 1 <= visible <= 20


def test_a_file_that_changes_while_it_is_published_never_lies_under_another_hash(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.safetensors"
    writer, copyfile = Registry.writer, shutil.copyfile

    def later(self: Registry) -> Folder:
        file.write_bytes(weights(2))
        return writer(self)

    for _ in range(2):
        file.write_bytes(weights(1))
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "writer", later)
            version = publish(registry, "worm", {"model.safetensors": file}, metadata())
        assert file.read_bytes() == weights(2)
        assert verify(registry).problems == [] and version.blobs[2].sha256 == sha256(weights(1))
        for blob in Path(registry.uri, "blobs").rglob("*/*/*"):
            os.utime(blob, (0, 0))

    def meanwhile(source: Path, target: Path) -> None:
        copyfile(source, target)
        if source == file:
            file.write_bytes(weights(3, 5000))

    monkeypatch.setattr(shutil, "copyfile", meanwhile)
    with pytest.raises(InvalidError, match="was changed while it was published"):
        publish(registry, "worm", {"model.safetensors": file}, metadata())
    assert len(registry.versions("worm")) == 1 and verify(registry).problems == []


def test_metadata_may_come_through_a_pipe(registry: Registry, tmp_path: Path) -> None:
    pipe = tmp_path / "metadata.json"
    os.mkfifo(pipe)
    told = json.dumps(asdict(metadata(summary="of a pipe")))
    writing = threading.Thread(target=pipe.write_text, args=(told,))
    writing.start()
    version = publish(registry, "base", {"model.safetensors": weights(1)}, pipe)
    writing.join()
    assert version.metadata.summary == "of a pipe"


@pytest.mark.parametrize("when", ["the metadata are read", "a card is hashed", "the first is copied"])
def test_files_that_are_replaced_one_by_one_are_not_published_as_one_model(
    registry: Registry,
    tmp_path: Path,
    when: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a training script does, each of them whole at any time."""
    put(registry, "base", 7)
    folder = export(pull(registry, "base"), tmp_path / "model")

    def train(seed: int, *names: str) -> None:
        told = json.dumps(asdict(metadata(summary=f"of {seed}"))).encode()
        for name in names:
            (tmp_path / "new").write_bytes(told if name == "metadata.json" else weights(seed))
            (tmp_path / "new").replace(folder / name)

    place, name = {
        "the metadata are read": (publishing, "_found"),
        "a card is hashed": (publishing, "hash_file"),
        "the first is copied": (shutil, "copyfile"),
    }[when]
    call = getattr(place, name)

    def before_training(*given: object) -> object:
        monkeypatch.setattr(place, name, call)
        done = None if name == "_found" else call(*given)
        train(2, "model.safetensors", "metadata.json")
        return call(*given) if name == "_found" else done

    train(1, "decoder.safetensors", "model.safetensors", "metadata.json")
    publish_it = ["publish", "worm", str(folder), "--registry", registry.uri]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, before_training)
        assert main(publish_it) == 1
    assert "was changed while it was published" in capsys.readouterr().err
    assert registry.names() == ["base"]
    assert main(publish_it) == 0 and registry.resolve("worm").metadata.summary == "of 2"


def test_a_registry_that_is_moved_while_something_is_published_is_not_made_anew(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(registry)
    root, moved, copyfile = Path(registry.uri), tmp_path / "moved", shutil.copyfile

    def move_first(source: Path, target: Path) -> None:
        if root in Path(target).parents and not moved.exists():
            root.rename(moved)
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", move_first)
    with pytest.raises(StorageError, match="is not there any more"):
        put(registry, seed=1)
    assert not root.exists()
    assert put(Registry(moved), seed=1).number == 2 and verify(Registry(moved)).problems == []
    assert put(registry, seed=1).number == 1  # by another command a new one may be begun there


def test_interfaces_of_other_bytes_do_not_take_the_place_of_a_model_s_files(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"model.safetensors": weights(0), "interfaces/Kato.safetensors": weights(1)}
    same = publish(registry, "same", files, metadata(), {"Kato.safetensors": weights(1)})
    assert same.number == 1 and export(pull(registry, "same", interfaces=True), tmp_path / "same").exists()
    others = {"kato.safetensors": weights(2)}
    with pytest.raises(InvalidError, match=r"interfaces/kato\.safetensors is a file of the model and"):
        publish(registry, "worm", files, metadata(), others)
    monkeypatch.setattr(publishing, "require_side_by_side", lambda record: None)  # as earlier versions did
    publish(registry, "worm", files, metadata(), others)
    assert export(pull(registry, "worm"), tmp_path / "alone").exists()
    with pytest.raises(InvalidError, match=r"interfaces/kato\.safetensors is a file of the model and"):
        export(pull(registry, "worm", interfaces=True), tmp_path / "both")
    assert not list(tmp_path.glob("both*"))


def test_a_copy_of_a_version_with_lost_or_miscounted_bytes_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    put(registry)
    path = Path(registry.uri) / "models/worm/versions/00000001.json"
    record = json.loads(path.read_text())
    record["files"][1]["size_bytes"] += 1
    path.write_text(json.dumps(record))
    other = Registry(tmp_path / "other")
    with pytest.raises(DamagedError, match="damaged"):
        copy(registry, "worm", other)
    for blob in Path(registry.uri, "blobs").rglob("*/*/*"):
        blob.unlink()
    with pytest.raises(DamagedError, match="is missing"):
        copy(registry, "worm", other)
    assert other.names() == []


def test_garbage_is_only_what_a_registry_leaves(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry may lie in a folder that holds other things."""
    put(registry)
    root = Path(registry.uri)
    ours = [
        "models/worm/versions/00000002.json.0123abcd.partial",
        f"probe-{'0' * 32}",
        f"probe-{'0' * 32}.0123abcd.partial",
        "index.json.0123abcd.partial",
    ]
    for name in (*ours, "film.partial", "sub/film.0123abcd.partial", "probe-of-mine", "blobs/film.partial"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
        os.utime(root / name, (0, 0))
    assert collect_garbage(registry).removed == sorted(ours)


def test_one_alias_is_looked_up_without_reading_the_others(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(registry)
    for alias in ("a", "b", "c"):
        registry.set_alias("worm", alias, 1)
    (Path(registry.uri) / "models/worm/aliases/a/00000001.json").write_bytes(b"damaged")
    assert registry.resolve("worm@b").number == 1
    with pytest.raises(InvalidError, match="aliases/a/00000001"):
        registry.resolve("worm@a")


@pytest.mark.parametrize("num_versions", [1, 3])
def test_a_number_is_never_given_again_whatever_became_of_its_record(
    registry: Registry, tmp_path: Path, num_versions: int
) -> None:
    for seed in range(num_versions):
        put(registry, seed=seed)
    last = num_versions
    registry.set_alias("worm", "champion", last)
    registry.deprecate("worm", last, "wrong units")
    (Path(registry.uri) / f"models/worm/versions/{last:08}.json").unlink()
    assert f"worm: version {last} is lost" in verify(registry).problems
    assert put(registry, seed=9).number == last + 1
    assert registry.resolve("worm").number == last + 1  # which is not deprecated
    with pytest.raises(NotFoundError, match=f"no version {last}; the nearest is"):
        registry.resolve("worm@champion")
    other = Registry(tmp_path / "other")
    put(other, seed=8)
    (Path(registry.uri) / f"models/worm/versions/{last + 1:08}.json").unlink()
    assert copy(other, "worm", registry).number == last + 2
    assert len(registry.versions("worm")) == num_versions


def test_a_name_stands_for_no_older_version_where_its_newest_is_lost(
    registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        put(registry, seed=seed)
    folder = Path(registry.uri) / "models/worm/versions"
    (folder / "00000003.json").rename(folder / "kept")
    for ask in (registry.resolve, lambda name: pull(registry, name)):
        with pytest.raises(NotFoundError, match="worm@3, the newest version, is lost"):
            ask("worm")
    assert main(["deprecate", "worm", "--reason", "wrong units", "--registry", registry.uri]) == 1
    assert registry.deprecations("worm") == {} and registry.resolve("worm@2").number == 2
    assert [str(version) for version in registry.newest()] == ["worm@2"]
    assert "worm@3, the newest version, is lost" in caplog.text and "Taken is worm@2" in caplog.text
    (folder / "kept").rename(folder / "00000003.json")
    registry.deprecate("worm", 3, "wrong units")
    (folder / "00000003.json").unlink()
    assert registry.resolve("worm").number == 2  # which the name stood for before, too
    records = Registry.records

    def before_another(own: Registry, name: str | None = None) -> Collection[str]:
        found = set(records(own, name))
        monkeypatch.setattr(Registry, "records", records)
        put(registry, seed=4)
        return found | {"models/worm/numbers/00000004.json"}  # the records were listed before the notes

    monkeypatch.setattr(Registry, "records", before_another)
    assert registry.resolve("worm").number == 2
    assert registry.resolve("worm").number == 4


def test_a_record_that_was_changed_since_it_was_published_is_found(registry: Registry) -> None:
    put(registry)
    put(registry, seed=1)
    assert not verify(registry).problems
    path = Path(registry.uri) / "models/worm/versions/00000001.json"
    path.write_text(path.read_text().replace('"created": "20', '"created": "19'))
    for findings in (verify(registry), verify_version(registry, registry.resolve("worm@1"))):
        assert [problem.partition(", sha256")[0] for problem in findings.problems] == [
            "worm@1: its record is not the one that was published"
        ]
    assert not verify_version(registry, registry.resolve("worm@2")).problems


@pytest.mark.parametrize("by", ["an alias", "a deprecation", "a signature"])
def test_before_numbers_were_noted_what_is_said_of_a_version_tells_that_it_was_there(
    registry: Registry, by: str
) -> None:
    for seed in range(2):
        put(registry, seed=seed)
    if by == "an alias":
        registry.set_alias("worm", "champion", 2)
    elif by == "a deprecation":
        registry.deprecate("worm", 2, "wrong units")
    else:
        registry.add_signature(registry.resolve("worm@2"), b"{}")
    shutil.rmtree(Path(registry.uri) / "models/worm/numbers", ignore_errors=True)
    (Path(registry.uri) / "models/worm/versions/00000002.json").unlink()
    assert [put(registry, seed=seed).number for seed in (3, 4)] == [3, 4]


def test_a_number_that_was_given_and_lost_since_a_publisher_looked_is_passed_over(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(registry)
    last_number = Registry.last_number

    def before_another(own: Registry, name: str) -> int:
        monkeypatch.setattr(Registry, "last_number", last_number)
        found = own.last_number(name)
        assert put(registry, seed=1).number == 2
        (Path(registry.uri) / "models/worm/versions/00000002.json").unlink()
        return found

    monkeypatch.setattr(Registry, "last_number", before_another)
    assert put(registry, seed=2).number == 3
    assert [version.number for version in registry.versions("worm")] == [1, 3]
    assert verify(registry).problems == ["worm: version 2 is lost"]


def test_the_last_number_is_the_last(registry: Registry) -> None:
    put(registry)
    folder = Path(registry.uri) / "models/worm/versions"
    (folder / "00000001.json").rename(folder / "99999999.json")
    with pytest.raises(ConflictError, match="no free number"):
        put(registry, seed=1)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to name what is flushed")
def test_what_is_visible_after_a_power_cut_is_whole(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's bytes reach the disk before its name, and then the names of all folders that were made."""
    events: list[tuple[str, str]] = []
    fsync, link, replace = os.fsync, os.link, Path.replace

    def path_of(descriptor: int) -> str:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(registry.uri))

    def named(source: Path, target: Path) -> None:
        events.append((str(source.relative_to(registry.uri)), str(target.relative_to(registry.uri))))

    monkeypatch.setattr(os, "fsync", lambda fd: events.append(("flush", path_of(fd))) or fsync(fd))
    monkeypatch.setattr(os, "link", lambda a, b: named(a, b) or link(a, b))
    monkeypatch.setattr(Path, "replace", lambda a, b: named(a, b) or replace(a, b))
    Path(registry.uri).mkdir()
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for store, name in (
        (lambda: registry.store.create("models/worm/versions/1.json", b"x"), "models/worm/versions/1.json"),
        (lambda: registry.store.upload("blobs/sha256/ab/ab1", source), "blobs/sha256/ab/ab1"),
        (lambda: registry.store.write("index.json", b"x"), "index.json"),
    ):
        events.clear()
        store()
        (_, flushed), (partial, target), *folders = events
        assert (flushed, target) == (partial, name)
        assert {folder for _, folder in folders} == {str(parent) for parent in Path(name).parents}


def test_publishing_what_the_name_stands_for_makes_no_second_version(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    first = put(registry)
    assert put(registry).digest == first.digest and "worm@1 is this already" in caplog.text
    assert put(registry, licence="MIT").number == 2
    assert put(registry).number == 3  # so that the name stands for it again
    registry.deprecate("worm", 3, "wrong units")
    assert put(registry).number == 4


def test_lost_blobs_are_restored_from_files_that_hold_them(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    version = put(registry)
    put(registry, seed=1)
    for stored in version.blobs:
        Path(registry.uri, blob_name(stored.sha256)).unlink(missing_ok=True)
    left = restore(registry, version, {"model.safetensors": weights(0), "README.md": b"# Another\n"})
    assert [stored.path for stored in left] == ["README.md"] and "hub.yaml, model.safetensors" in caplog.text
    assert restore(registry, version, {"model.safetensors": weights(0)}) == []
    assert verify(registry).problems == []


def test_what_was_pulled_does_not_pass_for_the_next_version(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of_first = {"model.safetensors": weights(0), "forecasts.png": b"of the first", "start.json": b"{}"}
    first = publish(registry, "worm", of_first, metadata(), {"kato.safetensors": weights(5)})
    folder = export(pull(registry, "worm", interfaces=True), tmp_path / "out")
    assert (folder / "interfaces" / "kato.safetensors").exists()

    def paths(version: Version) -> list[str]:
        return [stored.path for stored in version.record.files]

    # As it was pulled, it is what is there already, but for interfaces, which are given by themselves.
    same = publish(registry, "worm", folder, metadata(), folder / "interfaces")
    assert same.digest == first.digest
    (folder / "model.safetensors").write_bytes(weights(1))
    caplog.clear()
    second = publish(registry, "worm", folder, metadata(licence="CC0-1.0", parent="worm@1"))
    left_out = "interfaces/kato.safetensors, README.md, hub.yaml, forecasts.png"
    assert left_out in caplog.text
    assert paths(second) == ["README.md", "hub.yaml", "model.safetensors", "start.json"]
    card = (pull(registry, "worm@2").folder / "README.md").read_text()
    assert "CC0-1.0" in card and "forecasts.png" not in card
    (folder / "README.md").write_text("# Ours\n")  # which was written since
    third = publish(registry, "worm", folder, metadata(licence="MIT"))
    assert (pull(registry, str(third)).folder / "README.md").read_text() == "# Ours\n"


def test_publishing_again_renews_an_old_blob_and_replaces_a_damaged_one(registry: Registry) -> None:
    put(registry)
    for damage in (lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])):
        for blob in Path(registry.uri, "blobs").rglob("*/*/*"):
            blob.write_bytes(damage(blob.read_bytes()))
        put(registry)
        assert verify(registry).problems == []
    for blob in Path(registry.uri, "blobs").rglob("*/*/*"):
        os.utime(blob, (time.time() - 13 * 3600,) * 2)
    put(registry)
    weights_blob = f"{sha256(weights(0))[:2]}/{sha256(weights(0))}"
    assert time.time() - (Path(registry.uri) / "blobs/sha256" / weights_blob).stat().st_mtime < 3600


@pytest.mark.parametrize("days", [-3, 3])
def test_ages_are_by_the_clock_of_the_store_whatever_the_machine_s_says(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + days * 24 * 3600)
    put(registry)
    orphans = ["blobs/sha256/cd/cd" + digit * 62 for digit in "12"]
    for name in orphans:
        (tmp_path / "x").write_bytes(b"orphan")
        registry.store.upload(name, tmp_path / "x")
    os.utime(Path(registry.uri) / orphans[0], (real() - 25 * 3600,) * 2)
    assert collect_garbage(registry).removed == orphans[:1]
    weights_blob = Path(registry.uri, "blobs/sha256", sha256(weights(0))[:2], sha256(weights(0)))
    os.utime(weights_blob, (real() - 13 * 3600,) * 2)
    put(registry)
    assert abs(real() - weights_blob.stat().st_mtime) < 3600


def test_a_blob_that_is_collected_during_a_long_upload_is_stored_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its announcement has come and gone by the time that the publisher looks for one."""
    upload, uploaded = Folder.upload, list[str]()

    def collected_meanwhile(store: Folder, name: str, source: Path) -> None:
        if len(uploaded) == 1:
            store.remove(uploaded[0])
        uploaded.append(name)
        upload(store, name, source)

    monkeypatch.setattr(Folder, "upload", collected_meanwhile)
    put(registry)
    assert len(uploaded) > 2 and verify(registry).problems == []


def test_a_collector_announces_itself_and_spares_what_was_renewed_meanwhile(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(registry, "other", 9)
    names = ["blobs/sha256/cd/cd" + digit * 62 for digit in "12"]
    for name in names:
        (tmp_path / "x").write_bytes(b"orphan")
        registry.store.upload(name, tmp_path / "x")
        os.utime(Path(registry.uri) / name, (0, 0))
    create, remove = Folder.create, Folder.remove_file

    def announced(store: Folder, name: str, data: bytes) -> None:
        create(store, name, data)
        if name.startswith("collecting/"):
            os.utime(Path(registry.uri) / names[0])

    def removed(store: Folder, name: str) -> None:
        assert not name.startswith("blobs") or store.files("collecting"), "removed without announcement"
        remove(store, name)

    monkeypatch.setattr(Folder, "create", announced)
    monkeypatch.setattr(Folder, "remove_file", removed)
    assert collect_garbage(registry).removed == names[1:]


@pytest.fixture
def night(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The machine sleeps for a day as a record is created, and another collects garbage meanwhile; gives what
    was removed."""
    put(registry, "other", 9)
    create, removed = Folder.create, list[str]()

    def sleep(store: Folder, name: str, data: bytes) -> None:
        if "/versions/" in name and store.uri == registry.uri and not removed:
            for blob in Path(registry.uri, "blobs").rglob("*/*/*"):
                os.utime(blob, (time.time() - 25 * 3600,) * 2)
            removed.extend(collect_garbage(Registry(registry.uri)).removed)
        create(store, name, data)

    monkeypatch.setattr(Folder, "create", sleep)
    return removed


@pytest.mark.parametrize("how", ["publish", "copy"])
def test_blobs_that_were_collected_while_the_publisher_slept_are_there_all_the_same(
    registry: Registry, tmp_path: Path, night: list[str], how: str
) -> None:
    if how == "publish":
        put(registry)
    else:
        put(other := Registry(tmp_path / "other"))
        copy(other, "worm", registry)
    assert len(night) == 2 and verify(registry).problems == []  # another version shares the third


@pytest.mark.parametrize("step", ["its number is noted", "its blobs are looked at again"])
def test_an_error_once_a_version_is_published_says_that_it_is(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Or it would be published a second time."""
    create, stat = Folder.create, Folder.stat

    def fail_to_note(store: Folder, name: str, data: bytes) -> None:
        if "/numbers/" in name and step == "its number is noted":
            raise StorageError("no answer.")
        create(store, name, data)

    def fail_to_look(store: Folder, name: str) -> Stat | None:
        if store.exists("models"):
            raise StorageError("no answer.")
        return stat(store, name)

    monkeypatch.setattr(Folder, "create", fail_to_note)
    monkeypatch.setattr(Folder, "stat", fail_to_look)
    with pytest.raises(StorageError, match=r"worm@1 is published, but then: no answer\. `verify` tells"):
        put(registry)
    assert len(registry.versions("worm")) == 1


@pytest.mark.parametrize("how", ["publish", "copy"])
def test_what_a_publisher_had_no_time_to_note_is_noted_by_the_next_and_the_first_finds_its_version(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Killed or stopped between the record and the note of its number."""
    create, other, met = Folder.create, Registry(tmp_path / "other"), []
    put(other)

    def store() -> Version:
        return put(registry) if how == "publish" else copy(other, "worm", registry)

    def stand_still(store_of: Folder, name: str, data: bytes) -> None:
        if "/numbers/" in name and not met:
            met.append("stopped")
            store()
            assert registry.store.exists(name)
        create(store_of, name, data)

    monkeypatch.setattr(Folder, "create", stand_still)
    assert str(store()) == "worm@1" and met
    assert len(registry.versions("worm")) == 1 and verify(registry).problems == []
    (Path(registry.uri) / "models/worm/numbers/00000001.json").unlink()
    assert str(store()) == "worm@1" and len(registry.listing("worm").given) == 1


def test_an_error_as_a_version_is_published_says_how_to_see_whether_it_was(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Folder.create

    def lose_the_answer(store: Folder, name: str, data: bytes) -> None:
        create(store, name, data)
        if "/versions/" in name:
            raise StorageError("no answer.")

    monkeypatch.setattr(Folder, "create", lose_the_answer)
    with pytest.raises(StorageError, match=r"no answer\. Before .*`list worm` tells whether worm@1 is"):
        put(registry)
    assert len(registry.versions("worm")) == 1


def test_of_two_copies_of_one_version_at_once_one_is_made(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Registry(tmp_path / "other")
    put(registry, seed=1)
    listing = Registry.versions

    def before_another(own: Registry, name: str) -> list[Version]:
        monkeypatch.setattr(Registry, "versions", listing)
        try:
            return own.versions(name)
        finally:
            put(other, seed=2)
            assert copy(registry, "worm", other).number == 2

    monkeypatch.setattr(Registry, "versions", before_another)
    assert copy(registry, "worm", other).number == 2
    assert len(other.versions("worm")) == 2 and verify(other).problems == []


def test_of_two_publications_of_one_content_at_once_one_is_made(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(registry, seed=1)
    resolve = Registry.resolve

    def before_another(own: Registry, reference: str) -> Version:
        monkeypatch.setattr(Registry, "resolve", resolve)
        try:
            return own.resolve(reference)
        finally:
            put(registry, seed=2)
            put(registry, seed=3)

    monkeypatch.setattr(Registry, "resolve", before_another)
    assert put(registry, seed=3) == registry.resolve("worm@3")
    assert "worm@3 is this already" in caplog.text
    assert len(registry.versions("worm")) == 3 and verify(registry).problems == []


def test_verify_sees_a_record_that_is_lost_or_there_twice(registry: Registry) -> None:
    for seed in range(3):
        put(registry, seed=seed)
    folder = Path(registry.uri) / "models/worm/versions"
    shutil.copy(folder / "00000001.json", folder / "00000004.json")
    (folder / "00000002.json").unlink()
    assert verify(registry).problems == ["worm: version 2 is lost", "worm@4: is worm@1 a second time"]


@pytest.mark.parametrize("at", ["the mount point", "below"])
def test_nothing_is_published_where_the_disk_of_a_registry_was(tmp_path: Path, at: str) -> None:
    mounted, disk = tmp_path / "mounted", tmp_path / "disk"
    registry = Registry(str(mounted if at == "the mount point" else mounted / "registry"))
    first = publish(registry, "mice", {"model.safetensors": weights(1)}, metadata())
    with registry.staying():  # as while a model is trained that is published then
        mounted.rename(disk)
        mounted.mkdir()
        with pytest.raises(StorageError, match="its disk unmounted"):
            publish(registry, "mice", {"model.safetensors": weights(2)}, metadata())
        assert not [path for path in mounted.rglob("*") if path.is_file()]
        mounted.rmdir()
        disk.rename(mounted)
        second = publish(registry, "mice", {"model.safetensors": weights(2)}, metadata())
    assert (first.number, second.number) == (1, 2) and verify(registry).problems == []
