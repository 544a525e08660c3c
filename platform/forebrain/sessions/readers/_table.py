"""Tables of any format: which columns are units, which tell time, trials, behaviour, and which only count.

- With a header, rows are frames and columns are units. A column called like a time (`time`, `t`, `time (ms)`,
  ...), or one that grows evenly and states a unit of time (`Zeit (s)`), gives frame times; one called like a
  trial (`trial`, `segment`, ...) gives segments. Counters, other columns that grow evenly whatever they are
  called, and columns called like behaviour are left out, and the session says so. If the first column is
  called like a unit (`cell`, `neuron`, ...), rows are units; so they are if it is called nothing, as pandas
  writes an index, and holds text beside columns that are counted. If a column called like a unit repeats its
  values, the table is long: a row is one value of one unit at one time.
- Without a header, the longer side counts frames; what grows evenly is left out.

Columns that are neither go unread only if the sidecar's `columns` says so.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.clock import read_clock
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._common import make_session, oriented
from forebrain.sessions.readers._inputs import MAX_COLUMNS, Channel, with_channels
from forebrain.sessions.readers._names import is_counter, is_stimulus, role_of, role_of_file, words_of
from forebrain.sessions.readers._text import is_number
from forebrain.sessions.readers._time import is_ramp, ramps_in, seconds, unit_in_name, unit_of
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import pandas as pd

_TIME = re.compile(
    r"(?:elapsed|frame|unix)?[ _]?(?:times?|t|time[ _]?stamps?|seconds|sec|s)"
    r"[ _]*[(\[]?(?P<unit>s|secs?|seconds|ms|msec|milliseconds|min|minutes|us|µs|h|hours)?[)\]]?"
)
_SEGMENT = re.compile(r"(?:trial|segment|epoch)s?[ _]?(?:id|nr|no|num|number|index)?")
_COUNTER = re.compile(r"(?:frame|sample|index)s?[ _]?(?:id|nr|no|num|number|index)?")
_UNIT = re.compile(r"(?:unit|cell|neuron|roi)s?[ _]?(?:id|nr|no|num|number|index|name)?")
_UNIT_LIKE = re.compile(r"(?:unit|cell|neuron|roi|c|u|n|mean|region|fiber|fibre|ch|channel)s?[ _]?\d")
_STAMP = re.compile(r"\d[:/-]\d")  # in dates and times of day
_NUMBERED = re.compile(r"(?P<name>.*?)[ _]?\(?(?P<number>\d+)\)?")
# Measurements of ImageJ that stand beside the mean of each region.
_MEASURED = {
    "area",
    "min",
    "max",
    "stddev",
    "mode",
    "intden",
    "rawintden",
    "median",
    "x",
    "y",
    "xm",
    "ym",
    "perim",
}
_INTERLEAVED = {"ledstate", "flags", "led"}


def sessions_of_table(frame: pd.DataFrame, has_header: bool, path: Path, sidecar: Sidecar) -> list[Session]:
    """The session of a table.

    Args:
        frame: its rows below the header; without a header columns are numbered.

    Raises:
        RecordingError: a column that would be a unit holds text, or there is only one column.
        RecordingQuestion: times, the orientation, or rows of several light sources cannot be told.
    """
    frame = _without_fillers(_with_named_index(frame, path, sidecar))
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise RecordingError(f"{path}: the table has no rows of numbers.")
    if [str(name) for name in frame.columns[:2]] == ["frames_ahead", "seconds_ahead"]:
        raise RecordingError(f"{path}: is a forecast that forebrain wrote, and no recording.")
    if has_header and str(frame.columns[0]).lower() in ("scorer", "bodyparts"):
        raise RecordingError(
            f"{path}: is a tracking of body parts by DeepLabCut, not a recording of neurons."
        )
    if sidecar.rows is not None:
        frame = _only_rows(frame, sidecar.rows, path)
    if not has_header:
        return [_read_matrix(frame, path, sidecar)]
    names = list(frame.columns)
    unit_column = next((name for name in names if _UNIT.fullmatch(name.lower())), None)
    if unit_column is not None and frame[unit_column].duplicated().any():
        return [_read_long(frame, unit_column, path, sidecar)]
    if sidecar.frames_axis == 1 or (unit_column == names[0] and sidecar.columns is None):
        return [_read_units_in_rows(frame, path, sidecar)]
    return [_read_columns(frame, path, sidecar)]


def _read_columns(frame: pd.DataFrame, path: Path, sidecar: Sidecar) -> Session:
    """Rows are frames, columns are units or tell time and segment."""
    names = list(frame.columns)
    _refuse_repeated(names, path)
    notes: dict[str, str] = {"axis_from": "the layout of a table: rows are frames"}
    time_column = _time_column(frame, path, sidecar)
    segment_column = _column(names, _SEGMENT, sidecar.segment_column, "segment_column", path)
    inputs: list[str] = []
    if sidecar.columns is None:
        units = _unit_columns(frame, {time_column, segment_column}, path, notes, inputs)
    else:
        units = list(sidecar.columns)
        _expect(units, names, "columns", path)
        inputs = [name for name in names if name not in (*units, time_column, segment_column)]
        inputs = [
            name for name in inputs if role_of(name) == "behaviour" and frame[name].dtype.kind in "fiub"
        ]
    fields: dict[str, Any] = {}
    if time_column is not None:
        stamps = _stamps(frame[time_column], path)
        unit = "s" if stamps.is_wall_clock else unit_of(time_column, {}, sidecar)
        fields["time_s"] = seconds(stamps.values, f"column {time_column}", unit, path, notes, sidecar)
    if segment_column is not None:
        fields["segment_ids"] = np.unique(frame[segment_column], return_inverse=True)[1].astype(np.int32)
    traces = _numbers(frame[units], path)
    _refuse_single_column(traces, path, sidecar)
    session = make_session(path, sidecar, traces, unit_names=tuple(units), metadata=notes, **fields)
    return with_channels(
        session,
        (
            Channel(name, frame[name].to_numpy(np.float32), is_stimulus(name), origin="columns")
            for name in inputs
        ),
    )


def _unit_columns(
    frame: pd.DataFrame, taken: set[str | None], path: Path, notes: dict[str, str], inputs: list[str]
) -> list[str]:
    """The columns that are units; `inputs` gets those of stimulus and behaviour, and what else is left out is
    told in `notes`."""
    left: dict[str, list[str]] = {}
    units = []
    lower = {name.lower() for name in frame.columns}
    positions = {"x", "y", "z"} if {"x", "y"} <= lower else set()
    for name in frame.columns:
        if name in taken:
            continue
        is_numeric = frame[name].dtype.kind in "fiub"
        values = frame[name].to_numpy(np.float64) if is_numeric else np.zeros(0)
        if _COUNTER.fullmatch(name.lower()) or is_counter(name):
            left.setdefault("counters", []).append(name)
        elif is_numeric and is_ramp(values):
            left.setdefault("clocks or counters, which grow evenly", []).append(name)
        elif is_numeric and (role_of(name) == "behaviour" or name.lower() in positions):
            inputs.append(name)
        elif role_of(name) == "behaviour" or name.lower() in positions:
            left.setdefault("behaviour or stimulus, by the name", []).append(name)
        else:
            units.append(name)
    if len(inputs) > MAX_COLUMNS:
        left["behaviour or stimulus, by the name, too many for inputs"] = list(inputs)
        inputs.clear()
    _ask_interleaved(frame, path)
    measured = _means_of_imagej(units)
    if measured:
        left["measurements beside the means"] = [name for name in units if name not in measured]
        units = measured
    timelike = [name for name in units if "time" in name.lower()]
    if timelike:
        raise RecordingQuestion(
            f"{path}: columns {', '.join(timelike)} look like times, not units. Name the one that holds "
            "frame times as time_column, or the units as columns, in the sidecar.",
            {"time_column": timelike, "columns": [[name for name in units if name not in timelike]]},
        )
    told = "; ".join(f"{', '.join(names[:12])} ({what})" for what, names in left.items())
    if not units:
        if inputs:
            told = "; ".join(
                filter(None, [told, f"{', '.join(inputs[:12])} (behaviour or stimulus, by the name)"])
            )
        others = f"; {told}" if told else ""
        raise RecordingError(
            f"{path}: no column of units; there are {', '.join(frame.columns[:30])}{others}. If some are "
            f"units all "
            "the same, list them as columns in the sidecar."
        )
    if told:
        notes["left_out"] = told
    says_nothing = not any(role_of(name) == "activity" or _UNIT_LIKE.match(name.lower()) for name in units)
    if says_nothing and role_of_file(path.stem) == "behaviour":
        _ask_of_file(units, path)
    return units


def _ask_of_file(columns: Sequence[str], path: Path) -> None:
    """Raises a question where the file's name says that the columns, which say nothing themselves, are no
    units."""
    role = role_of_file(path.stem)
    if role in ("behaviour", "helper", "clock"):
        what = {
            "behaviour": "behaviour or stimulus",
            "helper": "a helper table or statistic",
            "clock": "times",
        }[role]
        raise RecordingQuestion(
            f"{path}: is called like {what}, and its columns say nothing else. If they are units all the "
            f"same, list them "
            "as columns in the sidecar.",
            {"columns": [list(columns)]},
        )


def _means_of_imagej(names: Sequence[str]) -> list[str]:
    """The columns Mean1, Mean2, ... of a table that ImageJ measured; none if it is none."""
    families: dict[str, list[str]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        families.setdefault(match["name"].lower() if match else name.lower(), []).append(name)
    means = families.pop("mean", [])
    return means if len(means) > 1 and families and families.keys() <= _MEASURED else []


def _ask_interleaved(frame: pd.DataFrame, path: Path) -> None:
    """Raises a question where rows of several light sources alternate, as photometry rigs write them."""
    for name in frame.columns:
        if not set(words_of(name)) & _INTERLEAVED or frame[name].dtype.kind not in "iuf":
            continue
        values = frame[name].to_numpy()
        distinct = np.unique(values)
        if 2 <= len(distinct) <= 8 and np.mean(values[1:] != values[:-1]) > 0.5:
            # The first row alone is often a start with all lights on.
            choices = [f"{value:g}" for value in distinct.tolist()]
            raise RecordingQuestion(
                f"{path}: rows alternate between {name} {', '.join(choices)}: light sources, whose signals "
                f"are not to be "
                f"mixed. State which rows are meant, for example rows: {{{name}: {choices[-1]}}}, in the "
                f"sidecar.",
                {"rows": [{name: choice} for choice in choices]},
            )


def _read_units_in_rows(frame: pd.DataFrame, path: Path, sidecar: Sidecar) -> Session:
    """Rows are units, columns are frames, after a first column of unit names where there is one."""
    notes = {"axis_from": "the sidecar"}
    fields: dict[str, Any] = {}
    first = str(frame.columns[0])
    if frame.iloc[:, 0].dtype.kind not in "fiub" or _UNIT.fullmatch(first.lower()):
        notes["axis_from"] = "the first column, which names units: rows are units"
        fields["unit_names"] = tuple(frame.iloc[:, 0].astype(str))
        frame = frame.iloc[:, 1:]
    traces = _numbers(frame, path).T
    heads = [str(name) for name in frame.columns]
    if all(is_number(head) for head in heads):
        values = np.array(heads, np.float64)
        steps = np.diff(values)
        if is_ramp(values) and not (len(set(steps.tolist())) == 1 and steps[0] == 1):
            unit = unit_of(first, {}, sidecar)
            fields["time_s"] = seconds(values, "the header", unit, path, notes, sidecar)
    return make_session(path, sidecar, traces, metadata=notes, **fields)


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
        raise RecordingQuestion(
            f"{path}: column {unit_column} repeats its values, so a row should be one value of one unit at "
            f"one time, but the columns are {', '.join(names)}. Name the times as time_column, and the one "
            "column of values as columns, in the sidecar.",
            {
                "time_column": [name for name in names if name != unit_column],
                "columns": [[name] for name in values],
            },
        )
    _numbers(frame[[order, *values]], path)
    if frame.duplicated([order, unit_column]).any():
        raise RecordingError(f"{path}: a {unit_column} has several values at one {order}; expected one.")
    units = frame[unit_column].drop_duplicates()
    wide = frame.pivot(index=order, columns=unit_column, values=values[0])[units]
    time_s = None
    notes = {"axis_from": "a row for each value of a unit"}
    if time_column is not None:
        times = frame.groupby(order)[time_column].first().to_numpy(np.float64)
        unit = unit_of(time_column, {}, sidecar)
        time_s = seconds(times, f"column {time_column}", unit, path, notes, sidecar)
    return make_session(
        path,
        sidecar,
        wide.to_numpy(np.float64),
        unit_names=tuple(units.astype(str)),
        time_s=time_s,
        metadata=notes,
    )


def _read_matrix(frame: pd.DataFrame, path: Path, sidecar: Sidecar) -> Session:
    """Numbers without names."""
    if sidecar.columns or sidecar.time_column or sidecar.segment_column:
        return _read_columns(frame, path, sidecar)
    values = _numbers(frame, path)
    _refuse_single_column(values, path, sidecar)
    _ask_of_file(list(frame.columns), path)
    notes: dict[str, str] = {}
    traces = oriented(values, path, sidecar, notes)
    ramps = ramps_in(traces)
    if ramps.size:
        kept = np.setdiff1d(np.arange(traces.shape[1]), ramps)
        where = "column" if traces.shape == values.shape else "row"
        listed = ", ".join(map(str, ramps[:12].tolist()))
        notes["clocks_left_out"] = (
            f"{where} {listed} (from 0) grows evenly, like a time or a frame number, but has no name, and "
            f"was left out"
        )
        clock = read_clock(traces[:, ramps[0]])
        if clock is not None and abs(clock.interval_s - 1) > 1e-9 and where == "column":
            notes["clocks_left_out"] += (
                f"; state time_column: '{ramps[0]}' in the sidecar if it is a time in seconds "
                f"({clock.rate_hz:.4g} Hz)"
            )
        if not kept.size:
            raise RecordingError(
                f"{path}: every column grows evenly, like a time or a frame number; no unit is left."
            )
        traces = traces[:, kept]
        _refuse_single_column(traces, path, sidecar)
    return make_session(path, sidecar, traces, metadata=notes)


def _time_column(frame: pd.DataFrame, path: Path, sidecar: Sidecar) -> str | None:
    """The column of frame times: the sidecar's, else the one called so, else an even one that states a unit
    of time."""
    names = list(frame.columns)
    if sidecar.time_column is not None:
        _expect([sidecar.time_column], names, "time_column", path)
        return sidecar.time_column
    called = [name for name in names if _TIME.fullmatch(name.lower()) or role_of(name) == "clock"]
    called = [name for name in called if not (_COUNTER.fullmatch(name.lower()) or is_counter(name))]
    called = [name for name in called if not _SEGMENT.fullmatch(name.lower())]
    called = called or [
        name
        for name in names
        if unit_in_name(name)
        and frame[name].dtype.kind in "fiu"
        and is_ramp(frame[name].to_numpy(np.float64))
    ]
    if len(called) < 2:
        return called[0] if called else None
    rates = {}
    for name in called:
        if (
            frame[name].dtype.kind in "fiu"
            and (clock := read_clock(frame[name].to_numpy(np.float64))) is not None
        ):
            unit = unit_in_name(name)
            rates[name] = round(
                float(np.log(clock.rate_hz / {"ms": 1e-3, "us": 1e-6, "min": 60.0}.get(unit or "s", 1.0))), 2
            )
    if (sidecar.columns is None and len(rates) == len(called) and len(set(rates.values())) > 1) or not rates:
        raise RecordingQuestion(
            f"{path}: columns {', '.join(called)} look like times, and each could be the time_column; name "
            f"it in the sidecar.",
            {"time_column": called},
        )
    exact = [name for name in called if _TIME.fullmatch(name.lower()) and name in rates]
    if len(exact) > 1 and len({rates[name] for name in exact}) > 1:
        raise RecordingQuestion(
            f"{path}: columns {', '.join(called)} look like times, and each could be the time_column; name "
            f"it in the sidecar.",
            {"time_column": called},
        )
    return exact[0] if exact else next(iter(rates))


class _Stamps:
    """Times of a column, seconds from the first one where they are dates or times of day."""

    def __init__(self, values: np.ndarray, is_wall_clock: bool) -> None:
        self.values = values
        self.is_wall_clock = is_wall_clock


def _stamps(column: pd.Series, path: Path) -> _Stamps:
    import pandas as pd

    if column.dtype.kind in "fiu":
        return _Stamps(column.to_numpy(np.float64), False)
    try:
        dates = pd.to_datetime(column.astype(str), format="mixed")
    except (ValueError, TypeError) as error:
        raise RecordingError(
            f"{path}: column {column.name} holds text ({_text_in(column)!r}) that is no time. If the column "
            "holds none, list the units as columns in the sidecar."
        ) from error
    return _Stamps((dates - dates.iloc[0]).dt.total_seconds().to_numpy(np.float64), True)


def _only_rows(frame: pd.DataFrame, wanted: Any, path: Path) -> pd.DataFrame:
    """The rows that have the sidecar's values, without these columns."""
    for name, value in wanted.items():
        _expect([name], list(frame.columns), "rows", path)
        column = frame[name]
        fits = (
            column.astype(float) == float(value)
            if column.dtype.kind in "fiu" and is_number(value)
            else column.astype(str) == value
        )
        if not fits.any():
            there = ", ".join(map(str, column.drop_duplicates().head(8)))
            raise RecordingError(f"{path}: no row has {name} {value} (the sidecar's rows); it has {there}.")
        frame = frame[fits]
    return frame.drop(columns=list(wanted)).reset_index(drop=True)


