"""A registry: what is published there, what names stand for, and the small records beside the versions."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from forebrain_registry import layout, strict_json
from forebrain_registry.errors import ConflictError, DamagedError, InvalidError, NotFoundError, StorageError
from forebrain_registry.lines import composed, some
from forebrain_registry.records import (
    MAX_RECORD_BYTES,
    Reference,
    StoredFile,
    Version,
    check_alias,
    check_name,
)
from forebrain_registry.storage import Folder

if TYPE_CHECKING:
    from forebrain_registry.web import WebStore

# Stands, where an address is given, for the registry that lies in forebrain's own package.
SHIPPED = "package://forebrain"
GRACE_S = 24 * 3600.0
ALIAS_FORMAT = "forebrain-alias-1"
DEPRECATION_FORMAT = "forebrain-deprecation-1"
NUMBER_FORMAT = "forebrain-number-1"
MAX_NOTE_BYTES = 64 * 1024
ANY = object()
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AliasMove:
    """A record of an alias's log; version None takes the alias away."""

    format: str
    id: str
    at: str
    version: int | None


@dataclass(frozen=True)
class Deprecation:
    """A record of a version's deprecations; reason None takes the last one back."""

    format: str
    id: str
    at: str
    reason: str | None


@dataclass(frozen=True)
class GivenNumber:
    """The note that a version was there under a number."""

    format: str
    sha256: str


