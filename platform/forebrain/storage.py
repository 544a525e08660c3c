"""Where `Folder` was, and what reading one means for shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from forebrain.errors import ShardError
from forebrain_registry.storage import PARTIAL, Folder

__all__ = ["PARTIAL", "Folder", "readable"]


@contextlib.contextmanager
def readable(uri: str, name: str) -> Iterator[None]:
    """Turns a storage failure while reading `name` into a ShardError."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"{uri}: {name} cannot be read ({error or type(error).__name__}). "
            "Check the address, or run prepare again: it rewrites only what is missing."
        ) from error
