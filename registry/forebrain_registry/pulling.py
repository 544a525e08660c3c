"""Pulling a version into the cache of this machine, from where it can be used without the registry.

    versions/DIGEST/model/         version.json (the record, written last), model.safetensors, README.md, ...
    versions/DIGEST/interfaces/    interfaces of the training sessions, where they were asked for
    versions/DIGEST/partial/       files that have begun to come, by hash; the next pull goes on with them
    references/REGISTRY/NAME/      what references stood for when they were last looked up
    locks/                         one a version: one process fetches, the others wait and then read

Every file is hashed each time it is handed out; one that does not match is fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forebrain_registry import layout, strict_json
from forebrain_registry.errors import DamagedError, InvalidError, NotFoundError, RegistryError, StorageError
from forebrain_registry.records import (
    MAX_RECORD_BYTES,
    RECORD,
    Reference,
    StoredFile,
    Version,
    require_side_by_side,
)
from forebrain_registry.registry import MAX_NOTE_BYTES, Registry
from forebrain_registry.storage import Folder, partial_beside, path_here, tell_of_partial_beside

if TYPE_CHECKING:
    from forebrain_registry.web import WebStore

_log = logging.getLogger(__name__)
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Pulled:
    """A version on this machine, every file checked.

    Attributes:
        folder: the model: version.json, model.safetensors, README.md, ...
        interfaces: the folder of the training sessions' interfaces, where they were asked for.
        registry: the address of the one it is from: of a whole digest in the cache perhaps not the one asked.
        deprecated: why it is, as the registry says; None where it is not, or the cache was enough.
    """

    version: Version
    folder: Path
    interfaces: Path | None
    registry: str
    deprecated: str | None = None


@dataclass(frozen=True)
class _Remembered:
    """The version that a reference stood for in a registry."""

    registry: str
    reference: str
    digest: str
    number: int


def default_cache() -> Path:
    """FOREBRAIN_CACHE or FOREBRAIN_HOME, else the user's cache folder on this system.

    Raises:
        StorageError: the user has no home.
    """
    if given := os.environ.get("FOREBRAIN_CACHE") or os.environ.get("FOREBRAIN_HOME"):
        return path_here(given).absolute() / "registry"
    given = os.environ.get({"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME"), "")
    within = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    try:
        home = Path(given or Path.home() / within)
    except RuntimeError as error:
        raise StorageError(
            "this user has no home folder to keep a cache in. Set FOREBRAIN_CACHE to a folder."
        ) from error
    return home / "forebrain" / "registry"


def pull(
    registry: Registry,
    reference: str,
    *,
    interfaces: bool = False,
    offline: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Pulled:
    """Brings a version into the cache, or finds it there.

    A whole digest always means the same version, so one that came into the cache from this registry is taken
    from there without asking it, and one that came from another where this one has it not; other references
    are looked up.

    Args:
        interfaces: whether to bring the training sessions' interfaces as well.
        offline: whether to use nothing but the cache; references stand for what they last stood for.
        cache: the folder to keep it in (`default_cache()`).

    Raises:
        InvalidError: it is no reference, or the record is not valid.
        NotFoundError: no such model, version or alias, or offline not in the cache.
        DamagedError: the registry's bytes are not what the record names.
        StorageError: the registry cannot be read, or the cache cannot be written.
    """
    keeper = _Cache(path_here(cache) if cache is not None else default_cache())
    wanted = Reference.parse(reference)
    version, source, deprecated = keeper.recall(registry.uri, wanted, offline), registry.uri, None
    if version is None and offline:
        version, source = keeper.known(wanted)
        if version is None:
            raise NotFoundError(
                f"{reference}: not in the cache ({keeper.root}). "
                f"Pull it once while {registry.uri} is reachable."
            )
    elif version is None:
        try:
            version = registry.resolve(wanted)
            if wanted != Reference(wanted.name):  # the name alone passes over what is deprecated
                deprecated = registry.deprecations(version.name).get(version.number)
        except RegistryError:
            version, source = keeper.known(wanted)
            if version is None or not keeper.is_whole(version, interfaces):
                raise
        else:
            with _writing(keeper.root):
                keeper.remember(registry.uri, wanted, version)
    if interfaces and not version.record.interfaces:
        raise NotFoundError(f"{version}: was published without interfaces.")
    folder = keeper.folder(version.digest)
    if not keeper.is_whole(version, interfaces):
        if offline:
            raise NotFoundError(
                f"{version}: not whole in the cache ({folder}). "
                f"Pull it again while {registry.uri} is reachable."
            )
        with _writing(keeper.root), keeper.lock(version):
            keeper.fetch(registry.store, version, interfaces)
    beside = folder / "interfaces" if interfaces else None
    # Entries of earlier versions do not say which registry they are of.
    return Pulled(version, folder / "model", beside, source or registry.uri, deprecated)


def recall(registry: Registry, reference: str, cache: str | os.PathLike[str] | None = None) -> Version | None:
    """The version that a whole digest stands for, if the cache has its record; the registry is not asked.

    Raises:
        InvalidError: it is no reference.
    """
    keeper = _Cache(path_here(cache) if cache is not None else default_cache())
    wanted = Reference.parse(reference)
    return keeper.recall(registry.uri, wanted, offline=False) or keeper.known(wanted)[0]


def export(pulled: Pulled, out: str | os.PathLike[str]) -> Path:
    """Copies a pulled version to a folder that does not exist yet; it appears whole or not at all.

    Interfaces, where they were pulled, go to its folder `interfaces`.

    Raises:
        StorageError: there is something of that name, or it cannot be written; or a file of the cache was
            changed meanwhile.
        InvalidError: its interfaces would lie over files of the model.
    """
    if pulled.interfaces:
        require_side_by_side(pulled.version.record)
    target = path_here(out)
    if target.exists():
        raise StorageError(f"{target}: exists already. Give --out a folder that does not.")
    tell_of_partial_beside(target)
    partial = partial_beside(target)
    try:
        with _writing(target, "give another --out"):
            # What else lies in the cache is none of the version's.
            copies = [(pulled.folder, partial, stored) for stored in pulled.version.record.files]
            if pulled.interfaces:
                beside = partial / "interfaces"
                copies += [(pulled.interfaces, beside, each) for each in pulled.version.record.interfaces]
            for _, folder, stored in copies:
                (folder / stored.path).parent.mkdir(parents=True, exist_ok=True)
            for source, folder, stored in copies:  # none of which are made again, if they are taken away
                copy = folder / stored.path
                shutil.copyfile(source / stored.path, copy)
                if not _is_good(copy, stored):  # of the copy: what was checked before may be changed since
                    raise StorageError(
                        f"{source / stored.path}: was changed while it was copied. Give the command again, "
                        "which fetches it anew."
                    )
            (partial / RECORD).write_bytes(pulled.version.content)
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


class _Cache:
    def __init__(self, root: Path) -> None:
        try:
            self.root = root.expanduser().absolute()
        except RuntimeError as error:
            raise StorageError(f"{root}: {error} Set FOREBRAIN_CACHE to a folder that is there.") from error

    def folder(self, digest: str) -> Path:
        return self.root / "versions" / digest

    @contextlib.contextmanager
    def lock(self, version: Version) -> Iterator[None]:
        """Held by one process at a time, and waited for with a line; a process that dies lets go of it."""
        from filelock import FileLock, Timeout

        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / "locks" / f"{version.digest}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _log.warning(
                "%s: waits until another process has fetched it, which holds %s.", version, lock.lock_file
            )
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def recall(self, uri: str, wanted: Reference, offline: bool) -> Version | None:
        """The version that a reference stands for, if the cache may tell.

        It may where the answer cannot change, which is for a whole digest, and offline.
        """
        if not offline and not wanted.is_exact:
            return None
        path = self._remembered(uri, wanted)
        more = "*" if wanted.digest else ""
        return self._one_of(path.parent.glob(f"{path.stem}{more}.json"), wanted)[0]

    def known(self, wanted: Reference) -> tuple[Version | None, str]:
        """The version of a whole digest, and the registry that it came from, whose number it has."""
        if not wanted.is_exact:
            return None, ""
        name = f"{_selector(wanted)}.json"
        return self._one_of(sorted((self.root / "references").glob(f"*/{wanted.name}/{name}")), wanted)

    def _one_of(self, paths: Iterable[Path], wanted: Reference) -> tuple[Version | None, str]:
        """The version that files say a reference stood for, None where they say none, and its registry."""
        entries = [entry for entry in map(self._read, paths) if entry is not None]
        if len({entry.digest for entry in entries}) > 1:
            raise InvalidError(f"{wanted}: fits several versions in the cache. Give more digits.")
        version = self._record(entries[0].digest, entries[0].number) if entries else None
        if version is None or version.name != wanted.name:
            return None, ""
        return version, entries[0].registry

    def remember(self, uri: str, wanted: Reference, version: Version) -> None:
        by_number = Reference(version.name, number=version.number)
        by_digest = Reference(version.name, digest=version.digest)
        before = self._read(self._remembered(uri, by_number))
        if before is not None and before.digest != version.digest:
            _log.warning(
                "%s: %s was sha256:%s when it was pulled before, and is sha256:%s now. A registry gives no "
                "number twice; was it brought back from a backup?",
                uri, version, before.digest, version.digest,
            )  # fmt: skip
        for reference in {wanted, by_number, by_digest}:
            path = self._remembered(uri, reference)
            content = strict_json.dump(_Remembered(uri, str(reference), version.digest, version.number))
            with contextlib.suppress(FileNotFoundError, StorageError):
                # What is known already need not be written, which a full or foreign cache would refuse.
                if Folder(path.parent, follow_links=False).read(path.name, MAX_NOTE_BYTES) == content:
                    continue
            Folder(path.parent).write(path.name, content)

    def is_whole(self, version: Version, interfaces: bool) -> bool:
        """Whether every file is there and is what was published. Reads them all."""
        folder = self.folder(version.digest)
        if self._record(version.digest, version.number) is None:
            return False
        return all(_is_good(path, stored) for path, stored in _places(folder, version, interfaces))

    def fetch(self, store: Folder | WebStore, version: Version, interfaces: bool) -> None:
        """Brings what is missing or damaged. The caller holds the version's lock."""
        folder = self.folder(version.digest)
        missing = [
            (path, stored)
            for path, stored in _places(folder, version, interfaces)
            if not _is_good(path, stored)
        ]
        partial = folder / "partial"
        partial.mkdir(parents=True, exist_ok=True)
        needed = sum(stored.size_bytes for _, stored in missing)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise StorageError(
                f"{folder}: {version} needs {needed} bytes, {free} are free. "
                "Make room, or set FOREBRAIN_CACHE."
            )
        for path, stored in missing:
            if path.exists():
                _log.warning("%s: is not what was published; fetching it again.", path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(store, stored, partial / stored.sha256)
            (partial / stored.sha256).replace(path)
        # Nothing but the version lies in its folder, even if this process is killed: signatures cover it all.
        (partial / RECORD).write_bytes(version.content)
        (partial / RECORD).replace(folder / "model" / RECORD)
        shutil.rmtree(partial, ignore_errors=True)

    def _record(self, digest: str, number: int) -> Version | None:
        """A version by its record in the cache, if that is whole."""
        folder = self.folder(digest) / "model"
        try:
            content = Folder(folder, follow_links=False).read(RECORD, MAX_RECORD_BYTES)
        except (FileNotFoundError, StorageError):
            return None
        if hashlib.sha256(content).hexdigest() != digest:
            return None
        return Version.parse(content, number, str(folder / RECORD))

    def _remembered(self, uri: str, reference: Reference) -> Path:
        """The file that says what a reference stood for in a registry."""
        folder = self.root / "references" / hashlib.sha256(uri.encode()).hexdigest()[:16] / reference.name
        return folder / f"{_selector(reference)}.json"

    def _read(self, path: Path) -> _Remembered | None:
        """What such a file says; None, with a line, where it was not written for this place."""
        try:
            content = Folder(path.parent, follow_links=False).read(path.name, MAX_NOTE_BYTES)
            value = strict_json.parse(content, str(path))
            if isinstance(value, dict) and value.keys() == {"digest", "number"}:
                # Of an earlier version, which did not say whose it is: of a whole digest the record shows it.
                value |= {"registry": "", "reference": ""}
                entry = strict_json.build(_Remembered, value, str(path))
                if path.stem == f"_sha256-{entry.digest}":
                    return entry
                raise InvalidError(f"{path}: an earlier version, which did not say whose it is, made it.")
            entry = strict_json.build(_Remembered, value, str(path))
            reference = Reference.parse(entry.reference)
            if self._remembered(entry.registry, reference) != path:
                raise InvalidError(f"{path}: was copied here; it is of {reference} in {entry.registry}.")
            if not _DIGEST.fullmatch(entry.digest) or not entry.digest.startswith(reference.digest or ""):
                raise InvalidError(f"{path}: its digest is not one of {entry.reference}.")
        except FileNotFoundError:
            return None
        except (StorageError, InvalidError) as error:
            _log.warning("%s It is passed over, and made anew when the registry is asked.", error)
            return None
        return entry


def _places(folder: Path, version: Version, interfaces: bool) -> Iterator[tuple[Path, StoredFile]]:
    for stored in version.record.files:
        yield folder / "model" / stored.path, stored
    for stored in version.record.interfaces if interfaces else ():
        yield folder / "interfaces" / stored.path, stored


def _selector(reference: Reference) -> str:
    """A file's name for what follows the @; an alias never begins with "_"."""
    if reference.digest:
        return f"_sha256-{reference.digest}"
    return reference.alias or str(reference.number or "_newest")


def _is_good(path: Path, stored: StoredFile) -> bool:
    """Whether a file is there, is no link, and holds what was published."""
    try:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode) or info.st_size != stored.size_bytes:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == stored.sha256
    except OSError:
        return False


