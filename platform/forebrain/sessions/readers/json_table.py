"""JSON: a list of `[time, [values of all units]]`, or a list of lists of numbers.

Either may lie under keys of an object, which the sidecar's `variable` names, for example `recording/traces`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import check_size
from forebrain.sessions.readers._content import Content, FieldOf, StoredArray, choose, sessions_of
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_UNPACKED = 10  # bytes of Python objects for a byte of JSON


def recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head[:1] in (b"[", b"{") and head[1:].lstrip()[:1] in b'["{-0123456789nN]}'


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads a table.

    Raises:
        RecordingError: it is no valid JSON, or holds no table, or several.
    """
    check_size(path.stat().st_size * _UNPACKED, path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path}: not valid JSON ({error}); it may be cut off.") from error
    found = Content(is_one_table=True)
    times = {}
    for name, (time_s, values) in _tables(content).items():
        dims = _DIMS[time_s is not None]
        found.add(name, StoredArray.in_memory(values.shape, partial(np.asarray, values), dims=dims))
        if time_s is not None:
            times[name] = time_s
    _scalars(content, "", found.numbers)
    name = choose(found, path, sidecar)
    fields: dict[str, FieldOf] = {}
    if name in times:
        fields["time_s"] = lambda num_frames, num_units: times[name]
    return sessions_of(found, path, replace(sidecar, variable=name), signals={name: ""}, fields_of=fields)


# A table with times has a row for each time; of another one nothing is known.
_DIMS = {True: ("frames", "units"), False: ()}


def _scalars(content: Any, name: str, numbers: dict[str, float]) -> None:
    """The single numbers of objects, by their path, in which a rate may be stated."""
    if isinstance(content, dict):
        for key, value in content.items():
            _scalars(value, f"{name}/{key}" if name else str(key), numbers)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        numbers[name] = float(content)


def _tables(content: Any, name: str = "") -> dict[str, tuple[np.ndarray | None, np.ndarray]]:
    """Times and values of each table in the content, by its path."""
    if isinstance(content, dict):
        found: dict[str, tuple[np.ndarray | None, np.ndarray]] = {}
        for key, value in content.items():
            found |= _tables(value, f"{name}/{key}" if name else str(key))
        return found
    table = _table(content)
    return {} if table is None else {name or "root": table}


def _table(content: Any) -> tuple[np.ndarray | None, np.ndarray] | None:
    if not isinstance(content, list) or not content or not all(isinstance(row, list) for row in content):
        return None
    is_timed = all(
        len(row) == 2 and not isinstance(row[0], list) and isinstance(row[1], list) for row in content
    )
    rows = [row[1] for row in content] if is_timed else content
    values = _matrix(rows)
    if values is None:
        return None
    return (np.array([row[0] for row in content], np.float64) if is_timed else None), values


def _matrix(rows: list[Any]) -> np.ndarray | None:
    """Rows of numbers of one length, null as NaN; None where they are anything else."""
    width = len(rows[0])
    if not width or any(len(row) != width for row in rows):
        return None
    try:
        return np.array(rows, np.float64)
    except (TypeError, ValueError):
        return None
