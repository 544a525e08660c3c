"""Reads windows back: any window is a range of whole, checksummed pages of one tar."""

from __future__ import annotations

import bisect
import hashlib
import logging
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy

from forebrain.errors import BadShardError, ShardError
from forebrain.sessions.session import Range
from forebrain.shards.fits import Fit
from forebrain.shards.index import (
    INDEX_NAME,
    Index,
    SessionEntry,
    Shard,
    Stretch,
    arrays_name,
    entry_name,
    shard_name,
)
from forebrain.shards.readable import readable
from forebrain_registry.storage import Folder

OnBadShard = Literal["stop", "skip"]

MAX_OPEN_SHARDS = 256
CACHED_FITS = 4096
CACHED_PAGE_BYTES = 256 << 20  # of a remote set

_log = logging.getLogger(__name__)


class ShardSet:
    """A prepared set of sessions, open for reading from any thread. Pickles as its address.

    Attributes:
        uri: its address.
        fingerprint: sha256 over the index; equal for equal data, fits and options.
        max_window: longest window that can be read, frames.
        options: what it was prepared with.
        forecasts_components: whether principal components stand in place of the units.
        sessions: entries, sorted by id; each is parsed when it is first asked for.
        skips_bad: whether bad shards are to be passed over; then finding one is a warning.
        bad_shards: what was found wrong so far, by name of the shard.
    """

    def __init__(
        self,
        uri: str,
        index: Index,
        entries: Sequence[bytes],
        storage: Folder,
        skips_bad: bool = False,
        bad_shards: dict[str, str] | None = None,
    ) -> None:
        self.uri = uri
        self.skips_bad = skips_bad
        self.bad_shards = bad_shards or {}
        self._unreadable = frozenset(self.bad_shards)
        self._bad_pages: dict[tuple[str, int], str] = {}
        self.fingerprint = index.fingerprint
        self.max_window = index.max_window
        self.options = index.options
        self.forecasts_components = self.options.get("pca") is not None
        self.sessions: Sequence[SessionEntry] = _Entries(entries)
        self._storage = storage
        pages = _LocalPages if storage.is_local else _RemotePages
        self._pages: _LocalPages | _RemotePages = pages(storage)
        self._arrays = lru_cache(CACHED_FITS)(self._read_arrays)

    @classmethod
    def open(cls, uri: str, on_bad_shard: OnBadShard = "stop") -> ShardSet:
        """Opens a set and checks that it is whole: index, entries, and the size of every shard.

        Args:
            uri: its address.
            on_bad_shard: whether shards that are missing or have another size are an error or, with `skip`,
                a warning. All else is an error in any case.

        Raises:
            ShardError: there is no index, its format is unknown, an entry is not the one that was indexed,
                or a shard is missing or has another size.
        """
        storage = Folder(uri)
        try:
            with readable(uri, INDEX_NAME):
                data = storage.read(INDEX_NAME)
        except ShardError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise ShardError(
                f"{uri}: no {INDEX_NAME}, so there is no finished set of shards here. "
                "Check the address, or run prepare: it continues what was begun."
            ) from error
        index = Index.from_bytes(data, uri)
        bad = _bad_shards(index, storage)
        if bad and on_bad_shard == "stop":
            raise ShardError(next(iter(bad.values())))
        for problem in bad.values():
            _log.warning("%s Its windows are skipped.", problem)
        return cls(uri, index, _read_entries(index, storage), storage, on_bad_shard == "skip", bad)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.uri, self.fingerprint, "skip" if self.skips_bad else "stop")

    def read(self, session: int, start: int, stop: int) -> np.ndarray:
        """Raw frames [start, stop) of a session, float32 [stop - start, N]. May be read-only.

        Raises:
            BadShardError: the shard is missing, ends too early, or a page does not match its checksum (the
                message names shard, key and byte).
            ShardError: the window crosses a segment, is longer than `max_window`, or lies outside the
                session.
        """
        entry = self.sessions[session]
        number = bisect.bisect_right(entry.stretches, start, key=lambda stretch: stretch.start) - 1
        stretch = entry.stretches[max(number, 0)]
        if not (stretch.start <= start < stop <= stretch.stop and stop - start <= self.max_window):
            raise ShardError(
                f"session {entry.id}: frames {start} to {stop} are no readable window; expected at most "
                f"{self.max_window} frames within one of the segments {_shortened(entry.segments)}."
            )
        start, stop = start - stretch.start, stop - stretch.start
        shard, pages = entry.shards[stretch.shard].name, _pages_of(entry, start, stop)
        known = self.bad_shards[shard] if shard in self._unreadable else None
        for page in pages:
            known = known or self._bad_pages.get((stretch.key, page))
        if known:
            raise BadShardError(known)
        try:
            return self._pages.read(entry, max(number, 0), start, stop)
        except ShardError as error:
            found = (error.pages if isinstance(error, BadShardError) else ()) or tuple(pages)
            self._bad_pages.update({(stretch.key, page): str(error) for page in found})
            self.bad_shards.setdefault(shard, str(error))
            if self.skips_bad:
                _log.warning("%s Windows that need it are skipped.", error)
            raise BadShardError(str(error), found) from error

    def fit(self, session: int, protocol: str) -> Fit:
        """The normalisation of a session under a protocol.

        Raises:
            ShardError: the protocol was not fitted, or the session's arrays are damaged or missing.
        """
        entry = self.sessions[session]
        if protocol not in entry.fits:
            raise ShardError(
                f"session {entry.id}: no fit for protocol {protocol!r}; expected one of "
                f"{', '.join(entry.fits)}."
            )
        prefix = f"{protocol}."
        arrays = self._arrays(session)
        return Fit(
            **{name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        )

    def fitted_on(self, session: int, protocol: str) -> tuple[Range, ...]:
        """The frames that `fit` was fitted on."""
        return self.sessions[session].fits[protocol]

    def held_out_ranges(self, session: int) -> list[Range]:
        """Frames of conditions that are held out: none. `SubsetShards` differs."""
        return []

    def training_segments(self, session: int) -> list[Range]:
        """Where training windows may lie: anywhere. `SubsetShards` differs."""
        return list(self.sessions[session].segments)

    def as_scored(self, session: int, protocol: str, values: np.ndarray) -> np.ndarray:
        """Normalised values [..., N] as they are scored: as they are. `SubsetShards` differs."""
        return values

    def unit_positions(self, session: int) -> np.ndarray | None:
        """Positions of the units, float32 [N, 2 or 3], or None where they are not known."""
        return self._arrays(session).get("unit_positions")

    def _read_arrays(self, session: int) -> dict[str, np.ndarray]:
        entry = self.sessions[session]
        name = arrays_name(entry.key)
        with readable(self.uri, name):
            data = self._storage.read(name)
        if hashlib.sha256(data).hexdigest() != entry.arrays_sha256:
            raise ShardError(f"{self.uri}: {name} does not match its checksum; run prepare again.")
        return safetensors.numpy.load(data)


def _reopen(uri: str, fingerprint: str, on_bad_shard: OnBadShard) -> ShardSet:
    shards = ShardSet.open(uri, on_bad_shard)
    if shards.fingerprint != fingerprint:
        raise ShardError(f"{uri}: the shards changed while they were in use; start again from the new set.")
    return shards


def _bad_shards(index: Index, storage: Folder) -> dict[str, str]:
    """What is wrong with the shards that are missing or have another size, by name."""
    bad = {}
    with readable(storage.uri, "shards/"):
        sizes = storage.sizes("shards")
    for row in index.sessions:
        for number, expected in enumerate(row.shard_sizes):
            name = shard_name(row.key, number)
            if sizes.get(name) != expected:
                found = f"has {sizes[name]} bytes" if name in sizes else "is missing"
                bad[name] = (
                    f"{storage.uri}: {name} {found}; expected {expected} bytes. "
                    "Run prepare again: it rewrites only what is missing or damaged."
                )
    return bad


def _read_entries(index: Index, storage: Folder) -> list[bytes]:
    names = [entry_name(row.key) for row in index.sessions]
    with readable(storage.uri, "sessions/"):
        entries = storage.read_all(names)
    for row, name in zip(index.sessions, names, strict=True):
        if hashlib.sha256(entries[name]).hexdigest() != row.entry_sha256:
            raise ShardError(
                f"{storage.uri}: {name} is not the entry that was indexed. "
                "Run prepare again; if it is still running, wait until it ends."
            )
    return [entries[name] for name in names]


class _Entries(Sequence[SessionEntry]):
    """Session entries, parsed when first asked for: a set of ten thousand opens at once."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self._entries: list[bytes | SessionEntry] = list(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, position: Any, /) -> Any:
        if isinstance(position, slice):
            return [self[index] for index in range(*position.indices(len(self)))]
        entry = self._entries[position]
        if isinstance(entry, bytes):
            entry = self._entries[position] = SessionEntry.from_bytes(entry, f"session {position}")
        return entry


class _LocalPages:
    """Pages of local tars; each page is checked when it is first read.

    Read, not mapped: a file that is cut short while it is mapped ends the process by SIGBUS.
    """

    def __init__(self, storage: Folder) -> None:
        self._storage = storage
        self._open = lru_cache(MAX_OPEN_SHARDS)(self._open_shard)
        self._checked: set[tuple[str, int]] = set()

    def read(self, entry: SessionEntry, number: int, start: int, stop: int) -> np.ndarray:
        stretch = entry.stretches[number]
        pages = _pages_of(entry, start, stop)
        unchecked = [page for page in pages if (stretch.key, page) not in self._checked]
        if not unchecked:
            return self._frames(entry, stretch, start, stop)
        offset = pages.start * entry.page_frames
        frames = self._frames(entry, stretch, offset, min(pages.stop * entry.page_frames, stretch.num_frames))
        for page in unchecked:
            low = page * entry.page_frames - offset
            _check_page(entry, stretch, page, frames[low : low + entry.page_frames], self._storage.uri)
            self._checked.add((stretch.key, page))
        return frames[start - offset : stop - offset]

    def _frames(self, entry: SessionEntry, stretch: Stretch, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop) of a stretch, not checked."""
        shard = entry.shards[stretch.shard]
        frames = np.empty((stop - start, entry.num_units), "<f4")
        into, position, done = frames.data.cast("B"), stretch.offset + start * frames.strides[0], 0
        with readable(self._storage.uri, shard.name):
            descriptor = self._open(shard.name).number
            while done < len(into) and (count := os.preadv(descriptor, [into[done:]], position + done)):
                done += count
        if done < len(into):
            raise _ends_early(self._storage.uri, shard, position + done)
        return frames

    def _open_shard(self, name: str) -> _Descriptor:
        return _Descriptor(self._storage.local_path(name))


class _Descriptor:
    """An open file, closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _RemotePages:
    """Pages of remote tars by byte range, checked as they arrive; the latest are kept in memory."""

    def __init__(self, storage: Folder) -> None:
        self._storage = storage
        self._cache: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def read(self, entry: SessionEntry, number: int, start: int, stop: int) -> np.ndarray:
        stretch = entry.stretches[number]
        wanted = _pages_of(entry, start, stop)
        pages = {page: self._cached(stretch, page) for page in wanted}
        absent = [page for page, frames in pages.items() if frames is None]
        if absent:  # one request for all between the first and the last; they are mostly neighbours
            fetched = self._fetch(entry, stretch, absent[0], absent[-1] + 1)
            pages |= fetched
            self._keep(stretch, fetched)
        frames = np.concatenate([pages[page] for page in wanted])
        offset = wanted.start * entry.page_frames
        return frames[start - offset : stop - offset]

    def _fetch(self, entry: SessionEntry, stretch: Stretch, first: int, stop: int) -> dict[int, np.ndarray]:
        shard = entry.shards[stretch.shard]
        low, high = first * entry.page_frames, min(stop * entry.page_frames, stretch.num_frames)
        frame_bytes = 4 * entry.num_units
        begin, end = stretch.offset + low * frame_bytes, stretch.offset + high * frame_bytes
        with readable(self._storage.uri, shard.name):
            data = self._storage.read_range(shard.name, begin, end)
        if len(data) != end - begin:
            raise _ends_early(self._storage.uri, shard, begin + len(data))
        frames = np.frombuffer(data, "<f4").reshape(high - low, entry.num_units)
        pages = {}
        for page in range(first, stop):
            offset = page * entry.page_frames - low
            pages[page] = frames[offset : offset + entry.page_frames]
            _check_page(entry, stretch, page, pages[page], self._storage.uri)
        return pages

    def _cached(self, stretch: Stretch, page: int) -> np.ndarray | None:
        with self._lock:
            frames = self._cache.get((stretch.key, page))
            if frames is not None:
                self._cache.move_to_end((stretch.key, page))
            return frames

    def _keep(self, stretch: Stretch, pages: dict[int, np.ndarray]) -> None:
        with self._lock:
            for page, frames in pages.items():
                if (stretch.key, page) not in self._cache:
                    self._cache[stretch.key, page] = frames.copy()  # a view would keep its neighbours alive
                    self._cached_bytes += frames.nbytes
            while self._cached_bytes > CACHED_PAGE_BYTES:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes


def _pages_of(entry: SessionEntry, start: int, stop: int) -> range:
    """The pages that hold frames [start, stop) of a stretch."""
    return range(start // entry.page_frames, -(-stop // entry.page_frames))


def _check_page(entry: SessionEntry, stretch: Stretch, page: int, frames: np.ndarray, uri: str) -> None:
    if zlib.crc32(frames.data) != stretch.page_crc32[page]:
        offset = stretch.offset + page * entry.page_frames * 4 * entry.num_units
        raise BadShardError(
            f"{uri}: {entry.shards[stretch.shard].name} is damaged: sample {stretch.key}, page {page} "
            f"at byte {offset} does not match its checksum. Remove the file and run prepare again: "
            "it rewrites only that session.",
            pages=(page,),
        )


def _ends_early(uri: str, shard: Shard, at: int) -> ShardError:
    return ShardError(
        f"{uri}: {shard.name} ends at byte {at}; expected {shard.size} bytes. Run prepare again."
    )


def _shortened(segments: Sequence[tuple[int, int]]) -> str:
    shown = ", ".join(f"{start} to {stop}" for start, stop in segments[:3])
    return shown if len(segments) <= 3 else f"{shown} and {len(segments) - 3} more"
