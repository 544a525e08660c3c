"""Files on this machine's disks: whole or not at all, and on the disk before they have a name."""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from forebrain_registry.errors import StorageError
from forebrain_registry.storage.stat import Stat
from forebrain_registry.storage.staying import Anchor, anchored, require_anchored

_log = logging.getLogger(__name__)
PARTIAL = ".partial"
NAME_BYTES = 255  # that file systems take
# Of a write or a removal that another process interferes with.
ATTEMPTS = 5
# What link() answers on disks without hard links (exFAT, SMB, many FUSE file systems).
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
# What flushing a folder answers where that is not known.
_NO_FOLDER_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM}


class LocalDisk:
    """The files below one path.

    Args:
        root: the path, absolute.
        follow_links: whether a file may be a link to another. Without, a folder that strangers write to
            cannot show files from elsewhere.
    """

    def __init__(self, root: Path, follow_links: bool) -> None:
        self.root, self._follow_links = root, follow_links

    def staying(self) -> contextlib.AbstractContextManager[None]:
        """Has writes within the block fail once the root, if it is there now, is gone."""
        return anchored(*([Anchor(self.root, self.root)] if self.root.exists() else []))

    def exists(self, name: str) -> bool:
        return self._stat(name) is not None

    def free_bytes(self) -> int | None:
        usage = shutil.disk_usage(next(each for each in (self.root, *self.root.parents) if each.exists()))
        return usage.free if usage.total else None  # disks in memory, and of others' making, may tell nothing

    def stat(self, name: str) -> Stat | None:
        info = self._stat(name)
        return _as_stat(info) if info is not None and stat.S_ISREG(info.st_mode) else None

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        with self._open(name) as stream:
            if start:
                stream.seek(start)
            return stream.read(-1 if stop is None else max(stop - start, 0))

    def read_all(self, names: list[str], stop: int | None = None) -> dict[str, bytes]:
        return {name: self.read(name, 0, stop) for name in names}

    def entries(self, folder: str) -> dict[str, Stat | None]:
        """The files and folders directly in a folder, by last name, None for folders; {} if it is missing."""
        found: dict[str, Stat | None] = {}
        for entry in self._scan(folder):
            # Another process may remove what was just listed.
            with contextlib.suppress(FileNotFoundError):
                is_file = entry.is_file(follow_symlinks=self._follow_links)
                info = entry.stat(follow_symlinks=self._follow_links) if is_file else None
                found[entry.name] = _as_stat(info) if info else None
        return found

    def files(self, folder: str, linked_levels: int = 0) -> dict[str, Stat]:
        found: dict[str, Stat] = {}
        waiting = [(folder, 0)]
        while waiting:
            inner, level = waiting.pop()
            for entry in self._scan(inner):
                name = f"{inner}/{entry.name}" if inner else entry.name
                with contextlib.suppress(FileNotFoundError):
                    # A link to a folder may lead round in a circle.
                    if entry.is_dir(follow_symlinks=level < linked_levels):
                        waiting.append((name, level + 1))
                    elif entry.is_file(follow_symlinks=self._follow_links):
                        found[name] = _as_stat(entry.stat(follow_symlinks=self._follow_links))
        return found

    def put(self, name: str, source: bytes | Path, if_absent: bool = False) -> None:
        """Stores bytes or a local file: whole, or not at all. Raises FileExistsError as `partial` does."""
        for _ in range(ATTEMPTS):
            try:
                return self._put(name, source, if_absent)
            except FileNotFoundError as error:
                if isinstance(source, Path) and not source.exists():
                    raise
                # Another process that cleans up took what has no name yet for a killed one's.
                gone = error
        raise StorageError(f"{self.root / name}: is removed as it is written ({gone}).") from gone

    def _put(self, name: str, source: bytes | Path, if_absent: bool) -> None:
        with self.partial(name, if_absent) as partial, _errors(self.root / name):
            if isinstance(source, bytes):
                partial.write_bytes(source)
            else:
                shutil.copyfile(source, partial)

    def renew(self, name: str, source: Path) -> None:
        try:
            os.utime(self.root / name)
        except OSError:  # it is gone, or another user's, whose time only they may set
            self.put(name, source)

    def remove(self, name: str) -> None:
        path = self.root / name
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _errors(path):
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                return
            except FileNotFoundError:  # the whole, or a part that another process removes
                if not path.is_dir():
                    return
            except StorageError as error:  # which another process writes into
                if attempt == ATTEMPTS or getattr(error.__cause__, "errno", None) != errno.ENOTEMPTY:
                    raise

    def remove_file(self, name: str) -> None:
        path = self.root / name
        with contextlib.suppress(FileNotFoundError), _errors(path):
            path.unlink()

    @contextlib.contextmanager
    def partial(self, name: str, if_absent: bool = False) -> Iterator[Path]:
        """A path to write; the file gets its name once the block ends without an error.

        Raises:
            FileExistsError: there is one of that name, and there must be none.
            StorageError: a device or a pipe has that name; or the disk says no.
        """
        target = self.root / name
        if not if_absent:
            _require_replaceable(target)
        partial = partial_beside(target)
        made = _make_folder(target.parent)
        try:
            with full_disk(target):
                yield partial
            with _errors(target):
                _flush(partial)
                if if_absent:
                    _name_if_absent(partial, target)
                else:
                    partial.replace(target)
                for folder in (target.parent, *(folder.parent for folder in made)):
                    _flush_folder(folder)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def touch(self) -> Stat:
        """Size and time of a file that is written now, and has no name that a kill could leave."""
        for _ in range(ATTEMPTS):
            try:
                _make_folder(self.root)
                with _errors(self.root), tempfile.TemporaryFile(dir=self.root, suffix=PARTIAL) as stream:
                    stream.write(b"1")
                    stream.flush()
                    os.fsync(stream.fileno())
                    return _as_stat(os.fstat(stream.fileno()))
            except FileNotFoundError as error:  # another process had made the folder, and left nothing in it
                gone = error
        raise StorageError(f"{self.root}: is removed as it is written to ({gone}).") from gone

    def has_hard_links(self) -> bool:
        """Whether a file here can have a second name."""
        first, second = (self.root / f"probe-{uuid.uuid4().hex}{PARTIAL}" for _ in range(2))
        with _errors(first):
            try:
                first.touch()
                os.link(first, second)
            except OSError as error:
                if error.errno in _NO_HARD_LINKS:
                    return False
                raise
            finally:
                for each in (first, second):
                    each.unlink(missing_ok=True)
        return True

    def _stat(self, name: str) -> os.stat_result | None:
        path = self.root / name
        try:
            with _errors(path):
                return path.stat(follow_symlinks=self._follow_links)
        except FileNotFoundError:
            return None

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        path = self.root / folder
        try:
            with _errors(path), os.scandir(path) as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        """A regular file; a pipe or device would be waited for without end."""
        path = self.root / name
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        if not self._follow_links:
            flags |= getattr(os, "O_NOFOLLOW", 0)
        with _errors(path):
            descriptor = os.open(path, flags)
            with os.fdopen(descriptor, "rb") as stream:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise StorageError(f"{path}: not a regular file.")
                yield stream


