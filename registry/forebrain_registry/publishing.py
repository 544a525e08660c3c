"""Publishing: blobs first, then the record. Whatever kills the publisher, a version is there whole or not.

Blobs that no record names yet may be collected once they outlive the grace period, as while a machine sleeps.
So they are looked at again when the record is there.

What is hashed and stored is a copy that nobody else writes to: bytes under another content's hash would
be taken for it by every version that shares the blob.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from forebrain_registry import layout, strict_json
from forebrain_registry.card import front_matter, make_card
from forebrain_registry.collector import wait_for_collectors
from forebrain_registry.errors import ConflictError, DamagedError, InvalidError, NotFoundError, StorageError
from forebrain_registry.records import (
    CARD,
    HUB_CARD,
    PICTURE,
    RECORD,
    VERSION_FORMAT,
    WEIGHTS,
    Metadata,
    StoredFile,
    Version,
    VersionRecord,
    check_name,
    check_paths,
    checked_metadata,
    require_side_by_side,
)
from forebrain_registry.registry import MAX_NOTE_BYTES, NUMBER_FORMAT, GivenNumber, Registry
from forebrain_registry.storage import Folder, path_here

METADATA = "metadata.json"
_log = logging.getLogger(__name__)
MAX_HEADER_BYTES = 100 * 2**20
_Identity = tuple[int, int, int] | None
Files = str | os.PathLike[str] | Mapping[str, bytes | str | os.PathLike[str]]


def publish(
    registry: Registry,
    name: str,
    files: Files,
    metadata: Metadata | str | os.PathLike[str],
    interfaces: Files | None = None,
) -> Version:
    """Publishes a version of a model, and returns it with the number it got.

    What the name stands for already, the same files with the same metadata, makes no second version, so that
    a command can be given again: blobs of it that were lost or damaged are stored again.

    Args:
        name: of the model, new or not.
        files: a folder, or path within the version -> content or a local file. `model.safetensors` must be
            among them; a model card is made where there is none, with the picture `forecasts.png` if there
            is one, and `hub.yaml`. Of a folder, hidden files, `version.json` and `metadata.json` are left
            out.
        metadata: or the file, JSON or YAML, that holds them.
        interfaces: the like for the interfaces of the sessions trained on, a separate artifact.

    Raises:
        InvalidError: a name, path, file or metadata that a version may not have, or a file that was changed
            meanwhile. Nothing was stored.
        StorageError: the registry cannot be written, or cannot be published to safely; or the version is
            there, which the error says, and what comes after failed.
    """
    check_name(name)
    seen: dict[Path, _Identity] = {}
    if not isinstance(metadata, Metadata):
        path = path_here(metadata)
        seen[path] = _identity(path)
        metadata = _read_metadata(path)
    metadata = checked_metadata(metadata)
    with registry.staying(), _prepared(name, files, metadata, interfaces, seen) as (sources, of_interfaces):
        record = VersionRecord(
            VERSION_FORMAT,
            name,
            layout.new_id(),
            layout.now(),
            tuple(sources),
            tuple(of_interfaces),
            metadata,
        )
        content = strict_json.dump(record)
        Version.parse(content, 1, name)
        require_side_by_side(record)
        registry.writer()
        last = registry.last_number(name)  # before looking: one that comes since is met under its number
        version = _same_version(registry, name, record)
        if version is not None:
            _store_lacking(registry, sources | of_interfaces)
            note_number(registry, version)
        else:
            version = _store_version(registry, name, content, sources | of_interfaces, last, record)
    if version.content != content:
        _log.warning("%s: %s is this already, with the same files and metadata.", registry.uri, version)
    return version


def restore(
    registry: Registry, version: Version, files: Files, interfaces: Files | None = None
) -> list[StoredFile]:
    """Stores blobs of a version again that were lost or damaged, where files hold what was published.

    Args:
        files, interfaces: as for `publish`.

    Returns:
        What is still lacking.
    """
    prepared = _prepared(version.name, files, version.metadata, interfaces, {})
    with registry.staying(), prepared as (sources, of_interfaces):
        given = {stored.sha256: path for stored, path in (sources | of_interfaces).items()}
        lacking = [stored for stored in version.blobs if not _is_whole(registry, stored)]
        found = {stored: given[stored.sha256] for stored in lacking if stored.sha256 in given}
        _store_blobs(registry, found, set(found))
    if found:
        paths = ", ".join(stored.path for stored in found)
        _log.warning("%s: %s: stored again, since it was lost or damaged: %s.", registry.uri, version, paths)
    return [stored for stored in lacking if stored not in found]


def copy(source: Registry, reference: str, target: Registry) -> Version:
    """Copies a version with its interfaces and signatures to another registry, and why it is deprecated.

    The record is the same to the byte, so digest and signatures stay; the number is the next one there.
    Copying again, also at the same time, makes no second one; blobs that were lost or damaged there are
    brought again, for which all are read.

    Raises:
        NotFoundError, InvalidError: there is no such version.
        DamagedError: a blob is not what its record names; nothing was made visible.
    """
    version = source.resolve(reference)
    target.writer()
    last = target.last_number(version.name)  # before looking: one that comes since is met under its number
    copied = _known(target, version.name).get(version.digest)
    lacking = [stored for stored in version.blobs if copied is None or not _is_whole(target, stored)]
    with target.staying(), _scratch() as scratch:
        sources = {stored: _fetched(source, stored, scratch) for stored in lacking}
        if copied is None:
            copied = _store_version(target, version.name, version.content, sources, last)
        else:
            if sources:
                _store_blobs(target, sources, set(lacking))
            note_number(target, copied)
    for bundle in source.signatures(version):
        target.add_signature(copied, bundle)
    why = source.deprecations(version.name).get(version.number)
    # What was said of it there, also that it no longer is, stands.
    if why is not None and not target.listing(version.name).last("deprecations", copied.number):
        with contextlib.suppress(ConflictError):  # another copy said so at the same time
            target.deprecate(version.name, copied.number, why)
    return copied


def _read_metadata(path: Path) -> Metadata:
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise InvalidError(
            f"{path}: cannot be read ({error.strerror}). Metadata need a JSON or YAML file."
        ) from error
    if path.suffix in (".yaml", ".yml"):
        import yaml

        from forebrain_registry import plain_yaml

        try:
            data = json.dumps(plain_yaml.load(data.decode())).encode()
        except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
            raise InvalidError(f"{path}: not valid YAML for metadata ({error}).") from error
    return strict_json.build(Metadata, strict_json.parse(data, str(path)), str(path))


def check_safetensors(path: Path) -> None:
    """Raises InvalidError unless a file is laid out as safetensors: a header that accounts for every byte."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise InvalidError(f"{path}: not a safetensors file. Save weights with safetensors.")
        header = strict_json.parse(stream.read(length), str(path))
    if not isinstance(header, dict):
        raise InvalidError(f"{path}: not a safetensors file: its header is no object.")
    places = []
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(x) is int for x in offsets)):
            raise InvalidError(f"{path}: not a safetensors file: tensor {key!r:.80} has no data_offsets.")
        places.append(offsets)
    end = 0
    for begin, own_end in sorted(places):
        if begin != end or own_end < begin:
            raise InvalidError(
                f"{path}: not a safetensors file: its tensors overlap or leave a gap at {end}."
            )
        end = own_end
    if 8 + length + end != size:
        raise InvalidError(
            f"{path}: {size} bytes, but its header says {8 + length + end}. The file was cut or grew."
        )


