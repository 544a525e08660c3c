"""A registry on a web host, for reading. What lies there is named by index.json, which anyone may rebuild.

The index holds the size and SHA-256 of every record, records hold those of every blob: what does not match is
refused. Who must not trust the host itself asks for `name@sha256:...` or checks a signature.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from forebrain_registry import strict_json
from forebrain_registry.errors import DamagedError, InvalidError, StorageError
from forebrain_registry.layout import INDEX, INDEX_FORMAT, Index, IndexedFile
from forebrain_registry.storage import Stat, retries

MAX_INDEX_BYTES = 256 * 2**20
_RECORD = re.compile(r"models/[a-z0-9._-]+/[a-z]+/([a-z0-9._-]+/)?[0-9]{8}\.json")


class WebStore:
    """The files of a web host: https, or http on this machine alone. Methods as those of `storage.Folder`."""

    def __init__(self, uri: str) -> None:
        _check_address(uri)
        scheme, _, rest = uri.partition("://")
        self.uri = f"{scheme.lower()}://{re.sub('/+', '/', rest).rstrip('/')}"
        self._opener = urllib.request.build_opener(_SafeRedirects())
        self._index: dict[str, IndexedFile] | None = None

    def files(self, folder: str = "") -> dict[str, Stat]:
        below = f"{folder}/" if folder else ""
        return {
            name: Stat(entry.size_bytes, 0.0)
            for name, entry in self._indexed().items()
            if name.startswith(below)
        }

    def stat(self, name: str) -> Stat | None:
        try:
            with self._open(name, method="HEAD") as answer:
                return Stat(_length(answer), 0.0)
        except FileNotFoundError:
            return None
        except _BrokenOffError as error:
            raise StorageError(f"{self.uri}/{name}: {error}. Check the address and network.") from error

    def read(self, name: str, max_bytes: int) -> bytes:
        entry = self._indexed().get(name)
        if entry is None:
            raise FileNotFoundError(f"{self.uri}/{name}")
        data = self._read(name, max_bytes)
        if len(data) != entry.size_bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DamagedError(
                f"{self.uri}/{name}: not the bytes that {INDEX} names. Rebuild the index "
                "(forebrain-registry index), or the record is damaged."
            )
        return data

    def read_all(self, names: list[str], max_bytes: int) -> dict[str, bytes]:
        return {name: self.read(name, max_bytes) for name in names}

    def chunks(self, name: str, start: int = 0) -> Iterator[bytes]:
        have, attempts = start, retries.Attempts(f"{self.uri}/{name}")
        while True:
            try:
                for chunk in self._stream(name, have):
                    have += len(chunk)
                    attempts.count_anew()
                    yield chunk
                return
            except _BrokenOffError as error:
                attempts.wait(error, str(error), "the host", "Check the address and network, and try again.")

    def _indexed(self) -> dict[str, IndexedFile]:
        if self._index is None:
            where = f"{self.uri}/{INDEX}"
            try:
                value = strict_json.parse(self._read(INDEX, MAX_INDEX_BYTES), where)
            except FileNotFoundError as error:
                raise StorageError(
                    f"{where}: not found. Check the address; whoever owns the registry makes the index with "
                    "`forebrain-registry index`."
                ) from error
            index = strict_json.build(Index, value, where)
            if index.format != INDEX_FORMAT:
                raise InvalidError(
                    f"{where}: format {index.format!r:.60}; this program reads {INDEX_FORMAT}."
                )
            for entry in index.files:
                if not _RECORD.fullmatch(entry.name) or ".." in entry.name:
                    raise InvalidError(f"{where}: {entry.name!r:.120} is not the name of a record.")
            self._index = {entry.name: entry for entry in index.files}
        return self._index

    def _stream(self, name: str, start: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._open(name, headers) as answer:
            # A host without ranges sends everything again.
            to_skip = 0 if answer.status == 206 else start
            to_come = _length(answer)
            while chunk := _next(answer):
                to_come -= len(chunk)
                skipped = min(to_skip, len(chunk))
                to_skip -= skipped
                if skipped < len(chunk):
                    yield chunk[skipped:]
            if to_come > 0:
                raise _BrokenOffError(f"the connection ended {to_come} bytes early")

    def _read(self, name: str, max_bytes: int) -> bytes:
        parts, size = [], 0
        for chunk in self.chunks(name):
            size += len(chunk)
            if size > max_bytes:
                raise StorageError(f"{self.uri}/{name}: over {max_bytes} bytes, too large for what it is.")
            parts.append(chunk)
        return b"".join(parts)

    def _open(self, name: str, headers: dict[str, str] | None = None, method: str = "GET") -> Any:
        url = f"{self.uri}/{urllib.parse.quote(name)}"
        try:
            return self._opener.open(
                urllib.request.Request(url, headers=headers or {}, method=method),
                timeout=retries.READ_TIMEOUT_S,
            )
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise FileNotFoundError(url) from error
            answer = f"the host answers {error.code} {_clean(error.reason)}"
            if error.code == 429 or error.code >= 500:
                raise _BrokenOffError(answer) from error
            raise StorageError(f"{url}: {answer}.") from error
        except (ConnectionError, TimeoutError) as error:  # not while connecting, which is an URLError
            raise _BrokenOffError(f"the connection broke ({_clean(error)})") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise StorageError(
                f"{url:.300}: cannot be reached ({_clean(error)}). Check the address and network."
            ) from error


class _BrokenOffError(Exception):
    """A request that may succeed if it is made again."""


def _next(answer: Any) -> bytes:
    try:
        return answer.read1(2**20)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"the connection broke ({_clean(error)})") from error


def _length(answer: Any) -> int:
    """How many bytes a host says it sends; -1 where it does not say."""
    length = answer.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else -1


def _clean(text: object) -> str:
    """The text that a host sent, without characters that could play tricks on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:200])


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_address(newurl)
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise StorageError(
                f"{req.full_url:.200}: leads from https to {newurl:.200}; that is not followed."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(uri: str) -> None:
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError as error:
        raise StorageError(f"{uri!r:.200}: is no web address ({error}).") from error
    if parts.scheme != "https" and not (
        parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    ):
        raise StorageError(f"{uri:.200}: only https is read; http only from this machine itself.")
