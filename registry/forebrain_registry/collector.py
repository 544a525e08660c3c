"""Garbage collection: blobs that no version names, once they are older than the grace period.

A publisher may find an old blob of its own content just as it is being collected. So a collector announces
every batch before it looks at the ages once more and removes; and a publisher renews old blobs first, then
looks for announcements. Either the collector sees the renewed blob and spares it, or the publisher sees the
announcement, waits until it is gone, and looks whether its blobs are still there. No clocks are compared.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from forebrain_registry import layout
from forebrain_registry.registry import Registry
from forebrain_registry.storage import Folder, Stat

# A batch ends after BATCH_S. An announcement that stands for LEASE_S is a killed collector's.
BATCH_S = 5.0
LEASE_S = 30.0


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

    Raises:
        InvalidError: a record cannot be read, so it is not known which blobs it names; nothing was removed.
    """
    store = registry.writer()
    begun = store.clock_s()  # the machine's own may be set to another day
    # Blobs are listed before records, so that one whose record came in between is known to be named.
    files = store.files("")
    named = {stored.sha256 for _, versions in registry.all_versions() for v in versions for stored in v.blobs}
    blobs = {name: sha256 for name in files if (sha256 := layout.blob_of(name))}
    unnamed = [name for name, sha256 in blobs.items() if sha256 not in named]
    leftovers = [name for name in files if layout.is_leftover(name)]

    def is_old(info: Stat | None) -> bool:
        return info is not None and begun - info.modified_s > registry.grace_s

    waiting = [name for name in [*unnamed, *leftovers] if is_old(files[name])]
    num_old_blobs = sum(name in blobs for name in waiting)
    removed: list[str] = waiting if dry_run else []
    while waiting and not dry_run:
        with _announced(store):
            deadline = time.monotonic() + BATCH_S
            while waiting and time.monotonic() < deadline:
                name = waiting.pop()
                if is_old(store.stat(name)):
                    store.remove(name)
                    removed.append(name)
    return Collected(
        sorted(removed),
        sum(files[name].size_bytes for name in removed),
        len(blobs) - len(unnamed),
        len(unnamed) - num_old_blobs,
    )


def wait_for_collectors(store: Folder) -> bool:
    """Waits until every batch that is announced at present has ended.

    Returns:
        Whether there was any, so that blobs which were old may be gone.
    """
    seen = set(store.files(layout.COLLECTING))
    if not seen:
        return False
    deadline = time.monotonic() + LEASE_S
    while seen and time.monotonic() < deadline:
        time.sleep(0.05)
        seen &= set(store.files(layout.COLLECTING))
    for name in seen:
        store.remove(name)
    return True


@contextlib.contextmanager
def _announced(store: Folder) -> Iterator[None]:
    name = f"{layout.COLLECTING}/{layout.new_id()}.json"
    store.create(name, b"{}")
    try:
        yield
    finally:
        store.remove(name)
