"""Plain tables in text files: CSV, TSV, or numbers between white space; what columns are is told in `_table`.

Without a header, but with text in every row, a row is one trial of one unit: unit, labels up to the last
text, values. The k-th row of a unit belongs to the k-th trial; trials are joined as segments, and labels of
trials are inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import make_session
from forebrain.sessions.readers._inputs import MAX_VALUES, Channel, with_channels
from forebrain.sessions.readers._table import _UNIT, _numbers, is_header, sessions_of_table
from forebrain.sessions.readers._text import TextTable, is_number, look_at, plain
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import pandas as pd

_MAX_HEADER_ROWS = 3


def recognises(path: Path) -> bool:
    return path.is_file() and look_at(path) is not None


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads a table.

    Raises:
        RecordingError: a column that would be a unit holds text, or there is only one column.
        RecordingQuestion: what signs, columns or axes mean cannot be told.
    """
    table = look_at(path)
    if table is None:
        raise RecordingError(f"{path}: no table of numbers in text.")
    if _is_trial_table(table):
        return [_read_trials(table, sidecar)]
    frame, has_header = frame_of(table, sidecar)
    return sessions_of_table(frame, has_header, path, sidecar)


def frame_of(table: TextTable, sidecar: Sidecar) -> tuple[pd.DataFrame, bool]:
    """A table in text as rows below its header, and whether it has one; without one columns are numbered.

    Raises:
        RecordingError: rows have different lengths.
        RecordingQuestion: what signs mean cannot be told.
    """
    rows = [[plain(field, table.decimal, table.thousands) for field in row] for row in table.rows]
    has_header = is_header(rows[0], rows[1:]) if sidecar.header is None else sidecar.header
    num_header_rows = _num_header_rows(rows) if has_header else 0
    frame = table.load(num_header_rows, sidecar)
    if has_header:
        frame.columns = _header(table, num_header_rows)
    return frame, has_header


def _num_header_rows(rows: list[list[str]]) -> int:
    """How many rows of words stand above the numbers; the last names the columns, those before group them."""
    if rows[0][0].lower() in ("scorer", "bodyparts"):
        return 1  # a tracking, which is known by its first row
    count = 1
    while count < min(_MAX_HEADER_ROWS, len(rows) - 1):
        filled = [field for field in rows[count] if field]
        if not filled or any(is_number(field) for field in filled):
            break
        count += 1
    return count


def _read_trials(table: TextTable, sidecar: Sidecar) -> Session:
    path = table.path
    frame = table.load(num_header_rows=0, sidecar=sidecar)
    first_value = _first_value(table)
    units = frame[0].astype(str).str.strip()
    trial = frame.groupby(units, sort=False).cumcount().to_numpy()
    names = list(dict.fromkeys(units))
    num_trials = int(trial.max()) + 1
    if len(frame) != num_trials * len(names):
        counts = units.value_counts()
        raise RecordingError(
            f"{path}: unit {counts.index[-1]} has {counts.iloc[-1]} rows, unit {counts.index[0]} has "
            f"{counts.iloc[0]}; expected a row for each unit in each trial."
        )
    values = _numbers(frame.iloc[:, first_value:], path)
    num_frames = values.shape[1]
    traces = np.empty((num_trials, num_frames, len(names)))
    traces[trial, :, units.map(names.index).to_numpy()] = values
    session = make_session(
        path,
        sidecar,
        traces.reshape(-1, len(names)),
        unit_names=tuple(names),
        segment_ids=np.repeat(np.arange(num_trials, dtype=np.int32), num_frames),
        metadata={"axis_from": "a row for each trial of a unit"},
    )
    return with_channels(session, _labels(frame.iloc[:, 1:first_value], trial, num_frames))


def _labels(labels: pd.DataFrame, trial: np.ndarray, num_frames: int) -> Iterator[Channel]:
    """The labels of trials as inputs that last as long as their trial; those that differ between the units of
    one trial are of units, and no inputs."""
    for column in labels:
        by_trial = labels[column].groupby(trial)
        if (by_trial.nunique(dropna=False) > 1).any():
            continue
        values, origin = by_trial.first(), f"column {column}, for all of a trial"
        if values.dtype.kind in "fiub":
            yield Channel(f"label{column}", _lasting(values, num_frames), True, "level", "", origin)
        elif 1 < values.nunique() <= MAX_VALUES:
            for text in sorted(values.dropna().astype(str).unique()):
                marked = _lasting(values.astype(str) == text, num_frames)
                yield Channel(f"label{column}:{text}", marked, True, "level", "", origin)


def _lasting(values: pd.Series, num_frames: int) -> np.ndarray:
    return np.repeat(values.to_numpy(np.float32), num_frames)


def _header(table: TextTable, num_header_rows: int) -> list[str]:
    names, below = table.rows[num_header_rows - 1], table.rows[num_header_rows]
    missing = len(below) - len(names)
    if missing == 1:  # R names no column of row names; others leave a delimiter at the end of each row
        return ["", *names] if below[-1] else [*names, ""]
    if missing:
        raise RecordingError(f"{table.path}: the header has {len(names)} fields, the rows have {len(below)}.")
    return list(names)


def _is_trial_table(table: TextTable) -> bool:
    if _UNIT.fullmatch(table.rows[0][0].lower()):
        return False  # a header, before units in rows
    first_value = _first_value(table)
    return 0 < first_value < len(table.rows[0]) and all(
        len(row) > first_value and is_number(row[-1]) and not is_number(row[first_value - 1])
        for row in table.rows
    )


def _first_value(table: TextTable) -> int:
    """Position behind the last text in the first row; 0 where there is none."""
    is_text = [bool(field) and not is_number(field) for field in table.rows[0]]
    return len(is_text) - is_text[::-1].index(True) if any(is_text) else 0