def _column(
    names: list[str], pattern: re.Pattern[str], given: str | None, key: str, path: Path
) -> str | None:
    """The column a sidecar key names, else the only one called like it."""
    if given is not None:
        _expect([given], names, key, path)
        return given
    found = [name for name in names if pattern.fullmatch(name.lower())]
    if len(found) > 1:
        raise RecordingQuestion(
            f"{path}: columns {', '.join(found)} could each be the {key}; name it in the sidecar.",
            {key: found},
        )
    return found[0] if found else None


def _expect(wanted: Sequence[str], names: list[str], key: str, path: Path) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise RecordingError(
            f"{path}: no column is called {', '.join(missing)} (the sidecar's {key}); there are "
            f"{', '.join(names[:30])}{', ...' if len(names) > 30 else ''}."
        )


def _numbers(frame: pd.DataFrame, path: Path) -> np.ndarray:
    for name, column in frame.items():
        if column.dtype.kind not in "fiub":
            raise RecordingError(
                f"{path}: column {name} holds text ({_text_in(column)!r}). If it is no unit, list the "
                "units as columns in the sidecar."
            )
    return frame.to_numpy(np.float64)


def _text_in(column: pd.Series) -> str:
    """The first entry of a column that is no number, cut short."""
    return str(next((item for item in column if not is_number(str(item))), column.iloc[0]))[:40]


