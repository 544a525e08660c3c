"""What a kind of place must be able to do, so that a `Folder` can lie there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Stat:
    """Size of a file, and when it was written in seconds since 1970 by the store's clock."""

    size_bytes: int
    modified_s: float


class Place(Protocol):
    """Files by name, with "/" between a name's parts; the name "" is the place itself.

    Whatever is asked raises FileNotFoundError and FileExistsError of the very file, else StorageError.
    """

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of that name."""

    def stat(self, name: str) -> Stat | None:
        """Size and time of one file; None if there is none."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes [start, stop) of a file, fewer where it ends before; to its end by default."""

    def read_many(self, names: list[str], stop: int | None = None) -> dict[str, bytes]:
        """The first `stop` bytes of many files, by name; by default all."""

    def chunks(self, name: str, start: int) -> Iterator[bytes]:
        """The bytes of a file from an offset on, some MiB at a time."""

    def entries(self, folder: str) -> dict[str, Stat | None]:
        """What lies directly in a folder, by its last name; None for folders. Empty if there is none."""

    def walk(self, folder: str) -> dict[str, Stat]:
        """Every file below a folder, at any depth. Empty if there is none."""

    def put(self, name: str, source: bytes | Path, if_absent: bool = False) -> None:
        """Stores bytes or a local file: whole, or not at all."""

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it; nothing happens if there is none."""
