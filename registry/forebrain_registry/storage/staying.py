"""Folders on disks that must stay where they are while a command works in them.

A folder may be moved, or its disk unmounted, in the middle of a work of hours. What is then made in its old
place is missing in the new one, and hidden once the disk is back. So whoever works in a folder names a file
that lies there as long as it is that folder: an anchor.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from forebrain_registry.errors import StorageError

LOOKS, LOOK_AGAIN_S = 3, 0.5  # a network disk may show late what another machine has made


class Anchor(NamedTuple):
    """Below `folder` nothing is made while there is no `file`."""

    folder: Path
    file: Path


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


def anchors() -> tuple[Anchor, ...]:
    """Those of this process, for processes that do a part of its work."""
    return tuple(_dropped)


def require_anchored(path: Path) -> None:
    """To be called before a folder is made.

    Raises:
        StorageError: it lies in a folder whose anchor is not there.
    """
    for folder, file in anchors():
        if (path == folder or folder in path.parents) and not _is_there(file):
            raise StorageError(
                f"{folder}: is not there any more, or another command's by now ({file} is missing). It was "
                "moved or removed while this was at work, or its disk unmounted, or this machine has no such "
                "disk; nothing is made in its place. Give the command again with the path where it is."
            )


def _is_there(file: Path) -> bool:
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_AGAIN_S)
        try:
            if file.exists():
                return True
        except OSError:  # of a server that is away
            continue
    return False
