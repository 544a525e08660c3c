"""sha256 of files, remembered for as long as a file is the same by size, times and inode.

A recording of 100 GB is hashed once, and not whenever it is named again. What is remembered lies in the cache
folder, a small file each; where there is no room for it, nothing is remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from pathlib import Path

from forebrain.errors import StorageError
from forebrain_registry.pulling import default_cache

# Smaller files are read as fast as a note of them.
LEAST_BYTES = 4 << 20
# A file may change again within one tick of its clock, and look the same.
SETTLED_S = 3.0


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, hex.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        if before.st_size < LEAST_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        state = _state(before)
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, StorageError):
            known = json.loads(_note(before).read_text())
            if known["state"] == state and _is_sha256(known["sha256"]):
                return known["sha256"]
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        is_settled = time.time() - max(before.st_mtime, before.st_ctime) > SETTLED_S
        if is_settled and _state(os.fstat(stream.fileno())) == state:
            with contextlib.suppress(OSError, StorageError):  # a user without a home, too
                _write(_note(before), json.dumps({"state": state, "sha256": sha256}))
    return sha256


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _note(status: os.stat_result) -> Path:
    return default_cache().with_name("sha256") / f"{status.st_dev:x}-{status.st_ino:x}.json"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _is_sha256(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")
