"""Reads windows back: any window is a range of whole, checksummed pages of one tar."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import logging
import os
import resource
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import safetensors.numpy

from forebrain.errors import BadShardError, ShardError
from forebrain.sessions.session import Range
from forebrain.shards.entries import read_entries
from forebrain.shards.fetching import PageFetcher
from forebrain.shards.fits import Fit
from forebrain.shards.index import (
    INDEX_NAME,
    TRACES,
    Index,
    SessionEntry,
    arrays_name,
    pages_array,
    shard_name,
)
from forebrain.shards.pages import FLOAT_BYTES, Member, Page, assemble
from forebrain.shards.readable import readable
from forebrain_registry.storage import Folder

OnBadShard = Literal["stop", "skip"]

MAX_OPEN_SHARDS = 256
# Memory for fits and checksums of pages of the sessions that were read last.
ARRAYS_BYTES = 256 << 20
LISTINGS_IN_FLIGHT = 16
CACHED_MEMBERS = 16_384
ALL = slice(None)
_FLOAT = np.dtype("<f4")

_log = logging.getLogger(__name__)


class ArraysError(ShardError):
    """A session's arrays file is missing or damaged: never passed over, as bad shards may be."""


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
        sessions: Sequence[SessionEntry],
        storage: Folder,
        skips_bad: bool = False,
        bad_shards: dict[str, str] | None = None,
        kept_index: bytes | None = None,
    ) -> None:
        self.uri = uri
        self._kept_index = kept_index
        self.skips_bad = skips_bad
        self.bad_shards = bad_shards or {}
        self._unreadable = frozenset(self.bad_shards)
        self._bad_pages: dict[tuple[str, str, int], str] = {}
        self.fingerprint = index.fingerprint
        self.max_window = index.max_window
        self.options = index.options
        self.forecasts_components = self.options.get("pca") is not None
        self.sessions = sessions
        self._storage = storage
        pages = LocalPages if storage.is_local else FarPages
        self._pages: Pages = pages(storage, self._checksums)
        self._arrays = _ArraysCache(self._read_arrays)
        # What a window needs of its session's entry, so that the entry need not stay parsed.
        self._first_pages = lru_cache(CACHED_MEMBERS)(self._find_first_pages)
        self._starts = lru_cache(CACHED_MEMBERS)(self._find_starts)
        self._member = lru_cache(CACHED_MEMBERS)(self._find_member)

    @classmethod
    def open(cls, uri: str, on_bad_shard: OnBadShard = "stop", kept_index: bytes | None = None) -> ShardSet:
        """Opens a set and checks that it is whole: index, entries, and the size of every shard.

        Args:
            uri: its address.
            on_bad_shard: whether shards that are missing or have another size are an error or, with `skip`,
                a warning. All else is an error in any case.
            kept_index: what `read_index` gave before: the set as it was then, whatever was added since.

        Raises:
            ShardError: there is no index, its format is unknown, an entry is not the one that was indexed,
                or a shard is missing or has another size.
        """
        storage = Folder(uri)
        index = Index.from_bytes(kept_index or read_index(uri), uri)
        sessions = read_entries(index, storage)
        bad = _bad_shards(index, sessions, storage)
        if bad and on_bad_shard == "stop":
            raise ShardError(next(iter(bad.values())))
        for problem in bad.values():
            _log.warning("%s Its windows are skipped.", problem)
        return cls(uri, index, sessions, storage, on_bad_shard == "skip", bad, kept_index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.uri, self.fingerprint, "skip" if self.skips_bad else "stop", self._kept_index)

    def read(self, session: int, start: int, stop: int, units: slice = ALL) -> np.ndarray:
        """Raw frames [start, stop) of a session, float32 [stop - start, N]. Not to be written to.

        Args:
            session: position in `sessions`.
            units: a range of the N units.

        Raises:
            BadShardError: the shard is missing, ends too early, or a page does not match its checksum (the
                message names shard, key and byte).
            ShardError: the window crosses a segment, is longer than `max_window`, or lies outside the
                session.
        """
        return self._read(TRACES, session, start, stop, units)

    def read_inputs(self, session: int, name: str, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop) of the channels of `stimulus` or `behaviour`, float32 [stop - start, C].

        Raises:
            ShardError: as for `read`; or the session has no such inputs, or was prepared before they could be
                read back.
        """
        return self._read(name, session, start, stop, ALL)

    def expect(self, session: int, ranges: Iterable[Range], units: slice = ALL, name: str = TRACES) -> None:
        """Hears that these windows will be read, in this order, after all that it heard of before; of inputs
        by the name that `read_inputs` takes.

        From a far store they are fetched ahead of their reader, several requests at a time; what is read is
        the same with and without. Ranges that are no windows, or are known to be bad, are passed over.
        """
        if isinstance(self._pages, LocalPages):
            return
        for start, stop in ranges:
            found = self._locate(name, session, start, stop)
            if found is not None and found[0].shard not in self._unreadable:
                self._pages.expect(*found, units)

    @property
    def fetcher(self) -> PageFetcher | None:
        """The fetcher of pages from a far store; None for a set on a disk."""
        return self._pages.fetcher if isinstance(self._pages, FarPages) else None

    def forget_expected(self) -> None:
        """Hears that what was expected is not read after all."""
        self._pages.forget_expected()

    def hurry(self) -> None:
        """Hears that what was expected came too late: more requests are made at a time."""
        self._pages.hurry()

    def _read(self, name: str, session: int, start: int, stop: int, channels: slice) -> np.ndarray:
        found = self._locate(name, session, start, stop)
        if found is None:
            entry = self.sessions[session]
            if name not in entry.pages:
                older = " It was prepared before inputs were read back; prepare it into another folder."
                raise ShardError(
                    f"session {entry.id}: has no {name} that can be read; expected one of "
                    f"{', '.join(sorted(entry.pages))}.{older if entry.first_format else ''}"
                )
            raise ShardError(
                f"session {entry.id}: frames {start} to {stop} are no readable window; expected at most "
                f"{self.max_window} frames within one of the segments {_shortened(entry.segments)}."
            )
        member, first, last = found
        known = self.bad_shards[member.shard] if member.shard in self._unreadable else None
        if self._bad_pages and not known:
            for number in member.shape.numbers(first, last, channels):
                known = known or self._bad_pages.get((member.key, name, number))
        if known:
            raise BadShardError(known)
        try:
            return self._pages.read(member, first, last, channels)
        except ArraysError:
            raise
        except ShardError as error:
            bad = error.pages if isinstance(error, BadShardError) else ()
            bad = bad or tuple(member.shape.numbers(first, last, channels))
            self._bad_pages.update({(member.key, name, number): str(error) for number in bad})
            self.bad_shards.setdefault(member.shard, str(error))
            if self.skips_bad:
                _log.warning("%s Windows that need it are skipped.", error)
            raise BadShardError(str(error), bad) from error

    def _locate(self, name: str, session: int, start: int, stop: int) -> tuple[Member, int, int] | None:
        """The sample that holds a window, and the window's frames in it; None if there is none."""
        starts = self._starts(session)
        sample = max(bisect.bisect_right(starts, start) - 1, 0) if len(starts) > 1 else 0
        member = self._member(name, session, sample)
        if member is None:
            return None
        first, last = start - member.first_frame, stop - member.first_frame
        is_window = 0 <= first < last <= member.num_frames and last - first <= self.max_window
        return (member, first, last) if is_window else None

    def _find_starts(self, session: int) -> tuple[int, ...]:
        """First frame of each sample of a session."""
        return tuple(stretch.start for stretch in self.sessions[session].stretches)

    def _find_member(self, name: str, session: int, sample: int) -> Member | None:
        entry = self.sessions[session]
        stretch = entry.stretches[sample]
        if name not in stretch.offsets:
            return None
        shard = entry.shards[stretch.shard]
        return Member(
            session,
            name,
            shard.name,
            shard.size,
            stretch.key,
            sample,
            stretch.offsets[name],
            stretch.start,
            stretch.num_frames,
            entry.pages[name],
        )

    def _checksums(self, member: Member) -> np.ndarray:
        """CRC-32 of each page of a member, by its number."""
        first_pages = self._first_pages(member.session, member.name)
        if first_pages is None:
            first_format = self.sessions[member.session].first_format
            assert first_format is not None
            return np.array(first_format.page_crc32[member.sample], np.uint32)
        first, stop = first_pages[member.sample : member.sample + 2]
        return self._arrays(member.session)[pages_array(member.name)][first:stop]

    def _find_first_pages(self, session: int, name: str) -> tuple[int, ...] | None:
        """Where the checksums of each sample begin among those of the session, and where the last end; None
        where the entry itself holds them."""
        entry = self.sessions[session]
        if entry.first_format is not None:
            return None
        shape = entry.pages[name]
        counts = (shape.num_pages(stretch.num_frames) for stretch in entry.stretches)
        return tuple(itertools.accumulate(counts, initial=0))

    def fit(self, session: int, protocol: str) -> Fit:
        """The normalisation of a session under a protocol.

        Raises:
            ShardError: the protocol was not fitted, or the session's arrays are damaged or missing.
        """
        prefix = f"{protocol}."
        arrays = self._arrays(session)
        found = {
            name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)
        }
        if not found:
            entry = self.sessions[session]
            raise ShardError(
                f"session {entry.id}: no fit for protocol {protocol!r}; expected one of "
                f"{', '.join(entry.fits)}."
            )
        return Fit(**found)

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

    def unit_names(self, session: int) -> tuple[str, ...] | None:
        """Names of the units, or None where they have none."""
        first = self.sessions[session].first_format
        return self._names(session, "unit_names") if first is None else first.unit_names

    def brain_regions(self, session: int) -> tuple[str, ...] | None:
        """Names of the units' regions, or None where they are not known."""
        first = self.sessions[session].first_format
        return self._names(session, "brain_regions") if first is None else first.brain_regions

    def _names(self, session: int, array: str) -> tuple[str, ...] | None:
        values = self._arrays(session).get(array)
        return None if values is None else tuple(json.loads(values.tobytes()))

    def _read_arrays(self, session: int) -> dict[str, np.ndarray]:
        entry = self.sessions[session]
        name = arrays_name(entry.key)
        try:
            with readable(self.uri, name):
                data = self._storage.read(name)
        except ShardError as error:
            raise ArraysError(str(error)) from error
        if hashlib.sha256(data).hexdigest() != entry.arrays_sha256:
            raise ArraysError(
                f"{self.uri}: {name} does not match its checksum. Remove the file and run prepare again: it "
                "rewrites only that session."
            )
        return safetensors.numpy.load(data)


