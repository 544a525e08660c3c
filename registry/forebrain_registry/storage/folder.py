"""A folder on a local disk or in an object store, with the two writes that everything durable is built on:
`write` replaces a file whole, `create` makes it only if it is not there."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forebrain_registry.errors import StorageError
from forebrain_registry.storage.local_disk import LocalDisk, full_disk, is_partial
from forebrain_registry.storage.stat import Stat
from forebrain_registry.storage.staying import Anchor, anchored

if TYPE_CHECKING:
    from forebrain_registry.storage.object_store import ObjectStore

CHUNK_BYTES = 8 * 2**20
_LOCAL = ("", "file", "local")


class Folder:
    """Named files under a path or a URI such as s3://bucket/prefix. A file appears whole or not at all.

    Credentials and endpoints of object stores come from the environment (AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION) or the instance's role.

    Every method raises FileNotFoundError or FileExistsError where it says so, and StorageError for all else
    that is wrong: after the retries of `retries`, or at once where the store refuses the credentials, has no
    such bucket, or a disk is full.

    Args:
        uri: its address. Doubled and trailing slashes and `.` mean nothing, `~` is the user's home.
        follow_links: whether a file of a local folder may be a link to another.

    Attributes:
        uri: its address, absolute and in one form however it was given.
        is_local: whether it lies on this machine's disks.
    """

    def __init__(self, uri: str | os.PathLike[str], follow_links: bool = True) -> None:
        scheme, rest = _parts(os.fspath(uri))
        self._follow_links = follow_links
        self._place: LocalDisk | ObjectStore
        self.is_local = scheme in _LOCAL
        if self.is_local:
            self._place = disk = LocalDisk(_resolved(rest), follow_links)
            self.uri = str(disk.root)
        else:
            try:
                from forebrain_registry.storage.object_store import ObjectStore  # imports asyncio and more
            except ImportError as error:
                raise StorageError(f"{uri}: needs a package that is not here: pip install s3fs.") from error
            self._place = store = ObjectStore(scheme, rest)
            self.uri = store.uri

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def uri_of(self, name: str) -> str:
        """The address of a file in it."""
        return f"{self.uri}/{name}"

    def local_path(self, name: str) -> Path:
        """Where a file lies; local folders only."""
        assert isinstance(self._place, LocalDisk)
        return self._place.root / name

    def child(self, name: str) -> Folder:
        return Folder(self.uri_of(name), self._follow_links)

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of that name now, never from a cache."""
        return self._place.exists(name)

    def staying(self) -> contextlib.AbstractContextManager[None]:
        """Within the block a local folder that is there is not made anew where it is moved away."""
        return self._place.staying() if isinstance(self._place, LocalDisk) else contextlib.nullcontext()

    def anchored_by(self, name: str, content: bytes) -> contextlib.AbstractContextManager[None]:
        """Within the block nothing is made in a local folder once a file of it is gone, or holds another
        content."""
        if not isinstance(self._place, LocalDisk):
            return contextlib.nullcontext()
        return anchored(Anchor(self._place.root, self._place.root / name, content))

    def free_bytes(self) -> int | None:
        """Room on the disk that it lies on; None in an object store, which is never full."""
        return self._place.free_bytes() if isinstance(self._place, LocalDisk) else None

    def stat(self, name: str) -> Stat | None:
        """Size and time of one file; None if there is none."""
        return self._place.stat(name)

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """The bytes of one file.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: also where it has more than `max_bytes`.
        """
        return self.read_all([name], max_bytes)[name]

    def read_all(self, names: Sequence[str], max_bytes: int | None = None) -> dict[str, bytes]:
        """The bytes of many files, fetched together where the storage allows it.

        Raises:
            FileNotFoundError: one of them does not exist.
            StorageError: also where one has more than `max_bytes`.
        """
        found = self._place.read_all(list(names), None if max_bytes is None else max_bytes + 1)
        for name, data in found.items():
            if max_bytes is not None and len(data) > max_bytes:
                raise StorageError(
                    f"{self.uri_of(name)}: over {max_bytes} bytes, too large for what it should be."
                )
        return found

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of one file; fewer where it ends before. Raises FileNotFoundError."""
        return self._place.read(name, start, stop)

    def chunks(self, name: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of a large file from an offset on. Raises FileNotFoundError."""
        while chunk := self._place.read(name, start, start + CHUNK_BYTES):
            yield chunk
            start += len(chunk)
            if len(chunk) < CHUNK_BYTES:
                return

    def names(self, prefix: str = "") -> list[str]:
        """Names of files and folders directly below `prefix`, sorted; empty if there is nothing."""
        return sorted(self._place.entries(prefix))

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every file directly in a folder, `folder/name` -> size; {} if there is none."""
        entries, start = self._place.entries(folder), f"{folder}/" if folder else ""
        return {f"{start}{name}": stat.size_bytes for name, stat in entries.items() if stat is not None}

    def files(self, folder: str = "", linked_levels: int = 0) -> dict[str, Stat]:
        """Every file below a folder, at any depth, with partial ones; {} if there is none.

        Args:
            linked_levels: in how many levels of a local folder's folders links to folders are followed, too.
        """
        if isinstance(self._place, LocalDisk):
            return self._place.files(folder, linked_levels)
        return self._place.files(folder)

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole, in place of one of that name: a reader sees the old content or the new."""
        self._place.put(name, data)

    def upload(self, name: str, source: Path) -> None:
        """The same with the content of a local file."""
        self._place.put(name, source)

    def create(self, name: str, data: bytes) -> None:
        """Writes a file whole, only if there is none of that name.

        A file of the very same bytes counts as written by this call: after a lost answer, of an object store
        or of a disk in the network, nobody can tell. Writers that must be told apart write something of
        their own into it.

        Raises:
            FileExistsError: somebody was first; their file stands.
        """
        try:
            self._place.put(name, data, if_absent=True)
        except FileExistsError:
            # An attempt whose answer was lost may have landed: then the race was lost to ourselves. The
            # HTTP client, too, sends a request again when a kept connection turns out to be closed.
            with contextlib.suppress(FileNotFoundError):
                if self._place.read(name, 0, len(data) + 1) == data:
                    return
            raise

    def renew(self, name: str, source: Path) -> None:
        """Makes a stored file young again; stores it anew where it is gone, or where that is the only way."""
        self._place.renew(name, source)

    @contextlib.contextmanager
    def file_to_fill(self, name: str) -> Iterator[Path]:
        """A local path to write; the file appears under `name` once the block ends without an error."""
        if isinstance(self._place, LocalDisk):
            with self._place.partial(name) as path:
                yield path
            return
        with tempfile.TemporaryDirectory(prefix="forebrain-") as folder:
            path = Path(folder) / "file"
            with full_disk(path):
                yield path
            self._place.put(name, path)

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it; nothing happens if there is none."""
        self._place.remove(name)

    def remove_file(self, name: str) -> None:
        """Removes a file, in an object store by one request; nothing happens if there is none.

        What another process creates under the name afterwards stays: for names that several take by turns.
        """
        self._place.remove_file(name)

    def remove_partial(self, folder: str = "", deep: bool = True) -> None:
        """Removes what writers that were killed have left of their files below a folder.

        `write` and `create` of one that is at work begin anew; `file_to_fill` does not.

        Args:
            deep: also in the folders within it.
        """
        if self.is_local:  # an object store keeps nothing of what was not sent whole
            names = self.files(folder) if deep else self.sizes(folder)
            for name in names:
                if is_partial(name):
                    self.remove(name)

    def remove_if_empty(self) -> None:
        """Removes the folder itself where it holds nothing; object stores have no empty folders."""
        if self.is_local:
            with contextlib.suppress(OSError):
                self.local_path("").rmdir()

    def require_writable(self) -> None:
        """Tries whether a file can be written, and leaves nothing; for before work whose results go here.

        Raises:
            StorageError: it cannot.
        """
        made: list[Path] = []
        if self.is_local:
            root = self.local_path("")
            made = list(itertools.takewhile(lambda each: not each.exists(), (root, *root.parents)))
        try:
            self._place.touch()
        except StorageError as error:
            raise StorageError(f"{self.uri}: nothing can be written there ({error})") from error
        finally:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def clock_s(self) -> float:
        """The time by the clock of the disk or store, seconds since 1970: what `stat` says of a new file.

        Raises:
            StorageError: also where the store does not tell.
        """
        now_s = self._place.touch().modified_s
        if math.isnan(now_s):
            raise StorageError(
                f"{self.uri}: this store does not tell when a file was written (no Last-Modified), so nobody "
                "knows who works there still, or what is old. Use a folder, or a store that tells."
            )
        return now_s

    def has_hard_links(self) -> bool:
        """Whether the disk of a local folder, which must be there, has hard links; `create` goes by them."""
        assert isinstance(self._place, LocalDisk)
        return self._place.has_hard_links()

    def refuses_second(self) -> bool:
        """Whether `create` of a name that is taken is refused, which some object stores do not do.

        A small file is written to find out, and removed again.
        """
        name = f"probe-{uuid.uuid4().hex}"
        try:
            self.create(name, b"1")
            try:
                self.create(name, b"2")
            except FileExistsError:
                return True
            return False
        finally:
            self.remove_file(name)


def file_at(address: str | os.PathLike[str]) -> tuple[Folder, str]:
    """The folder and the name of one file, by its path or its address in an object store.

    Raises:
        StorageError: the address names no file.
    """
    scheme, rest = _parts(os.fspath(address))
    folder, _, name = rest.rpartition("/")
    if name in ("", ".", ".."):
        raise StorageError(f"{address}: names no file; expected a path, or s3://bucket/folder/file.")
    folder = folder or rest[: -len(name)] or "."  # "/" of a file there
    return Folder(f"{scheme}://{folder}" if scheme else folder), name


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for temporary files, gone after the block.

    Raises:
        StorageError: its disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="forebrain-") as name, full_disk(Path(name)):
        yield Path(name)


def path_here(address: str | os.PathLike[str]) -> Path:
    """The path of a file or folder that can only be on this machine's disks.

    Raises:
        StorageError: it is an address in an object store or on a web host, or no text.
    """
    given = os.fspath(address)
    scheme, rest = _parts(given)
    if scheme not in _LOCAL:
        raise StorageError(f"{given:.200}: expected a path on this machine, not an address elsewhere.")
    try:
        return Path(rest).expanduser()
    except RuntimeError as error:
        raise StorageError(f"{given:.200}: {error} Write ./{rest:.200} for a file or folder here.") from error


def _require_linked(path: Path) -> None:
    """Raises StorageError where a path leads through a link to nothing, as to a disk that is not mounted:
    what was written through it would be made in its place, and hidden once it is back."""
    for each in (path, *path.parents):
        with contextlib.suppress(OSError, ValueError):  # which whoever opens it says
            if each.is_symlink() and not each.exists():
                raise StorageError(
                    f"{path}: {each} is a link to {each.readlink()}, which is not there. Mount its disk, or "
                    "give another path."
                )


def _parts(uri: str) -> tuple[str, str]:
    """Scheme and rest of an address; a path has the scheme ""."""
    if (text := uri.encode("utf-8", "backslashreplace").decode()) != uri:
        raise StorageError(f"{text:.200}: the name is not valid UTF-8; rename the file or folder.")
    if slip := re.match(r"(s3|gs|gcs|https?|file):/(?!/)", uri):
        raise StorageError(f"{uri:.200}: two slashes come after the colon: {slip[1]}://...")
    if not uri.strip():
        raise StorageError(f"{uri!r} is no address; expected a folder, or s3://bucket/prefix.")
    found = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", uri, re.DOTALL)
    if found is None:
        return "", uri
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file" and not rest.startswith(("/", "~")):
        # What stands there is a machine, and no folder of the one that is worked in.
        if not rest.startswith("localhost/"):
            raise StorageError(f"{uri:.200}: expected file:///folder with three slashes, or a path alone.")
        rest = rest.removeprefix("localhost")
    return scheme, rest


def _resolved(path: str) -> Path:
    try:
        with contextlib.suppress(RuntimeError):  # no such user: a name of its own
            given = Path(path).expanduser()
            _require_linked(given)
            return given.resolve()
        if Path(path).exists():
            return Path(path).resolve()
    except (OSError, ValueError) as error:
        raise StorageError(f"{path:.200}: {error}. Check the path.") from error
    raise StorageError(f"{path:.200}: there is no user of that name. Write ./{path:.200} for a folder here.")
