"""Walks folders as they are found: links, loops, what cannot be read, and what forebrain itself wrote."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

_log = logging.getLogger(__name__)

# Files by which a folder is known to be written by forebrain, and what they hold near their beginning.
OWN_MARKS = {
    "index.json": rb'"format": ?"forebrain-',
    "config.yaml": rb"(?ms)^data:.*^out:.*^model:",
    "study.yaml": rb"(?m)^pretrain:",
    "study.json": rb'"sessions": ?[\[{]',
    "adaptations.yaml": rb"(?m)^\w+:",
    "adaptation.json": rb'"format": ?"forebrain-',
}
MARK_BYTES = 1 << 16
# What a run writes into its folder, which may be the one that its recordings lie in.
_OF_A_RUN = {
    "attempts",
    "checkpoints",
    "data_index.json",
    "evaluation",
    "figures",
    "metrics.jsonl",
    "ray",
    "result.json",
    "deepspeed.json",
    "shards",
    "tensorboard",
    "trials",
}
# What studies and adaptations to many write into theirs.
_OF_A_STUDY = {
    "datasets.csv",
    "differences.csv",
    "scores",
    "sessions.csv",
    "adapted.csv",
    "table.csv",
    "table.json",
}
_OF_A_SET = {"sessions", "sessions.jsonl", "shards", "index.json"}


class Walk:
    """The entries of folders, each folder once, by whatever links it is reached."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def entries(self, folder: Path, is_given: bool = False) -> list[Path]:
        """The files and folders to look at in a folder, sorted; none where it was seen before, or was written
        by forebrain.

        Devices, sockets and pipes are passed over; links that lead nowhere are not.

        Args:
            folder: exists.
            is_given: it was named by the user: of what forebrain wrote only known names are passed over.

        Raises:
            OSError: it cannot be read.
        """
        status = folder.stat()
        identity = status.st_dev, status.st_ino
        if identity in self._seen:
            return []
        self._seen.add(identity)
        own = _names_of_own_output(folder)
        if own and not is_given:
            _log.warning("%s was written by forebrain and is not searched for recordings.", printable(folder))
            return []
        found = (entry for entry in folder.iterdir() if entry.name not in own)
        return sorted(entry for entry in found if _can_be_opened(entry))


def each_file_once(paths: Iterable[str]) -> list[str]:
    """Paths sorted, without those that are links to another of them."""
    of_file: dict[tuple[int, int] | str, list[str]] = {}
    for path in sorted(set(paths)):
        try:
            status = Path(path).stat()
        except OSError:  # said when it is opened
            of_file[path] = [path]
        else:
            of_file.setdefault((status.st_dev, status.st_ino), []).append(path)
    return sorted(min(same, key=lambda path: (_is_by_link(path), path)) for same in of_file.values())


def is_folder(entry: Path) -> bool:
    """Whether an entry is a folder; one that cannot be looked at is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed and stored, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_by_link(path: str) -> bool:
    return os.path.realpath(path) != str(Path(path).absolute())


def _can_be_opened(entry: Path) -> bool:
    """Whether opening an entry can end: a pipe would wait for its writer."""
    try:
        return entry.is_file() or entry.is_dir() or (entry.is_symlink() and not entry.exists())
    except OSError:  # said when it is opened
        return True


def _names_of_own_output(folder: Path) -> set[str]:
    """Names in a folder that forebrain wrote; none where it wrote none."""
    for name, mark in OWN_MARKS.items():
        path = folder / name
        if path.is_file():
            try:
                with path.open("rb") as stream:
                    is_own = re.search(mark, stream.read(MARK_BYTES)) is not None
            except OSError:
                continue
            if is_own:
                return _OF_A_RUN | _OF_A_SET | _OF_A_STUDY | {name}
    # A set of shards that is not finished has no index yet.
    if any((folder / "shards").glob("?/*-?????.tar*")) and (folder / "sessions").is_dir():
        return _OF_A_SET
    return set()
