"""Garbage collection: blobs that no version names, once they are older than the grace period.

A publisher may find an old blob of its own content just as it is being collected. So a collector announces
every batch before it looks at the ages once more and removes; and a publisher renews old blobs first, then
looks for announcements. Either the collector sees the renewed blob and spares it, or the publisher sees the
announcement, waits until it is gone, and looks whether its blobs are still there.

A batch begins no removal after BATCH_S, and the last may take REQUEST_S: an announcement that is older than
LEASE_S, by the clock of the store, is a killed collector's. It also stays where an object store may still do
what was asked of it: where a request failed, or was tried again after a time-out.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from forebrain_registry import layout
from forebrain_registry.errors import InvalidError, StorageError
from forebrain_registry.lines import some
from forebrain_registry.records import Version
from forebrain_registry.registry import Registry
from forebrain_registry.storage import Folder, Stat, retries

BATCH_S = 5.0
LEASE_S = BATCH_S + retries.REQUEST_S + 20.0  # clocks of stores tick in seconds, and servers take their time
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """The outcome of a collection, or with `dry_run` the one that it would have.

    Attributes:
        removed: names of the files removed.
        removed_bytes: their size together.
        kept: number of blobs that versions name.
        spared: number of blobs that none names but are younger than the grace period.
    """

    removed: list[str]
    removed_bytes: int
    kept: int
    spared: int


def collect_garbage(registry: Registry, dry_run: bool = False) -> Collected:
    """Removes blobs that no version names, and what killed writers left, if older than the grace period.

    Nothing behind a link to a folder is removed, where another registry may have its blobs, too.

    Raises:
        InvalidError: a record cannot be read, so it is not known which blobs it names; nothing was removed.
            So where a link among the records leads to a file, or nowhere, where a model's folder is empty,
            and where a version is noted whose record is not there.
        StorageError: there is no registry, or the store fails, or is too slow.
    """
    registry.require()
    store = registry.writer()
    begun = store.clock_s()  # the machine's own may be set to another day
    _require_reachable(store)
    # Blobs are listed before records, so that one whose record came in between is known to be named; and
    # notes of numbers, which are made once a record is there, before these.
    files = store.files("")
    noted = layout.all_listings(registry.records())
    models = dict(registry.all_versions())
    _require_all(store, noted, models)
    named = {stored.sha256 for versions in models.values() for v in versions for stored in v.blobs}
    blobs = {name: sha256 for name in files if (sha256 := layout.blob_of(name))}
    unnamed = [name for name, sha256 in blobs.items() if sha256 not in named]
    leftovers = [name for name in files if layout.is_leftover(name)]

    def is_old(info: Stat | None) -> bool:
        return info is not None and begun - info.modified_s > registry.grace_s

    if not named and any(is_old(files[name]) for name in unnamed):
        _log.warning(
            "%s: there are %d blobs and not one record of a version, as where the disk of %s/ is not "
            "mounted, or a copy is under way; they are spared. If nothing is to be kept, remove the folder.",
            store.uri, len(unnamed), layout.MODELS,
        )  # fmt: skip
    spared = set() if named else set(unnamed)
    waiting = [name for name in [*unnamed, *leftovers] if name not in spared and is_old(files[name])]
    num_old_blobs = sum(name in blobs for name in waiting)
    removed: list[str] = waiting if dry_run else []
    num_in_vain = 0
    while waiting and not dry_run:
        num_in_vain += 1
        if num_in_vain > 10:
            raise StorageError(
                f"{store.uri}: is too slow to remove anything safely: to announce it and to look at one file "
                f"takes over {BATCH_S:.0f} s. {len(removed)} files were removed; collect the others later."
            )
        with _announced(store) as deadline:
            while waiting:
                found = store.stat(waiting[-1])
                if time.monotonic() >= deadline:  # also where looking took so long
                    break
                name = waiting.pop()
                num_in_vain = 0
                if is_old(found):
                    store.remove_file(name)
                    removed.append(name)
    return Collected(
        sorted(removed),
        sum(files[name].size_bytes for name in removed),
        len(blobs) - len(unnamed),
        len(unnamed) - num_old_blobs,
    )


def _require_reachable(store: Folder) -> None:
    """Raises InvalidError where records may lie behind a link that cannot be followed, or in a model's folder
    that is empty, as of a disk that is not mounted: their blobs would be taken for garbage."""
    if store.is_local:
        models = store.local_path(layout.MODELS)
        # What lies behind a link is among them, which rglob leaves out.
        below = (models.glob("/".join(depth * "*")) for depth in range(1, layout.LEVELS + 1))
        for path in (models, *itertools.chain.from_iterable(below)):
            is_link = path.is_symlink()
            # A disk of its own has lost+found, too.
            is_models = path.parent == models and path.is_dir() and layout.may_be_model(path.name)
            if (is_link or is_models) and not (path.is_dir() and any(path.iterdir())):
                what = "a link to no folder, or an empty one" if is_link else "an empty folder"
                raise InvalidError(
                    f"{path}: is {what}, so it is not known which blobs are named there; nothing was "
                    "removed. Mount what belongs there, or remove it."
                )


def _require_all(
    store: Folder, noted: Mapping[str, layout.Listing], found: Mapping[str, Sequence[Version]]
) -> None:
    """Raises InvalidError where a number is noted as given and its version is not among those that were
    found: the blobs that it names would be taken for garbage."""
    for name, listing in noted.items():
        lost = set(listing.given) - {version.number for version in found.get(name, ())}
        if lost:
            records = [layout.record_name(layout.versions_folder(name), number) for number in sorted(lost)]
            raise InvalidError(
                f"{store.uri}: {some(records)}: not there, though versions of these numbers were published, "
                "so it is not known which blobs they name; nothing was removed. Mount their disk, "
                "or bring the records back; to be rid of these versions remove their files in "
                f"{layout.numbers_folder(name)}, too."
            )


def wait_for_collectors(store: Folder) -> bool:
    """Waits until every batch that is announced at present has ended, and says so where that takes long.

    Returns:
        Whether there was any, so that blobs which were old may be gone.
    """
    announced = store.files(layout.COLLECTING)
    if not announced:
        return False
    now_s, began = store.clock_s(), time.monotonic()
    ends = {
        name: began + min(LEASE_S, written.modified_s + LEASE_S - now_s)
        for name, written in announced.items()
    }
    is_told, pause_s = False, 0.05
    while ends:
        for name in [name for name, end in ends.items() if time.monotonic() >= end]:
            store.remove_file(name)
            del ends[name]
        ends = {name: ends[name] for name in ends.keys() & store.files(layout.COLLECTING).keys()}
        if ends and not is_told and time.monotonic() - began >= BATCH_S:
            is_told, left_s = True, max(ends.values()) - time.monotonic()
            _log.warning(
                "%s: waits until the collector of garbage that wrote %s has ended, or counts as killed: at "
                "most %.0f s.",
                store.uri,
                ", ".join(sorted(ends)),
                left_s,
            )
        if ends:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
    return True


@contextlib.contextmanager
def _announced(store: Folder) -> Iterator[float]:
    """Announces a batch; gives the time, by time.monotonic(), from which on it may begin no removal."""
    name, began = f"{layout.COLLECTING}/{layout.new_id()}.json", time.monotonic()
    store.create(name, b"{}")
    is_settled = store.is_local  # on a disk nothing is under way once its caller has gone on
    try:
        yield began + BATCH_S
        is_settled |= time.monotonic() - began < retries.READ_TIMEOUT_S
        if not store.exists(name):
            _log.warning(
                "%s: this collector stood still for so long that it counted as killed. What it removed last "
                "may have been published again before: run `verify`, which finds what is missing.",
                store.uri,
            )
    finally:
        if is_settled:
            store.remove_file(name)
