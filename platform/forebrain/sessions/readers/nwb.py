"""NWB: Neurodata Without Borders, in HDF5 or zarr, of any 2.x version.

pynwb opens HDF5 files, so that links, extensions and the types that they derive from are what the format
says. A file that it refuses (for one attribute that is missing, or an extension that is not installed; such
files are common) and every zarr store are read from the names and types of the specification
(nwb-schema.readthedocs.io), by the same rules.

Traces are, in this order:
1. a RoiResponseSeries (or one of fibre photometry) in DfOverF, else in Fluorescence, else deconvolved
   activity; neuropil is no activity,
2. TimeSeries called like activity: with one axis, a unit each, of one length, whose names differ in a number
   (`Activity_0012`), or with two axes,
3. Units, the spike times of sorted units, counted in bins that the sidecar states,
4. the only TimeSeries that could be a population: families as above, or eight or more in one place with names
   of their own (`AVAL`), or a matrix; what lies in or is called like behaviour is none.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._common import choose_frames_axis, make_session
from forebrain.sessions.readers._content import clocks_among
from forebrain.sessions.readers._hdf5 import Hdf5Frames, holds, linked_files, open_hdf5
from forebrain.sessions.readers._names import role_of
from forebrain.sessions.readers._nwb_inputs import type_of, with_inputs
from forebrain.sessions.readers._nwb_tree import NwbFile, Series, zarr_is_nwb
from forebrain.sessions.readers._selected import SelectedFrames, loaded_if_small
from forebrain.sessions.readers._spikes import binned
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

_COMPANIONS = re.compile(r"neuropil|background|fneu|baseline", re.IGNORECASE)
_DECONVOLVED = re.compile(r"deconv|spike|event", re.IGNORECASE)
_DFF = re.compile(r"dff|d(elta)?_?f_?(over)?_?f", re.IGNORECASE)
_ACCEPTED_COLUMNS = ("iscell", "is_cell", "accepted", "Accepted", "IsCell")
_QUALITY_COLUMNS = ("quality", "group", "cluster_group", "KSLabel", "unit_quality", "label")
_MIN_FAMILY = 3  # so many TimeSeries of numbered names are a population,
_MIN_NAMED_FAMILY = 8  # and so many with names of their own; fewer are behaviour
_MIN_UNITS = 3  # a TimeSeries with fewer columns is a position, not a population
_ORDER = ("dff", "fluorescence", "deconvolved", "activity", "units", "family", "matrix")
_SPECIES = {
    "danio rerio": "zebrafish",
    "caenorhabditis elegans": "celegans",
    "c. elegans": "celegans",
    "mus musculus": "mouse",
    "rattus norvegicus": "rat",
    "macaca mulatta": "macaque",
    "drosophila melanogaster": "fruitfly",
    "apis mellifera": "honeybee",
    "taeniopygia guttata": "zebrafinch",
    "homo sapiens": "human",
}

further_files = linked_files


def recognises(path: Path) -> bool:
    if path.is_dir():
        return zarr_is_nwb(path)
    return holds(path, lambda file: "nwb_version" in file.attrs or type_of(file.attrs) == "NWBFile")


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one series, one family of series with a unit each, or the sorted units.

    Raises:
        RecordingError: there is no population.
        RecordingQuestion: there are several, of which the sidecar names none, or no bins for spikes are
            stated.
    """
    if path.is_dir():
        return _read(NwbFile.of_zarr(path, sidecar), path, sidecar)
    with open_hdf5(path) as file:
        return _read(NwbFile.of_hdf5(file, path), path, sidecar)


def _read(file: NwbFile, path: Path, sidecar: Sidecar) -> list[Session]:
    populations = _populations(file)
    chosen = _choose(file, populations, path, sidecar)
    notes = {"variable": chosen.name, **_notes(file, chosen, populations)}
    if chosen.kind == "units":
        return [_with_inputs(file, _read_units(file, path, sidecar, notes), chosen)]
    first = chosen.series[0]
    time_s = first.timestamps() if first.timestamps is not None else None
    traces = chosen.frames(time_s, path, sidecar, notes)
    notes |= file.notes
    unit_names, kept = _units(chosen, traces.shape[1], path, notes)
    ramps = clocks_among(traces)
    if ramps.size:
        left = np.setdiff1d(np.arange(traces.shape[1]) if kept is None else kept, ramps)
        if left.size == 0:
            raise RecordingError(
                f"{path}: all columns of {chosen.name} grow evenly, like clocks; expected traces."
            )
        notes["clocks_left_out"] = (
            f"columns {ramps.tolist()[:10]} grow evenly, like a clock, and were left out"
        )
        kept = left
    if kept is not None:
        unit_names = tuple(unit_names[unit] for unit in kept)
        traces = SelectedFrames(traces, kept)
    region = file.only_region()
    if time_s is not None:
        notes["rate_from"] = f"the timestamps of {first.name}"
    elif first.rate_hz is not None:
        notes["rate_from"] = f"the rate of {first.name}/starting_time"
    session = make_session(
        path,
        sidecar,
        loaded_if_small(traces),
        rate_hz=first.rate_hz,
        signal=chosen.signal,
        identity_found=_identity(file),
        metadata=notes,
        time_s=time_s,
        unit_names=unit_names,
        brain_regions=(region,) * traces.shape[1] if region else None,
    )
    return [_with_inputs(file, session, chosen)]


