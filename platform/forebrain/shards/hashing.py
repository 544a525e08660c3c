"""sha256 of files, remembered for as long as a file is the same by size, times and inode.

A recording of 100 GB is hashed once, and not whenever it is named again. What is remembered lies in the cache
folder, a small file each; where there is no room for it, nothing is remembered.
"""

from __future__ import annotations

import contextlib
import errno
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
        if os.fstat(stream.fileno()).st_size < LEAST_BYTES:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        can_tell = _flush(stream.fileno())
        before = os.fstat(stream.fileno())
        state = _state(before)
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, StorageError):
            known = json.loads(_note(before).read_bytes())
            if known["state"] == state and _is_sha256(known["sha256"]):
                return known["sha256"]
        # Not once it is read, which takes long: a map that was written to since the flush may be again.
        is_settled = time.time() - max(before.st_mtime, before.st_ctime) > SETTLED_S
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if can_tell and is_settled and _state(os.fstat(stream.fileno())) == state:
            with contextlib.suppress(OSError, StorageError):  # a user without a home, too
                _write(_note(before), json.dumps({"state": state, "sha256": sha256}))
    return sha256


def _flush(descriptor: int) -> bool:
    """Brings to the disk what another process wrote through a memory map.

    Its next write there then moves the file's time; without, only the first one since they last came to the
    disk does.

    Returns:
        Whether times tell of all that is written from now on; in memory, which is never flushed, they do not.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # of a disk that is only read
            return False
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}" if hasattr(os, "major") else ""
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    except OSError:  # no Linux
        return True
    kinds = {mount[mount.index(b"-") + 1] for mount in mounts if mount[2] == number.encode()}
    return not kinds & {b"tmpfs", b"ramfs"}


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _note(status: os.stat_result) -> Path:
    return default_cache().with_name("sha256") / f"{status.st_dev:x}-{status.st_ino:x}.json"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _is_sha256(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")