class Registry:
    """The registry at an address: a folder, s3://bucket/prefix, or (to read) https://host/path.

    Nothing is reached before it is needed, and nothing is kept: every call sees what is there now.

    Args:
        uri: the address.
        grace_s: age below which blobs that no version names are spared by garbage collection. All who
            publish to a registry and collect there must agree on it.
    """

    def __init__(self, uri: str | os.PathLike[str], grace_s: float = GRACE_S) -> None:
        address = os.fspath(uri)
        self.store: Folder | WebStore
        if address.lower().startswith(("http://", "https://")):
            from forebrain_registry.web import WebStore  # imports ssl and more

            self.store = WebStore(address)
        else:
            # A registry that was sent by others could name any file of this machine by a link.
            self.store = Folder(address, follow_links=False)
        self.grace_s = grace_s
        self._may_write = False

    def __repr__(self) -> str:
        return f"Registry({self.uri!r})"

    @property
    def uri(self) -> str:
        return self.store.uri

    def writer(self) -> Folder:
        """The store, found fit for publishing.

        Raises:
            StorageError: it is read-only, or does not honour conditional writes.
        """
        if not isinstance(self.store, Folder):
            raise StorageError(f"{self.uri}: can only be read. Publish to its folder or bucket instead.")
        if not self._may_write:
            if not self.store.refuses_second():
                raise StorageError(
                    f"{self.uri}: this store ignores conditional writes (If-None-Match), so publishers could "
                    "overwrite each other; nothing was published. Use a folder, AWS S3, SeaweedFS, MinIO or "
                    "another store that honours them."
                )
            self._may_write = True
        return self.store

    def staying(self) -> contextlib.AbstractContextManager[None]:
        """Within the block a registry in a folder is not made anew where it is moved away, or its disk
        unmounted: not even where an empty folder takes its place, if a version lies in it now."""
        if not isinstance(self.store, Folder):
            return contextlib.nullcontext()
        for name, listing in layout.listings(self.records()).items():
            record = layout.record_name(layout.versions_folder(name), listing.versions[0])
            with contextlib.suppress(FileNotFoundError):  # a link to nothing
                return self.store.anchored_by(record, self.store.read(record))
        return self.store.staying()

    def is_there(self) -> bool:
        """Whether anything lies there that a registry holds; a web host must have its index."""
        if not isinstance(self.store, Folder):
            self.store.files()
            return True
        files = (*self.records(), *self.store.files(layout.BLOBS), *self.store.files(layout.COLLECTING))
        return any(map(layout.is_part, files))

    def records(self, name: str | None = None) -> Collection[str]:
        """Names of all files that lie beside the records of one model, or of all.

        Links to folders are followed: what lies behind one is pulled by its name, so it is listed, verified
        and spared by the collector as well.
        """
        folder = layout.MODELS if name is None else f"{layout.MODELS}/{name}"
        if isinstance(self.store, Folder):
            return self.store.files(folder, layout.LEVELS)
        return self.store.files(folder)

    def require(self) -> None:
        """Raises StorageError where there is no registry, as at a mistyped address."""
        if not self.is_there():
            raise StorageError(
                f"{self.uri}: there is no registry, neither models nor blobs of one. Check the address; the "
                "first that is published there begins one."
            )

    def names(self) -> list[str]:
        """Every model that has a version; none where there is no registry."""
        return list(layout.listings(self.records()))

    def all_versions(self) -> Iterator[tuple[str, list[Version]]]:
        """Every model with its versions, oldest first, from one listing of the store.

        Raises:
            StorageError: there is no registry.
        """
        found = layout.listings(self.records())
        if not found:
            self.require()
        for name, listing in found.items():
            yield name, self._read_versions(name, listing.versions)

    def newest(self) -> Iterator[Version]:
        """Of every model the newest version that is not deprecated.

        Raises:
            StorageError: there is no registry.
        """
        names = self.names()
        if not names:
            self.require()
        for name in names:
            listing = self.listing(name)
            deprecated = self._deprecations(name, listing)
            good = [number for number in listing.versions if number not in deprecated]
            if good and (lost := self._lost_newest(name, listing, deprecated)):
                _log.warning("%s Taken is %s@%d, the newest that is there.", lost, name, good[-1])
            yield from self._read_versions(name, good[-1:])

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first.

        Raises:
            NotFoundError: there is no such model; the error suggests the nearest.
            InvalidError: a record is not valid.
        """
        return self._read_versions(name, self.listing(name).versions)

    def holds(self, name: str) -> bool:
        """Whether anything of a model is there: versions, deprecated or not, or what is left of lost ones."""
        return check_name(name) in layout.all_listings(self.records(name))

    def listing(self, name: str) -> layout.Listing:
        """The numbers of a model's records. Raises NotFoundError."""
        check_name(name)
        found = layout.all_listings(self.records(name))
        if name in found and not found[name].versions:
            raise NotFoundError(
                f"{self.uri}: every version of {name} is lost; `verify {name}` says which there were. Copy "
                "them here again from where they are."
            )
        if name not in found:
            names = self.names()
            if names:
                known = f"It has {some(names)}."
            else:
                known = "It is empty." if self.is_there() else "There is no registry; check the address."
            raise NotFoundError(f"{self.uri}: no model {name!r}.{_suggest(name, names)} {known}")
        return found[name]

    def last_number(self, name: str) -> int:
        """The highest number that a version was ever given, though its record may be gone; 0 if none was."""
        listing = layout.all_listings(self.records(check_name(name))).get(name, layout.Listing())
        keys = [*listing.keys("deprecations"), *listing.keys("signatures")]
        known = [*listing.versions, *listing.given, *(int(key) for key in keys if key.isdecimal())]
        if not listing.given:  # as earlier versions of this program published
            known += self._aliases(name, listing).values()
        return max(known, default=0)

    def resolve(self, reference: str | Reference) -> Version:
        """The version that a reference stands for; `name` alone is the newest that is not deprecated.

        Raises:
            InvalidError: it is no reference, or a digest's first digits fit several versions.
            NotFoundError: no such model, version or alias, and the error suggests the nearest; or the newest
                is lost.
        """
        wanted = reference if isinstance(reference, Reference) else Reference.parse(reference)
        listing = self.listing(wanted.name)
        if wanted.digest is not None:
            return self._by_digest(wanted, listing)
        if wanted.alias is not None:
            move = self._last_moves(wanted.name, listing, [wanted.alias]).get(wanted.alias)
            number = move.version if move else None
            if number is None:
                raise self._no_alias(wanted.name, wanted.alias, listing)
        elif wanted.number is not None:
            number = wanted.number
        else:
            number = self._newest(wanted.name, listing)
        if number not in listing.versions:
            nearest = min(listing.versions, key=lambda known: (abs(known - number), -known))
            raise NotFoundError(
                f"{self.uri}: {wanted.name} has no version {number}; the nearest is {wanted.name}@{nearest}."
            )
        return self._read_versions(wanted.name, [number])[0]

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> the version it stands for now. Raises NotFoundError."""
        return self._aliases(name, self.listing(name))

    def alias_history(self, name: str, alias: str) -> list[AliasMove]:
        """Every move of an alias, oldest first. Raises NotFoundError."""
        folder = layout.log_folder(name, "aliases", check_alias(alias))
        numbers = self.listing(name).logs.get(("aliases", alias), [])
        return self._notes(AliasMove, name, [layout.record_name(folder, number) for number in numbers])

    def set_alias(self, name: str, alias: str, version: int | None, expect: int | object | None = ANY) -> int:
        """Points an alias at a version, or at none, by compare-and-set; returns how often it has moved.

        Args:
            expect: the version it must stand for at present, None for none; by default whatever it stands
                for when this call begins.

        Raises:
            NotFoundError: no such model or version, or none to take away.
            ConflictError: it stands for another version, or somebody moved it at the same time.
        """
        store = self.writer()
        folder = layout.log_folder(name, "aliases", check_alias(alias))
        listing = self.listing(name)
        if version is not None and version not in listing.versions:
            raise NotFoundError(f"{self.uri}: {name} has no version {version}.")
        last = listing.last("aliases", alias)
        before = self._last_moves(name, listing, [alias]).get(alias)
        current = before.version if before else None
        if expect is not ANY and current != expect:
            raise ConflictError(
                f"{self.uri}: {name}@{alias} stands for {_or_none(current)}, not for {_or_none(expect)} as "
                "expected. Look who moved it, then try again."
            )
        if version is None and current is None:
            raise self._no_alias(name, alias, listing)
        move = AliasMove(ALIAS_FORMAT, layout.new_id(), layout.now(), version)
        try:
            store.create(layout.record_name(folder, last + 1), strict_json.dump(move))
        except FileExistsError as error:
            raise ConflictError(
                f"{self.uri}: somebody else moved {name}@{alias} at the same time. "
                "Look where, then try again."
            ) from error
        return last + 1

    def deprecations(self, name: str) -> dict[int, str]:
        """Deprecated version -> why. Raises NotFoundError."""
        return self._deprecations(name, self.listing(name))

    def deprecate(self, name: str, version: int, reason: str | None) -> None:
        """Deprecates a version, or with None takes that back: `name` alone passes over it from now on.

        Raises:
            NotFoundError: no such model or version.
            ConflictError: somebody did the like at the same time.
        """
        store = self.writer()
        listing = self.listing(name)
        if version not in listing.versions:
            raise NotFoundError(f"{self.uri}: {name} has no version {version}.")
        if reason is not None and not 0 < len(reason.strip()) <= 1000:
            raise InvalidError("a deprecation needs a reason of at most 1000 characters.")
        content = strict_json.dump(Deprecation(DEPRECATION_FORMAT, layout.new_id(), layout.now(), reason))
        strict_json.parse(content, "reason")
        try:
            store.create(
                layout.record_name(
                    layout.log_folder(name, "deprecations", version),
                    listing.last("deprecations", version) + 1,
                ),
                content,
            )
        except FileExistsError as error:
            raise ConflictError(
                f"{self.uri}: somebody else deprecated {name}@{version} at the same time."
            ) from error

    def signatures(self, version: Version) -> list[bytes]:
        """The Sigstore bundles stored beside a version, oldest first; nothing is verified here."""
        folder = layout.log_folder(version.name, "signatures", version.number)
        numbers = self.listing(version.name).logs.get(("signatures", f"{version.number:08}"), [])
        names = [layout.record_name(folder, number) for number in numbers]
        found = self._read_many(version.name, names, MAX_RECORD_BYTES)
        return [found[name] for name in names]

    def add_signature(self, version: Version, bundle: bytes) -> None:
        """Stores a Sigstore bundle beside a version; nothing happens where it is there already."""
        store = self.writer()
        folder = layout.log_folder(version.name, "signatures", version.number)
        while bundle not in self.signatures(version):
            last = self.listing(version.name).last("signatures", version.number)
            try:
                store.create(layout.record_name(folder, last + 1), bundle)
            except FileExistsError:
                continue

    def blob_problem(
        self, stored: StoredFile, write: Callable[[bytes], object] = lambda chunk: None
    ) -> str | None:
        """Reads the blob of a file through, and says what is wrong with it; None if it is as published.

        Args:
            write: gets its bytes, piece by piece.

        Raises:
            StorageError: it cannot be read.
        """
        digest, size = hashlib.sha256(), 0
        try:
            for chunk in self.store.chunks(layout.blob_name(stored.sha256)):
                digest.update(chunk)
                size += len(chunk)
                write(chunk)
                if size > stored.size_bytes:
                    break
        except FileNotFoundError:
            return "is missing"
        if size != stored.size_bytes:
            more = "more" if size > stored.size_bytes else "less"
            return f"is damaged: it has {more} than its {stored.size_bytes} bytes"
        good = digest.hexdigest() == stored.sha256
        return None if good else "is damaged: it has other bytes than were published"

    def search(self, words: str) -> list[Version]:
        """The newest versions, one a model, whose name or metadata hold every word, in any case, however
        accents are written."""
        wanted = composed(words.lower()).split()
        found = []
        for name, versions in self.all_versions():
            for version in reversed(versions):
                meta = version.metadata
                about = (*meta.tags, *meta.species, *meta.datasets, *meta.subjects)
                text = composed(" ".join((name, meta.summary, meta.licence, *about)).lower())
                if all(word in text for word in wanted):
                    found.append(version)
                    break
        return found

    def _read_versions(self, name: str, numbers: list[int]) -> list[Version]:
        folder = layout.versions_folder(name)
        names = {number: layout.record_name(folder, number) for number in numbers}
        contents = self._read_many(name, list(names.values()), MAX_RECORD_BYTES)
        versions = []
        for number, path in names.items():
            version = Version.parse(contents[path], number, f"{self.uri}/{path}")
            if version.name != name:
                raise InvalidError(f"{self.uri}/{path}: is a record of {version.name!r}, not of {name!r}.")
            versions.append(version)
        return versions

    def _read_many(self, model: str, names: list[str], max_bytes: int) -> dict[str, bytes]:
        try:
            return self.store.read_all(names, max_bytes)
        except FileNotFoundError as error:
            raise DamagedError(f"{self.uri}: a record of {model} is listed but missing ({error}).") from error

    def _by_digest(self, wanted: Reference, listing: layout.Listing) -> Version:
        digest = wanted.digest or ""
        found = [
            version
            for version in self._read_versions(wanted.name, listing.versions)
            if version.digest.startswith(digest)
        ]
        if not found:
            raise NotFoundError(f"{self.uri}: {wanted.name} has no version with the digest sha256:{digest}.")
        if len({version.digest for version in found}) > 1:
            fitting = ", ".join(f"{version} (sha256:{version.digest[:16]})" for version in found)
            raise InvalidError(f"{wanted}: fits several versions, {fitting}. Give more digits.")
        return found[0]

    def _newest(self, name: str, listing: layout.Listing) -> int:
        deprecated = self._deprecations(name, listing)
        if lost := self._lost_newest(name, listing, deprecated):
            raise NotFoundError(
                f"{lost} Bring that record back, or publish the next version; or name a version to take "
                "another all the same."
            )
        good = [number for number in listing.versions if number not in deprecated]
        if not good:
            last = max(listing.versions)
            raise NotFoundError(
                f"{self.uri}: every version of {name} is deprecated; the last, {name}@{last}, because: "
                f"{deprecated[last]}. Name a version to take it all the same."
            )
        return max(good)

    def _lost_newest(self, name: str, listing: layout.Listing, deprecated: Collection[int]) -> str:
        """What to say where the version that a name should stand for is lost; "" where it is not."""
        last = max(listing.given, default=0)
        record = layout.record_name(layout.versions_folder(name), last)
        # One that is published just now may have been noted since the records were listed.
        if last <= max(listing.versions) or last in deprecated or self.store.stat(record) is not None:
            return ""
        return f"{self.uri}: {name}@{last}, the newest version, is lost: {record} is not there."

    def _no_alias(self, name: str, alias: str, listing: layout.Listing) -> NotFoundError:
        known = list(self._aliases(name, listing))
        return NotFoundError(
            f"{self.uri}: {name} has no alias {alias!r}.{_suggest(alias, known)} "
            f"It has {', '.join(known) or 'none'}."
        )

    def _aliases(self, name: str, listing: layout.Listing) -> dict[str, int]:
        moves = self._last_moves(name, listing, listing.keys("aliases"))
        return {alias: move.version for alias, move in moves.items() if move.version is not None}

    def _last_moves(self, name: str, listing: layout.Listing, aliases: list[str]) -> dict[str, AliasMove]:
        keys = [check_alias(alias) for alias in aliases if listing.last("aliases", alias)]
        return dict(zip(keys, self._last_notes(AliasMove, name, "aliases", keys, listing), strict=True))

    def _deprecations(self, name: str, listing: layout.Listing) -> dict[int, str]:
        keys = [key for key in listing.keys("deprecations") if key.isdecimal()]
        notes = self._last_notes(Deprecation, name, "deprecations", keys, listing)
        return {
            int(key): note.reason for key, note in zip(keys, notes, strict=True) if note.reason is not None
        }

    def _last_notes(
        self, kind: type[_T], name: str, log: str, keys: list[str], listing: layout.Listing
    ) -> list[_T]:
        """The newest record of each of these logs."""
        names = [
            layout.record_name(layout.log_folder(name, log, key), listing.last(log, key)) for key in keys
        ]
        return self._notes(kind, name, names)

    def _notes(self, kind: type[_T], name: str, names: list[str]) -> list[_T]:
        contents = self._read_many(name, names, MAX_NOTE_BYTES)
        return [
            strict_json.build(kind, strict_json.parse(contents[record], where), where)
            for record in names
            for where in [f"{self.uri}/{record}"]
        ]


def places_of(registries: Sequence[Registry], reference: str) -> list[Registry]:
    """Those of several registries that a reference is looked up in, one after another.

    A name is that of the first which holds anything of it, deprecated or lost as it may be: what another has
    of that name is another model. Where that is not the first of all, a line says so. A whole digest is one
    version wherever it lies, and is looked for in all.

    Raises:
        InvalidError: it is no reference.
        StorageError: what holds nothing of it is no registry, or cannot be read.
    """
    wanted = Reference.parse(reference)
    if len(registries) < 2 or wanted.is_exact:
        return list(registries)
    for registry in registries:
        if registry.holds(wanted.name):
            if registry is not registries[0]:
                _log.warning(
                    "%s: holds nothing of the name %s; the one in %s is taken.",
                    registries[0].uri,
                    wanted.name,
                    registry.uri,
                )
            return [registry]
        registry.require()
    return [registries[0]]


def _or_none(version: object) -> str:
    return "no version" if version is None else f"version {version}"


def _suggest(wanted: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""