def _with_inputs(file: NwbFile, session: Session, chosen: _Population) -> Session:
    """The session with what the file states of stimulus and behaviour."""
    taken = {each.name for each in chosen.series}
    first_s = chosen.series[0].start_s if chosen.series else 0.0
    table = chosen.series[0].table if chosen.series else None
    try:
        series, tables = file.inputs()
        others = [each for each in series if each.name not in taken]
        return with_inputs(session, others, tables, first_s, "" if table is None else table.name)
    except Exception as error:  # what is wrong with inputs does not take the traces with it
        why = f"all inputs ({type(error).__name__}: {str(error)[:160]})"
        return replace(session, metadata={**session.metadata, "inputs_left_out": why})


@dataclass(frozen=True)
class _Population:
    """A series, or one for each unit, that can be read as the traces of a recording.

    Attributes:
        name: path of the series in the file; of a family of series the path with `*` for the numbers.
        kind: one of `_ORDER`, or `companion` (neuropil and the like) or `behaviour`, which are never chosen.
        series: the series, or each unit's.
    """

    name: str
    kind: str
    series: tuple[Series, ...] = field(default=())

    @property
    def signal(self) -> str:
        if self.kind in ("dff", "fluorescence"):
            return self.kind
        return self.name.rpartition("/")[2].strip("_*")

    @property
    def is_family(self) -> bool:
        return len(self.series) > 1

    def frames(
        self, time_s: np.ndarray | None, path: Path, sidecar: Sidecar, notes: dict[str, str]
    ) -> FrameSource:
        """The traces [T, N] of every unit, in the series' physical unit."""
        first = self.series[0]
        scale = first.conversion if np.isfinite(first.conversion) and first.conversion != 0 else 1.0
        if self.is_family:
            source: FrameSource = SeriesFrames(tuple(series.array.frames(0) for series in self.series))
            notes["axis_from"] = "a series for each unit"
        else:
            source = first.array.frames(_frames_axis(first, time_s, path, sidecar, notes))
        if (scale, first.offset) == (1.0, 0.0):
            return source
        return SelectedFrames(source, np.arange(source.shape[1]), scale, first.offset)


