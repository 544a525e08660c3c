"""Garbage collection: blobs that no version names, once they are older than the grace period.

A publisher may find an old blob of its own content just as it is being collected. So a collector announces
itself before it looks, and a publisher renews old blobs first and looks for a collector then: either the
collector sees the renewed blob and spares it, or the publisher sees the collector, waits, and stores again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from forebrain_registry import layout
from forebrain_registry.errors import StorageError
from forebrain_registry.registry import Registry
from forebrain_registry.store import PARTIAL, Store

# A collector stops deleting after this long; twice as long after its beginning it counts as dead.
MAX_COLLECTION_S = 600.0
MAX_WAIT_S = 60.0


@dataclass(frozen=True)
class Collected:
    """What a collection did, or with `dry_run` would do.

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

    Raises:
        InvalidError: a record cannot be read, so it is not known which blobs it names; nothing was removed.
    """
    store = registry.writer()
    announcement = f"{layout.COLLECTING}/{layout.new_id()}.json"
    begun = time.time()
    if not dry_run:
        store.create(announcement, b"{}")
    try:
        return _collect(registry, store, begun, dry_run)
    finally:
        store.remove(announcement)


def wait_for_collectors(store: Store) -> bool:
    """Waits until nobody collects.

    Returns:
        Whether somebody did, so that any old blob may be gone.

    Raises:
        StorageError: somebody still does after a minute.
    """
    if not _is_collecting(store):
        return False
    deadline = time.monotonic() + MAX_WAIT_S
    while _is_collecting(store):
        if time.monotonic() > deadline:
            raise StorageError(
                f"{store.uri}: garbage is being collected ({layout.COLLECTING}/). Publish once that is done."
            )
        time.sleep(0.05)
    return True


def _is_collecting(store: Store) -> bool:
    # An older announcement is of a collector that was killed; a live one would have stopped.
    begun_after = time.time() - 2 * MAX_COLLECTION_S
    return any(info.modified_s > begun_after for info in store.files(layout.COLLECTING).values())


def _collect(registry: Registry, store: Store, begun: float, dry_run: bool) -> Collected:
    # Blobs are listed before records, so that one whose record came in between is known to be named.
    files = store.files("")
    named = {stored.sha256 for _, versions in registry.all_versions() for v in versions for stored in v.blobs}
    kept = spared = removed_bytes = 0
    removed = []
    for name, info in files.items():
        sha256 = layout.blob_of(name)
        leftover = name.endswith(PARTIAL) or name.startswith(("probe-", f"{layout.COLLECTING}/"))
        if sha256 is None and not leftover:
            continue
        if sha256 in named:
            kept += 1
            continue
        is_old = begun - info.modified_s > registry.grace_s
        if is_old and not dry_run:
            if time.time() - begun > MAX_COLLECTION_S:
                break
            now = store.stat(name)
            is_old = now is not None and begun - now.modified_s > registry.grace_s
            if is_old:
                store.remove(name)
        if is_old:
            removed.append(name)
            removed_bytes += info.size_bytes
        elif sha256 is not None:
            spared += 1
    return Collected(removed, removed_bytes, kept, spared)
