"""Folders on disks that must stay where they are while a command works in them.

A folder may be moved, or its disk unmounted, in the middle of a work of hours. What is then made in its old
place is missing in the new one, hidden once the disk is back, or among the files of another command that has
begun there since. So whoever works in a folder names a file that lies there as long as it is that folder and
theirs: an anchor.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from forebrain_registry.errors import StorageError

LOOKS, LOOK_AGAIN_S = 3, 0.5  # a network disk may show late what another machine has made


Given = ParamSpec("Given")
Result = TypeVar("Result")


class Anchor(NamedTuple):
    """Below `folder` nothing is made while there is no `file`, or it holds another `content` than is given
    here."""

    folder: Path
    file: Path
    content: bytes | None = None


_dropped: list[Anchor] = []


@contextlib.contextmanager
def anchored(*given: Anchor) -> Iterator[None]:
    """Has this process, all its threads, hold to these anchors within the block."""
    _dropped.extend(given)
    try:
        yield
    finally:
        for each in given:
            _dropped.remove(each)


def carrying_anchors(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function for another process that does a part of this one's work: it holds to the same anchors."""
    held = tuple(_dropped)

    @functools.wraps(function)
    def carried(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with anchored(*held):
            return function(*args, **kwargs)

    return carried


def require_anchored(path: Path) -> None:
    """To be called before a folder is made.

    Raises:
        StorageError: it lies in a folder whose anchor is not there.
    """
    for anchor in tuple(_dropped):
        if (path == anchor.folder or anchor.folder in path.parents) and not _is_there(anchor):
            raise StorageError(
                f"{anchor.folder}: is not there any more, or another command's by now ({anchor.file} is "
                "missing, or not of this one). It was moved or removed while this was at work, or its disk "
                "unmounted, or this machine has no such disk; nothing is made in its place. Give the command "
                "again with the path where it is."
            )


def _is_there(anchor: Anchor) -> bool:
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_AGAIN_S)
        try:
            if anchor.content is None:
                if anchor.file.exists():
                    return True
            elif anchor.file.read_bytes() == anchor.content:
                return True
        except OSError:  # there is none, or its server is away
            continue
    return False
