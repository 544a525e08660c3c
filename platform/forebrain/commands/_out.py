"""Where results go: what is there is not written over, unless --overwrite says so."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from forebrain.adaptation.plans import ExtrapolationWarning
from forebrain.errors import ConfigError
from forebrain.sessions.preprocessing import RateWarning, ValuesWarning
from forebrain_registry.lines import one_line
from forebrain_registry.storage import Folder, file_at


def require_free(out: str | None, overwrite: bool, option: str = "out") -> None:
    """Makes sure, before any work, that a file of this name, given by an option, can be written.

    Raises:
        ConfigError: there is one that is not to be written over, or that is no file.
        StorageError: its folder cannot be written to, or it is a link to nothing.
    """
    if out is None:
        return
    folder, name = _place(out)
    if not overwrite and folder.exists(name):
        raise _taken(out, option)
    if folder.exists(name) and folder.stat(name) is None:
        raise ConfigError(f"{option} is {out}, a folder, device or pipe; expected a file, of another name.")
    folder.require_writable()


def write_out(out: str, data: bytes, overwrite: bool, option: str = "out") -> None:
    """Writes a file whole, on a disk or in an object store.

    Raises:
        ConfigError: it is not to be written over, and another command wrote one since `require_free`.
    """
    folder, name = _place(out)
    if overwrite:
        folder.write(name, data)
        return
    try:
        folder.create(name, data)
    except FileExistsError as error:
        raise _taken(out, option) from error


def _taken(out: str, option: str) -> ConfigError:
    return ConfigError(
        f"{option} is {out}, which exists. Give --overwrite to replace it, or another --{option}."
    )


def _place(out: str) -> tuple[Folder, str]:
    """Where a file lies, whatever links lead there: one that is written replaces none of them.

    Raises:
        StorageError: it is a link to nothing.
    """
    folder, name = file_at(out)
    if not folder.is_local or not (path := folder.local_path(name)).is_symlink():
        return folder, name
    if str(path.readlink()).startswith("/proc/"):  # such as /dev/stdout, which is refused as it is
        return folder, name
    return file_at(folder.child(name).uri)


@contextmanager
def doubts_told() -> Iterator[None]:
    """Tells, once and beside the table, where plans leave the range that was recorded, or rate or values of
    the recording are others."""
    with warnings.catch_warnings(record=True) as told:
        for kind in (ExtrapolationWarning, RateWarning, ValuesWarning):
            warnings.simplefilter("always", kind)
        yield
    for message in dict.fromkeys(str(each.message) for each in told):
        print(f"{one_line(message)}.", file=sys.stderr)