def _download(store: Folder | WebStore, stored: StoredFile, partial: Path) -> None:
    """Brings one blob into `partial`, going on with what is there, and checks it."""
    while True:
        resumed = partial.stat().st_size if partial.exists() else 0
        try:
            _continue(store, stored, partial)
        except FileNotFoundError as error:
            raise DamagedError(
                f"{store.uri}: blob {stored.sha256} of {stored.path} is missing; `verify` finds more."
            ) from error
        except DamagedError:
            # Good bytes are too many where a host counts ranges in its own way.
            partial.unlink(missing_ok=True)
            if not resumed:
                raise
            continue
        if _is_good(partial, stored):
            return
        partial.unlink()
        if not resumed:
            raise DamagedError(
                f"{store.uri}: blob {stored.sha256} of {stored.path} is damaged: its bytes are not what the "
                "record names. `verify` finds more; ask who published it."
            )
        _log.warning("%s: what was kept of an earlier pull does not fit; starting over.", stored.path)


def _continue(store: Folder | WebStore, stored: StoredFile, partial: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(partial, flags, 0o644), "ab") as stream:
        have = stream.seek(0, os.SEEK_END)
        if have >= stored.size_bytes:
            return
        for chunk in store.chunks(layout.blob_name(stored.sha256), have):
            have += len(chunk)
            if have > stored.size_bytes:
                raise DamagedError(
                    f"{store.uri}: blob {stored.sha256} of {stored.path} is longer than the "
                    f"{stored.size_bytes} bytes its record names."
                )
            stream.write(chunk)
            stream.flush()
    if have < stored.size_bytes:
        size = store.stat(layout.blob_name(stored.sha256))
        if size is not None and 0 <= size.size_bytes < stored.size_bytes:
            raise DamagedError(
                f"{store.uri}: blob {stored.sha256} of {stored.path} has {size.size_bytes} bytes; its record "
                f"names {stored.size_bytes}. It was cut."
            )
        raise StorageError(
            f"{store.uri}: {stored.path} broke off after {have} bytes. The next pull goes on from there."
        )


@contextlib.contextmanager
def _writing(where: Path, else_do: str = "set FOREBRAIN_CACHE") -> Iterator[None]:
    """Turns a disk's refusal into an error of ours."""
    try:
        yield
    except OSError as error:
        hint = (
            "The disk is full: make room"
            if error.errno == errno.ENOSPC
            else "Check the folder and its rights"
        )
        raise StorageError(
            # Of a copy the second name is that of the new file.
            f"{error.filename2 or error.filename or where}: {error.strerror or error}. {hint}, or {else_do}."
        ) from error
