"""Public recordings by address: https, and `dandi:000NNN/PATH`; read in pieces that are cached and checked.

HDF5 files (NWB among them) are read in blocks by HTTP ranges, stores of zarr in chunks; other formats, and
files of servers that know no ranges, are fetched whole. What was fetched lies in the cache with its SHA-256,
which is compared whenever it is read again; bytes that changed there are fetched anew, and a file that
changed at its address is another one. Where a server gives a file neither ETag nor Last-Modified, it is
fetched whole each time that it is opened.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote, urlsplit

from forebrain.errors import RecordingError
from forebrain.sessions.catalogue import TIMEOUT_S, data_folder
from forebrain_registry.storage import partial_beside

if TYPE_CHECKING:
    import requests

BLOCK_BYTES = 1 << 20
DANDI_API = "https://api.dandiarchive.org/api"
_DANDI = re.compile(r"dandi:(?P<set>\d{6})(?:@(?P<version>[\w.]+))?/(?P<path>.+)")
_ATTEMPTS = 3
_THREADS = 8
_MAX_ASKED_CHUNKS = 4096  # of a zarr array, of which each is asked for whether it is there
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MIRROR = ".remote.json"


def is_remote(address: str) -> bool:
    """Whether an address is one of a public recording elsewhere."""
    return address.startswith(("http://", "https://", "dandi:"))


def sidecar_path(address: str) -> Path:
    """The sidecar file, on this machine, that speaks of a recording elsewhere."""
    return _folder_of(address) / "session.yaml"


def open_path(address: str) -> Path:
    """A path from which readers read a recording elsewhere as they read one on disk.

    Raises:
        RecordingError: the address does not answer, or nothing is there.
    """
    url, digest = _resolved(address)
    if _is_zarr(url):
        return _mirror(address, url)
    file = RemotePath.of(address, url, digest)
    if isinstance(file, Path):
        return file
    with file.open() as stream:
        head = stream.read(512 + len(_HDF5))
    if head.startswith(_HDF5) or head[512:] == _HDF5:
        return cast(Path, file)
    return file.whole()


def fingerprint(address: str) -> str:
    """A hash of what lies at an address now: as its server tells versions apart, and its first block."""
    path = open_path(address)
    digest = hashlib.sha256(address.encode())
    if isinstance(path, RemotePath):
        digest.update(path.version.encode())
        digest.update(path.block(0))
    elif path.is_dir():
        digest.update((path / _MIRROR).read_bytes())
    else:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    sidecar = sidecar_path(address)
    if sidecar.is_file():
        digest.update(sidecar.read_bytes())
    return digest.hexdigest()


def fetched_bytes(address: str) -> int:
    """How much of a recording lies in the cache."""
    folder = _folder_of(address)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0


# Addresses.


def _folder_of(address: str) -> Path:
    """Where what is fetched from an address is kept."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", unquote(urlsplit(address).path).rstrip("/").rpartition("/")[2])[
        -60:
    ]
    return (
        data_folder()
        / "remote"
        / f"{name or 'recording'}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    )


def _dataset(address: str, url: str) -> str:
    """The name of a recording's dataset where nothing else gives it: the dandiset or the server's folder."""
    if match := _DANDI.fullmatch(address):
        return f"dandi-{match['set']}"
    parts = [part for part in unquote(urlsplit(url).path).split("/") if part]
    return _file_name(parts[-2] if len(parts) > 1 else urlsplit(url).hostname or "recordings")


def _file_name(text: str) -> str:
    """A text as the name of a file on this machine, which leads nowhere else."""
    name = re.sub(r"[\\/\0]", "_", text)
    return "recording" if name in ("", ".", "..") else name


def _resolved(address: str) -> tuple[str, str | None]:
    """The web address of a recording, and the SHA-256 of its file where an archive states it."""
    if not address.startswith("dandi:"):
        return address, None
    match = _DANDI.fullmatch(address)
    if match is None:
        raise RecordingError(
            f"{address}: not an address of DANDI; expected dandi:000NNN/PATH, or dandi:000NNN@VERSION/PATH, "
            f"for "
            "example dandi:000054/sub-F1/sub-F1_ses-20190407T210000_behavior+ophys.nwb."
        )
    api = os.environ.get("FOREBRAIN_DANDI_API", DANDI_API)
    dandiset = f"{api}/dandisets/{match['set']}"
    version = match["version"]
    if version is None:
        published = _json(f"{dandiset}/", address).get("most_recent_published_version") or {}
        version = published.get("version", "draft")
    listed = _json(f"{dandiset}/versions/{version}/assets/?path={quote(match['path'])}", address)
    assets = {asset["path"]: asset["asset_id"] for asset in listed.get("results", [])}
    if match["path"] not in assets:
        near = f"; it has {', '.join(list(assets)[:5])}" if assets else ""
        raise RecordingError(f"{address}: version {version} of this dandiset has no such file{near}.")
    metadata = _json(f"{api}/assets/{assets[match['path']]}/", address)
    urls = [url for url in metadata.get("contentUrl", []) if url.startswith(("http://", "https://"))]
    if not urls:
        raise RecordingError(f"{address}: the archive states no web address for this file.")
    direct = next((url for url in urls if "/api/" not in url), urls[0])
    digest = metadata.get("digest", {}).get("dandi:sha2-256")
    return direct.rstrip("/") if metadata.get("encodingFormat") == "application/x-zarr" else direct, digest


def _json(url: str, address: str) -> dict[str, Any]:
    with _response(url, address) as response:
        try:
            found = response.json()
        except ValueError as error:
            raise RecordingError(
                f"{address}: {url} answers with something else than JSON ({error})."
            ) from error
    if not isinstance(found, dict):
        raise RecordingError(f"{address}: {url} answers with a {type(found).__name__}; expected an object.")
    return found


@functools.cache
def _session() -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=_ATTEMPTS, pool_maxsize=2 * _THREADS))
    session.mount("http://", HTTPAdapter(max_retries=_ATTEMPTS, pool_maxsize=2 * _THREADS))
    return session


