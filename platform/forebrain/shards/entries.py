"""The entries of all sessions of a set: in memory once for all processes of a machine, parsed when asked for.

Entries of a large set lie in a file of the cache folder, a line each in the order of the index, which every
process maps; the system keeps one copy of it. The file is named by the index's fingerprint and each of its
lines is checked against the index, so it is never another set's, older or half written. Whoever finds none
makes it; where that cannot be done, a process has the lines to itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import ShardError, StorageError
from forebrain.shards.index import ENTRIES_NAME, Index, SessionEntry, entry_name
from forebrain.shards.readable import readable
from forebrain_registry.pulling import default_cache
from forebrain_registry.storage import Folder

# Entries of fewer bytes are not worth a file.
LEAST_SHARED_BYTES = 1 << 20
# Of entries that stay parsed, before they were parsed; afterwards they are some five times as large.
PARSED_BYTES = 1 << 20
UNUSED_S = 30 * 24 * 3600.0


class Entries(Sequence[SessionEntry]):
    """Session entries, parsed when they are asked for; those that were asked for last stay parsed.

    Args:
        lines: the entries, each followed by one byte; a copy of this process, or memory that it shares.
        edges: int64 [S + 1]; entry i is `lines[edges[i] : edges[i + 1] - 1]`.
    """

    def __init__(self, lines: bytes | mmap.mmap, edges: np.ndarray) -> None:
        self._lines, self._edges = lines, edges
        num_kept = PARSED_BYTES * len(self) // max(1, int(edges[-1]))
        self._entry = lru_cache(max(1, num_kept))(self._parse)

    @property
    def is_shared(self) -> bool:
        """Whether the processes of this machine have the lines in common."""
        return isinstance(self._lines, mmap.mmap)

    def __len__(self) -> int:
        return len(self._edges) - 1

    def __getitem__(self, position: Any, /) -> Any:
        if isinstance(position, slice):
            return [self._entry(each) for each in range(len(self))[position]]
        return self._entry(range(len(self))[position])

    def _parse(self, position: int) -> SessionEntry:
        start, stop = self._edges[position : position + 2].tolist()
        return SessionEntry.from_bytes(self._lines[start : stop - 1], f"session {position}")


def read_entries(index: Index, storage: Folder) -> Entries:
    """The entries of an index, in its order; each is the one that was indexed.

    Raises:
        ShardError: an entry is missing, or another than was indexed.
    """
    file = _shared_file(index)
    if file is not None and (found := _mapped(file, index)) is not None:
        return found
    lines = _read_lines(index, storage)
    edges = np.cumsum([0, *(len(line) + 1 for line in lines)])
    data = b"".join(line + b"\n" for line in lines)
    if file is not None and len(data) >= LEAST_SHARED_BYTES:
        del lines
        with contextlib.suppress(StorageError, OSError):
            _share(file, data, index)
            if (found := _mapped(file, index)) is not None:
                return found
    return Entries(data, edges)


def _read_lines(index: Index, storage: Folder) -> list[bytes]:
    """The bytes of each entry of an index, in its order, from the set itself."""
    found: dict[str, bytes] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in storage.read(ENTRIES_NAME).splitlines():
            found[hashlib.sha256(line).hexdigest()] = line
    # Of sets of format 1, and where prepare was ended between this file and the index.
    absent = [row for row in index.sessions if row.entry_sha256 not in found]
    with readable(storage.uri, "sessions/"):
        entries = storage.read_all([entry_name(row.key) for row in absent])
    for row in absent:
        name = entry_name(row.key)
        if hashlib.sha256(entries[name]).hexdigest() != row.entry_sha256:
            raise ShardError(
                f"{storage.uri}: {name} is not the entry that was indexed. "
                "Run prepare again; if it is still running, wait until it ends."
            )
        found[row.entry_sha256] = entries[name]
    return [found[row.entry_sha256] for row in index.sessions]


def _shared_file(index: Index) -> Path | None:
    """Where the entries of an index are shared; None for a user without a home."""
    try:
        return default_cache().with_name("indexes") / f"{index.fingerprint}.jsonl"
    except StorageError:
        return None


def _mapped(path: Path, index: Index) -> Entries | None:
    """The entries in a file, as memory; None where there is none, or it holds anything else."""
    try:
        with path.open("rb") as stream:
            lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError: it is empty
        return None
    edges = np.zeros(len(index.sessions) + 1, np.int64)
    for number, row in enumerate(index.sessions):
        start = int(edges[number])
        stop = lines.find(b"\n", start)
        if stop < 0 or hashlib.sha256(lines[start:stop]).hexdigest() != row.entry_sha256:
            lines.close()
            return None
        edges[number + 1] = stop + 1
    return Entries(lines, edges)


def _share(path: Path, data: bytes, index: Index) -> None:
    """Writes the shared file; what is there already and whole stays, so that all map the same."""
    folder = Folder(path.parent)
    try:
        folder.create(path.name, data)
    except FileExistsError:
        if _mapped(path, index) is None:
            folder.write(path.name, data)
    with contextlib.suppress(StorageError, OSError):  # another user's
        since_s = folder.clock_s() - UNUSED_S
        for name, stat in folder.files().items():
            if name != path.name and stat.modified_s < since_s:
                folder.remove(name)