@dataclass(frozen=True, eq=False)
class SeriesFrames:
    """Frames [T, N] of N series with one axis, read a slice at a time.

    Attributes:
        sources: [T, 1] of each unit.
    """

    sources: tuple[FrameSource, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, units)."""
        return self.sources[0].shape[0], len(self.sources)

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        files = {source.path: source for source in self.sources if isinstance(source, Hdf5Frames)}
        with contextlib.ExitStack() as stack:  # each file is opened once, not once for each unit
            opened = {path: stack.enter_context(open_hdf5(path)) for path in files}
            columns = [
                source.read(opened[source.path], frames) if isinstance(source, Hdf5Frames) else source[frames]
                for source in self.sources
            ]
        return np.concatenate(columns, axis=1)


def _populations(file: NwbFile) -> list[_Population]:
    """All that could be traces, in the order of the file."""
    found: list[_Population] = []
    numbered: dict[tuple[str, int], list[Series]] = {}
    named: dict[tuple[str, int], list[Series]] = {}
    for series in file.series:
        num_axes = len(series.array.shape)
        if series.kind == "RoiResponseSeries" and num_axes == 2:
            found.append(_Population(series.name, _roi_kind(series), (series,)))
        elif num_axes == 1 and series.kind in ("RoiResponseSeries", "TimeSeries") and not series.is_behaviour:
            length = series.array.shape[0]
            numbered.setdefault((re.sub(r"\d+", "*", series.name), length), []).append(series)
            named.setdefault((f"{series.name.rpartition('/')[0]}/*", length), []).append(series)
        elif num_axes == 2 and min(series.array.shape) >= _MIN_UNITS:
            kind = "matrix" if series.kind == "TimeSeries" and not series.is_behaviour else "behaviour"
            if kind == "matrix" and role_of(series.name) == "activity":
                kind = "activity"
            if kind == "matrix" and role_of(series.name) != "unknown":
                kind = "behaviour"
            found.append(_Population(series.name, kind, (series,)))
    families = _families(numbered, _MIN_FAMILY) or _families(named, _MIN_NAMED_FAMILY)
    units = [_Population("units", "units")] if file.has_units else []
    return found + families + units


def _families(by_pattern: Mapping[tuple[str, int], list[Series]], min_units: int) -> list[_Population]:
    return [
        _Population(
            pattern,
            "activity" if role_of(pattern) == "activity" else "family",
            tuple(sorted(members, key=lambda series: _by_number(series.name))),
        )
        for (pattern, _), members in by_pattern.items()
        if len(members) >= min_units
    ]


def _choose(file: NwbFile, populations: Iterable[_Population], path: Path, sidecar: Sidecar) -> _Population:
    """The population the sidecar names, else the only one of the best kind."""
    populations = list(populations)
    listed = ", ".join(population.name for population in populations)
    if sidecar.variable is not None:
        wanted = sidecar.variable.strip("/").removesuffix("/data")
        named = [p for p in populations if p.name == wanted] or [
            p for p in populations if wanted in p.name.split("/")
        ]
        if len(named) == 1:
            return named[0]
        raise RecordingQuestion(
            f"{path}: {sidecar.variable} (the sidecar's variable) fits {len(named)} of the series; it holds "
            f"{'; '.join([listed or 'none', *(f'{name} {why}' for name, why in file.unreadable.items())])}. "
            f"Give "
            "the whole path of one.",
            {"variable": [population.name for population in named or populations]},
        )
    for kind in _ORDER:
        of_kind = [population for population in populations if population.kind == kind]
        if len(of_kind) == 1:
            return of_kind[0]
        if of_kind:
            names = ", ".join(population.name for population in of_kind)
            raise RecordingQuestion(
                f"{path}: several series could be the traces: {names}. Name one as variable in the sidecar.",
                {"variable": [population.name for population in of_kind]},
            )
    _refuse(file, populations, path)


def _refuse(file: NwbFile, populations: list[_Population], path: Path) -> NoReturn:
    words = {"behaviour": "behaviour, stimulus or another device's", "companion": "neuropil or background"}
    told = [f"{p.name} ({words.get(p.kind, p.kind)})" for p in populations]
    listed_already = {series.name for population in populations for series in population.series}
    told += [f"{series.name} (one axis)" for series in file.series if series.name not in listed_already]
    told += [f"{name} {why}" for name, why in file.unreadable.items()]
    listed = f" There are {'; '.join(told[:12])}." if told else ""
    raise RecordingError(
        f"{path}: holds no population recording; expected a RoiResponseSeries in DfOverF or Fluorescence, "
        f"TimeSeries of one length, a unit each, or Units.{listed}"
    )


def _notes(file: NwbFile, chosen: _Population, populations: Iterable[_Population]) -> Mapping[str, str]:
    others = [population.name for population in populations if population != chosen]
    others += [f"{name}, which {why}" for name, why in file.unreadable.items()]
    notes = {"also_in_the_file": ", ".join(others)} if others else {}
    for key, name in {
        "description": "session_description",
        "experiment": "general/experiment_description",
    }.items():
        if value := file.text(name):
            notes[key] = value
    if file.unread_by_library:
        notes["read_by"] = file.unread_by_library
    return notes


def _roi_kind(series: Series) -> str:
    inner = series.name.partition("/")[2]
    if _COMPANIONS.search(inner):
        return "companion"
    own = series.name.rpartition("/")[2]
    if _DECONVOLVED.search(inner) and not _DFF.search(own):
        return "deconvolved"
    return "dff" if series.parent_kind == "DfOverF" or _DFF.search(own) else "fluorescence"


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts Activity_2 before Activity_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _frames_axis(
    series: Series, time_s: np.ndarray | None, path: Path, sidecar: Sidecar, notes: dict[str, str]
) -> int:
    """The axis that counts frames: 0 by the specification; files that swap the axes are told by their ROIs
    or timestamps."""
    shape = series.array.shape
    if sidecar.frames_axis is not None:
        notes["axis_from"] = "the sidecar"
        return sidecar.frames_axis
    if shape[0] != shape[1]:
        table = series.table
        for length, what in (
            (None if series.rois is None else len(series.rois), "the number of ROIs"),
            (None if table is None else table.num_rows, "the rows of the table of ROIs"),
        ):
            if length is not None and (shape[0] == length) != (shape[1] == length):
                notes["axis_from"] = what
                return 1 - shape.index(length)
        if time_s is not None and (shape[0] == len(time_s)) != (shape[1] == len(time_s)):
            notes["axis_from"] = "the number of timestamps"
            return shape.index(len(time_s))
    return choose_frames_axis(shape, path, sidecar, notes)


def _units(
    chosen: _Population, num_units: int, path: Path, notes: dict[str, str]
) -> tuple[tuple[str, ...], np.ndarray | None]:
    """A name for each unit, and which units the segmentation accepts as cells; None where it takes all."""
    if chosen.is_family:
        return tuple(series.name.rpartition("/")[2] for series in chosen.series), None
    series = chosen.series[0]
    names = tuple(f"roi{unit}" for unit in range(num_units))
    if series.rois is None or series.table is None:
        return names, None
    rows, table = np.asarray(series.rois, np.int64), series.table
    has_flags = next((column for column in _ACCEPTED_COLUMNS if table.has(column)), None)
    if len(rows) != num_units or (rows.size and not 0 <= rows.min() <= rows.max() < max(table.num_rows, 1)):
        words = (
            f"the region rois names {len(rows)} ROIs of a table of {table.num_rows}, but the data has "
            f"{num_units} units"
        )
        if table.num_rows != num_units:
            notes["cells"] = (
                f"{words}: the table{f' and its {has_flags}' if has_flags else ''} was passed over"
            )
            return names, None
        notes["rois_note"] = f"{words}: the table's rows are taken in order"
        rows = np.arange(num_units)
    if (ids := table.column("id")) is not None and ids.ndim == 1 and len(ids) == table.num_rows:
        names = tuple(f"roi{number}" for number in ids[rows].tolist())
    if has_flags is None:
        return names, None
    flags = table.column(has_flags)
    if flags is None or flags.dtype.kind not in "biuf" or len(flags) <= rows.max(initial=-1):
        notes["cells"] = f"{has_flags} does not fit the table of ROIs and was passed over"
        return names, None
    accepted = (flags if flags.ndim == 1 else flags[:, 0])[rows] > 0.5
    notes["cells"] = f"{int(accepted.sum())} of {num_units} ROIs are cells ({has_flags})"
    if not accepted.any():
        raise RecordingError(f"{path}: {notes['cells']}. Curate the recording.")
    return names, (None if accepted.all() else np.flatnonzero(accepted))


def _read_units(file: NwbFile, path: Path, sidecar: Sidecar, notes: dict[str, str]) -> Session:
    """Spike times of the sorted units, counted in bins; of labelled units those called good, else all but
    noise."""
    times, names, columns = file.spikes()
    kept = np.arange(len(times))
    for column in _QUALITY_COLUMNS:
        labels = columns(column)
        if labels is not None and (chosen := accepted_labels(labels)) is not None:
            kept = np.flatnonzero(chosen)
            notes["cells"] = f"{kept.size} of {len(times)} units are good ({column})"
            break
    return binned(
        path,
        sidecar,
        [times[unit] for unit in kept],
        metadata=notes,
        identity_found=_identity(file),
        unit_names=tuple(names[unit] for unit in kept),
    )


def accepted_labels(labels: Iterable[str]) -> np.ndarray | None:
    """bool, which units sorters call good; where none is, all but noise; None if the labels are others."""
    words = np.array([str(label).strip().lower() for label in labels])
    if not set(words.tolist()) <= {
        "good",
        "mua",
        "noise",
        "unsorted",
        "unclassified",
        "sua",
        "artifact",
        "",
        "nan",
    }:
        return None
    good = (words == "good") | (words == "sua")
    return good if good.any() else (words != "noise") & (words != "artifact")


def _identity(file: NwbFile) -> dict[str, str | None]:
    species = file.text("general/subject/species")
    known = _SPECIES.get(species.strip().lower().rpartition("/")[2], species) if species else None
    return {
        "species": known,
        "subject": file.text("general/subject/subject_id"),
        "session": file.text("general/session_id") or file.text("identifier"),
    }