@contextmanager
def _response(
    url: str, address: str, headers: Mapping[str, str] | None = None
) -> Iterator[requests.Response]:
    """An answer to a GET request with a status below 400.

    Raises:
        RecordingError: the address does not answer, or refuses.
    """
    import requests

    try:
        # Unpacked answers would have other lengths than their ranges say.
        asked = {"Accept-Encoding": "identity", **(headers or {})}
        with _session().get(url, headers=asked, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code >= 400:
                raise RecordingError(
                    f"{address}: {url} answers {response.status_code} {response.reason}. Check the address, "
                    f"and whether "
                    "the recording is public."
                )
            yield response
    except (requests.RequestException, OSError) as error:
        raise RecordingError(
            f"{address}: {url} cannot be read ({error}). Check the connection and the address; what was "
            f"fetched is kept."
        ) from error


# Files in blocks.


@dataclass(frozen=True)
class RemotePath:
    """A file elsewhere, with as much of a `Path` as readers use.

    Attributes:
        address: as it was given.
        url: where the file lies.
        size: of the file in bytes.
        version: what the server says to tell versions of the file apart.
    """

    address: str
    url: str
    size: int
    version: str

    @classmethod
    def of(cls, address: str, url: str, digest: str | None = None) -> RemotePath | Path:
        """The file at an address; a path to the whole file in the cache where the server knows no ranges.

        Args:
            digest: SHA-256 of the file, where it is known.
        """
        with _response(url, address, {"Range": f"bytes=0-{BLOCK_BYTES - 1}"}) as response:
            version = _version(response.headers, digest)
            if version == _version({}, None):
                return cls(address, url, -1, "")._unversioned(response)
            if response.status_code == 206:
                size = int(response.headers["Content-Range"].rpartition("/")[2])
                found = cls(address, url, size, version)
                found._keep(0, response.content)
                return found
            size = int(response.headers.get("Content-Length", -1))
            whole = cls(address, url, size, version)
            file = whole._whole_file
            if not _is_whole(file):
                _write_whole(file, response.iter_content(BLOCK_BYTES), size, digest, address)
            return file

    @property
    def name(self) -> str:
        """The name of the file, as its address has it."""
        named = self.address if self.address.startswith("dandi:") else urlsplit(self.url).path
        return _file_name(unquote(named).rstrip("/").rpartition("/")[2])

    @property
    def suffix(self) -> str:
        """The suffix of the name, with the dot."""
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem

    @property
    def parent(self) -> Path:
        """A path whose name is that of the dataset: the dandiset, or the folder on the server."""
        return Path(_dataset(self.address, self.url))

    def absolute(self) -> RemotePath:
        """The same path: an address is absolute."""
        return self

    def is_file(self) -> bool:
        """True: what was found at the address is a file."""
        return True

    def is_dir(self) -> bool:
        """False."""
        return False

    def exists(self) -> bool:
        """True: it was found."""
        return True

    def stat(self) -> os.stat_result:
        """The size of the file; nothing else is known."""
        return os.stat_result((0, 0, 0, 0, 0, 0, self.size, 0, 0, 0))

    def __str__(self) -> str:
        return self.address

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The file to read, whose blocks are fetched as they are read."""
        return cast(IO[bytes], io.BufferedReader(_Blocks(self), BLOCK_BYTES))

    def open_remote(self) -> IO[bytes]:
        """The file as h5py takes it."""
        return self.open()

    def block(self, number: int) -> bytes:
        """One block of the file, from the cache if it is whole there."""
        kept = self._kept(number)
        if kept is not None:
            return kept
        first = number * BLOCK_BYTES
        last = min(self.size, first + BLOCK_BYTES) - 1
        with _response(self.url, self.address, {"Range": f"bytes={first}-{last}"}) as response:
            content = response.content
            version = _version(response.headers, None)
            size = response.headers.get("Content-Range", "").rpartition("/")[2]
        if response.status_code != 206 or len(content) != last - first + 1:
            raise RecordingError(
                f"{self.address}: the server gave {len(content)} bytes where {last - first + 1} were asked "
                f"for. Try again."
            )
        is_same = self.version.rpartition(" ")[0] == version.rpartition(" ")[0]
        if not is_same or size not in ("", "*", str(self.size)):
            raise RecordingError(f"{self.address}: changed while it was read. Start again.")
        self._keep(number, content)
        return content

    def whole(self) -> Path:
        """The whole file in the cache, fetched block by block."""
        file = self._whole_file
        if not _is_whole(file):
            count = -(-self.size // BLOCK_BYTES)
            digest = self.version.rpartition(" ")[2].removeprefix("sha256=") or None
            _write_whole(
                file, (self.block(number) for number in range(count)), self.size, digest, self.address
            )
        return file

    def _unversioned(self, response: requests.Response) -> Path:
        """The whole file in the cache, of one answer: where a server says nothing to tell versions of it
        apart, pieces of several answers may be of several versions, and nothing that was kept may be the file
        that is there now. What was fetched is named by its bytes, so that who still reads another stays
        with that."""
        if response.status_code != 206:
            return self._of_one_answer(response)
        with _response(self.url, self.address) as whole:
            return self._of_one_answer(whole)

    def _of_one_answer(self, response: requests.Response) -> Path:
        size = int(response.headers.get("Content-Length", -1))
        come = dataclasses.replace(self, version=f"answer={uuid.uuid4().hex}")
        try:
            file = come._whole_file
            sha256 = _write_whole(file, response.iter_content(BLOCK_BYTES), size, None, self.address)
            size = file.stat().st_size
            kept = dataclasses.replace(self, size=size, version=f"sha256={sha256}")._whole_file
            if not _is_whole(kept):
                kept.parent.mkdir(parents=True, exist_ok=True)
                file.replace(kept)
                _write(_sha256_of(kept), sha256.encode())
        finally:
            shutil.rmtree(come._folder, ignore_errors=True)
        return kept

    @property
    def _folder(self) -> Path:
        key = hashlib.sha256(f"{self.url} {self.size} {self.version}".encode()).hexdigest()[:16]
        return _folder_of(self.address) / key

    @property
    def _whole_file(self) -> Path:
        return self._folder / self.parent.name / self.name

    def _block_file(self, number: int) -> Path:
        return self._folder / f"{number:08d}"

    def _keep(self, number: int, content: bytes) -> None:
        _write(self._block_file(number), hashlib.sha256(content).digest() + content)

    def _kept(self, number: int) -> bytes | None:
        return _read_checked(self._block_file(number))


class _Blocks(io.RawIOBase):
    """The bytes of a remote file; a block is fetched when it is first read."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        self._position = 0
        self._last: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._path.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        number, inside = divmod(self._position, BLOCK_BYTES)
        if self._position >= self._path.size:
            return 0
        if self._last[0] != number:
            self._last = (number, self._path.block(number))
        part = self._last[1][inside : inside + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def _version(headers: Mapping[str, str], digest: str | None) -> str:
    told = f"etag={headers.get('ETag', '')} modified={headers.get('Last-Modified', '')}"
    return f"{told} {'sha256=' + digest if digest else ''}"


def _is_whole(file: Path) -> bool:
    """Whether a file that was fetched whole is still what it was."""
    kept = _sha256_of(file)
    if not (file.is_file() and kept.is_file()):
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == kept.read_text(encoding="utf-8")


def _sha256_of(file: Path) -> Path:
    """Where the SHA-256 of a file that was fetched whole is kept."""
    return file.with_name(f"{file.name}.sha256")


def _write_whole(file: Path, pieces: Iterator[bytes], size: int, digest: str | None, address: str) -> str:
    """Writes a file as it comes; returns its SHA-256."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_beside(file)
    found = hashlib.sha256()
    try:
        with partial.open("wb") as stream:
            for piece in pieces:
                found.update(piece)
                stream.write(piece)
            length = stream.tell()
        if size >= 0 and length != size:
            raise RecordingError(
                f"{address}: {length} of {size} bytes came. Try again; nothing of it is kept."
            )
        if digest and found.hexdigest() != digest:
            raise RecordingError(
                f"{address}: other bytes came than the archive states (sha256 {digest}); nothing of it is "
                f"kept."
            )
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    _write(_sha256_of(file), found.hexdigest().encode())
    return found.hexdigest()


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_beside(file)
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _read_checked(file: Path) -> bytes | None:
    """The bytes kept in a file behind their SHA-256; None if they are not there or do not fit it."""
    try:
        kept = file.read_bytes()
    except FileNotFoundError:
        return None
    return kept[32:] if hashlib.sha256(kept[32:]).digest() == kept[:32] else None


# Stores of zarr, mirrored chunk by chunk.


def _is_zarr(url: str) -> bool:
    return ".zarr" in urlsplit(url).path or "/zarr/" in urlsplit(url).path


def _mirror(address: str, url: str) -> Path:
    """A store on this machine that has the metadata of a store elsewhere, and gets its chunks as they are
    read.

    Raises:
        RecordingError: nothing is there, or the store has no consolidated metadata, without which a web
            server cannot tell what it holds.
    """
    url = url.rstrip("/")
    metadata = _consolidated(address, url)
    text = json.dumps({"url": url, "address": address, "metadata": metadata}, sort_keys=True)
    named = address if address.startswith("dandi:") else urlsplit(url).path
    name = _file_name(unquote(named).rstrip("/").rpartition("/")[2])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = _folder_of(address) / key / _dataset(address, url) / name
    if not (folder / _MIRROR).is_file():
        for key, value in metadata.items():
            if not _is_inside(key):
                raise RecordingError(f"{address}: its metadata name {key}, which lies outside of the store.")
            _write(folder / key, json.dumps(value).encode())
        _write(folder / _MIRROR, text.encode())
    return folder


def _is_inside(key: str) -> bool:
    return not key.startswith("/") and ".." not in key.split("/") and "\\" not in key


def _consolidated(address: str, url: str) -> dict[str, Any]:
    """The metadata files of a store by their names in it."""
    for name in (".zmetadata", "zarr.json", ".zarray"):
        try:
            found = _json(f"{url}/{name}", address)
        except RecordingError as error:
            if " answers 40" not in str(error):
                raise
            continue
        if name == ".zmetadata":
            return dict(found.get("metadata", {}))
        if name == ".zarray":
            return {name: found}
        inner = (found.get("consolidated_metadata") or {}).get("metadata", {})
        if found.get("node_type") == "group" and not inner:
            break
        return {"zarr.json": found, **{f"{key}/zarr.json": value for key, value in inner.items()}}
    raise RecordingError(
        f"{address}: {url} is no store of zarr with consolidated metadata, without which a web server cannot "
        f"tell what "
        "it holds. Ask its owner for zarr.consolidate_metadata, or copy the store."
    )


@functools.lru_cache(maxsize=256)
def _mirrored(folder: Path) -> tuple[Path, str, str] | None:
    """The root of the mirror that a folder lies in, the store's web address and the address that was given;
    None outside of mirrors."""
    for root in (folder, *folder.parents):
        if (root / _MIRROR).is_file():
            known = json.loads((root / _MIRROR).read_bytes())
            return root, known["url"], known["address"]
    return None


def is_mirrored(folder: Path) -> bool:
    """Whether a folder lies in a store whose chunks are fetched when they are read."""
    return _mirrored(folder) is not None


def fetch_chunks(array: Path, names: list[str]) -> None:
    """Brings chunks of an array into the mirror it lies in; those that the store leaves out stay away."""
    found = _mirrored(array)
    if found is None:
        return
    root, url, address = found
    inner = array.relative_to(root).as_posix()
    prefix = "" if inner == "." else f"{inner}/"

    def fetch(name: str) -> None:
        file, checked = array / name, array / f".{name.replace('/', '_')}.sha256"
        if checked.is_file():
            wanted = checked.read_text(encoding="utf-8")
            if not wanted and not file.exists():
                return
            if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == wanted:
                return
        try:
            with _response(f"{url}/{quote(prefix + name)}", address) as response:
                content = response.content
        except RecordingError as error:
            if " answers 404" not in str(error) and " answers 403" not in str(error):
                raise
            file.unlink(missing_ok=True)
            _write(checked, b"")  # the store does not have it
            return
        _write(file, content)
        _write(checked, hashlib.sha256(content).hexdigest().encode())

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(fetch, names))


def absent_chunks(array: Path, names: list[str]) -> set[str] | None:
    """Which chunks of an array the store leaves out; None where there are too many to ask for each."""
    found = _mirrored(array)
    if found is None or len(names) > _MAX_ASKED_CHUNKS:
        return None
    root, url, _ = found
    inner = array.relative_to(root).as_posix()
    prefix = "" if inner == "." else f"{inner}/"

    def is_absent(name: str) -> bool:
        if (array / name).is_file():
            return False
        answer = _session().head(f"{url}/{quote(prefix + name)}", timeout=TIMEOUT_S, allow_redirects=True)
        return answer.status_code in (403, 404)

    with ThreadPoolExecutor(_THREADS) as pool:
        return {name for name, absent in zip(names, pool.map(is_absent, names), strict=True) if absent}


def remove(address: str) -> None:
    """Removes what was fetched of a recording; its sidecar file stays."""
    folder = _folder_of(address)
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
