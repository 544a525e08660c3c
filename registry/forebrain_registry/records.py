"""The objects a registry stores besides bytes: the record of a version, its metadata, references to versions.

Every class checks itself on construction, so what was read is as trustworthy as what was made here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from forebrain_registry import strict_json
from forebrain_registry.errors import InvalidError
from forebrain_registry.lines import composed

VERSION_FORMAT = "forebrain-model-1"
WEIGHTS = "model.safetensors"
CARD = "README.md"
HUB_CARD = "hub.yaml"  # front matter for the Hugging Face Hub
PICTURE = "forecasts.png"
RECORD = "version.json"
MAX_RECORD_BYTES = 64 * 2**20
MAX_FILES = 10_000
MAX_FILE_BYTES = 2**44
MIN_DIGEST_PREFIX = 8

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,94}[a-z0-9])?")
_ALIAS = re.compile(r"[a-z]([a-z0-9._-]{0,94}[a-z0-9])?")
_COMPONENT = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,7}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
# Windows takes these for devices, with any suffix.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{i}" for kind in ("com", "lpt") for i in range(10))}
# None of these is code to whatever opens it: no pickles (.pt, .bin, .npy), no scripts, no SVG.
_SUFFIXES = {
    *("safetensors", "json", "jsonl", "yaml", "yml", "toml", "md", "txt", "csv", "tsv"),
    *("png", "jpg", "jpeg", "bib", "cff"),
}
_PLAIN_FILES = {"LICENSE", "NOTICE", "CITATION"}


def check_name(name: str) -> str:
    """The name of a model, if it is one.

    Raises:
        InvalidError: it is not.
    """
    if not _NAME.fullmatch(name) or name.split(".")[0] in _DEVICES:
        raise InvalidError(
            f"{name!r:.120} is not a model's name: 1 to 96 of a-z, 0-9, '.', '_' and '-', "
            "with a letter or digit first and last."
        )
    return name


def check_alias(alias: str) -> str:
    """The name of an alias, if it is one; it begins with a letter, so that it is never a number.

    Raises:
        InvalidError: it is not.
    """
    if not _ALIAS.fullmatch(alias) or alias.split(".")[0] in _DEVICES:
        raise InvalidError(
            f"{alias!r:.120} is not an alias: 1 to 96 of a-z, 0-9, '.', '_' and '-', with a letter first "
            "and a letter or digit last."
        )
    return alias


def check_path(path: str) -> str:
    """The path of a file within a version, if it is relative, portable and of a kind that is never run.

    Raises:
        InvalidError: it is not.
    """
    parts = path.split("/")
    if (
        len(path) > 240
        or len(parts) > 8
        or any(not _COMPONENT.fullmatch(part) or part.split(".")[0].lower() in _DEVICES for part in parts)
    ):
        raise InvalidError(
            f"{path!r:.120} is not a path that a version may hold: relative, at most 240 characters and 8 "
            "parts of A-Z, a-z, 0-9, '.', '_' and '-' that do not begin or end with '.'."
        )
    _, dot, suffix = parts[-1].rpartition(".")
    if (dot and suffix not in _SUFFIXES) or (not dot and parts[-1] not in _PLAIN_FILES):
        raise InvalidError(
            f"{path}: files of this kind are not taken, since some programs run what is in them. Allowed: "
            f"{', '.join(sorted(_PLAIN_FILES))} and {', '.join('.' + known for known in sorted(_SUFFIXES))}."
        )
    return path


@dataclass(frozen=True)
class StoredFile:
    """A file of a version: its path there, and the blob that holds its bytes."""

    path: str
    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_path(self.path)
        if not 0 <= self.size_bytes <= MAX_FILE_BYTES:
            raise InvalidError(f"{self.path}: size_bytes is {self.size_bytes}; at most {MAX_FILE_BYTES}.")
        if not _SHA256.fullmatch(self.sha256):
            raise InvalidError(f"{self.path}: {self.sha256!r:.80} is not a SHA-256 in hexadecimal.")


@dataclass(frozen=True)
class Metric:
    """A score on data held back, for example score 0.21, 0.17 to 0.25, split "test".

    Attributes:
        low, high: its interval, where one was computed.
        interval: what the interval is, for example "95 %, bootstrap over sessions".
        dataset: what it was measured on; "" for everything together.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    interval: str = ""
    split: str = "test"
    dataset: str = ""

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high) if x is not None):
            raise InvalidError(f"metric {self.name!r}: numbers must be finite.")
        if (self.low is None) != (self.high is None):
            raise InvalidError(f"metric {self.name!r}: an interval has both low and high, or neither.")