def _refuse_repeated(names: list[str], path: Path) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise RecordingError(f"{path}: several columns are called {repeated[0]}; give each its own name.")


def _with_named_index(frame: pd.DataFrame, path: Path, sidecar: Sidecar) -> pd.DataFrame:
    """The table, in which a first column of text without a name, as pandas writes an index, is called by what
    it holds: `time` where that is dates or times of day, `unit` where all other columns are counted.

    Raises:
        RecordingQuestion: it may name units or frames.
    """
    names = [str(name) for name in frame.columns]
    if names[0] or not any(names[1:]) or frame.iloc[:, 0].dtype.kind in "fiub" or sidecar.frames_axis == 0:
        return frame
    if frame.iloc[:, 0].astype(str).str.contains(_STAMP).all():
        called = "time"
    elif sidecar.frames_axis == 1 or all(is_number(name) for name in names[1:]):
        called = "unit"
    else:
        raise RecordingQuestion(
            f"{path}: the first column has no name and holds text ({str(frame.iloc[0, 0])[:40]!r}), which "
            "may name units or frames. State frames_axis: 0 (rows are frames) or 1 (rows are units) "
            "in the sidecar.",
            {"frames_axis": [0, 1]},
        )
    if called in names:
        return frame
    frame = frame.copy(deep=False)
    frame.columns = [called, *names[1:]]
    return frame


