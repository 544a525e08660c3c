"""Recordings by address: files and folders, public ones (https, `dandi:000NNN/PATH`), or simulated sets
(`sim://default?seed=0`)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from forebrain.errors import ForebrainError, RecordingError
from forebrain.sessions.remote import fingerprint, is_remote, sidecar_path
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar, parse_sidecar, sidecar_files
from forebrain.sessions.simulate import (
    SIMULATION_VERSION,
    kernels_file,
    open_simulated,
    simulated_addresses,
)
from forebrain.shards.hashing import file_sha256
from forebrain.shards.index import INDEX_NAME
from forebrain_registry.storage import Folder

_SIMULATED = "sim://"


def find_all(addresses: Sequence[str]) -> list[str]:
    """The address of each recording under the given files, folders and simulated sets.

    Paths come back absolute, because workers start in folders of their own.

    Raises:
        RecordingError: there is nothing at an address, or shards of a prepare that did not finish.
    """
    paths = [address for address in addresses if not address.startswith(_SIMULATED)]
    found: list[str] = []
    if paths:
        from forebrain.sessions.readers import find_recordings

        try:
            recordings = find_recordings(paths)
        except RecordingError as error:
            for path in paths:
                if not is_remote(path) and _is_unfinished_set(path):
                    raise RecordingError(
                        f"{path}: holds shards and no {INDEX_NAME}, which prepare writes last, so it did not "
                        "finish. Run the same prepare again: it goes on with what is there."
                    ) from error
            raise
        found += [path if is_remote(path) else str(Path(path).absolute()) for path in recordings]
    for address in addresses:
        if address.startswith(_SIMULATED):
            found += simulated_addresses(address)
    return found


def open_any(address: str, given: Sidecar | None = None) -> list[Session]:
    """The sessions of one of the addresses that `find_all` gave.

    Args:
        address: of a recording, or of a simulated one.
        given: what the user says of a recording, over what its sidecar files say.

    Raises:
        RecordingError: the recording cannot be used.
    """
    if address.startswith(_SIMULATED):
        return open_simulated(address)
    from forebrain.sessions.readers import open_recording

    return open_recording(address, given)


def name_of(address: str) -> str:
    """A recording's name without its folder, the same wherever the recording lies."""
    return address if address.startswith(_SIMULATED) else Path(address).name


def path_names_of(address: str) -> str:
    """What a recording's path tells of its identity, as `folder/name`: which no hash of what lies there
    holds. Empty of one that has no path."""
    if address.startswith(_SIMULATED) or is_remote(address):
        return ""
    from forebrain.sessions.readers import path_names

    return path_names(Path(address))


def sha256_of(address: str) -> str:
    """A hash of all that decides what a recording is read as but the names of its folders: its bytes, its
    sidecar files, the files of inputs that they name, and the further files that its reader reads.

    Raises:
        RecordingError: its name is no text, or no file or folder is there.
    """
    if address.startswith(_SIMULATED):
        kernels = kernels_file(address)
        of_kernels = file_sha256(kernels) if kernels is not None and kernels.is_file() else ""
        return hashlib.sha256(f"{SIMULATION_VERSION} {address}{of_kernels}".encode()).hexdigest()
    if is_remote(address):
        found = fingerprint(address)
        beside = _hashes_of_inputs(sidecar_path(address))
        return hashlib.sha256(f"{found}{beside}".encode()).hexdigest() if beside else found
    from forebrain.sessions.readers import check, further_files

    path = Path(address)
    check(path)
    digest = hashlib.sha256()
    sidecars = [(file.relative_to(path.parent).as_posix(), file) for file in sidecar_files(path)]
    for name, file in [*_files_of(path), *sidecars]:
        digest.update(f"{name}\0{file_sha256(file)}\n".encode("utf-8", "surrogateescape"))
    inputs = "".join(_hashes_of_inputs(file) for _, file in sidecars)
    digest.update(inputs.encode("utf-8", "surrogateescape"))
    for file in further_files(path):
        digest.update(f"further {file.name}\0{file_sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def hashes_of(addresses: Sequence[str]) -> dict[str, str | None]:
    """`sha256_of` each address; None where it cannot be read."""
    found: dict[str, str | None] = {}
    for address in addresses:
        found[address] = None
        with contextlib.suppress(ForebrainError, OSError):
            found[address] = sha256_of(address)
    return found


def has_changed(address: str, sha256: str) -> bool:
    """Whether a recording on this machine is no longer what had this hash; one elsewhere is not asked for."""
    if address.startswith(_SIMULATED) or is_remote(address):
        return False
    try:
        return sha256_of(address) != sha256
    except (OSError, RecordingError):
        return True


def _is_unfinished_set(address: str) -> bool:
    """Whether prepare has written shards there, and no index."""
    from forebrain.shards.reader import sizes_of_shards

    try:
        folder = Folder(address)
        is_begun = folder.exists("sessions") and any(".tar" in name for name in sizes_of_shards(folder))
        return is_begun and not folder.exists(INDEX_NAME)
    except ForebrainError:  # which is no news where there are no recordings
        return False


def _hashes_of_inputs(sidecar: Path) -> str:
    """Names and hashes of the files of inputs that a sidecar file names; none of those that are not there."""
    files: list[Path] = []
    with contextlib.suppress(RecordingError):  # of a sidecar that cannot be read: said when its recording is
        files = [Path(each.file) for each in parse_sidecar(sidecar).input_files or ()]
    return "".join(f"{file.name}\0{file_sha256(file)}\n" for file in files if file.is_file())


def _files_of(path: Path) -> Iterator[tuple[str, Path]]:
    if not path.is_dir():
        yield path.name, path
        return
    for file in sorted(_files_below(path, ())):
        yield file.relative_to(path).as_posix(), file


def _files_below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files that readers find in a folder, those behind links to folders too.

    Args:
        above: the folders, without links, that it is in. A link that leads back to one is not followed.
    """
    here = above[-1] / folder.name if above and not folder.is_symlink() else folder.resolve()
    if any(each.is_relative_to(here) for each in above):
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files_below(entry, (*above, here))
        elif entry.is_file():
            yield entry


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except PermissionError:  # said by a reader that needs what is in it
        return []