@dataclass(frozen=True)
class SeenSession:
    """A session that the backbone was trained on; whoever scores on it again is fooled.

    Attributes:
        rate_hz: frames a second it was read at; None where it was not known.
    """

    dataset: str
    subject: str
    session: str
    species: str
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise InvalidError(f"session {self.session!r}: rate_hz is {self.rate_hz}; above 0, or absent.")


@dataclass(frozen=True)
class Metadata:
    """A version's description of itself. The registry keeps it and searches it; only forebrain reads config.

    Attributes:
        licence: of the weights, as SPDX writes it where it can, for example "Apache-2.0".
        config: of the model; enough to build it again.
        preprocessing: what recordings must go through before the model sees them, with the intervals that
            each step was fitted on.
        sessions: every session it was trained on.
        metrics: scores, with intervals where they were computed.
        summary: one sentence for lists and the card.
        tags: words to search by.
        parent: reference to the version this one was made from.
        run_id, code_version: of the training run and the code that trained it.
    """

    licence: str
    config: dict[str, Any]
    preprocessing: dict[str, Any]
    sessions: tuple[SeenSession, ...] = ()
    metrics: tuple[Metric, ...] = ()
    summary: str = ""
    tags: tuple[str, ...] = ()
    parent: str | None = None
    run_id: str | None = None
    code_version: str | None = None

    def __post_init__(self) -> None:
        if not self.licence.strip():
            raise InvalidError("licence is empty; nobody may use a model that names none.")
        if self.parent is not None:
            Reference.parse(self.parent)

    @property
    def species(self) -> list[str]:
        return sorted({seen.species for seen in self.sessions})

    @property
    def datasets(self) -> list[str]:
        return sorted({seen.dataset for seen in self.sessions})

    @property
    def subjects(self) -> list[str]:
        return sorted({seen.subject for seen in self.sessions})

    @property
    def rates_hz(self) -> list[float]:
        return sorted({seen.rate_hz for seen in self.sessions if seen.rate_hz is not None})

    def of_test(self, name: str = "score") -> Metric | None:
        """A figure of the test part over all data, which is what lists and columns of scores show; None where
        there is none."""
        found = (each for each in self.metrics if (each.name, each.split, each.dataset) == (name, "test", ""))
        return next(found, None)

    def has_seen(self, dataset: str, subject: str, session: str | None = None) -> bool:
        """Whether it was trained on a session, or any session of a subject, however accents are written."""
        wanted = [composed(part) for part in (dataset, subject, session) if part is not None]
        return any(
            [composed(part) for part in (seen.dataset, seen.subject, seen.session)][: len(wanted)] == wanted
            for seen in self.sessions
        )


@dataclass(frozen=True)
class VersionRecord:
    """The record that makes a version exist. Its own SHA-256 is the version's digest.

    It does not hold its number, so that a copy in another registry, whatever its number there, is the same
    record with the same digest and signatures.

    Attributes:
        id: drawn at random by the publisher, so that no two publications are the same record.
        created: when, in UTC.
        files: weights, card and whatever else belongs to the model.
        interfaces: the interfaces of the sessions trained on, a separate artifact.
    """

    format: str
    name: str
    id: str
    created: str
    files: tuple[StoredFile, ...]
    interfaces: tuple[StoredFile, ...]
    metadata: Metadata

    def __post_init__(self) -> None:
        check_name(self.name)
        if not _TIME.fullmatch(self.created):
            raise InvalidError(f"created is {self.created!r:.40}, not a time such as 2026-01-31T12:00:00Z.")
        check_paths([stored.path for stored in self.files])
        check_paths([stored.path for stored in self.interfaces])
        if WEIGHTS not in [stored.path for stored in self.files]:
            raise InvalidError(f"there is no {WEIGHTS} among the files.")


