"""The catalogue of recordings that can be downloaded by name: public ones, and those a user adds.

A recording is checked against its SHA-256 and kept in a cache with a sidecar file, ready to be prepared.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import yaml

from forebrain.errors import RecordingError
from forebrain.sessions.sidecar import as_written, check_sidecar
from forebrain_registry import plain_yaml
from forebrain_registry.storage import file_at, path_here

TIMEOUT_S = 60.0
_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One recording that can be downloaded.

    Attributes:
        url: http or https; its last part names the file.
        sha256: of the file, 64 hexadecimal digits.
        licence, citation, description: for people.
        sidecar: what the file itself does not say, as in a sidecar file.
        beside: of a recording that is a folder, such as suite2p's, its other files at the same address: name
            -> sha256.
    """

    url: str
    sha256: str
    licence: str
    citation: str = ""
    description: str = ""
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return unquote(urlsplit(self.url).path.rpartition("/")[2])

    @property
    def files(self) -> dict[str, tuple[str, str]]:
        """Address and sha256 of every file, by its name."""
        folder = self.url.rpartition("/")[0]
        others = {name: (f"{folder}/{quote(name)}", sha256) for name, sha256 in self.beside.items()}
        return {self.file_name: (self.url, self.sha256), **others}


def catalogue() -> dict[str, Entry]:
    """Every entry by name: the platform's, and over them the user's.

    Raises:
        RecordingError: the user's file is not valid.
    """
    public = resources.files("forebrain.sessions").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    entries = _parse(public, "catalogue.yaml")
    if user_catalogue().is_file():
        entries |= _parse(user_catalogue().read_bytes(), str(user_catalogue()))
    return entries


def add(name: str, entry: Entry) -> Path:
    """Adds or replaces an entry of the user's catalogue.

    Returns:
        The file it is kept in.

    Raises:
        RecordingError: the entry or the user's file is not valid; nothing is changed.
    """
    from filelock import FileLock

    added = _checked(name, asdict(entry), "new entry")
    path = user_catalogue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):  # else what another process adds meanwhile is lost
        entries = _parse(path.read_bytes(), str(path)) if path.is_file() else {}
        kept = {name: asdict(entry) for name, entry in sorted((entries | {name: added}).items())}
        _write(path, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
    return path


def get(name: str) -> Path:
    """Downloads a recording into the cache, unless it is there and whole.

    Returns:
        The recording, a file or a folder; a sidecar file lies beside it. One that is there stays as it is,
        with a warning where it says something else than the catalogue.

    Raises:
        RecordingError: the name is unknown, the address does not answer, or the bytes are not those expected;
            nothing is left of a failed download.
    """
    import pooch
    import requests

    entries = catalogue()
    if name not in entries:
        raise RecordingError(f"{name}: not in the catalogue; it has {', '.join(entries)}.")
    entry = entries[name]
    folder = data_folder() / name
    pooch.get_logger().setLevel("WARNING")
    for file_name, (url, sha256) in entry.files.items():
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}",
                fname=file_name,
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=TIMEOUT_S),
            )
        except requests.RequestException as error:
            raise RecordingError(
                f"{name}: {url} cannot be downloaded ({error}). Check the connection and the address."
            ) from error
        except ValueError as error:  # pooch's word for another hash
            raise RecordingError(
                f"{name}: {url} gives other bytes than expected (sha256 {sha256}). The file was "
                "replaced or the download was tampered with; it is not kept."
            ) from error
        finally:
            _remove_if_empty(folder)
    recording = folder if entry.beside else folder / entry.file_name
    _put_sidecar(recording.with_name(f"{recording.name}.session.yaml"), _sidecar_text(entry))
    return recording


def user_catalogue() -> Path:
    """The file of the user's own entries."""
    return _home("XDG_CONFIG_HOME", ".config") / "catalogue.yaml"


def data_folder() -> Path:
    """Where downloads are kept."""
    return _home("XDG_CACHE_HOME", ".cache") / "data"


def _home(variable: str, default: str) -> Path:
    """FOREBRAIN_HOME if it is set, else a folder of the user's configuration or cache."""
    if os.environ.get("FOREBRAIN_HOME"):
        return path_here(os.environ["FOREBRAIN_HOME"])
    try:
        return Path(os.environ.get(variable) or Path.home() / default) / "forebrain"
    except RuntimeError as error:
        raise RecordingError(
            "this user has no home folder to keep data in. Set FOREBRAIN_HOME to a folder."
        ) from error


def _parse(text: str | bytes, where: str) -> dict[str, Entry]:
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        typed, written = plain_yaml.load(text) or {}, yaml.load(text, yaml.BaseLoader) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise RecordingError(f"{where}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(written, dict):
        raise RecordingError(f"{where}: holds a {type(typed).__name__}; expected entries by name.")
    entries = {}
    for (name, entry), values in zip(written.items(), typed.values(), strict=True):
        # All of an entry is text, but for numbers in its sidecar.
        if isinstance(entry, dict) and "sidecar" in entry:
            entry = {**entry, "sidecar": as_written(values["sidecar"], entry["sidecar"])}
        entries[name] = _checked(name, entry, where)
    return entries


def _checked(name: str, values: Any, where: str) -> Entry:
    where = f"{where}: {name}"
    if not _NAME.fullmatch(name):
        raise RecordingError(f"{where}: not a name; expected letters, digits, dots, dashes and underscores.")
    try:
        entry = Entry(**values)
    except TypeError as error:
        raise RecordingError(
            f"{where}: {error}; expected url, sha256 and licence, and maybe citation, description, sidecar, "
            "beside."
        ) from error
    if urlsplit(entry.url).scheme not in ("http", "https") or not _is_file_name(entry.file_name):
        raise RecordingError(f"{where}: url is {entry.url!r}; expected http or https, and a file at its end.")
    if not isinstance(entry.beside, Mapping):
        raise RecordingError(f"{where}: beside is {entry.beside!r}; expected names of files with a sha256.")
    for file_name, (_, sha256) in entry.files.items():
        if not _is_file_name(file_name):
            raise RecordingError(f"{where}: beside holds {file_name!r}; expected names of files.")
        if not _SHA256.fullmatch(str(sha256)):
            raise RecordingError(f"{where}: sha256 is {sha256!r}; expected 64 hexadecimal digits.")
    check_sidecar(entry.sidecar, where)
    return entry


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name and "\0" not in name


def _sidecar_text(entry: Entry) -> str:
    known = {"licence": entry.licence, "citation": entry.citation or None}
    said = {key: value for key, value in (known | dict(entry.sidecar)).items() if value is not None}
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def _put_sidecar(path: Path, text: str) -> None:
    if not path.exists():
        _write(path, text)
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        _log.warning(
            "%s: is not what the catalogue says, and stays so. Remove it to have the catalogue's again.",
            path,
        )


def _write(path: Path, text: str) -> None:
    folder, name = file_at(path)
    folder.write(name, text.encode())


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