def is_set(uri: str) -> bool:
    """Whether a set was prepared at an address, damaged or not; a lab's own index.json makes none."""
    try:
        row = json.loads(Folder(uri).read(INDEX_NAME))
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return isinstance(row, dict) and str(row.get("format")).startswith("forebrain-")


def read_index(uri: str) -> bytes:
    """The index of a prepared set as it is now, which later opens the same sessions again.

    Raises:
        ShardError: there is none, or it cannot be read.
    """
    try:
        with readable(uri, INDEX_NAME):
            return Folder(uri).read(INDEX_NAME)
    except ShardError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise ShardError(
            f"{uri}: no {INDEX_NAME}, so there is no finished set of shards here. "
            "Check the address, or run prepare: it continues what was begun."
        ) from error


def fingerprint_of(uri: str) -> str | None:
    """The fingerprint of a prepared set, by its index alone; None where there is no finished set.

    Raises:
        ShardError: the index is damaged, or of a format that is not known.
    """
    index = _index_of(Folder(uri))
    return None if index is None else index.fingerprint


def sources_of(uri: str) -> set[str]:
    """sha256 of the recordings that a set was prepared from; none where there is no finished set.

    Raises:
        ShardError: the index or an entry is damaged, or of a format that is not known.
    """
    storage = Folder(uri)
    index = _index_of(storage)
    return set() if index is None else {each.source.sha256 for each in read_entries(index, storage)}


