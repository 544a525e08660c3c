"""Readers: one small module a format, chosen by looking at the file and not only at its name.

A reader is a module with two functions:

    recognises(path: Path) -> bool          cheap; never raises on a readable path
    read(path: Path, sidecar: Sidecar) -> list[Session]

and, where they say something, with two more:

    further_files(path: Path) -> list[Path]     outside of the path and its sidecars, that it is read from too
    named_by(path: Path) -> Path                whose name is the recording's, where that is another folder's
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from forebrain.errors import RecordingError, StorageError
from forebrain.sessions import remote
from forebrain.sessions.finding import (
    Walk,
    each_file_once,
    instead_of_a_file,
    is_folder,
    printable,
)
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar, is_sidecar, named_input_files, parse_sidecar, sidecar_of
from forebrain_registry.lines import composed
from forebrain_registry.storage import path_here

# Asked in this order; the first that recognises a path reads it.
READERS = (
    "suite2p", "phy", "nwb", "minian", "mat_folder", "caiman", "hdf5", "excel", "parquet", "npz", "npy",
    "live_record", "netcdf3",
    "matlab73", "matlab", "inscopix", "csv_table", "json_table",
)  # fmt: skip
# Never recordings, wherever they lie.
_IGNORED_SUFFIXES = {
    ".md", ".rst", ".pdf", ".py", ".m", ".yaml", ".yml", ".toml", ".png", ".jpg", ".tif", ".tiff", ".avi",
    ".mp4", ".ipynb", ".html", ".sh", ".log", ".mkv",
}  # fmt: skip
# What recordings are mistaken for, by its first bytes in lower case.
_OTHER_KINDS = {
    b"<!doctype html": ("a web page", "download the file itself"),
    b"<html": ("a web page", "download the file itself"),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the data with `git lfs pull`"),
    b"\x1f\x8b": ("compressed by gzip", "unpack it"),
    b"pk\x03\x04": ("a ZIP archive", "unpack it"),
    b"\xd0\xcf\x11\xe0": ("a workbook of an old Excel (.xls)", "save it as .xlsx or CSV"),
    b"\x80": ("a Python pickle, which could run code", "save the traces as .npy or .npz"),
}


class Reader(Protocol):
    """The functions that a reader module offers."""

    def recognises(self, path: Path) -> bool: ...

    def read(self, path: Path, sidecar: Sidecar) -> list[Session]: ...


def find_recordings(paths: Sequence[str | Path]) -> list[str]:
    """Addresses of the recordings at and under the given paths, sorted, each once; always text.

    A file that is named is taken as it is; in a folder, what no reader can be meant for (text, pictures,
    sidecars, hidden files, what forebrain wrote) is passed over, and a folder that is one recording (suite2p,
    zarr) is one. Links are followed, to each file and folder once. A folder that cannot be read is found as
    if it were a recording, so that opening it says why.

    Raises:
        RecordingError: a path does not exist, or nothing under all of them looks like a recording.
    """
    found: set[str] = set()
    walk = Walk()
    for given in paths:
        if remote.is_remote(str(given)):
            found.add(str(given))
            continue
        path = _path_of(given)
        found |= {str(path)} if path.is_file() else set(_in_folder(path, walk, is_given=True))
    if not found:
        raise RecordingError(
            f"{', '.join(map(str, paths))}: no recording found; expected files such as .npz, .nwb, "
            ".h5, .mat, .csv or .npy, or folders of suite2p or minian."
        )
    return each_file_once(found)


def _path_of(given: str | Path) -> Path:
    """What is there of a path, which may begin with ~ or file://."""
    path = Path(given)
    if path.is_file() or path.is_dir():
        return path
    try:
        path = path_here(given)
    except StorageError as error:
        raise RecordingError(
            f"{error} Recordings are read from disks, by https:// and dandi:; copy them to a disk."
        ) from error
    _check_kind(path)
    return path


def open_recording(path: str | Path, given: Sidecar | None = None) -> list[Session]:
    """Opens a recording; traces may be read lazily, from the path, when they are asked for.

    Args:
        path: a file or recording folder, or the address of one elsewhere (https, `dandi:000NNN/PATH`).
        given: what the user says, over what sidecar files say.

    Raises:
        RecordingError: no reader knows the format, or the file is damaged, empty or ambiguous; one message
            that names the file, what is wrong and what would help.
    """
    if remote.is_remote(str(path)):
        said = remote.sidecar_path(str(path))
        sidecar = parse_sidecar(said) if said.is_file() else Sidecar()
        path = remote.open_path(str(path))
    else:
        path = Path(path)
        check(path)
        sidecar = sidecar_of(path)
    sidecar = sidecar if given is None else given.over(sidecar)
    reader = _reader_of(path)
    try:
        sessions = reader.read(path, sidecar)
        if sidecar.inputs or sidecar.input_files:
            from forebrain.sessions.readers._input_files import brought

            sessions = brought(sessions, path, sidecar)
        return sessions
    except RecordingQuestion as question:
        if printable(path) in str(question):
            raise
        raise RecordingQuestion(f"{path}: {question}", question.choices) from question
    except RecordingError as error:
        raise error if printable(path) in str(error) else RecordingError(f"{path}: {error}") from error
    except Exception as error:  # format libraries raise anything on damaged files, tokenize.TokenError too
        why = " ".join(str(error).split())
        raise RecordingError(
            f"{path}: cannot be read ({type(error).__name__}: {why}). The file may be damaged or "
            "incomplete; fetch or export it again."
        ) from error