@contextlib.contextmanager
def _prepared(
    name: str, files: Files, metadata: Metadata, interfaces: Files | None, seen: Mapping[Path, _Identity]
) -> Iterator[tuple[dict[StoredFile, Path], dict[StoredFile, Path]]]:
    """Copies of a version's files, checked and with a card, and of its interfaces; gone after the block.

    Args:
        seen: files that were read before, as they were then. None of these and of the version's may change
            until all are copied: they would be parts of two models.
    """
    found = _found(files)
    found_interfaces = _found(interfaces or {})
    given = [*found.values(), *found_interfaces.values()]
    seen = {path: _identity(path) for path in given if isinstance(path, Path)} | dict(seen)
    if not isinstance(files, Mapping):
        _leave_out_pulled(found, path_here(files), name, metadata)
    if WEIGHTS not in found:
        raise InvalidError(f"there is no {WEIGHTS} among the files; a version cannot do without.")
    with _scratch() as scratch:
        if CARD not in found:
            found[CARD] = make_card(name, metadata, PICTURE if PICTURE in found else None).encode()
        found.setdefault(HUB_CARD, front_matter(name, metadata).encode())
        check_paths(found)
        check_paths(found_interfaces)
        local = _staged(found, scratch / "files")
        local_interfaces = _staged(found_interfaces, scratch / "interfaces")
        for path, before in seen.items():
            if _identity(path) != before:
                raise InvalidError(
                    f"{path}: was changed while it was published. Publish again when it is finished."
                )
        for source in (*local.values(), *local_interfaces.values()):
            if source.suffix == ".safetensors":
                check_safetensors(source)
        yield _described(local), _described(local_interfaces)