def _without_fillers(frame: pd.DataFrame) -> pd.DataFrame:
    """The table without the row index that pandas writes and without what a trailing delimiter makes."""
    names = [str(name) for name in frame.columns]
    if frame.shape[1] > 1 and frame.iloc[:, -1].isna().all() and names[-1] in ("", str(frame.shape[1] - 1)):
        frame, names = frame.iloc[:, :-1], names[:-1]
    if names[0] == "" and any(names[1:]):
        frame, names = frame.iloc[:, 1:], names[1:]
    frame = frame.copy(deep=False)
    frame.columns = [name or str(position) for position, name in enumerate(names)]
    return frame


def _refuse_single_column(values: np.ndarray, path: Path, sidecar: Sidecar) -> None:
    if values.shape[1] == 1 and sidecar.columns is None:
        raise RecordingError(
            f"{path}: holds one column of values: a stimulus or a behaviour rather than a recording of "
            "units. If it is one unit, name it as columns in the sidecar."
        )


def is_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether the first row of a table names its columns; fields are text, numbers with a point for
    decimals."""
    second = others[0]
    if any(field and not is_number(field) for field in first):
        return True
    if first[0] == "" and second[0] != "":
        return True
    counted = [
        str(position) for position in range(len(first) + 1)
    ]  # what pandas writes above unnamed columns
    if len(first) > 2 and list(first) in (counted[:-1], counted[1:]):
        return True
    # Numbers of components: whole and rising from left to right, as no row below is.
    if len(first) < 3 or not _rises(first):
        return False
    has_decimals = any("." in field or "e" in field.lower() for row in others for field in row)
    return has_decimals or (len(first) > 3 and not any(_rises(row) for row in others))


def _rises(fields: Sequence[str]) -> bool:
    """Whether a row is of whole numbers, each greater than the one before."""
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return False
    is_whole = all(value.is_integer() and value >= 0 and value != float("inf") for value in values)
    return is_whole and all(low < high for low, high in itertools.pairwise(values))