def check(path: Path) -> None:
    """Refuses a path that is no text, since names of sessions, files of shards and lines of JSON are made of
    it, and one at which there is no file or folder.

    Raises:
        RecordingError: the path is not valid UTF-8; or what is there instead, and where a link leads.
    """
    if os.fsencode(path).decode("utf-8", "ignore") != str(path):
        raise RecordingError(f"{printable(path)}: the name is not valid UTF-8; rename the file or folder.")
    _check_kind(path)


def _check_kind(path: Path) -> None:
    try:
        instead = instead_of_a_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if instead is not None:
        raise RecordingError(f"{printable(path)}: {instead}; give a recording, or a folder of them.")


def reader_name(path: str | Path) -> str | None:
    """Name of the reader that recognises a path or an address elsewhere; None if none does.

    Raises:
        RecordingError: the path cannot be read.
    """
    if remote.is_remote(str(path)):
        return _recognised(remote.open_path(str(path)))
    _check_kind(Path(path))
    return _recognised(Path(path))


def further_files(path: Path) -> list[Path]:
    """The files outside of a recording, its sidecar files and what these name, that it is read from too:
    what links in an HDF5 file lead to, tables of times beside a folder."""
    find = _said_by_reader(path, "further_files")
    return [] if find is None else list(find(path))


def path_names(path: Path) -> str:
    """What a path tells of a recording's identity, as `folder/name`."""
    find = _said_by_reader(path, "named_by")
    named = (path if find is None else find(path)).absolute()
    return composed(printable(f"{named.parent.name}/{named.name}"))


def _said_by_reader(path: Path, function: str) -> Callable[[Path], Any] | None:
    """A function that the reader of a path may have; None where it has none, or none reads the path."""
    try:
        name = _recognised(path)
    except RecordingError:  # said when it is opened
        return None
    return None if name is None else getattr(_module(name), function, None)


def _recognised(path: Path) -> str | None:
    try:
        if path.is_dir():
            os.scandir(path).close()
        elif path.exists():
            path.open("rb").close()
        return next((name for name in READERS if _module(name).recognises(path)), None)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RecordingError:
    return RecordingError(
        f"{printable(path)}: cannot be read ({error.strerror or error}). Check that it is there, whole, and "
        "may be read."
    )


def _reader_of(path: Path) -> Reader:
    name = _recognised(path)
    if name is None:
        raise RecordingError(f"{path}: {_instead(path)}")
    return _module(name)


def _instead(path: Path) -> str:
    """The words that say what a path holds that no reader recognises, and what to do."""
    head = b""
    if path.is_file():
        with path.open("rb") as stream:
            head = stream.read(512)
        if not head:
            return "the file is empty; copy it again from its source."
    for start, (kind, mend) in _OTHER_KINDS.items():
        if head.lstrip().lower().startswith(start):
            return f"is {kind}, not a recording; {mend}."
    return (
        f"of no format that is known here; expected one of {', '.join(READERS)}. Export the traces as CSV or "
        ".npy with a sidecar file that states rate_hz."
    )


def _module(name: str) -> Reader:
    module: Reader = importlib.import_module(f"{__name__}.{name}")
    return module


def _in_folder(folder: Path, walk: Walk, is_given: bool = False) -> list[str]:
    from forebrain.sessions.readers.suite2p import planes_in

    try:
        if _is_recording_folder(folder):
            return [str(folder)]
        if planes := planes_in(folder):  # what else suite2p writes there holds the same again
            return [str(plane) for plane in planes]
        entries = walk.entries(folder, is_given)
    except OSError:
        return [str(folder)]  # said when it is opened
    found: list[str] = []
    inputs = named_input_files(entries)
    for entry in entries:
        if entry.name.startswith((".", "~$")) or is_sidecar(entry):  # ~$: Excel's locks
            continue
        if str(entry) in inputs:
            continue
        if is_folder(entry):
            found += _in_folder(entry, walk)
        elif entry.suffix.lower() not in _IGNORED_SUFFIXES:
            found.append(str(entry))
    return found


def _is_recording_folder(folder: Path) -> bool:
    return any(_module(name).recognises(folder) for name in READERS)