def _leave_out_pulled(found: dict[str, bytes | Path], folder: Path, name: str, metadata: Metadata) -> None:
    """Takes away what a folder holds of the version that was pulled into it, and tells nothing of this one:
    a card would give the scores and licence of other weights."""
    try:
        pulled = Version.parse((folder / RECORD).read_bytes(), 1, str(folder / RECORD)).record
    except (OSError, InvalidError):  # none was
        return
    hashes = {stored.path: stored.sha256 for stored in pulled.files}

    def is_pulled(path: str) -> bool:
        file = found.get(path)
        if not isinstance(file, Path) or file.is_symlink() or not file.is_file():
            return False
        return hash_file(file) == hashes.get(path)

    left_out = [
        path for path in (f"interfaces/{stored.path}" for stored in pulled.interfaces) if path in found
    ]
    if (pulled.name, pulled.metadata) != (name, metadata) or not is_pulled(WEIGHTS):
        left_out += filter(is_pulled, (CARD, HUB_CARD, PICTURE))
    for path in left_out:
        del found[path]
    if left_out:
        _log.warning(
            "%s: left out, since they are of the version of %s that was pulled there: %s. A card is made "
            "anew; interfaces are given as a folder of their own.",
            folder,
            pulled.name,
            ", ".join(left_out),
        )