def require_side_by_side(record: VersionRecord) -> None:
    """Raises InvalidError where the folder that a version is copied to with its interfaces, in `interfaces`,
    could hold but one of a file of the model and one of them. The same file may be both."""
    files = {stored.path.lower(): stored for stored in record.files}
    for stored in record.interfaces:
        other = files.get(f"interfaces/{stored.path}".lower())
        if other is not None and other.sha256 != stored.sha256:
            raise InvalidError(
                f"{record.name}: interfaces/{stored.path} is a file of the model and, with other bytes, one "
                "of its interfaces, and they would lie in one place. Leave it out among the model's files."
            )


def check_paths(paths: Iterable[str]) -> None:
    """Raises InvalidError unless these files can lie in one folder on any system."""
    seen: dict[str, str] = {RECORD: RECORD}
    folders: set[str] = set()
    paths = list(paths)
    if len(paths) > MAX_FILES:
        raise InvalidError(f"{len(paths)} files; at most {MAX_FILES}.")
    for path in paths:
        folded = check_path(path).lower()
        if folded in seen:
            raise InvalidError(f"{path} and {seen[folded]} would be one file on some systems; rename one.")
        seen[folded] = path
        parts = folded.split("/")
        folders |= {"/".join(parts[:i]) for i in range(1, len(parts))}
    if both := folders & set(seen):
        raise InvalidError(f"{seen[both.pop()]} is both a file and a folder.")


@dataclass(frozen=True)
class Version:
    """A published version.

    Attributes:
        number: within its model and registry, from 1.
        content: the record's bytes, as stored.
    """

    number: int
    record: VersionRecord
    content: bytes = field(repr=False)

    @classmethod
    def parse(cls, content: bytes, number: int, where: str) -> Version:
        """A version from its stored record.

        Raises:
            InvalidError: it is not a record, or of a format this program does not know.
        """
        value = strict_json.parse(content, where)
        found = value.get("format") if isinstance(value, dict) else None
        if found != VERSION_FORMAT:
            raise InvalidError(
                f"{where}: format {found!r:.60}, but this program reads {VERSION_FORMAT!r}. "
                "Update forebrain, or check that this is a registry."
            )
        return cls(number, strict_json.build(VersionRecord, value, where), content)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def metadata(self) -> Metadata:
        return self.record.metadata

    @property
    def digest(self) -> str:
        """SHA-256 of the record, which holds those of all files: 64 hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blobs(self) -> tuple[StoredFile, ...]:
        """Every file of the model and of its interfaces."""
        return self.record.files + self.record.interfaces

    @property
    def size_bytes(self) -> int:
        return sum(stored.size_bytes for stored in self.record.files)

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True)
class Reference:
    """`name`, `name@3`, `name@alias` or `name@sha256:...` (at least 8 digits of the version's digest)."""

    name: str
    number: int | None = None
    alias: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises InvalidError where the text is no reference."""
        name, at, selector = text.partition("@")
        check_name(name)
        if not at:
            return cls(name)
        if _NUMBER.fullmatch(selector):
            return cls(name, number=int(selector))
        if selector.startswith("sha256:"):
            digest = selector.removeprefix("sha256:")
            if not re.fullmatch(rf"[0-9a-f]{{{MIN_DIGEST_PREFIX},64}}", digest):
                raise InvalidError(
                    f"{text!r:.120}: after sha256: come {MIN_DIGEST_PREFIX} to 64 of 0-9 and a-f."
                )
            return cls(name, digest=digest)
        try:
            return cls(name, alias=check_alias(selector))
        except InvalidError as error:
            raise InvalidError(
                f"{text!r:.120} is not a reference: name, name@3, name@alias or name@sha256:..."
            ) from error

    @property
    def is_exact(self) -> bool:
        """Whether it is a whole digest, which is one version wherever it lies."""
        return len(self.digest or "") == 64

    def __str__(self) -> str:
        selector = self.number or self.alias or (self.digest and f"sha256:{self.digest}")
        return f"{self.name}@{selector}" if selector else self.name


def checked_metadata(metadata: Metadata) -> Metadata:
    """The same metadata as it will be read back.

    Raises:
        InvalidError: something in it is no JSON, not of its type, or too deep.
    """
    try:
        content = json.dumps(dataclasses.asdict(metadata)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidError(f"metadata: cannot be written as JSON ({error!s:.120}).") from error
    return strict_json.build(Metadata, strict_json.parse(content, "metadata"), "metadata")
