"""Plain tables in text files: CSV, TSV, or numbers between white space.

- With a header, rows are frames and columns are units. A column called like a time (`time`, `t`, `time (ms)`,
  ...) gives frame times, one called like a trial (`trial`, `segment`, ...) gives segments, a frame counter is
  passed over. If the first column is called like a unit (`cell`, `neuron`, ...), rows are units. If a column
  called like a unit repeats its values, the table is long: a row is one value of one unit at one time.
- Without a header, the longer side counts frames.
- Without a header, but with text in every row, a row is one trial of one unit: unit, labels up to the last
  text, values. The k-th row of a unit belongs to the k-th trial; trials are joined as segments.

Columns that are neither go unread only if the sidecar's `columns` says so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import make_session, oriented
from forebrain.sessions.readers._text import TextTable, is_number, look_at
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import pandas as pd

_TIME = re.compile(
    r"(?:elapsed|frame|unix)?[ _]?(?:times?|t|timestamps?|seconds|sec|s)"
    r"[ _]*[(\[]?(?P<unit>s|secs?|seconds|ms|msec|milliseconds)?[)\]]?"
)
_SEGMENT = re.compile(r"(?:trial|segment|epoch)s?[ _]?(?:id|nr|no|num|number|index)?")
_COUNTER = re.compile(r"(?:frame|sample|index)s?[ _]?(?:id|nr|no|num|number|index)?")
_UNIT = re.compile(r"(?:unit|cell|neuron|roi)s?[ _]?(?:id|nr|no|num|number|index|name)?")


def recognises(path: Path) -> bool:
    return path.is_file() and look_at(path) is not None


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads a table.

    Raises:
        RecordingError: a column that would be a unit holds text or looks like a time, the orientation cannot
            be told, or there is only one column.
    """
    table = look_at(path)
    if table is None:
        raise RecordingError(f"{path}: no table of numbers in text.")
    if _is_trial_table(table):
        return [_read_trials(table, sidecar)]
    has_header = _has_header(table)
    frame = table.load(num_header_rows=int(has_header))
    if has_header:
        frame.columns = _header(table)
    frame = _without_fillers(frame)
    if all(is_number(str(name)) for name in frame.columns):
        return [_read_matrix(frame, path, sidecar)]
    unit_column = next((name for name in frame.columns if _UNIT.fullmatch(name.lower())), None)
    if unit_column is not None and frame[unit_column].duplicated().any():
        return [_read_long(frame, unit_column, path, sidecar)]
    if sidecar.frames_axis == 1 or (unit_column == frame.columns[0] and sidecar.columns is None):
        return [_read_units_in_rows(frame, path, sidecar)]
    return [_read_columns(frame, path, sidecar)]


def _read_columns(frame: pd.DataFrame, path: Path, sidecar: Sidecar) -> Session:
    """Rows are frames, columns are units or tell time and segment."""
    names = list(frame.columns)
    _refuse_repeated(names, path)
    time_column = _column(names, _TIME, sidecar.time_column, "time_column", path)
    segment_column = _column(names, _SEGMENT, sidecar.segment_column, "segment_column", path)
    if sidecar.columns is None:
        taken = {time_column, segment_column}
        units = [name for name in names if name not in taken and not _COUNTER.fullmatch(name.lower())]
        timelike = [name for name in units if "time" in name.lower()]
        if timelike:
            raise RecordingError(
                f"{path}: columns {', '.join(timelike)} look like times, not units. Name the one that holds "
                "frame times as time_column, or the units as columns, in the sidecar."
            )
    else:
        units = list(sidecar.columns)
        _expect(units, names, "columns", path)
    if not units:
        raise RecordingError(f"{path}: no column of units; there are {', '.join(names)}.")
    fields: dict[str, Any] = {}
    if time_column is not None:
        fields["time_s"] = _numbers(frame[[time_column]], path)[:, 0] * _seconds_per(time_column)
    if segment_column is not None:
        fields["segment_ids"] = np.unique(frame[segment_column], return_inverse=True)[1].astype(np.int32)
    traces = _numbers(frame[units], path)
    _refuse_single_column(traces, path, sidecar)
    return make_session(path, sidecar, traces, unit_names=tuple(units), **fields)


def _read_units_in_rows(frame: pd.DataFrame, path: Path, sidecar: Sidecar) -> Session:
    """Rows are units, columns are frames, after a first column of unit names."""
    names = frame.iloc[:, 0].astype(str)
    traces = _numbers(frame.iloc[:, 1:], path).T
    return make_session(path, sidecar, traces, unit_names=tuple(names))


def _read_long(frame: pd.DataFrame, unit_column: str, path: Path, sidecar: Sidecar) -> Session:
    """A row is the value of one unit at one time; a value that has no row is missing."""
    names = list(frame.columns)
    time_column = _column(names, _TIME, sidecar.time_column, "time_column", path)
    counters = [name for name in names if _COUNTER.fullmatch(name.lower())]
    values = [name for name in names if name not in (unit_column, time_column, *counters)]
    if sidecar.columns is not None:
        values = list(sidecar.columns)
        _expect(values, names, "columns", path)
    order = next(iter(counters), time_column)
    if order is None or len(values) != 1:
        raise RecordingError(
            f"{path}: column {unit_column} repeats its values, so a row should be one value of one unit at "
            f"one time, but the columns are {', '.join(names)}. Name the times as time_column, and the one "
            "column of values as columns, in the sidecar."
        )
    _numbers(frame[[order, *values]], path)
    if frame.duplicated([order, unit_column]).any():
        raise RecordingError(f"{path}: a {unit_column} has several values at one {order}; expected one.")
    units = frame[unit_column].drop_duplicates()
    wide = frame.pivot(index=order, columns=unit_column, values=values[0])[units]
    time_s = None
    if time_column is not None:
        time_s = frame.groupby(order)[time_column].first().to_numpy(np.float64) * _seconds_per(time_column)
    return make_session(
        path, sidecar, wide.to_numpy(np.float64), unit_names=tuple(units.astype(str)), time_s=time_s
    )


