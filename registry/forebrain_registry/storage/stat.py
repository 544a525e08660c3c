"""The facts about a stored file that a listing gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stat:
    """Size of a file, and when it was written in seconds since 1970 by the store's clock; NaN where the store
    does not tell, which is neither young nor old."""

    size_bytes: int
    modified_s: float
