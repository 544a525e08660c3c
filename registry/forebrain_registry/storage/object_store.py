"""Files in an object store, by way of fsspec; s3:// by s3fs.

A put-if-absent that lost is an error of another class with every store and version of s3fs; what counts
here is the code of the store's answer, which s3fs keeps as the error's cause.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from forebrain_registry.errors import StorageError
from forebrain_registry.storage import retries
from forebrain_registry.storage.stat import Stat

_VARIABLES = (
    "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_DEFAULT_REGION"
)
_HINT = "Check the store and the way to it (AWS_ENDPOINT_URL)."
# Answers of S3 after which the same request may succeed; besides every 5xx and 429.
_TRANSIENT_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",  # AWS, to all but one, and at times to all, who create a name at once
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "XAmzContentSHA256Mismatch",
}
CONNECTIONS = 64  # requests to a store at a time, at most; more wait for one that ends
_AT_ONCE_BYTES = 100 * 2**20  # what is larger s3fs sends in parts, a piece of memory at a time
# 400 without a code of S3's is what a request for a file's head gets when the credentials have expired.
_REFUSED_CODES = {"AuthorizationHeaderMalformed", "InvalidToken", "TokenRefreshRequired", "400", "401", "403"}
# Parts of addresses that are not what they seem.
_REFUSED_PARTS = {
    "?versionId=": "which names a version of an object",
    "\\": "which some stores take for a slash, so that what is written is not listed",
}
# What `touch` writes. It is one name for all, so that the next takes away what a kill has left; another
# process may do so in between.
_TOUCHED, _TOUCHES = f"probe-{'0' * 32}", 5
_T = TypeVar("_T")


class ObjectStore:
    """The files whose names begin with one prefix.

    Args:
        scheme: as in an address, such as "s3".
        rest: what follows the `://`: bucket and prefix.
    """

    def __init__(self, scheme: str, rest: str) -> None:
        # Stores take a//b for a name of its own, or for a/b, or for either by turns.
        parts = [part for part in rest.split("/") if part not in ("", ".")]
        given = f"{scheme}://{rest}"
        if not parts:
            raise StorageError(f"{given}: names no bucket; expected {scheme}://bucket/prefix.")
        if ".." in parts:
            raise StorageError(f"{given:.200}: an object store has no `..`; write the address without.")
        for part, why in _REFUSED_PARTS.items():
            if part in rest:
                raise StorageError(f"{given:.200}: expected an address without {part}, {why}.")
        try:
            # Not by `url_to_fs`, to which a::b is a chain of addresses.
            address, system = f"{scheme}://{'/'.join(parts)}", fsspec.get_filesystem_class(scheme)
            more = {**system._get_kwargs_from_urls(address), "use_listings_cache": False}
            self._fs, self._root = system(**more, **_options(scheme)), system._strip_protocol(address)
        except (ValueError, ImportError, OSError) as error:
            raise StorageError(
                f"{given:.200}: not a place that is known here ({error}). Give a folder, or "
                "s3://bucket/prefix, which needs s3fs."
            ) from error
        self.uri = self._fs.unstrip_protocol(self._root)
        self._is_s3 = "s3" in self._fs.protocol
        # In one request; s3fs would ask for the size first, whose refusals have no text.
        self._whole = {"max_concurrency": 1} if self._is_s3 else {}
        self._fs.retries = 1  # s3fs's own loop, which says nothing and would multiply with the one here

    def exists(self, name: str) -> bool:
        return self._try(name, lambda: self._fs.exists(self._path(name)))

    def stat(self, name: str) -> Stat | None:
        try:
            return _stat(self._try(name, lambda: self._fs.info(self._path(name))))
        except FileNotFoundError:
            return None

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        return self._try(name, lambda: self._get(self._path(name), start, stop))

    def read_all(self, names: list[str], stop: int | None = None) -> dict[str, bytes]:
        if len(names) < 2:
            return {name: self.read(name, 0, stop) for name in names}
        paths = [self._path(name) for name in names]
        # All at once; `cat` would take brackets in an address for a pattern.
        start, options = (None, self._whole) if stop is None else (0, {})
        fetched = self._fs.cat_ranges(paths, start, stop, on_error="return", **options)

        def read(path: str, attempts: Iterator[bytes | BaseException]) -> bytes:
            attempt = next(attempts, None)
            if isinstance(attempt, BaseException):
                return _unless_it_ends_before(attempt)
            return self._get(path, 0, stop) if attempt is None else attempt

        return {
            name: self._try(name, functools.partial(read, path, iter([first])))
            for name, path, first in zip(names, paths, fetched, strict=True)
        }

    def entries(self, folder: str) -> dict[str, Stat | None]:
        path = self._path(folder)
        try:
            rows = self._try(folder, lambda: self._fs.ls(path, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        # An object of the folder's own name, with which some programs make it visible, is none of its files.
        return {
            row["name"].rstrip("/").rsplit("/", 1)[-1]: _stat(row)
            for row in rows
            if row["name"].rstrip("/") != path
        }

    def files(self, folder: str) -> dict[str, Stat]:
        try:
            found = self._try(folder, lambda: self._fs.find(self._path(folder), detail=True))
        except FileNotFoundError:
            return {}
        files = {path[len(self._root) + 1 :]: _stat(row) for path, row in found.items()}
        # Where nothing is below it, `find` gives the file of that very name.
        below = f"{folder}/" if folder else ""
        return {
            name: stat
            for name, stat in files.items()
            if stat is not None and name.startswith(below) and not name.endswith("/")
        }

    def put(self, name: str, source: bytes | Path, if_absent: bool = False) -> None:
        path, mode = self._path(name), {"mode": "create"} if if_absent else {}
        try:
            if isinstance(source, bytes) or source.stat().st_size < _AT_ONCE_BYTES:
                data = source if isinstance(source, bytes) else source.read_bytes()
                self._try(name, lambda: self._pipe(path, data, mode))
            else:
                self._try(name, lambda: self._fs.put_file(str(source), path, **mode))
        except FileNotFoundError as error:
            raise StorageError(
                f"{self.uri}/{name}: cannot be written ({_cause(error)}). Check the address."
            ) from error

    def renew(self, name: str, source: Path) -> None:
        self.put(name, source)

    def remove(self, name: str) -> None:
        self.remove_file(name)
        if below := self.files(name):
            # By their own names: the folder's may be a file that another has created since.
            paths = [glob.escape(self._path(each)) for each in below]
            with contextlib.suppress(FileNotFoundError):
                self._try(name, lambda: self._fs.rm(paths))
            # Of many at once s3fs passes over those that the store refuses to remove.
            for each in below.keys() & self.files(name).keys():
                self.remove_file(each)

    def remove_file(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._try(name, lambda: self._fs.rm_file(self._path(name)))

    def touch(self) -> Stat:
        """Size and time of an object that is written now, and removed.

        Raises:
            StorageError: it cannot be written, or is not there afterwards.
        """
        for name in (*[_TOUCHED] * _TOUCHES, f"probe-{uuid.uuid4().hex}"):
            try:
                self.put(name, b"1")
                if (written := self.stat(name)) is not None:
                    return written
            finally:
                self.remove_file(name)
        raise StorageError(
            f"{self.uri}/{name}: is not there though it was written. Check that a store for "
            "objects answers at this address."
        )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _pipe(self, path: str, data: bytes, mode: Mapping[str, str]) -> None:
        """Stores bytes. Raises KeyError where the answer, whatever its status, is none of an object store."""
        answer = self._fs.pipe_file(path, data, **mode)
        if self._is_s3 and isinstance(answer, dict):  # else in parts, each of which s3fs looks at
            answer["ETag"]

    def _get(self, path: str, start: int, stop: int | None) -> bytes:
        if stop is None and not start:
            return self._fs.cat_file(path, **self._whole)
        try:
            return self._fs.cat_file(path, start=start, end=stop)
        except Exception as error:
            return _unless_it_ends_before(error)

    def _try(self, name: str, call: Callable[[], _T]) -> _T:
        """Calls the file system, again where that may help."""
        where = f"{self.uri}/{name}".rstrip("/")
        attempts = retries.Attempts(where)
        while True:
            try:
                return call()
            except Exception as error:
                if not self._is_transient(error):
                    self._explain(where, error)
                    raise
                attempts.wait(error, _cause(error), self._endpoint(), _HINT)

    def _explain(self, where: str, error: Exception) -> None:
        """Raises an answer of the store as an error of ours; returns where it is none of the store's."""
        code, _ = _answer(error)
        if code in ("PreconditionFailed", "412") or isinstance(error, FileExistsError):
            raise FileExistsError(where) from error
        if code == "NoSuchBucket":
            raise StorageError(
                f"{where}: there is no such bucket at {self._endpoint()}. Make it, or check the address "
                "and AWS_ENDPOINT_URL."
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return
        if code == "RequestTimeTooSkewed":
            here = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
            raise StorageError(
                f"{where}: {self._endpoint()} refuses access ({_cause(error)}): the clock of this machine is "
                f"off, or the store's. Here it is {here}; set the clock, or have it set over the network."
            ) from error
        if isinstance(error, PermissionError) or code in _REFUSED_CODES or _lacks_credentials(error):
            # An answer without a text, as to a request for a file's head, may mean any of them.
            clock = ", and that this machine's clock is right" if code in ("400", "403") else ""
            raise StorageError(
                f"{where}: {self._endpoint()} refuses access ({_cause(error)}). Check that the "
                f"credentials are there, right and not expired, and may use this bucket{clock}: {_VARIABLES}."
            ) from error
        if isinstance(error, ValueError) and "endpoint" in str(error).lower():
            raise StorageError(
                f"{where}: {_cause(error)}. AWS_ENDPOINT_URL must begin with http:// or https://, as in "
                "http://minio.lab:9000."
            ) from error
        if isinstance(error, KeyError):  # of s3fs, which misses what every answer of a store has
            raise StorageError(
                f"{where}: {self._endpoint()} answers, but not as an object store does (no {error}). Check "
                "AWS_ENDPOINT_URL: is it a web page's, or must one log in to this network first?"
            ) from error
        if isinstance(error, OSError) or type(error).__module__.startswith("botocore."):
            raise StorageError(f"{where}: {self._endpoint()} answered: {_cause(error)}.") from error

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
            known += (exceptions.FlexibleChecksumError,)  # damaged on its way
            known += S3_RETRYABLE_ERRORS
        return isinstance(error, known)

    def _endpoint(self) -> str:
        client = getattr(self._fs, "_s3", None)
        return client.meta.endpoint_url if client is not None else "the store"


def _options(scheme: str) -> dict[str, Any]:
    """Options of the file system: finite time-outs, and botocore's own retries off."""
    if scheme not in ("s3", "s3a"):
        return {}
    ours = {
        "connect_timeout": retries.CONNECT_TIMEOUT_S,
        "read_timeout": retries.READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": CONNECTIONS,  # botocore's own limit is 10
    }
    # As in fsspec's own configuration (FSSPEC_S3_..., ~/.config/fsspec), which options given here override.
    theirs = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
    return {"config_kwargs": {**ours, **theirs}}


def _stat(row: Mapping[str, Any]) -> Stat | None:
    """A file's, of a row of a listing; None of a folder."""
    if row["type"] != "file":
        return None
    modified = row.get("LastModified") or row.get("mtime") or row.get("created") or math.nan
    return Stat(row["size"], modified if isinstance(modified, float) else modified.timestamp())


def _unless_it_ends_before(error: BaseException) -> bytes:
    """The bytes after a file's end, where that is what a store complains of; else raises the error."""
    if _answer(error)[0] in ("InvalidRange", "416"):
        return b""
    raise error


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
