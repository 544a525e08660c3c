"""Records in JSON that tell when they are no longer what was written: each has the hash of all else in it."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

SEAL = "sha256"


def sealed(record: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """A record as JSON, with its seal.

    Raises:
        ValueError: it holds a number that is not finite, which is no JSON.
    """
    content = json.loads(json.dumps(record, allow_nan=False))
    return json.dumps({**content, SEAL: _hash_of(content)}, indent=indent).encode()


def unsealed(data: bytes) -> dict[str, Any]:
    """The record that `sealed` wrote, without its seal; one of before there were seals is taken as it is.

    Raises:
        ValueError: it is no JSON or no map, or something of it has changed.
    """
    try:
        record = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"it holds a {type(record).__name__}; expected a map")
    seal = record.pop(SEAL, None)
    if seal is not None and seal != _hash_of(record):
        raise ValueError("it has changed since it was written, or was changed by hand")
    return record


def plain(value: Any) -> Any:
    """A value as JSON has it: what is undefined, or not finite, is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def plain_json(value: Any) -> bytes:
    """A value as JSON that anything reads."""
    return json.dumps(plain(value), indent=1, allow_nan=False).encode()


def require_numbers(record: Mapping[str, Any], names: Iterable[str], or_none: bool = False) -> None:
    """Raises ValueError or LookupError where a record, which may be of before there were seals, does not hold
    a finite number under each of these names; `or_none`, which stands for what is undefined."""
    for name in names:
        value = record[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and abs(value) <= sys.float_info.max:  # which NaN is not
            continue
        if not (or_none and value is None):
            raise ValueError(f"its {name} is {value!r:.100}; expected a number")


def _hash_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
