"""By which names a stream's frames are read, where these are not told again. Needs no extra."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from forebrain.errors import FrameError


class UntoldNamesError(FrameError):
    """A frame whose units have names that the forecaster does not hold: its sender is to tell them again."""


def hash_of_names(names: Sequence[str]) -> str:
    """A short hash of names in their order: the first 16 hexadecimal digits of the SHA-256 of their UTF-8,
    with line feeds between them."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