def _found(files: Files) -> dict[str, bytes | Path]:
    if isinstance(files, Mapping):
        return {
            path: content if isinstance(content, bytes) else path_here(content)
            for path, content in files.items()
        }
    folder = path_here(files)
    if not folder.is_dir():
        raise InvalidError(f"{folder}: no such folder.")
    found: dict[str, bytes | Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or str(relative) in (RECORD, METADATA):
            continue
        if not path.is_dir() or path.is_symlink():
            found[relative.as_posix()] = path
    return found


def _staged(files: Mapping[str, bytes | Path], scratch: Path) -> dict[str, Path]:
    """Copies of the files, by their paths within the version."""
    staged = {path: scratch / path for path in files}
    for path, content in files.items():
        staged[path].parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            staged[path].write_bytes(content)
            continue
        _require_file(content)
        shutil.copyfile(content, staged[path])
    return staged


def _identity(path: Path) -> _Identity:
    """What differs once a file is written to or replaced; None where there is none, and of a pipe."""
    try:
        info = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(info.st_mode):
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for copies, gone after the block."""
    try:
        with tempfile.TemporaryDirectory(prefix="forebrain-registry-") as folder:
            yield Path(folder)
    except OSError as error:
        raise StorageError(
            f"{error.filename or tempfile.gettempdir()}: {error.strerror or error}. Check the file "
            f"and its rights, and the room for copies in {tempfile.gettempdir()} (TMPDIR)."
        ) from error


def _require_file(path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise InvalidError(f"{path}: not a regular file. Links are not followed; copy what they name.")


def _described(files: Mapping[str, Path]) -> dict[StoredFile, Path]:
    """The record's entries for the files, with these."""
    return {
        StoredFile(path, source.stat().st_size, hash_file(source)): source
        for path, source in sorted(files.items())
    }


def hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _store_version(
    registry: Registry,
    name: str,
    content: bytes,
    sources: Mapping[StoredFile, Path],
    last: int,
    like: VersionRecord | None = None,
) -> Version:
    """Stores a version's blobs, then its record.

    Args:
        last: the number after which one is looked for, or this very version.
        like: the version may as well be another's with this content, published since.
    """
    _store_lacking(registry, sources)
    version = _create_version(registry, name, content, last, like)
    with _published(registry, name, version.number):
        # If this machine slept in between, they may have outlived the grace period. Now they have a name.
        _store_blobs(registry, sources, set())
    return version


def _same_version(registry: Registry, reference: str, record: VersionRecord) -> Version | None:
    """The version that a reference stands for at present, where it was published of the same content."""
    with contextlib.suppress(NotFoundError, InvalidError, DamagedError):
        version = registry.resolve(reference)
        if dataclasses.replace(version.record, id=record.id, created=record.created) == record:
            return version
    return None


@contextlib.contextmanager
def _published(registry: Registry, name: str, number: int) -> Iterator[None]:
    """Has an error say that the version is there."""
    try:
        yield
    except (StorageError, FileNotFoundError) as error:
        raise StorageError(
            f"{registry.uri}: {name}@{number} is published, but then: {error} `verify` tells whether all "
            "of it is there; only if not, publish the same files again."
        ) from error


def _store_lacking(registry: Registry, sources: Mapping[StoredFile, Path]) -> None:
    """Stores the blobs of these that are not there as they should be; all are read."""
    _store_blobs(registry, sources, {stored for stored in sources if not _is_whole(registry, stored)})


def _store_blobs(registry: Registry, sources: Mapping[StoredFile, Path], lacking: Set[StoredFile]) -> None:
    """Stores blobs so that they are there, whole, and stay, until a record names them.

    Args:
        lacking: those that are known to be gone or damaged; of the others only size and age are looked at.
    """
    store = registry.writer()
    to_store, has_waited = {stored.sha256 for stored in lacking}, False
    for _ in range(10):
        now_s = store.clock_s()
        # A list, since every blob must be looked at.
        changed = [
            _store_blob(store, stored, source, now_s - registry.grace_s / 2, to_store)
            for stored, source in sources.items()
        ]
        if has_waited and not any(changed):
            return
        # Also where none was changed: it may be young by another publisher, after a collector saw it old.
        if not wait_for_collectors(store) and not any(changed):
            return
        has_waited = True
    raise StorageError(f"{registry.uri}: blobs disappear as they are stored. Is a collector running wild?")


def _store_blob(
    store: Folder, stored: StoredFile, source: Path, young_since_s: float, lacking: set[str]
) -> bool:
    """Makes sure that a blob is there, whole and young; returns whether it was not.

    Args:
        lacking: hashes of those that are gone or damaged; of the ones stored here no longer.
    """
    name = layout.blob_name(stored.sha256)
    there = store.stat(name)
    if there is None or there.size_bytes != stored.size_bytes or stored.sha256 in lacking:
        store.upload(name, source)
        lacking.discard(stored.sha256)
    elif not there.modified_s >= young_since_s:  # also where that is unknown
        store.renew(name, source)
    else:
        return False
    return True


def _is_whole(registry: Registry, stored: StoredFile) -> bool:
    """Whether a blob is there with the bytes that its name promises; they are read."""
    with contextlib.suppress(StorageError):  # what cannot be read is stored anew
        return registry.blob_problem(stored) is None
    return False


def _create_version(
    registry: Registry, name: str, content: bytes, last: int, like: VersionRecord | None
) -> Version:
    """Creates the record under the first number after `last` that no version had, or that this very one has.
    Where it meets a version like `like` before, it returns that."""
    store = registry.writer()
    versions = layout.versions_folder(name)
    for number in range(last + 1, min(last + 10_000, layout.MAX_NUMBER + 1)):
        record = layout.record_name(versions, number)
        try:
            store.create(record, content)
        except FileExistsError:
            if like is not None and (same := _same_version(registry, f"{name}@{number}", like)):
                return same
            continue
        except StorageError as error:  # its answer may have been lost, or it may be carried out later
            raise StorageError(
                f"{error} Before publishing again: `list {name}` tells whether {name}@{number} is there."
            ) from error
        version = Version.parse(content, number, name)
        # Not before the record: of a publisher that was killed in between it would seem to be lost.
        with _published(registry, name, number):
            is_noted = note_number(registry, version)
        if is_noted:
            return version
        store.remove_file(record)  # the number is another's, whose record was removed since `last` was read
    raise ConflictError(f"{store.uri}: {name}: no free number after {last}; the listing seems out of date.")


def note_number(registry: Registry, version: Version) -> bool:
    """Notes that a version was given its number; False where it is noted that another was. Also for one whose
    publisher was killed in between."""
    name = layout.record_name(layout.numbers_folder(version.name), version.number)
    note = strict_json.dump(GivenNumber(NUMBER_FORMAT, version.digest))
    store = registry.writer()
    try:
        store.create(name, note)
    except FileExistsError:
        return store.read(name, MAX_NOTE_BYTES) == note
    return True


def _known(registry: Registry, name: str) -> dict[str, Version]:
    try:
        return {version.digest: version for version in registry.versions(name)}
    except NotFoundError:
        return {}


def _fetched(registry: Registry, stored: StoredFile, scratch: Path) -> Path:
    """A checked local copy of a blob."""
    path = scratch / stored.sha256
    with path.open("wb") as stream:
        problem = registry.blob_problem(stored, stream.write)
    if problem:
        raise DamagedError(
            f"{registry.uri}: blob {stored.sha256} of {stored.path} {problem}; `verify` finds more."
        )
    return path
