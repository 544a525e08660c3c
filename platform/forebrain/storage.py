"""A folder on a local disk or in an object store, with the two writes that everything durable is built on:
`write` replaces a file whole, `create` makes it only if it is not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from forebrain.errors import ConfigError, ShardError

PARTIAL = ".partial"


class Folder:
    """Named files under a path or a URI such as s3://bucket/prefix. A file appears whole or not at all.

    Credentials and endpoints of object stores come from the environment (AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION) or the instance's role.

    Attributes:
        uri: its address, absolute.
        is_local: whether it lies on this machine's disks.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        try:
            self._fs, root = fsspec.core.url_to_fs(str(uri))
        except (ValueError, ImportError) as error:
            raise ConfigError(f"{uri}: not a place that is known here ({error}).") from error
        self.is_local = isinstance(self._fs, LocalFileSystem)
        self._root = str(Path(root).resolve()) if self.is_local else root.rstrip("/")
        self.uri = self._root if self.is_local else self._fs.unstrip_protocol(self._root)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def uri_of(self, name: str) -> str:
        """The address of a file in it."""
        return f"{self.uri}/{name}"

    def local_path(self, name: str) -> Path:
        """Where a file lies; local folders only."""
        return Path(self._root) / name

    def child(self, name: str) -> Folder:
        return Folder(self.uri_of(name))

    def exists(self, name: str) -> bool:
        self._fs.invalidate_cache()
        return self._fs.exists(self._path(name))

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self._fs.cat_file(self._path(name))

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """The bytes of many files, fetched together where the storage allows it.

        Raises:
            FileNotFoundError: one of them does not exist.
        """
        if not names:
            return {}
        if self.is_local:
            return {name: self.local_path(name).read_bytes() for name in names}
        found = self._fs.cat([self._path(name) for name in names])
        return {name: found[self._path(name)] for name in names}

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of one file; fewer where it ends before."""
        return self._fs.cat_file(self._path(name), start=start, end=stop)

    def names(self, prefix: str = "") -> list[str]:
        """Names of files and folders directly below `prefix`, sorted; empty if there is nothing."""
        self._fs.invalidate_cache()
        try:
            entries = self._fs.ls(self._path(prefix).rstrip("/"), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every file directly in a folder, `folder/name` -> size; {} if there is none."""
        self._fs.invalidate_cache()
        try:
            rows = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {
            f"{folder}/{row['name'].rsplit('/', 1)[-1]}": row["size"] for row in rows if row["type"] == "file"
        }

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole, in place of one of that name: a reader sees the old content or the new."""
        if not self.is_local:
            self._fs.pipe_file(self._path(name), data)
            return
        with self.file_to_fill(name) as path:
            path.write_bytes(data)

    def create(self, name: str, data: bytes) -> None:
        """Writes a file whole, only if there is none of that name.

        Raises:
            FileExistsError: somebody was first; their file stands.
        """
        if self.is_local:
            with self._partial(name) as path:
                path.write_bytes(data)
                _flush(path)
                os.link(path, self.local_path(name))
            return
        try:
            self._fs.pipe_file(self._path(name), data, mode="create")
        except OSError as error:
            # A lost race is FileExistsError on some stores and a plain OSError on others.
            if isinstance(error, FileExistsError) or "pre-condition" in str(error).lower():
                raise FileExistsError(self.uri_of(name)) from error
            raise

    @contextlib.contextmanager
    def file_to_fill(self, name: str) -> Iterator[Path]:
        """A local path to write; the file appears under `name` once the block ends without an error."""
        if self.is_local:
            with self._partial(name) as path:
                yield path
                _flush(path)
                path.replace(self.local_path(name))
            return
        with tempfile.TemporaryDirectory(prefix="forebrain-") as folder:
            path = Path(folder) / "file"
            yield path
            self._fs.put_file(str(path), self._path(name))

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it; nothing happens if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(name), recursive=True)

    def remove_if_empty(self) -> None:
        """Removes the folder itself where it holds nothing; object stores have no empty folders."""
        if self.is_local:
            with contextlib.suppress(OSError):
                Path(self._root).rmdir()

    @contextlib.contextmanager
    def _partial(self, name: str) -> Iterator[Path]:
        """A path beside a local file, gone after the block."""
        target = self.local_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _flush(path: Path) -> None:
    """Brings a file's content to the disk before its name is made."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def readable(uri: str, name: str) -> Iterator[None]:
    """Turns a storage failure while reading `name` into a ShardError."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"{uri}: {name} cannot be read ({error or type(error).__name__}). "
            "Check the address, or run prepare again: it rewrites only what is missing."
        ) from error
