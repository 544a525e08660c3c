"""The error of a set of shards when one of its files cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from forebrain.errors import ShardError


@contextlib.contextmanager
def readable(uri: str, name: str) -> Iterator[None]:
    """Turns a missing file, or a local disk's failure to read `name`, into a ShardError."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"{uri}: {name} cannot be read ({error or type(error).__name__}). "
            "Check the address, or run prepare again: it rewrites only what is missing."
        ) from error
