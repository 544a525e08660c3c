"""The content of an NWB file, whichever library opens it: its series, tables of ROIs, sorted units, texts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forebrain.sessions.readers._content import StoredArray
from forebrain.sessions.readers._hdf5 import broken_links, items_of, open_hdf5, stored, text_of
from forebrain.sessions.readers._names import listed, role_of
from forebrain.sessions.readers._nwb_inputs import (
    InputSeries,
    InputTable,
    inputs_by_pynwb,
    inputs_by_type,
    type_of,
)
from forebrain.sessions.readers._zarr import ZarrTree, read_json
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import h5py

_NOT_RECORDINGS = ("specifications", "stimulus", "intervals", "scratch")
# Types of series that are what their names say, and no population of cells.
_OTHER_SERIES = listed(
    """
    SpatialSeries, ElectricalSeries, SpikeEventSeries, IntervalSeries, ImageSeries, OptogeneticSeries,
    AnnotationSeries, DecompositionSeries, PatchClampSeries, CurrentClampSeries, VoltageClampSeries,
    CurrentClampStimulusSeries, VoltageClampStimulusSeries, IZeroClampSeries, AbstractFeatureSeries,
    IndexSeries, OnePhotonSeries, TwoPhotonSeries, ImageMaskSeries, OpticalSeries
    """
)
_RESPONSES = {"RoiResponseSeries", "FiberPhotometryResponseSeries"}
_BEHAVIOUR_KINDS = listed(
    """
    Position, BehavioralTimeSeries, BehavioralEvents, BehavioralEpochs, PupilTracking, EyeTracking,
    CompassDirection, MotionCorrection, LFP, FilteredEphys, PoseEstimation
    """
)


@dataclass(frozen=True)
class RoiTable:
    """A table of ROIs.

    Attributes:
        num_rows: how many ROIs it has.
        columns: values of each column by its name, read when asked for.
        name: of the table.
    """

    num_rows: int
    columns: Mapping[str, Callable[[], np.ndarray]]
    name: str = ""

    def has(self, name: str) -> bool:
        return name in self.columns

    def column(self, name: str) -> np.ndarray | None:
        return np.asarray(self.columns[name]()) if name in self.columns else None


@dataclass(frozen=True, eq=False)
class Series:
    """A TimeSeries of numbers with one or two axes.

    Attributes:
        name: its path in the file.
        kind: its type, or of an extension's the type of the specification that it derives from.
        parent_kind: type of what holds it.
        array: its data, as stored.
        conversion, offset: from stored numbers to the series' unit.
        rate_hz: as stated, None where there are timestamps instead.
        timestamps: gives float64 [T], seconds.
        start_s: time of the first frame, where there is a rate.
        rois: rows of the table, one for each unit.
        table: of the ROIs.
    """

    name: str
    kind: str
    parent_kind: str
    array: StoredArray
    conversion: float = 1.0
    offset: float = 0.0
    rate_hz: float | None = None
    timestamps: Callable[[], np.ndarray] | None = None
    start_s: float = 0.0
    rois: np.ndarray | None = None
    table: RoiTable | None = None

    @property
    def is_behaviour(self) -> bool:
        """Whether type, place or name say that it is no activity of cells."""
        if self.parent_kind in _BEHAVIOUR_KINDS or self.kind in _OTHER_SERIES:
            return True
        return role_of(self.name) == "behaviour"


@dataclass(frozen=True)
class NwbFile:
    """An open NWB file.

    Attributes:
        series: all that could be traces or behaviour, in the order of the file.
        text: gives a text of the file by its path.
        spikes: gives of the sorted units the spike times, seconds, the names, and a column of text by its
            name.
        has_units: whether there are sorted units with spike times.
        region: gives where the imaging planes lie.
        unread_by_library: why the format's own library did not read it, empty where it did.
        unreadable: what else there is by its path, and why it cannot be read.
        notes: for the metadata of the session, filled while arrays are read.
        inputs: gives the series and tables that may be inputs.
        opened: what the library holds the file by; some of its versions close the file when it is gone.
    """

    series: tuple[Series, ...]
    text: Callable[[str], str | None]
    spikes: Callable[[], tuple[list[np.ndarray], list[str], Callable[[str], list[str] | None]]]
    has_units: bool
    region: Callable[[], set[str | None]]
    unread_by_library: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    inputs: Callable[[], tuple[list[InputSeries], list[InputTable]]] = lambda: ([], [])
    opened: Any = None

    def only_region(self) -> str | None:
        """Where the imaging plane lies, if the file tells of one region only."""
        found = self.region()
        region = found.pop() if len(found) == 1 else None
        return None if region is None or region.strip().lower() in ("", "unknown", "n/a") else region

    @classmethod
    def of_hdf5(cls, file: h5py.File, path: Path) -> NwbFile:
        """A file in HDF5, by pynwb where that opens it."""
        unread, opened = "", None
        try:
            series, inputs, opened = _by_pynwb(file, path)
        except Exception as error:  # pynwb and hdmf raise errors of any kind
            unread = (
                f"h5py, by the types of the specification: pynwb does not open the file "
                f"({type(error).__name__}: "
                f"{str(error).splitlines()[0][:160] if str(error) else ''})"
            )
            series = _by_type(_Hdf5Door(file, path))
            inputs = partial(inputs_by_type, _Hdf5Door(file, path))
        door = _Hdf5Door(file, path)
        return cls(
            tuple(series),
            lambda name: text_of(file, name),
            lambda: _spikes(door),
            door.has("units/spike_times") and door.has("units/spike_times_index"),
            lambda: {text_of(plane, "location") for plane in file.get("general/optophysiology", {}).values()},
            unread,
            broken_links(file),
            inputs=inputs,
            opened=opened,
        )

    @classmethod
    def of_zarr(cls, path: Path, sidecar: Sidecar) -> NwbFile:
        """A store in zarr."""
        tree = ZarrTree.of(path)
        notes: dict[str, str] = {}
        door = _ZarrDoor(tree, sidecar, notes)
        planes = [
            name
            for name in tree.metadata
            if name.startswith("general/optophysiology/") and name.endswith("/location")
        ]
        return cls(
            tuple(_by_type(door)),
            door.text,
            lambda: _spikes(door),
            door.has("units/spike_times") and door.has("units/spike_times_index"),
            lambda: {door.text(name) for name in planes},
            "zarr, by the types of the specification",
            door.unreadable,
            notes,
            partial(inputs_by_type, door),
        )


def zarr_is_nwb(path: Path) -> bool:
    """Whether a folder is a zarr store of NWB, or a series in one."""
    for marker in (".zattrs", "zarr.json"):
        if (path / marker).is_file():
            with contextlib.suppress(Exception):  # a damaged store tells by itself what is wrong
                found = read_json(path / marker)
                attrs = found if marker == ".zattrs" else found.get("attributes", {})
                if "nwb_version" in attrs or type_of(attrs) == "NWBFile" or type_of(attrs).endswith("Series"):
                    return True
    return False


# By pynwb.


def _by_pynwb(file: h5py.File, path: Path) -> tuple[list[Series], Callable[[], Any], Any]:
    """The series of a file as pynwb reads it, what gives those and tables that may be inputs, and what it
    reads them by."""
    import h5py
    from pynwb import NWBHDF5IO, TimeSeries
    from pynwb.ophys import RoiResponseSeries

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of older versions of the specification
        io = NWBHDF5IO(file=file, mode="r", load_namespaces=True)
        nwb = io.read()
        found = []
        for container in nwb.objects.values():
            if not isinstance(container, TimeSeries):
                continue
            builder = io.manager.get_builder(container)
            name = builder.path.partition("/")[2]
            data = container.data
            if not isinstance(data, h5py.Dataset) or name.partition("/")[0] in _NOT_RECORDINGS:
                continue
            if data.dtype.kind not in "iuf" or data.ndim not in (1, 2) or not data.size:
                continue
            kind = _kind_of([base.__name__ for base in type(container).__mro__])
            rois = table = None
            if isinstance(container, RoiResponseSeries):
                rois, table = np.asarray(container.rois.data[()]), _table_of(container.rois.table)
            stamps = container.timestamps
            found.append(
                Series(
                    name,
                    kind,
                    type(container.parent).__name__,
                    stored(data, path),
                    float(container.conversion),
                    float(container.offset or 0.0),
                    _positive(container.rate),
                    None if stamps is None else partial(_read_times, stamps),
                    float(container.starting_time or 0.0),
                    rois,
                    table,
                )
            )
    path_of = lambda item: io.manager.get_builder(item).path.partition("/")[2]  # noqa: E731
    return sorted(found, key=lambda series: series.name), partial(inputs_by_pynwb, nwb, path_of), io


def _table_of(table: Any) -> RoiTable:
    columns = {name: partial(_read_column, table[name]) for name in table.colnames}
    columns["id"] = partial(_read_column, table.id)
    return RoiTable(len(table), columns, table.name)


def _kind_of(names: list[str]) -> str:
    """The most special type of the specification among a type and those it derives from."""
    for name in names:
        if name in _RESPONSES:
            return "RoiResponseSeries"
        if name in _OTHER_SERIES or name == "TimeSeries":
            return name
    return "TimeSeries"


def _positive(rate: Any) -> float | None:
    rate = float("nan") if rate is None else float(rate)
    return rate if np.isfinite(rate) and rate > 0 else None


def _read_column(column: Any) -> np.ndarray:
    return np.asarray(column.data[()])


def _read_times(stamps: Any) -> np.ndarray:
    return _times(stamps[()])


def _times(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64).ravel()


# By the types of the specification.


@dataclass(frozen=True)
class _Hdf5Door:
    """An HDF5 file as `_by_type` looks into it; links lead where they lead."""

    file: h5py.File
    path: Path

    def groups(self) -> list[str]:
        import h5py

        return [name for name, item in items_of(self.file).items() if isinstance(item, h5py.Group)]

    def has(self, name: str) -> bool:
        with contextlib.suppress(KeyError, OSError):
            return name in self.file and self.file[name] is not None
        return False

    def attrs(self, name: str) -> Mapping[str, Any]:
        return self.file[name].attrs

    def dtype_kind(self, name: str) -> str:
        return getattr(getattr(self.file[name], "dtype", None), "kind", "")

    def shape(self, name: str) -> tuple[int, ...]:
        return getattr(self.file[name], "shape", None) or ()

    def stored(self, name: str) -> StoredArray:
        return stored(self.file[name], self.path)

    def values(self, name: str) -> np.ndarray:
        path, inner = self.path, self.file[name].name
        if self.file:
            return np.asarray(self.file[name][()])
        with open_hdf5(path) as file:
            return np.asarray(file[inner][()])

    def table_of(self, name: str) -> str | None:
        table = self.file[name].attrs.get("table")
        with contextlib.suppress(KeyError, ValueError, TypeError):
            return self.file[table].name.strip("/") if table else None
        return None

    def children(self, name: str) -> list[str]:
        return list(self.file[name])

    def texts(self, name: str) -> list[str] | None:
        import h5py

        item = self.file.get(name)
        if not isinstance(item, h5py.Dataset) or h5py.check_string_dtype(item.dtype) is None:
            return None
        return item.asstr(errors="replace")[()].ravel().tolist()


@dataclass(frozen=True)
class _ZarrDoor:
    """A zarr store as `_by_type` looks into it; links are those that hdmf-zarr writes."""

    tree: ZarrTree
    sidecar: Sidecar
    notes: dict[str, str]
    unreadable: dict[str, str] = field(default_factory=dict)

    def groups(self) -> list[str]:
        return [name for name, metadata in self.tree.metadata.items() if "shape" not in metadata]

    def _at(self, name: str) -> str:
        """The path that a path leads to: links are written into the attributes of their group."""
        if name in self.tree.metadata:
            return name
        group, _, key = name.rpartition("/")
        for link in self.tree.attrs(group).get("zarr_link", []):
            if link.get("name") == key:
                if link.get("source") in (".", "", None):
                    return str(link.get("path", "")).strip("/")
                self.unreadable[name] = (
                    f"is a link to {link.get('path')} in {link.get('source')}, another store"
                )
        return name

    def has(self, name: str) -> bool:
        return self._at(name) in self.tree.metadata

    def attrs(self, name: str) -> Mapping[str, Any]:
        return self.tree.attrs(self._at(name))

    def dtype_kind(self, name: str) -> str:
        from forebrain.sessions.readers._zarr import _kind

        metadata = self.tree.metadata[self._at(name)]
        return _kind(metadata) if "shape" in metadata else ""

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tree.metadata[self._at(name)].get("shape", ()))

    def stored(self, name: str) -> StoredArray:
        return self.tree.stored(self._at(name), self.sidecar, self.notes)

    def values(self, name: str) -> np.ndarray:
        return self.tree.values(self._at(name))

    def table_of(self, name: str) -> str | None:
        table = self.tree.attrs(self._at(name)).get("table")
        if isinstance(table, dict):  # {"value": {"path": ..., "source": "."}, "zarr_dtype": "object"}
            value = table.get("value", table)
            found = str(value.get("path", "")).strip("/") if isinstance(value, dict) else None
            return found if found in self.tree.metadata else None
        return None

    def children(self, name: str) -> list[str]:
        prefix = f"{self._at(name)}/"
        return [
            other[len(prefix) :]
            for other in self.tree.metadata
            if other.startswith(prefix) and "/" not in other[len(prefix) :]
        ]

    def texts(self, name: str) -> list[str] | None:
        found = self.tree.texts(self._at(name))
        return None if found is None else list(found)

    def text(self, name: str) -> str | None:
        found = self.texts(name)
        return found[0] if found and len(found) == 1 else None


def _by_type(door: _Hdf5Door | _ZarrDoor) -> list[Series]:
    """The series of a file by the types that their groups state."""
    found = []
    for name in door.groups():
        inside = f"{name}/" if name else ""
        if name.partition("/")[0] in _NOT_RECORDINGS or not door.has(f"{inside}data"):
            continue
        kind = type_of(door.attrs(name))
        if not kind.endswith("Series"):
            continue
        data = f"{inside}data"
        shape = door.shape(data)
        if door.dtype_kind(data) not in ("i", "u", "f") or len(shape) not in (1, 2) or 0 in shape:
            continue
        attrs = door.attrs(data)
        rois = table = None
        if door.has(f"{inside}rois"):
            rois = door.values(f"{inside}rois").ravel()
            at = door.table_of(f"{inside}rois")
            table = None if at is None else _table_by_type(door, at)
        stamps = f"{inside}timestamps"
        start = f"{inside}starting_time"
        rate = door.attrs(start).get("rate") if door.has(start) else None
        found.append(
            Series(
                name,
                _kind_of([kind]),
                type_of(door.attrs(name.rpartition("/")[0])) if "/" in name else "",
                door.stored(data),
                float(attrs.get("conversion", 1.0)),
                float(attrs.get("offset", 0.0)),
                _positive(rate),
                partial(_times_of, door, stamps) if door.has(stamps) else None,
                float(np.asarray(door.values(start)).ravel()[0]) if rate is not None else 0.0,
                rois,
                table,
            )
        )
    return found


def _times_of(door: _Hdf5Door | _ZarrDoor, name: str) -> np.ndarray:
    return _times(door.values(name))


def _table_by_type(door: _Hdf5Door | _ZarrDoor, at: str) -> RoiTable:
    names = [name for name in door.children(at) if door.shape(f"{at}/{name}") and not name.endswith("_index")]
    columns = {
        name: partial(door.values, f"{at}/{name}")
        for name in names
        if door.dtype_kind(f"{at}/{name}") in "biuf"
    }
    if "id" in columns:
        num_rows = door.shape(f"{at}/id")[0]
    else:
        num_rows = max((door.shape(f"{at}/{name}")[0] for name in columns), default=0)
    return RoiTable(num_rows, columns, at.rpartition("/")[2])


def _spikes(
    door: _Hdf5Door | _ZarrDoor,
) -> tuple[list[np.ndarray], list[str], Callable[[str], list[str] | None]]:
    """Spike times, names, and the columns of text of the sorted units."""
    times = np.asarray(door.values("units/spike_times"), np.float64)
    ends = np.asarray(door.values("units/spike_times_index"), np.int64)
    units = [times[start:stop] for start, stop in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]
    ids = door.values("units/id").tolist() if door.has("units/id") else range(len(units))
    names = [f"unit{number}" for number in ids]

    def column(name: str) -> list[str] | None:
        if not door.has(f"units/{name}"):
            return None
        texts = door.texts(f"units/{name}")
        return texts if texts is not None and len(texts) == len(units) else None

    return units, names, column