def _read_matrix(frame: pd.DataFrame, path: Path, sidecar: Sidecar) -> Session:
    """Numbers without names."""
    if sidecar.columns or sidecar.time_column or sidecar.segment_column:
        return _read_columns(frame, path, sidecar)
    values = _numbers(frame, path)
    _refuse_single_column(values, path, sidecar)
    steps = np.diff(values[:, 0])
    if len(steps) > 1 and steps[0] != 0 and np.allclose(steps, steps[0], rtol=1e-3):
        raise RecordingError(
            f"{path}: the first column grows evenly, like a time or a frame number, but has no name. State "
            "time_column: '0' in the sidecar if it is a time in seconds, or list the units' columns, counted "
            "from 0, as columns."
        )
    notes: dict[str, str] = {}
    return make_session(path, sidecar, oriented(values, path, sidecar, notes), metadata=notes)


def _read_trials(table: TextTable, sidecar: Sidecar) -> Session:
    path = table.path
    frame = table.load(num_header_rows=0)
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
    return make_session(
        path,
        sidecar,
        traces.reshape(-1, len(names)),
        unit_names=tuple(names),
        segment_ids=np.repeat(np.arange(num_trials, dtype=np.int32), num_frames),
    )


def _has_header(table: TextTable) -> bool:
    first, second = table.rows[0], table.rows[1]
    if any(field and not is_number(field.replace(table.decimal, ".")) for field in first):
        return True
    if first[0] == "" and second[0] != "":
        return True
    # What pandas writes above columns without names.
    counted = [str(position) for position in range(len(first) + 1)]
    return len(first) > 2 and list(first) in (counted[:-1], counted[1:])


def _header(table: TextTable) -> list[str]:
    missing = len(table.rows[1]) - len(table.rows[0])
    if missing == 1:  # R names no column of row names; others leave a delimiter at the end of each row
        return ["", *table.rows[0]] if table.rows[1][-1] else [*table.rows[0], ""]
    if missing:
        raise RecordingError(
            f"{table.path}: the header has {len(table.rows[0])} fields, the rows have {len(table.rows[1])}."
        )
    return list(table.rows[0])


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


def _column(
    names: list[str], pattern: re.Pattern[str], given: str | None, key: str, path: Path
) -> str | None:
    """The column a sidecar key names, else the only one called like it."""
    if given is not None:
        _expect([given], names, key, path)
        return given
    found = [name for name in names if pattern.fullmatch(name.lower())]
    if len(found) > 1:
        raise RecordingError(
            f"{path}: columns {', '.join(found)} could each be the {key}; name it in the sidecar."
        )
    return found[0] if found else None


def _expect(wanted: list[str], names: list[str], key: str, path: Path) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise RecordingError(
            f"{path}: no column is called {', '.join(missing)} (the sidecar's {key}); there are "
            f"{', '.join(names[:30])}{', ...' if len(names) > 30 else ''}."
        )


def _seconds_per(time_column: str) -> float:
    match = _TIME.fullmatch(time_column.lower())
    return 1e-3 if match and (match["unit"] or "").startswith("m") else 1.0


def _numbers(frame: pd.DataFrame, path: Path) -> np.ndarray:
    for name, column in frame.items():
        if column.dtype.kind not in "fiub":
            text = next((item for item in column if not is_number(str(item))), column.iloc[0])
            raise RecordingError(
                f"{path}: column {name} holds text ({str(text)[:40]!r}). If it is no unit, list the units as "
                "columns in the sidecar."
            )
    return frame.to_numpy(np.float64)


def _refuse_repeated(names: list[str], path: Path) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise RecordingError(f"{path}: several columns are called {repeated[0]}; give each its own name.")


def _without_fillers(frame: pd.DataFrame) -> pd.DataFrame:
    """The table without the row index that pandas writes and without what a trailing delimiter makes."""
    names = [str(name) for name in frame.columns]
    if frame.iloc[:, -1].isna().all() and names[-1] in ("", str(frame.shape[1] - 1)):
        frame, names = frame.iloc[:, :-1], names[:-1]
    if names[0] == "" and any(names[1:]):
        frame, names = frame.iloc[:, 1:], names[1:]
    frame.columns = [name or str(position) for position, name in enumerate(names)]
    return frame


def _refuse_single_column(values: np.ndarray, path: Path, sidecar: Sidecar) -> None:
    if values.shape[1] == 1 and sidecar.columns is None:
        raise RecordingError(
            f"{path}: holds one column of values: a stimulus or a behaviour rather than a recording of "
            "units. If it is one unit, name it as columns in the sidecar."
        )