def options_of(uri: str) -> dict[str, Any]:
    """The options of prepare that a finished set has; none where there is no set.

    Raises:
        ShardError: the index is damaged, or of a format that is not known.
    """
    index = _index_of(Folder(uri))
    return {} if index is None else index.options


def _index_of(storage: Folder) -> Index | None:
    try:
        return Index.from_bytes(storage.read(INDEX_NAME), storage.uri)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _reopen(
    uri: str, fingerprint: str, on_bad_shard: OnBadShard, kept_index: bytes | None = None
) -> ShardSet:
    shards = ShardSet.open(uri, on_bad_shard, kept_index)
    if shards.fingerprint != fingerprint:
        raise ShardError(f"{uri}: the shards changed while they were in use; start again from the new set.")
    return shards


def _bad_shards(index: Index, entries: Sequence[SessionEntry], storage: Folder) -> dict[str, str]:
    """The messages about the shards that are missing or have another size, by name."""
    bad = {}
    sizes = sizes_of_shards(storage)
    for position, row in enumerate(index.sessions):
        if all(sizes.get(shard_name(row.key, number)) == size for number, size in enumerate(row.shard_sizes)):
            continue  # without its entry, which need not be parsed
        for shard, expected in zip(entries[position].shards, row.shard_sizes, strict=True):
            if sizes.get(shard.name) != expected:
                found = f"has {sizes[shard.name]} bytes" if shard.name in sizes else "is missing"
                bad[shard.name] = (
                    f"{storage.uri}: {shard.name} {found}; expected {expected} bytes. "
                    "Run prepare again: it rewrites only what is missing or damaged."
                )
    return bad


