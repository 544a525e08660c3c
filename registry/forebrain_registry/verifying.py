"""Walks a registry and reads every byte of it; and the index by which a web host shows one."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from forebrain_registry import layout, strict_json
from forebrain_registry.errors import RegistryError
from forebrain_registry.layout import INDEX, INDEX_FORMAT, Index, IndexedFile
from forebrain_registry.records import MAX_RECORD_BYTES, StoredFile, Version, check_name
from forebrain_registry.registry import MAX_NOTE_BYTES, AliasMove, Deprecation, GivenNumber, Registry
from forebrain_registry.storage import PARTIAL, Folder

_PASSES = 10  # of writing the index, while others publish
_log = logging.getLogger(__name__)


@dataclass
class Findings:
    """The findings of a walk through a registry.

    Attributes:
        versions, blobs, checked_bytes: what was read.
        problems: what is lost, damaged, half or twice; empty where all is well.
        unnamed: blobs and remains that no version names: what `gc` would collect in time.
    """

    versions: int = 0
    blobs: int = 0
    checked_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    unnamed: int = 0


def verify(registry: Registry, name: str | None = None) -> Findings:
    """Checks all models of a registry, or one: every record, every blob's hash, every alias's target.

    Raises:
        NotFoundError, StorageError: it cannot be looked at. What is wrong inside is in the result.
    """
    if name is not None:
        found = layout.all_listings(registry.records(check_name(name)))
        if name not in found:
            registry.listing(name)  # raises
    else:
        found = layout.all_listings(registry.records())
        if not found:
            registry.require()
    findings = Findings()
    checked: set[str] = set()
    for model, listing in found.items():
        _verify_model(registry, model, listing, checked, findings)
    if name is None and isinstance(registry.store, Folder):
        blobs = {file: layout.blob_of(file) for file in registry.store.files("blobs")}
        findings.unnamed = sum(
            sha256 not in checked or file.endswith(PARTIAL) for file, sha256 in blobs.items()
        )
    return findings


def verify_version(registry: Registry, version: Version) -> Findings:
    """Checks one version's record and blobs."""
    findings = Findings(versions=1)
    with _noting(findings):
        _verify_record(registry, version, findings)
    _verify_blobs(registry, version, set(), findings)
    return findings


def write_index(registry: Registry) -> int:
    """Writes index.json, by which a web host that serves the folder shows what is in it.

    Returns:
        The number of records it names.

    Raises:
        StorageError: there is no registry, or it cannot be written to.
    """
    registry.require()
    store = registry.writer()
    names = layout.record_names(registry.records())
    for _ in range(_PASSES):
        contents = store.read_all(names, MAX_RECORD_BYTES)
        index = Index(
            INDEX_FORMAT,
            tuple(
                IndexedFile(name, len(contents[name]), hashlib.sha256(contents[name]).hexdigest())
                for name in names
            ),
        )
        store.write(INDEX, strict_json.dump(index))
        # Another, that has listed more, may have written before this one.
        written, names = names, layout.record_names(registry.records())
        if names == written:
            return len(written)
    _log.warning(
        "%s: records came all the while that %s was written, %d times. It may lack the last of them: run "
        "`index` again once the others have ended.",
        store.uri,
        INDEX,
        _PASSES,
    )
    return len(written)


def _verify_model(
    registry: Registry, name: str, listing: layout.Listing, checked: set[str], findings: Findings
) -> None:
    with _noting(findings):
        check_name(name)
    _check_numbers(f"{name}: version", listing.versions, findings, max(listing.given, default=0))
    digests: dict[str, int] = {}
    for number in listing.versions:
        with _noting(findings):
            version = registry.resolve(f"{name}@{number}")
            findings.versions += 1
            if version.digest in digests:
                findings.problems.append(f"{version}: is {name}@{digests[version.digest]} a second time")
            digests[version.digest] = number
            _verify_record(registry, version, findings)
            _verify_blobs(registry, version, checked, findings)
    for (kind, key), numbers in sorted(listing.logs.items()):
        _check_numbers(f"{name}: {kind}/{key} record", numbers, findings)
        if kind != "aliases" and (not key.isdecimal() or int(key) not in listing.versions):
            findings.problems.append(f"{name}: {kind} of {key}, which is no version")
        for number in numbers:
            with _noting(findings):
                _verify_note(registry, name, kind, key, number, listing.versions, findings)


def _verify_record(registry: Registry, version: Version, findings: Findings) -> None:
    """Compares a record with the note of its number; earlier versions of this program left none."""
    path = layout.record_name(layout.numbers_folder(version.name), version.number)
    try:
        note = strict_json.build(
            GivenNumber, strict_json.parse(registry.store.read(path, MAX_NOTE_BYTES), path), path
        )
    except FileNotFoundError:
        return
    if note.sha256 != version.digest:
        findings.problems.append(
            f"{version}: its record is not the one that was published, sha256 {note.sha256}; it was changed "
            "or damaged since"
        )


def _verify_note(
    registry: Registry, name: str, kind: str, key: str, number: int, versions: list[int], findings: Findings
) -> None:
    path = layout.record_name(layout.log_folder(name, kind, key), number)
    value = strict_json.parse(registry.store.read(path, MAX_RECORD_BYTES), path)
    if kind == "aliases":
        move = strict_json.build(AliasMove, value, path)
        if move.version is not None and move.version not in versions:
            findings.problems.append(f"{path}: points at version {move.version}, which is not there")
    elif kind == "deprecations":
        strict_json.build(Deprecation, value, path)


def _verify_blobs(registry: Registry, version: Version, checked: set[str], findings: Findings) -> None:
    for stored in version.blobs:
        if stored.sha256 not in checked:
            checked.add(stored.sha256)
            findings.blobs += 1
            if problem := _blob_problem(registry, stored, findings):
                findings.problems.append(f"{version}: {stored.path}: blob {stored.sha256} {problem}")


def _blob_problem(registry: Registry, stored: StoredFile, findings: Findings) -> str | None:
    def count(chunk: bytes) -> None:
        findings.checked_bytes += len(chunk)

    try:
        return registry.blob_problem(stored, count)
    except RegistryError as error:
        return f"cannot be read: {error}"


def _check_numbers(what: str, numbers: list[int], findings: Findings, last: int = 0) -> None:
    for number in sorted(set(range(1, max([last, *numbers]) + 1)) - set(numbers)):
        findings.problems.append(f"{what} {number} is lost")


@contextlib.contextmanager
def _noting(findings: Findings) -> Iterator[None]:
    try:
        yield
    except (RegistryError, FileNotFoundError) as error:
        findings.problems.append(str(error))
