"""A folder on a local disk or in an object store, with the two writes that everything durable is built on:
`write` replaces a file whole, `create` makes it only if it is not there."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import tenacity
from fsspec.implementations.local import LocalFileSystem

from forebrain.errors import ConfigError, ShardError, StorageError

PARTIAL = ".partial"

# Of every request to an object store. READ_TIMEOUT_S is without a single byte: a slow transfer goes on.
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
# Of every call to `Folder`: until either is used up. AWS_MAX_ATTEMPTS is obeyed before ATTEMPTS.
ATTEMPTS = 10
RETRY_S = 120.0
BACKOFF_S = 0.2  # the second attempt comes within this, each later one within twice the one before
LONGEST_BACKOFF_S = 15.0

_VARIABLES = (
    "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_DEFAULT_REGION"
)
# Answers of S3 after which the same request may succeed; besides every 5xx and 429.
_TRANSIENT_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "XAmzContentSHA256Mismatch",
}
# 400 without a code of S3's is what a request for a file's head gets when the credentials have expired.
_REFUSED_CODES = {"AuthorizationHeaderMalformed", "InvalidToken", "TokenRefreshRequired", "400", "401", "403"}
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Folder:
    """Named files under a path or a URI such as s3://bucket/prefix. A file appears whole or not at all.

    Credentials and endpoints of object stores come from the environment (AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION) or the instance's role.

    Throttling, dropped connections and time-outs of an object store are retried, with a warning each; every
    method raises StorageError when that was in vain, and at once where the store refuses the credentials,
    has no such bucket, or a disk is full.

    Attributes:
        uri: its address, absolute.
        is_local: whether it lies on this machine's disks.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        try:
            self._fs, root = fsspec.core.url_to_fs(str(uri), **_options(str(uri)))
        except (ValueError, ImportError) as error:
            raise ConfigError(f"{uri}: not a place that is known here ({error}).") from error
        self.is_local = isinstance(self._fs, LocalFileSystem)
        self._root = str(Path(root).resolve()) if self.is_local else root.rstrip("/")
        self.uri = self._root if self.is_local else self._fs.unstrip_protocol(self._root)
        self._is_s3 = "s3" in self._fs.protocol
        # In one request; s3fs would ask for the size first, whose refusals have no text.
        self._whole = {"max_concurrency": 1} if self._is_s3 else {}
        self._fs.retries = 1  # s3fs's own loop, which says nothing and would multiply with the one here

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
        """Whether there is a file or folder of that name now, never from a cache."""
        self._fs.invalidate_cache()
        return self._try(name, lambda: self._fs.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self._try(name, lambda: self._fs.cat_file(self._path(name), **self._whole))

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """The bytes of many files, fetched together where the storage allows it.

        Raises:
            FileNotFoundError: one of them does not exist.
        """
        if not names:
            return {}
        if self.is_local:
            return {name: self.local_path(name).read_bytes() for name in names}
        paths = [self._path(name) for name in names]
        # All at once, whole; `cat` would take brackets in an address for a pattern.
        fetched = self._fs.cat_ranges(paths, None, None, on_error="return", **self._whole)

        def read(path: str, attempts: Iterator[bytes | BaseException]) -> bytes:
            attempt = next(attempts, None)
            if isinstance(attempt, BaseException):
                raise attempt
            return self._fs.cat_file(path, **self._whole) if attempt is None else attempt

        return {
            name: self._try(name, functools.partial(read, path, iter([first])))
            for name, path, first in zip(names, paths, fetched, strict=True)
        }

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of one file; fewer where it ends before."""
        return self._try(name, lambda: self._fs.cat_file(self._path(name), start=start, end=stop))

    def names(self, prefix: str = "") -> list[str]:
        """Names of files and folders directly below `prefix`, sorted; empty if there is nothing."""
        self._fs.invalidate_cache()
        try:
            entries = self._try(prefix, lambda: self._fs.ls(self._path(prefix).rstrip("/"), detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every file directly in a folder, `folder/name` -> size; {} if there is none."""
        self._fs.invalidate_cache()
        try:
            rows = self._try(folder, lambda: self._fs.ls(self._path(folder), detail=True))
        except FileNotFoundError:
            return {}
        return {
            f"{folder}/{row['name'].rsplit('/', 1)[-1]}": row["size"] for row in rows if row["type"] == "file"
        }

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole, in place of one of that name: a reader sees the old content or the new."""
        if not self.is_local:
            self._try(name, lambda: self._fs.pipe_file(self._path(name), data))
            return
        with self.file_to_fill(name) as path:
            path.write_bytes(data)

    def create(self, name: str, data: bytes) -> None:
        """Writes a file whole, only if there is none of that name.

        In an object store a file of the very same bytes counts as written by this call: after a lost answer
        nobody can tell. Writers that must be told apart write something of their own into it.

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
            self._try(name, lambda: self._fs.pipe_file(self._path(name), data, mode="create"))
        except FileExistsError:
            # An attempt whose answer was lost may have landed: then the race was lost to ourselves. The
            # HTTP client, too, sends a request again when a kept connection turns out to be closed.
            if self.read(name) != data:
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
            with _full_disk(path):
                yield path
            self._try(name, lambda: self._fs.put_file(str(path), self._path(name)))

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it; nothing happens if there is none."""
        path = self._path(name) if self.is_local else glob.escape(self._path(name))
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self._try(name, lambda: self._fs.rm(path, recursive=True))

    def remove_if_empty(self) -> None:
        """Removes the folder itself where it holds nothing; object stores have no empty folders."""
        if self.is_local:
            with contextlib.suppress(OSError):
                Path(self._root).rmdir()

    @contextlib.contextmanager
    def _partial(self, name: str) -> Iterator[Path]:
        """A path beside a local file, gone after the block."""
        target = self.local_path(name)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        try:
            with _full_disk(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                yield partial
        finally:
            partial.unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try(self, name: str, call: Callable[[], _T]) -> _T:
        """Calls the file system, again where that may help.

        Raises:
            FileNotFoundError, FileExistsError: what the store says of this one file.
            StorageError: anything else that an object store says.
            OSError: anything else that a local disk says.
        """
        if self.is_local:
            return call()
        where = self.uri_of(name).rstrip("/")

        def warn(state: tenacity.RetryCallState) -> None:
            assert state.outcome is not None and state.next_action is not None
            _log.warning(
                "%s: %s. Attempt %d of %d; the next in %.1f s.",
                where,
                _cause(state.outcome.exception()),
                state.attempt_number,
                attempts,
                state.next_action.sleep,
            )

        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS))
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_transient),
            stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_before_delay(RETRY_S),
            wait=tenacity.wait_random_exponential(BACKOFF_S, LONGEST_BACKOFF_S),
            before_sleep=warn,
            reraise=True,
        )
        try:
            return retrying(call)
        except Exception as error:
            code, _ = _answer(error)
            if code in ("PreconditionFailed", "412") or isinstance(error, FileExistsError):
                raise FileExistsError(where) from error
            if code == "NoSuchBucket":
                raise StorageError(
                    f"{where}: there is no such bucket at {self._endpoint()}. Make it, or check the address "
                    "and AWS_ENDPOINT_URL."
                ) from error
            if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
                raise
            if isinstance(error, PermissionError) or code in _REFUSED_CODES or _lacks_credentials(error):
                raise StorageError(
                    f"{where}: {self._endpoint()} refuses access ({_cause(error)}). Check that the "
                    f"credentials are there, right and not expired, and may use this bucket: {_VARIABLES}."
                ) from error
            if self._is_transient(error):
                spent = retrying.statistics
                raise StorageError(
                    f"{where}: {self._endpoint()} did not answer as it should in "
                    f"{spent['attempt_number']} attempts over {spent['delay_since_first_attempt']:.0f} s; "
                    f"the last time: {_cause(error)}. Check the store and the way to it (AWS_ENDPOINT_URL)."
                ) from error
            if isinstance(error, OSError) or type(error).__module__.startswith("botocore."):
                raise StorageError(f"{where}: {self._endpoint()} answered: {_cause(error)}.") from error
            raise

    def _is_transient(self, error: BaseException) -> bool:
        code, status = _answer(error)
        if code is not None:
            return code in _TRANSIENT_CODES or status == 429 or status >= 500
        known: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError)
        if self._is_s3:
            from aiohttp import ClientError
            from botocore import exceptions
            from s3fs.core import S3_RETRYABLE_ERRORS

            known += (ClientError, exceptions.ConnectionError, exceptions.IncompleteReadError)
            known += S3_RETRYABLE_ERRORS
        return isinstance(error, known)

    def _endpoint(self) -> str:
        client = getattr(self._fs, "_s3", None)
        return client.meta.endpoint_url if client is not None else "the store"


def _options(uri: str) -> dict[str, Any]:
    """Options of the file system at an address: finite time-outs, and botocore's own retries off."""
    protocol = fsspec.utils.get_protocol(uri)
    if protocol not in ("s3", "s3a"):
        return {}
    ours = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1},
    }
    # As in fsspec's own configuration (FSSPEC_S3_..., ~/.config/fsspec), which options given here override.
    theirs = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
    return {"config_kwargs": {**ours, **theirs}}


def _answer(error: BaseException | None) -> tuple[str | None, int]:
    """The code and status of an object store's error answer; s3fs keeps it as a cause. (None, 0) if none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", status)), status
        error = error.__cause__
    return None, 0


def _cause(error: BaseException | None) -> str:
    """One line on what went wrong, with the store's own code where it gave one."""
    code, _ = _answer(error)
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if code is None or code in text else f"{code}: {text}"


def _lacks_credentials(error: BaseException) -> bool:
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")


@contextlib.contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    """Turns a full disk while `path` is written into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(
            f"{path}: the disk is full ({error.strerror}); nothing of the file was kept. Free some space, or "
            "choose another folder (TMPDIR for temporary files), and give the same command again."
        ) from error


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