def sizes_of_shards(storage: Folder) -> dict[str, int]:
    """Size in bytes of every tar, name -> size, those directly in `shards` and those in folders there."""
    with readable(storage.uri, "shards/"):
        folders = ["shards", *(f"shards/{name}" for name in storage.names("shards") if "." not in name)]
        if storage.is_local:
            listings = list(map(storage.sizes, folders))
        else:
            with ThreadPoolExecutor(LISTINGS_IN_FLIGHT) as pool:
                listings = list(pool.map(storage.sizes, folders))
    return {name: size for listing in listings for name, size in listing.items()}


class _ArraysCache:
    """Arrays files of the sessions used last; each is read once, whoever asks for it meanwhile."""

    def __init__(self, read: Callable[[int], dict[str, np.ndarray]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._found: OrderedDict[int, Future[dict[str, np.ndarray]]] = OrderedDict()
        self._num_bytes = 0

    def __call__(self, session: int) -> dict[str, np.ndarray]:
        with self._lock:
            found = self._found.get(session)
            is_mine = found is None
            if found is None:
                found = self._found[session] = Future()
            self._found.move_to_end(session)
        if is_mine:
            try:
                found.set_result(self._read(session))
            except BaseException as error:
                with self._lock:
                    del self._found[session]
                found.set_exception(error)
            else:
                self._forget_oldest(_num_bytes(found.result()))
        return found.result()

    def _forget_oldest(self, new_bytes: int) -> None:
        with self._lock:
            self._num_bytes += new_bytes
            if self._num_bytes <= ARRAYS_BYTES:
                return
            for session in list(self._found):
                if self._num_bytes <= ARRAYS_BYTES:
                    return
                if self._found[session].done():
                    self._num_bytes -= _num_bytes(self._found.pop(session).result())


def _num_bytes(arrays: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


class Pages(Protocol):
    """Reads parts of members, checked."""

    def read(self, member: Member, start: int, stop: int, channels: slice) -> np.ndarray:
        """Frames [start, stop) of a range of channels, of a sample."""

    def expect(self, member: Member, start: int, stop: int, channels: slice) -> None:
        """Hears of what will be read after all that it heard of before."""

    def forget_expected(self) -> None:
        """Hears that what was expected is not read after all."""

    def hurry(self) -> None:
        """Hears that what was expected came too late."""


Checksums = Callable[[Member], np.ndarray]


class LocalPages:
    """Pages of local tars; each page is checked when it is first read.

    Read, not mapped: a file that is cut short while it is mapped ends the process by SIGBUS.
    """

    def __init__(self, storage: Folder, checksums: Checksums) -> None:
        self._storage, self._checksums = storage, checksums
        self._open = lru_cache(_most_open_shards())(self._open_shard)
        self._checked: dict[str, _Checked] = {}  # by name of the shard

    def read(self, member: Member, start: int, stop: int, channels: slice) -> np.ndarray:
        with readable(self._storage.uri, member.shard):
            file = self._open(member.shard)  # held: another thread may make it leave the cache, and close it
        checked = file.checked.get((member.key, member.name))
        if checked is None:
            checked = file.checked.setdefault((member.key, member.name), set())
        if member.shape.pages_a_row > 1:
            return self._paged(file, member, start, stop, channels, checked)
        shape, low, high = member.shape, start, stop
        if len(checked) < member.num_pages:
            rows = shape.rows(start, stop)
            unchecked = [row for row in rows if row not in checked]
            if unchecked:  # are read whole, and with their neighbours at once
                low = min(start, unchecked[0] * shape.frames)
                high = max(stop, min((unchecked[-1] + 1) * shape.frames, member.num_frames))
                frames = self._rows(file, member, low, high)
                checksums = self._checksums(member)
                for row in unchecked:
                    at = row * shape.frames - low
                    _check_page(member, row, frames[at : at + shape.frames], checksums, self._storage.uri)
                    checked.add(row)
                return frames[start - low : stop - low, channels]
        return self._rows(file, member, start, stop)[:, channels]

    def _paged(
        self, file: _File, member: Member, start: int, stop: int, channels: slice, checked: set[int]
    ) -> np.ndarray:
        """The same of a member whose rows are several pages."""
        first, last, _ = channels.indices(member.shape.num_channels)
        parts = []
        for page in member.pages(start, stop, channels):
            if page.number in checked:  # of which no more than is needed
                low, high = max(start, page.first_frame), min(stop, page.first_frame + page.num_frames)
                begin = page.begin + FLOAT_BYTES * page.num_channels * (low - page.first_frame)
                part = replace(page, first_frame=low, num_frames=high - low)
                parts.append((part, self._values(file, member, begin, part.num_frames, part.num_channels)))
            else:
                values = self._values(file, member, page.begin, page.num_frames, page.num_channels)
                _check_page(member, page.number, values, self._checksums(member), self._storage.uri)
                checked.add(page.number)
                parts.append((page, values))
        return assemble(parts, start, stop, first, last)

    def _rows(self, file: _File, member: Member, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop) of a member that is the plain array, not checked."""
        num_channels = member.shape.num_channels
        begin = member.offset + FLOAT_BYTES * num_channels * start
        return self._values(file, member, begin, stop - start, num_channels)

    def expect(self, member: Member, start: int, stop: int, channels: slice) -> None:
        """Nothing is read ahead: a disk has no first byte to wait for, and the system keeps what was read."""

    def forget_expected(self) -> None:
        pass

    def hurry(self) -> None:
        pass

    def _values(
        self, file: _File, member: Member, begin: int, num_frames: int, num_channels: int
    ) -> np.ndarray:
        """Consecutive values of a tar [num_frames, num_channels], not checked."""
        values = np.empty((num_frames, num_channels), _FLOAT)
        with readable(self._storage.uri, member.shard):
            done = os.preadv(file.number, [values.data], begin)
            while done < values.nbytes:
                into = values.data.cast("B")[done:]
                if not (count := os.preadv(file.number, [into], begin + done)):
                    raise _ends_early(self._storage.uri, member, begin + done)
                done += count
        return values

    def _open_shard(self, name: str) -> _File:
        file = _File(self._storage.local_path(name))
        checked = self._checked.get(name)
        if checked is None or checked.identity != file.identity:  # prepare may have put another in its place
            checked = self._checked[name] = _Checked(file.identity)
        file.checked = checked.pages
        return file


@dataclass
class _Checked:
    """The pages of one file that were checked, by key of the sample and name of the member."""

    identity: tuple[int, ...]
    pages: dict[tuple[str, str], set[int]] = field(default_factory=dict)


class _File:
    """An open file, closed when nobody uses it any more.

    Attributes:
        number: its descriptor.
        identity: differs for another file, and for another content under the same name.
        checked: see `_Checked`.
    """

    checked: dict[tuple[str, str], set[int]]

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)
        status = os.fstat(self.number)
        self.identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class FarPages:
    """Pages of remote tars by byte range, checked as they arrive."""

    def __init__(self, storage: Folder, checksums: Checksums) -> None:
        self._storage, self._checksums = storage, checksums
        self.fetcher = PageFetcher(self._fetch)
        self.forget_expected, self.hurry = self.fetcher.forget_expected, self.fetcher.hurry

    def read(self, member: Member, start: int, stop: int, channels: slice) -> np.ndarray:
        pages = member.pages(start, stop, channels)
        first, last, _ = channels.indices(member.shape.num_channels)
        values = self.fetcher.read(member, pages)
        return assemble(list(zip(pages, values, strict=True)), start, stop, first, last)

    def expect(self, member: Member, start: int, stop: int, channels: slice) -> None:
        self.fetcher.expect(member, member.pages(start, stop, channels))

    def _fetch(self, member: Member, pages: Sequence[Page]) -> list[np.ndarray | BadShardError]:
        """The values of neighbouring pages, or what is wrong with one of them."""
        begin, end = pages[0].begin, pages[-1].end
        checksums = self._checksums(member)
        with readable(self._storage.uri, member.shard):
            data = self._storage.read_range(member.shard, begin, end)
        found: list[np.ndarray | BadShardError] = []
        for page in pages:
            if page.end - begin > len(data):
                early = _ends_early(self._storage.uri, member, begin + len(data))
                found.append(BadShardError(str(early), (page.number,)))
                continue
            values = np.frombuffer(data, "<f4", page.num_frames * page.num_channels, page.begin - begin)
            values = values.reshape(page.num_frames, page.num_channels)
            try:
                _check_page(member, page.number, values, checksums, self._storage.uri)
            except BadShardError as error:
                found.append(error)
            else:  # a view would keep its neighbours in memory
                found.append(values if len(pages) == 1 else values.copy())
        return found


def _most_open_shards() -> int:
    """Open tars of a set; a few hundred, or a quarter of what the process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_SHARDS if soft == resource.RLIM_INFINITY else max(1, min(MAX_OPEN_SHARDS, soft // 4))


def _check_page(member: Member, number: int, values: np.ndarray, checksums: np.ndarray, uri: str) -> None:
    if zlib.crc32(values.data) != checksums[number]:
        raise BadShardError(
            f"{uri}: {member.shard} is damaged: sample {member.key}, page {number} "
            f"at byte {member.page(number).begin} does not match its checksum. Remove the file and run "
            "prepare again: it rewrites only that session.",
            pages=(number,),
        )


def _ends_early(uri: str, member: Member, at: int) -> ShardError:
    return ShardError(
        f"{uri}: {member.shard} ends at byte {at}; expected {member.shard_size} bytes. Run prepare again."
    )


def _shortened(segments: Sequence[tuple[int, int]]) -> str:
    shown = ", ".join(f"{start} to {stop}" for start, stop in segments[:3])
    return shown if len(segments) <= 3 else f"{shown} and {len(segments) - 3} more"
