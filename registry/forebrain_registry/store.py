"""Places that hold a registry: a local folder, an object store, or (reading only) a web host.

Two writes are all that a registry is built on: `upload` of a blob, which is harmless to repeat since the name
is the content's hash, and `create`, which makes a small record whole and only if it is not there.
Names are relative, with "/" between their parts, and made by this package: never taken from input unchecked.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from forebrain_registry.errors import StorageError

PARTIAL = ".partial"
CHUNK_BYTES = 8 * 2**20
CONFLICT_PAUSES_S = (0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Stat:
    """Size, and when it was written in seconds since 1970 by the store's clock."""

    size_bytes: int
    modified_s: float


class Store(Protocol):
    """Files under one address.

    Attributes:
        uri: the address, absolute.
        writable: whether anything can be stored there at all.
    """

    uri: str
    writable: bool

    def files(self, prefix: str) -> dict[str, Stat]:
        """Every file below a folder, at any depth; partial ones included."""

    def stat(self, name: str) -> Stat | None:
        """Size and time of one file; None if there is none."""

    def read(self, name: str, max_bytes: int) -> bytes:
        """A small file whole. Raises FileNotFoundError, or StorageError if it is over `max_bytes`."""

    def read_many(self, names: list[str], max_bytes: int) -> dict[str, bytes]:
        """Many small files, together where the place allows it. Errors as for `read`."""

    def chunks(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from an offset on. Raises FileNotFoundError, StorageError."""

    def create(self, name: str, data: bytes) -> None:
        """Makes a file, whole. Raises FileExistsError if there is one: theirs stands."""

    def replace(self, name: str, data: bytes) -> None:
        """Stores a small file, whole, in place of one of that name."""

    def upload(self, name: str, source: Path) -> None:
        """Stores a local file, whole, in place of one of that name."""

    def renew(self, name: str, source: Path) -> None:
        """Makes a stored file young again; stores it anew where it is gone."""

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens if there is none."""


def open_store(uri: str | os.PathLike[str]) -> Store:
    """The store at an address; nothing is reached until it is used.

    Raises:
        StorageError: the address is of no kind that is known here.
    """
    text = os.fspath(uri)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme == "file":
        return LocalStore(rest if separator else text)
    if scheme in ("http", "https"):
        from forebrain_registry.web import WebStore

        return WebStore(text)
    return ObjectStore(text)


def require_conditional_create(store: Store) -> None:
    """Tries whether a place keeps the promise that all of this rests on.

    Raises:
        StorageError: nothing can be written there, or a second `create` of a name was not refused.
    """
    if not store.writable:
        raise StorageError(f"{store.uri}: can only be read. Publish to its folder or bucket instead.")
    name = f"probe-{uuid.uuid4().hex}"
    try:
        store.create(name, b"1")
        try:
            store.create(name, b"2")
        except FileExistsError:
            return
        raise StorageError(
            f"{store.uri}: this store ignores conditional writes (If-None-Match), so publishers could "
            "overwrite each other; nothing was published. Use a folder, AWS S3, SeaweedFS, MinIO or another "
            "store that honours them."
        )
    finally:
        store.remove(name)


class LocalStore:
    """A folder on a disk that has hard links."""

    writable = True

    def __init__(self, root: str) -> None:
        try:
            self._root = Path(root).expanduser().absolute()
        except RuntimeError as error:
            raise StorageError(f"{root:.200}: {error} Check what follows the ~.") from error
        self.uri = str(self._root)

    def files(self, prefix: str) -> dict[str, Stat]:
        found: dict[str, Stat] = {}
        waiting = [prefix]
        while waiting:
            folder = waiting.pop()
            try:
                entries = list(os.scandir(self._root / folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._trouble(folder, error) from error
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                # Another process may remove what was just listed.
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
                    elif entry.is_file(follow_symlinks=False):
                        info = entry.stat(follow_symlinks=False)
                        found[name] = Stat(info.st_size, info.st_mtime)
        return found

    def stat(self, name: str) -> Stat | None:
        try:
            info = (self._root / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._trouble(name, error) from error
        return Stat(info.st_size, info.st_mtime) if stat.S_ISREG(info.st_mode) else None

    def read(self, name: str, max_bytes: int) -> bytes:
        with self._open(name) as stream:
            data = stream.read(max_bytes + 1)
        _check_size(f"{self.uri}/{name}", len(data), max_bytes)
        return data

    def read_many(self, names: list[str], max_bytes: int) -> dict[str, bytes]:
        return {name: self.read(name, max_bytes) for name in names}

    def chunks(self, name: str, start: int = 0) -> Iterator[bytes]:
        with self._open(name) as stream:
            stream.seek(start)
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk

    def create(self, name: str, data: bytes) -> None:
        with self._partial(name) as partial:
            with partial.open("xb") as stream:
                stream.write(data)
                _flush(stream)
            os.link(partial, self._root / name)

    def replace(self, name: str, data: bytes) -> None:
        with self._partial(name) as partial:
            with partial.open("xb") as stream:
                stream.write(data)
                _flush(stream)
            partial.replace(self._root / name)

    def upload(self, name: str, source: Path) -> None:
        with self._partial(name) as partial:
            with partial.open("xb") as target, source.open("rb") as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    target.write(chunk)
                _flush(target)
            partial.replace(self._root / name)

    def renew(self, name: str, source: Path) -> None:
        try:
            os.utime(self._root / name)
        except FileNotFoundError:
            self.upload(name, source)

    def remove(self, name: str) -> None:
        try:
            (self._root / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._trouble(name, error) from error

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        """A regular file, never by way of a link: a registry that was sent could name any file by one."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(self._root / name, flags | getattr(os, "O_BINARY", 0))
            with os.fdopen(descriptor, "rb") as stream:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise StorageError(f"{self.uri}/{name}: not a regular file.")
                yield stream
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._trouble(name, error) from error

    @contextlib.contextmanager
    def _partial(self, name: str) -> Iterator[Path]:
        """A path beside a file to be, gone after the block."""
        target = self._root / name
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        try:
            made = [folder for folder in target.parents if not folder.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            for folder in (target.parent, *(folder.parent for folder in made)):
                _flush_folder(folder)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._trouble(name, error) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _trouble(self, name: str, error: OSError) -> StorageError:
        return StorageError(
            f"{self.uri}/{name}: {error.strerror or error}. Check the folder, its rights and the free space."
        )


class ObjectStore:
    """An object store by way of fsspec, such as s3://bucket/prefix.

    Endpoint and credentials come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION) or the instance's role.
    """

    writable = True

    def __init__(self, uri: str) -> None:
        import fsspec

        try:
            self._fs, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except (ValueError, ImportError, OSError) as error:
            raise StorageError(
                f"{uri}: not a place that is known here ({error}). s3:// needs the extra: "
                "pip install 'forebrain[lab]'."
            ) from error
        self._root = root.rstrip("/")
        self.uri = uri.rstrip("/")

    def files(self, prefix: str) -> dict[str, Stat]:
        with self._errors(prefix):
            try:
                found = self._fs.find(self._path(prefix), detail=True)
            except FileNotFoundError:
                return {}
        return {path[len(self._root) + 1 :]: _stat(info) for path, info in found.items()}

    def stat(self, name: str) -> Stat | None:
        with self._errors(name):
            try:
                return _stat(self._fs.info(self._path(name)))
            except FileNotFoundError:
                return None

    def read(self, name: str, max_bytes: int) -> bytes:
        with self._errors(name):
            data = self._fs.cat_file(self._path(name), start=0, end=max_bytes + 1)
        _check_size(f"{self.uri}/{name}", len(data), max_bytes)
        return data

    def read_many(self, names: list[str], max_bytes: int) -> dict[str, bytes]:
        if not names:
            return {}
        paths = [self._path(name) for name in names]
        with self._errors(names[0]):
            found = self._fs.cat_ranges(
                paths, [0] * len(paths), [max_bytes + 1] * len(paths), on_error="raise"
            )
        for name, data in zip(names, found, strict=True):
            _check_size(f"{self.uri}/{name}", len(data), max_bytes)
        return dict(zip(names, found, strict=True))

    def chunks(self, name: str, start: int = 0) -> Iterator[bytes]:
        with self._errors(name):
            size = self._fs.info(self._path(name))["size"]
        for offset in range(start, size, CHUNK_BYTES):
            with self._errors(name):
                yield self._fs.cat_file(self._path(name), start=offset, end=min(offset + CHUNK_BYTES, size))

    def create(self, name: str, data: bytes) -> None:
        for pause_s in (*CONFLICT_PAUSES_S, None):
            try:
                with self._errors(name, writing=True):
                    self._fs.pipe_file(self._path(name), data, mode="create")
                return
            except StorageError as error:
                # AWS gives this to all but one, and at times to all, who create a name at the same moment.
                if pause_s is None or "ConditionalRequestConflict" not in str(error):
                    raise
                time.sleep(pause_s)

    def replace(self, name: str, data: bytes) -> None:
        with self._errors(name, writing=True):
            self._fs.pipe_file(self._path(name), data)

    def upload(self, name: str, source: Path) -> None:
        with self._errors(name, writing=True):
            self._fs.put_file(str(source), self._path(name))

    def renew(self, name: str, source: Path) -> None:
        self.upload(name, source)

    def remove(self, name: str) -> None:
        with self._errors(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _errors(self, name: str, writing: bool = False) -> Iterator[None]:
        """Turns what a store's library raises, which is of many families, into errors of ours."""
        try:
            yield
        except (FileExistsError, StorageError):
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not writing:
                raise
            if isinstance(error, OSError) and "pre-condition" in str(error).lower():
                raise FileExistsError(f"{self.uri}/{name}") from error
            raise StorageError(
                f"{self.uri}/{name}: {type(error).__name__}: {error!s:.300}. Check the address, the endpoint "
                "(AWS_ENDPOINT_URL) and the credentials."
            ) from error


def _stat(info: dict[str, Any]) -> Stat:
    # Without a time nothing is ever old enough to be collected.
    modified = info.get("LastModified") or info.get("mtime") or info.get("created") or time.time()
    return Stat(info["size"], modified if isinstance(modified, float) else modified.timestamp())


def _check_size(where: str, size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise StorageError(f"{where}: over {max_bytes} bytes, too large for what it should be.")


def _flush(stream: Any) -> None:
    """Brings a file's content to the disk before its name is made."""
    stream.flush()
    os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """Brings a name to the disk; Windows has no such call."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
