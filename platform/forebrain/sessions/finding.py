"""Walks folders as they are found: links, loops, what cannot be read, and what forebrain itself wrote."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from forebrain.out_folder import KINDS, MARK_BYTES
from forebrain_registry.lines import one_line

_log = logging.getLogger(__name__)

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
# What studies, comparisons of runs and adaptations to many write into theirs.
_OF_A_STUDY = {
    "by_horizon.csv",
    "comparison.csv",
    "datasets.csv",
    "differences.csv",
    "left-out.json",
    "population",
    "population.json",
    "results.json",
    "scores",
    "scores.csv",
    "sessions.csv",
    "adapted.csv",
    "table.csv",
    "table.json",
}
# What other programs leave beside a file: the beginning of one that is still copied or downloaded, a copy
# that an editor, or a program that brings folders into step, made of it.
_LEFTOVERS = {
    "an unfinished download": re.compile(r".*\.(part|partial|crdownload|download|filepart|tmp)", re.I | re.S),
    "a copy that an editor keeps": re.compile(r".*(\.bak|~)|#.*#", re.I | re.S),
    "a copy of before folders were brought into step": re.compile(
        r".*(\.sync-conflict-|\(.*conflicted copy).*", re.I | re.S
    ),
}
# Who works there, or was killed as it did (`forebrain.alone`).
_HELD = re.compile(r"held-[0-9]+\.json")
_OF_A_SET = {"sessions", "sessions.jsonl", "shards", "index.json"}
# Folders by which a registry, and what was pulled from one, are known.
_OF_A_REGISTRY = ({"blobs/sha256", "models"}, {"references", "versions", "locks"})


class Walk:
    """The entries of folders, each folder once, by whatever links it is reached."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def entries(self, folder: Path, is_given: bool = False) -> list[Path]:
        """The files and folders to look at in a folder, sorted; none where it was seen before, or was written
        by forebrain.

        Devices, sockets and pipes, unfinished downloads and editors' copies are passed over, with a line;
        links that lead nowhere are not.

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
        entries = []
        for entry in folder.iterdir():
            if entry.name in own or (own and _HELD.fullmatch(entry.name)):
                continue
            if (kind := _endless(entry) or _leftover(entry.name)) is None:
                entries.append(entry)
            elif not entry.name.startswith("."):
                _log.warning("%s is %s and is passed over.", printable(entry), kind)
        return sorted(entries)


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


def instead_of_a_file(path: Path) -> str | None:
    """What is at a path that is no file or folder, in words that follow its name; None for these.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        kind = _kind(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return _broken_link(path) or "nothing is there"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return _broken_link(path) or "a link on the way to it leads in a circle"
    return None if kind is None else f"is {kind}"


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed and stored, on one line, whatever bytes its name has."""
    return one_line(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _is_by_link(path: str) -> bool:
    return os.path.realpath(path) != str(Path(path).absolute())


def _endless(entry: Path) -> str | None:
    """What an entry is that may be read without end, as a pipe that waits for its writer; else None."""
    try:
        return _kind(entry.stat())
    except OSError:  # said when it is opened
        return None


def _leftover(name: str) -> str | None:
    """What a name says that another program has left, in words; None for others."""
    return next((kind for kind, pattern in _LEFTOVERS.items() if pattern.fullmatch(name)), None)


def _kind(status: os.stat_result) -> str | None:
    """What is no file and no folder, in words; None for these."""
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return None
    if stat.S_ISFIFO(status.st_mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(status.st_mode) else "a device"


def _broken_link(path: Path) -> str | None:
    """Where the link leads by which nothing is at a path: itself, or a folder on the way; None without."""
    for each in (path, *path.parents):
        if not each.is_symlink():
            continue
        try:
            each.stat()
        except OSError as error:
            what = "is a link" if each == path else f"{printable(each)} is a link"
            if error.errno == errno.ELOOP:
                return f"{what} to {printable(each.readlink())}, which leads in a circle"
            return f"{what} to {printable(os.path.realpath(each))}, where nothing is"
    return None


def _names_of_own_output(folder: Path) -> set[str]:
    """Names in a folder that forebrain wrote; none where it wrote none."""
    for name, (mark, _) in KINDS.items():
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
    for inside in _OF_A_REGISTRY:
        if all((folder / name).is_dir() for name in inside):
            return {name.partition("/")[0] for name in inside}
    return set()
