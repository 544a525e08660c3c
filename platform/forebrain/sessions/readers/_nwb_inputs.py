"""Inputs that an NWB file states: stimulus and behaviour series, tables of intervals and events, patterns.

- Series: those presented (`stimulus/presentation`), those of optogenetic stimulation, those in behaviour
  containers, and those elsewhere that are called like a stimulus or behaviour. Pictures are none.
- Tables of intervals (trials, epochs and others) and of events, with their columns.
- Rows that point to ROIs, themselves or by their targets as ndx-patterned-ogen has it: a pattern, with an
  input for each ROI.
What is called like what an animal does, or lies among behaviour, cannot be planned; other tables and series
can.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from forebrain.sessions.readers._inputs import (
    MAX_COLUMNS,
    Channel,
    EventTable,
    FrameSpans,
    Samples,
    Values,
    table_of,
    with_channels,
)
from forebrain.sessions.readers._names import depends_on_animal, is_stimulus, role_of
from forebrain.sessions.session import Session

_MAX_BYTES = 256 << 20  # of one series, as float64
_SAMPLED = {"TimeSeries", "OptogeneticSeries", "SpatialSeries", "AbstractFeatureSeries", "IndexSeries"}
_INPUT_SERIES = _SAMPLED | {"IntervalSeries", "AnnotationSeries", "Events", "LabeledEvents", "TTLs"}
_NO_INPUTS = {"ImageSeries", "RoiResponseSeries", "FiberPhotometryResponseSeries", "ElectricalSeries",
              "SpikeEventSeries", "PatchClampSeries", "DecompositionSeries"}  # fmt: skip
_MARKS = {"BehavioralEvents"}  # whose series have a value for each event
_BEHAVIOUR_PLACES = ("BehavioralTimeSeries", "BehavioralEpochs", "Position", "PupilTracking", "EyeTracking",
                     "CompassDirection", "PoseEstimation")  # fmt: skip


@dataclass(frozen=True, eq=False)
class InputSeries:
    """A series that may be an input.

    Attributes:
        name: its path in the file.
        kind: its type, or the type of the specification that it derives from.
        parent_kind: type of what holds it.
        shape: of its data.
        values: gives them, in `unit`, or texts.
        times: gives float64 [S], seconds.
        columns: names of its columns, where it states them.
    """

    name: str
    kind: str
    parent_kind: str
    shape: tuple[int, ...]
    values: Callable[[], Values]
    times: Callable[[], np.ndarray]
    unit: str = ""
    columns: tuple[str, ...] = ()

    @property
    def planned(self) -> bool | None:
        """Whether it can be planned; None where it is no input as far as anything tells."""
        if depends_on_animal(self.name.rpartition("/")[2]):
            return False
        if self.name.startswith("stimulus/") or self.kind == "OptogeneticSeries":
            return True
        if self.kind == "SpatialSeries" or self.parent_kind in (*_BEHAVIOUR_PLACES, *_MARKS):
            return False
        if is_stimulus(self.name):
            return True
        if role_of(self.name) == "behaviour" or "behav" in self.name.partition("/")[2].lower():
            return False
        return False if self.kind not in _SAMPLED else None


@dataclass(frozen=True, eq=False)
class InputTable:
    """A table of intervals or events.

    Attributes:
        name: its path in the file.
        columns: gives numbers and texts by column; ragged texts as lists.
        targets: gives, by column, the ROIs that each row points to, as `TABLE/roiID`.
        powers: gives the power of each target of each row, where rows have one for each; else a column
            `power` counts for all, else 1.
        units: of columns.
    """

    name: str
    columns: Callable[[], Mapping[str, Values]]
    targets: Callable[[], Mapping[str, list[list[str]]]] = dict
    powers: Callable[[], Sequence[Sequence[float]]] = tuple
    units: Mapping[str, str] = field(default_factory=dict)


def with_inputs(
    session: Session,
    series: Iterable[InputSeries],
    tables: Iterable[InputTable],
    first_s: float,
    roi_table: str = "",
) -> Session:
    """The session with the inputs of its file; what cannot be brought to its frames is told in its metadata.

    Args:
        series: but for those that are the traces.
        first_s: time of its first frame, where it has a rate and no times.
        roi_table: name of the table of its units, whose ROIs are called as the units are.
    """
    series, tables = list(series), list(tables)
    if not series and not tables:
        return session
    spans = FrameSpans.of(session, first_s)
    if spans is None:
        why = "the frames have no times that run forward, so inputs could not be brought to them"
        return replace(session, metadata={**session.metadata, "inputs_left_out": why})
    left_out: list[str] = []
    found: list[tuple[str, Channel]] = []
    made = [(each.name, _of_series(each, spans, left_out)) for each in series]
    made += [(each.name, _of_table(each, spans, left_out, roi_table)) for each in tables]
    for where, channels in made:
        try:
            found += [(where, channel) for channel in channels]
        except (ValueError, TypeError, KeyError, IndexError, OSError, RuntimeError) as error:
            left_out.append(f"{where} ({type(error).__name__}: {str(error)[:100]})")
    return with_channels(session, _with_own_names(found), left_out)


def _with_own_names(found: list[tuple[str, Channel]]) -> Iterator[Channel]:
    """Channels of one name with the path of what they come from before it."""
    names = [channel.name for _, channel in found]
    for where, channel in found:
        folder = where.rpartition("/")[0]
        is_shared = names.count(channel.name) > 1
        yield replace(channel, name=f"{folder}/{channel.name}") if is_shared else channel


def _of_series(series: InputSeries, spans: FrameSpans, left_out: list[str]) -> Iterator[Channel]:
    planned, name = series.planned, series.name.rpartition("/")[2]
    if planned is None:
        left_out.append(f"{series.name} (nothing tells whether it is an input)")
        return
    num_columns = series.shape[1] if len(series.shape) > 1 else 1
    if len(series.shape) > 2 or num_columns > MAX_COLUMNS or 8 * np.prod(series.shape) > _MAX_BYTES:
        left_out.append(f"{series.name} {series.shape} (too large for an input)")
        return
    times, values = series.times(), series.values()
    if len(times) != len(values):
        left_out.append(f"{series.name} ({len(times)} times for {len(values)} values)")
        return
    whole = EventTable(name, times, is_prefix=False, planned=planned, origin=series.name)
    if not isinstance(values, np.ndarray):
        channels = list(replace(whole, columns={name: values}).at(spans, left_out))
    elif series.kind == "IntervalSeries":
        channels = list(_of_intervals(whole, values, spans, left_out))
    elif series.kind not in _SAMPLED or series.parent_kind in _MARKS:
        are_alike = values.ndim > 1 or np.unique(values).size < 2
        columns = {} if are_alike else {name: values}
        channels = list(replace(whole, columns=columns, units={name: series.unit}).at(spans, left_out))
    else:
        columns_of = values.reshape(len(values), -1).T
        labels: Sequence[str] = "xyz" if series.kind == "SpatialSeries" and num_columns <= 3 else ()
        labels = series.columns if len(series.columns) == num_columns else labels
        labels = (labels or [str(column) for column in range(num_columns)])[:num_columns]
        names = [name] if num_columns == 1 else [f"{name}/{label}" for label in labels]
        sampled = [
            Samples(label, column, times, planned, series.unit, series.name)
            for label, column in zip(names, columns_of, strict=True)
        ]
        if num_columns == 1 and sampled[0].are_marks(spans):
            columns = {name: sampled[0].values} if sampled[0].says_more else {}
            channels = list(replace(whole, columns=columns, units={name: series.unit}).at(spans, left_out))
        else:
            channels = [channel for each in sampled if (channel := each.at(spans)) is not None]
    if not channels:
        left_out.append(f"{series.name} (none of it lies in the frames, {spans})")
    yield from channels


def _of_intervals(
    whole: EventTable, values: np.ndarray, spans: FrameSpans, left_out: list[str]
) -> Iterator[Channel]:
    """An IntervalSeries: k where an interval of kind k begins, -k where it ends."""
    kinds = np.unique(np.abs(values[values != 0]))
    for kind in kinds:
        start, stop = whole.start[values == kind], whole.start[values == -kind]
        length = min(len(start), len(stop))
        name = whole.name if kinds.size == 1 else f"{whole.name}/{kind:g}"
        yield from replace(whole, name=name, start=start[:length], stop=stop[:length]).at(spans, left_out)


def _of_table(table: InputTable, spans: FrameSpans, left_out: list[str], roi_table: str) -> Iterator[Channel]:
    name = table.name.rpartition("/")[2]
    is_of_animal = depends_on_animal(name) or "behav" in table.name.rpartition("/")[0].lower()
    columns = dict(table.columns())
    events = table_of(columns, name, planned=not is_of_animal, origin=table.name, units=table.units)
    if events is None:
        left_out.append(f"{table.name} (no column tells when a row begins)")
        return
    targets, powers = table.targets(), table.powers()
    channels = list(events.at(spans, left_out))
    for column, found in targets.items():
        rows = [[name.removeprefix(f"{roi_table}/") for name in row] for row in found]
        channels += _of_pattern(events, column, rows, powers, spans, left_out)
    if not channels:
        left_out.append(f"{table.name} (none of its {len(events.start)} rows lies in the frames, {spans})")
    yield from channels


def _of_pattern(
    events: EventTable,
    column: str,
    rows: list[list[str]],
    powers: Sequence[Sequence[float]],
    spans: FrameSpans,
    left_out: list[str],
) -> Iterator[Channel]:
    """What each ROI receives: the power of the rows that point to it, else 1."""
    shared = np.asarray(events.columns.get("power", np.ones(len(rows))), np.float64)
    received = [
        dict(zip(row, powers[number], strict=True))
        if len(powers) == len(rows) and len(powers[number]) == len(row)
        else dict.fromkeys(row, float(shared[number]))
        for number, row in enumerate(rows)
    ]
    group = events.name if column == "targets" else f"{events.name}/{column}"
    names = sorted({name for row in rows for name in row})
    if len(names) > 16 * MAX_COLUMNS:
        left_out.append(f"{group} ({len(names)} targets)")
        return
    for target in names:
        is_hit = np.array([target in row for row in rows])
        single = replace(
            events,
            name=f"{group}[{target}]",
            is_prefix=False,
            start=events.start[is_hit],
            stop=None if events.stop is None else events.stop[is_hit],
            columns={f"{group}[{target}]": np.array([row[target] for row in received if target in row])},
            units={f"{group}[{target}]": events.units.get("power_per_roi" if len(powers) else "power", "")},
        )
        for channel in single.at(spans, left_out):
            if channel.name == single.name and not (channel.values == 0).all():
                yield replace(channel, kind="pattern")
                break


# By pynwb.


def inputs_by_pynwb(nwb: Any, path_of: Callable[[Any], str]) -> tuple[list[InputSeries], list[InputTable]]:
    """The series and tables of a file as pynwb reads it.

    Args:
        path_of: gives the path of an object in the file.
    """
    from hdmf.common import DynamicTable
    from pynwb import TimeSeries

    series: list[InputSeries] = []
    tables: list[InputTable] = []
    for item in nwb.objects.values():
        kinds = [base.__name__ for base in type(item).__mro__]
        if isinstance(item, DynamicTable):
            if {"start_time", "timestamp"} & set(item.colnames):
                units = {name: _unit_of(item[name]) for name in item.colnames}
                tables.append(
                    InputTable(
                        path_of(item),
                        partial(_columns, item),
                        partial(_targets, item),
                        partial(_powers, item),
                        units,
                    )
                )
        elif isinstance(item, TimeSeries):
            kind = next((name for name in kinds if name in _INPUT_SERIES), "")
            place = path_of(item)
            if (
                _is_first(kinds, kind)
                and item.data is not None
                and not place.startswith("stimulus/templates")
            ):
                series.append(
                    InputSeries(
                        place,
                        kind,
                        type(item.parent).__name__,
                        tuple(np.shape(item.data)),
                        partial(_values, item),
                        partial(_times, item),
                        _plain_unit(item.unit),
                        tuple(map(str, getattr(item, "features", None) or ())),
                    )
                )
        elif set(kinds) & {"Events", "LabeledEvents", "TTLs"}:
            stamps = item.timestamps
            series.append(
                InputSeries(
                    path_of(item),
                    "Events",
                    type(item.parent).__name__,
                    tuple(np.shape(stamps)),
                    partial(_labels, item),
                    partial(_numbers, stamps),
                )
            )
    return sorted(series, key=lambda each: each.name), sorted(tables, key=lambda each: each.name)


def _is_first(kinds: list[str], kind: str) -> bool:
    """Whether a type is one of the specification's input series, or an extension's that adds to it."""
    return bool(kind) and not _NO_INPUTS & set(kinds)


def _plain_unit(unit: Any) -> str:
    text = str(unit or "").strip()
    return (
        ""
        if text.lower() in ("n/a", "na", "n.a.", "unknown", "none", "a.u.", "no unit", "unitless")
        else text
    )


def _unit_of(column: Any) -> str:
    return _plain_unit(getattr(column, "unit", None) or getattr(column, "fields", {}).get("unit"))


def _numbers(data: Any) -> np.ndarray:
    return np.asarray(data[()] if hasattr(data, "shape") else data, np.float64)


def _values(item: Any) -> Values:
    data = item.data[()] if hasattr(item.data, "shape") else item.data
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        return [
            text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in array.ravel()
        ]
    return array.astype(np.float64) * float(item.conversion or 1.0) + float(item.offset or 0.0)


def _times(item: Any) -> np.ndarray:
    if item.timestamps is not None:
        return _numbers(item.timestamps)
    return float(item.starting_time or 0.0) + np.arange(len(item.data)) / float(item.rate)


def _labels(item: Any) -> Values:
    data, labels = getattr(item, "data", None), getattr(item, "labels", None)
    if data is None or labels is None:
        return np.ones(len(item.timestamps))
    return [str(labels[int(code)]) for code in data[()]]


def _columns(table: Any) -> dict[str, Values]:
    """Columns of numbers and of text; those that point to something else are left to `_targets`."""
    from hdmf.common import DynamicTableRegion, VectorIndex

    found: dict[str, Values] = {}
    for name in table.colnames:
        column = table[name]
        inner = column.target if isinstance(column, VectorIndex) else column
        if isinstance(inner, DynamicTableRegion | VectorIndex) or name == "timeseries":
            continue
        values = np.asarray(inner.data[:])
        if values.ndim != 1 or not (values.dtype.kind in "fiubUS" or _is_text(values)):
            continue
        if isinstance(column, VectorIndex):
            if values.dtype.kind in "fiub":
                continue
            edges = [0, *np.asarray(column.data[:]).tolist()]
            found[name] = [list(values[low:high]) for low, high in itertools.pairwise(edges)]  # type: ignore[misc]
        else:
            found[name] = values.astype(np.float64) if values.dtype.kind in "fiub" else list(values)
    return found


def _is_text(values: np.ndarray) -> bool:
    return values.dtype == object and all(isinstance(value, str | bytes) for value in values)


def _targets(table: Any) -> dict[str, list[list[str]]]:
    """The ROIs that the rows point to, by column: by a region of a table of ROIs, or by targets that have
    one."""
    from hdmf.common import DynamicTableRegion, VectorIndex

    found: dict[str, list[list[str]]] = {}
    for name in table.colnames:
        column = table[name]
        inner = column.target if isinstance(column, VectorIndex) else column
        if isinstance(inner, DynamicTableRegion):
            rows = np.asarray(inner.data[:], np.int64)
            edges = [0, *np.asarray(column.data[:]).tolist()] if isinstance(column, VectorIndex) else None
            edges = edges or list(range(len(rows) + 1))
            found[name] = [_rois(inner.table, rows[low:high]) for low, high in itertools.pairwise(edges)]
            continue
        if isinstance(column, VectorIndex):
            continue
        items = [column[row] for row in range(len(table))]
        regions = [
            getattr(item, "segmented_rois", None) or getattr(item, "targeted_rois", None) for item in items
        ]
        known = [region for region in regions if region is not None]
        if known and len(known) == len(items):
            found[name] = [_rois(region.table, np.asarray(region.data[:], np.int64)) for region in known]
    return found


def _powers(table: Any) -> list[list[float]]:
    """Of a table as ndx-patterned-ogen has it, the power of each target, row by row."""
    if "power_per_roi" not in table.colnames:
        return []
    column = table["power_per_roi"]
    return [np.asarray(column[row], np.float64).ravel().tolist() for row in range(len(table))]


def _rois(table: Any, rows: np.ndarray) -> list[str]:
    ids = np.asarray(table.id[:])
    return [f"{table.name}/roi{ids[row]}" for row in rows]


# By the types of the specification.


def type_of(attrs: Mapping[str, Any]) -> str:
    """The `neurodata_type` that attributes state, empty where they state none."""
    value = attrs.get("neurodata_type", "")
    return value.decode() if isinstance(value, bytes) else str(value)


def inputs_by_type(door: Any) -> tuple[list[InputSeries], list[InputTable]]:
    """The series and tables of a file by the types that its groups state.

    Args:
        door: how to look into it, as `_nwb_tree` has it.
    """
    series: list[InputSeries] = []
    tables: list[InputTable] = []
    for name in door.groups():
        if not name or name.startswith("stimulus/templates"):
            continue
        kind = type_of(door.attrs(name))
        parent = type_of(door.attrs(name.rpartition("/")[0])) if "/" in name else ""
        begins = next((key for key in ("start_time", "timestamp") if door.has(f"{name}/{key}")), None)
        if begins and not kind.endswith("Series"):
            columns = partial(_columns_by_type, door, name)
            tables.append(InputTable(name, columns, partial(_targets_by_type, door, name)))
        elif kind in _INPUT_SERIES and door.has(
            f"{name}/timestamps" if kind in ("Events", "TTLs") else f"{name}/data"
        ):
            member = f"{name}/data" if door.has(f"{name}/data") else f"{name}/timestamps"
            unit = door.attrs(member).get("unit", "")
            series.append(
                InputSeries(
                    name,
                    kind,
                    parent,
                    door.shape(member),
                    partial(_values_by_type, door, name),
                    partial(_times_by_type, door, name),
                    _plain_unit(unit.decode() if isinstance(unit, bytes) else unit),
                    tuple(door.texts(f"{name}/features") or ()) if door.has(f"{name}/features") else (),
                )
            )
    return series, tables


def _values_by_type(door: Any, name: str) -> Values:
    data = f"{name}/data"
    if not door.has(data):
        return np.ones(door.shape(f"{name}/timestamps")[0])
    texts = door.texts(data)
    if texts is not None:
        return list(texts)
    attrs = door.attrs(data)
    return np.asarray(door.values(data), np.float64) * float(attrs.get("conversion", 1.0)) + float(
        attrs.get("offset", 0.0)
    )


def _times_by_type(door: Any, name: str) -> np.ndarray:
    if door.has(f"{name}/timestamps"):
        return np.asarray(door.values(f"{name}/timestamps"), np.float64).ravel()
    start = f"{name}/starting_time"
    first = float(np.asarray(door.values(start)).ravel()[0])
    return first + np.arange(door.shape(f"{name}/data")[0]) / float(door.attrs(start)["rate"])


def _columns_by_type(door: Any, name: str) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for column in door.children(name):
        place = f"{name}/{column}"
        if column in ("id", "timeseries") or column.endswith("_index") or not door.dtype_kind(place):
            continue
        if len(door.shape(place)) != 1:
            continue
        texts = door.texts(place)
        if texts is None and (door.dtype_kind(place) not in "fiub" or "table" in door.attrs(place)):
            continue
        values: Values = list(texts) if texts is not None else np.asarray(door.values(place), np.float64)
        if door.has(f"{place}_index"):
            if texts is None:
                continue
            edges = [0, *np.asarray(door.values(f"{place}_index")).tolist()]
            values = [list(values[low:high]) for low, high in itertools.pairwise(edges)]  # type: ignore[misc]
        found[column] = values
    return found


def _targets_by_type(door: Any, name: str) -> dict[str, list[list[str]]]:
    """The ROIs that rows point to by a region of a table; of targets only pynwb knows."""
    found: dict[str, list[list[str]]] = {}
    for column in door.children(name):
        place = f"{name}/{column}"
        with contextlib.suppress(KeyError, ValueError, TypeError):
            table = door.table_of(place)
            if table is None or column == "timeseries" or door.dtype_kind(place) not in "iu":
                continue
            ids = np.asarray(door.values(f"{table}/id"))
            called = table.rpartition("/")[2]
            rows = [f"{called}/roi{ids[row]}" for row in np.asarray(door.values(place), np.int64)]
            if door.has(f"{place}_index"):
                edges = [0, *np.asarray(door.values(f"{place}_index")).tolist()]
            else:
                edges = list(range(len(rows) + 1))
            found[column] = [rows[low:high] for low, high in itertools.pairwise(edges)]
    return found