def _require_replaceable(target: Path) -> None:
    """Raises StorageError where a name is no file's: a rename would put one in the place of a device of this
    machine, or of a pipe whose reader would wait for ever."""
    with contextlib.suppress(OSError):  # there is nothing, or what follows says why not
        mode = target.stat().st_mode
        is_of_a_process = target.is_symlink() and str(target.readlink()).startswith("/proc/")
        if is_of_a_process or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise StorageError(
                f"{target}: is a device, a pipe or a socket, whose place no file takes. Name another file."
            )


def partial_beside(target: Path) -> Path:
    """A name of its own beside a file or folder, for what is to get its name once it is whole."""
    ending = f".{uuid.uuid4().hex[:8]}{PARTIAL}"
    start = os.fsencode(target.name)[: NAME_BYTES - len(ending)].decode("utf-8", "ignore")
    return target.with_name(f"{start}{ending}")


def tell_of_partial_beside(target: Path) -> None:
    """Says what other commands have begun for a file or folder: nobody can tell from another machine whether
    they were killed, so it stays."""
    start = partial_beside(target).name.removesuffix(PARTIAL)[:-8]
    with contextlib.suppress(OSError):
        for left in sorted(target.parent.glob(f"{glob.escape(start)}{8 * '[0-9a-f]'}{PARTIAL}")):
            _log.warning(
                "%s: is what another command for %s has begun. If none is at work, it was killed: remove it.",
                left,
                target.name,
            )


def is_partial(name: str) -> bool:
    """Whether a name is of those that `partial_beside` makes."""
    return re.fullmatch(rf".+\.[0-9a-f]{{8}}{re.escape(PARTIAL)}", name, re.DOTALL) is not None


def _as_stat(info: os.stat_result) -> Stat:
    return Stat(info.st_size, info.st_mtime)


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turns what a disk says into errors that name the file and what to do."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path)) from error
    except OSError as error:
        raise _trouble(path, error) from error


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turns a full disk into a StorageError, for a block of the caller's, whose other errors are its own."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise _trouble(path, error) from error


def _trouble(path: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{path}: the disk is full ({error.strerror}); nothing of the file was kept. Free some space, or "
            "choose another folder (TMPDIR for temporary files), and give the same command again."
        )
    return StorageError(f"{path}: {error.strerror or error}. Check the folder and its rights.")


def _make_folder(folder: Path) -> list[Path]:
    """Makes a folder with those above it; returns the ones that were not there."""
    require_anchored(folder)
    with _errors(folder):
        made = list(itertools.takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StorageError(f"{folder}: cannot be made, since a file is in its way.") from error
    return made


def _name_if_absent(partial: Path, target: Path) -> None:
    """Gives a file its name unless that is taken; both lie in one folder.

    A hard link does it, on shared file systems too. Where the disk has none, a lock of the folder keeps other
    processes of this machine away; a process that dies lets go of it.
    """
    try:
        os.link(partial, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if sys.platform == "win32":
            os.rename(partial, target)  # noqa: PTH104 (refuses a name that is taken, as on no other system)
            return
        import fcntl

        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if target.exists() or target.is_symlink():
                raise FileExistsError(errno.EEXIST, "File exists", str(target)) from error
            partial.replace(target)
        finally:
            os.close(descriptor)


def _flush(path: Path) -> None:
    """Brings a file's content to the disk before its name is made."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """Brings a name to the disk; Windows and some file systems have no such call."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise
