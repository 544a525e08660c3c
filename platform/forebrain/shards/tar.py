"""A tar written front to back, so that samples larger than memory stream through and offsets are known."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable
from typing import BinaryIO

_BLOCK = 512


class TarWriter:
    """Writes members in order. Equal members give equal bytes: no time, no owner.

    Attributes:
        size: bytes written so far.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size = 0

    def add(self, name: str, size: int, chunks: Iterable[bytes | memoryview]) -> int:
        """Appends a member of `size` bytes and returns the offset of its first byte in the tar."""
        header = tarfile.TarInfo(name)
        header.size = size
        header.mode = 0o644
        self._write(header.tobuf(tarfile.GNU_FORMAT))
        offset = self.size
        for chunk in chunks:
            self._write(chunk)
        if self.size - offset != size:
            raise ValueError(f"member {name} has {self.size - offset} bytes; its header says {size}")
        self._write(bytes(-size % _BLOCK))
        return offset

    def finish(self) -> str:
        """Ends the tar and returns its sha256."""
        self._write(bytes(2 * _BLOCK))
        return self._digest.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.size += len(data) if isinstance(data, bytes) else data.nbytes
