"""Where things lie in a registry, and the numbered records that all its changes are made of.

    blobs/sha256/ab/ab12...                             bytes, named by their hash; never changed
    models/NAME/versions/00000003.json                  the record of a version: created last, never changed
    models/NAME/numbers/00000003.json                   that version 3 was there, whatever became of it
    models/NAME/aliases/champion/00000007.json          where an alias points since its 7th move
    models/NAME/deprecations/00000003/00000001.json     why version 3 is deprecated, or that it no longer is
    models/NAME/signatures/00000003/00000001.json       a Sigstore bundle over version 3
    index.json                                          names all records, for web hosts; rebuildable
    collecting/ID.json                                  there while somebody removes garbage

Each folder of numbered records is a log: record n+1 is created, if absent, by one who has read n. So numbers
have no holes, no two writers get the same, and a move that lost a race is refused. Records hold an id drawn
at random, so that a writer whose answer was lost knows its own. A version's number is noted once its record
is there, and never given again: names, aliases and deprecations of it would stand for another.
"""

from __future__ import annotations

import re
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

BLOBS = "blobs/sha256"
MODELS = "models"
COLLECTING = "collecting"
INDEX = "index.json"
INDEX_FORMAT = "forebrain-registry-index-1"
MAX_NUMBER = 99_999_999
LEVELS = 3  # of folders from MODELS down to a record's: of a model, a kind of record, a log

_RECORD = re.compile(
    r"models/([a-z0-9._-]+)/(versions|numbers|(aliases|deprecations|signatures)/([^/]+))/([0-9]{8})\.json"
)
_LEFTOVER = re.compile(
    rf"({COLLECTING}/[0-9a-f]{{32}}\.json|probe-[0-9a-f]{{32}}|(probe-[0-9a-f]{{32}}|{INDEX}|({BLOBS}|{MODELS}|{COLLECTING})/.+)\.[0-9a-f]{{8}}\.partial)"
)
_BLOB = re.compile(rf"{BLOBS}/([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})")


@dataclass(frozen=True)
class IndexedFile:
    """A record that the index names."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """The content of index.json."""

    format: str
    files: tuple[IndexedFile, ...]


def blob_name(sha256: str) -> str:
    return f"{BLOBS}/{sha256[:2]}/{sha256}"


def blob_of(name: str) -> str | None:
    """The hash that a file's name promises; None if it is no blob's name."""
    match = _BLOB.fullmatch(name)
    return match[2] if match else None


def is_leftover(name: str) -> bool:
    """Whether a file is what a writer to a registry leaves where it is killed, and nobody else's."""
    return _LEFTOVER.fullmatch(name) is not None


def is_part(name: str) -> bool:
    """Whether a file is what lies in a registry and hardly elsewhere."""
    return bool(_RECORD.fullmatch(name) or _BLOB.fullmatch(name)) or is_leftover(name)


def may_be_model(folder: str) -> bool:
    """Whether records may lie in a folder of that name among the models."""
    return is_part(record_name(versions_folder(folder), 1))


def versions_folder(name: str) -> str:
    return f"{MODELS}/{name}/versions"


def log_folder(name: str, kind: str, key: str | int) -> str:
    """The folder of an alias's moves, or of the deprecations or signatures of a version by its number."""
    return f"{MODELS}/{name}/{kind}/{key if isinstance(key, str) else f'{key:08}'}"


def numbers_folder(name: str) -> str:
    return f"{MODELS}/{name}/numbers"


def record_name(folder: str, number: int) -> str:
    return f"{folder}/{number:08}.json"


@dataclass
class Listing:
    """The records of one model, as a listing of the store names them.

    Attributes:
        versions: their numbers, ascending.
        given: the numbers that are noted as given, ascending.
        logs: (kind, key) -> the numbers of its records, ascending.
    """

    versions: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    logs: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def last(self, kind: str, key: str | int) -> int:
        """Number of the newest record of a log, 0 if there is none."""
        key = key if isinstance(key, str) else f"{key:08}"
        return max(self.logs.get((kind, key), [0]))

    def keys(self, kind: str) -> list[str]:
        return sorted(key for found, key in self.logs if found == kind)


def listings(files: Iterable[str]) -> dict[str, Listing]:
    """Model with a version -> its records, from the names of files; those that are no record's are passed
    over."""
    return {name: listing for name, listing in all_listings(files).items() if listing.versions}


def all_listings(files: Iterable[str]) -> dict[str, Listing]:
    """The same with models whose versions are all gone."""
    found: dict[str, Listing] = defaultdict(Listing)
    for file in record_names(files):
        _, name, kind, *key, number = file.removesuffix(".json").split("/")
        if kind == "versions":
            found[name].versions.append(int(number))
        elif kind == "numbers":
            found[name].given.append(int(number))
        else:
            found[name].logs[kind, key[0]].append(int(number))
    return dict(sorted(found.items()))


def record_names(files: Iterable[str]) -> list[str]:
    """The names that are a record's, sorted."""
    return sorted(file for file in files if _RECORD.fullmatch(file))


def new_id() -> str:
    return uuid.uuid4().hex


def now() -> str:
    """The time in UTC as records write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
