"""NWB: Neurodata Without Borders, HDF5 files of any 2.x version.

Read by h5py from the names and types of the specification (nwb-schema.readthedocs.io): pynwb refuses a
whole file for one attribute that is missing or an extension that is not installed, and such files are common.

Traces are, in this order:
1. a RoiResponseSeries in DfOverF, else in Fluorescence (neuropil and deconvolved activity are not traces),
2. TimeSeries with one axis, a unit each, of one length, whose names differ in a number (`Activity_0012`), or
   eight or more in one place with names of their own (`AVAL`),
3. the only TimeSeries with two axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import choose_frames_axis, make_session
from forebrain.sessions.readers._hdf5 import Hdf5Frames, holds, items_of, text_of
from forebrain.sessions.readers._selected import SelectedFrames, loaded_if_small
from forebrain.sessions.session import FrameSource, Session
from forebrain.sessions.sidecar import Sidecar

if TYPE_CHECKING:
    import h5py

_NOT_RECORDINGS = ("specifications/", "stimulus/", "intervals/")
_COMPANIONS = re.compile(r"neuropil|deconv|background|spikes", re.IGNORECASE)
_DFF = re.compile(r"dff|d(elta)?_?f_?(over)?_?f", re.IGNORECASE)
_ACCEPTED_COLUMNS = ("iscell", "accepted", "Accepted")
_MIN_FAMILY = 3  # so many TimeSeries of numbered names are a population,
_MIN_NAMED_FAMILY = 8  # and so many with names of their own; fewer are behaviour
_MIN_UNITS = 3  # a TimeSeries with fewer columns is a position, not a population
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


def recognises(path: Path) -> bool:
    return holds(path, lambda file: "nwb_version" in file.attrs or _type_of(file) == "NWBFile")


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads one series, or one family of series with a unit each.

    Raises:
        RecordingError: there is no population, or several, of which the sidecar names none.
    """
    import h5py

    with h5py.File(path, "r") as file:
        populations = _populations(file)
        chosen = _choose(populations, path, sidecar)
        first = file[chosen.series[0]]
        time_s = _timestamps(first)
        notes = {"variable": chosen.name, **_notes(file, chosen, populations)}
        traces = chosen.frames(file, path, time_s, sidecar, notes)
        if time_s is not None and len(time_s) != traces.shape[0]:
            raise RecordingError(
                f"{path}: {chosen.name} has {traces.shape[0]} frames but {len(time_s)} timestamps; expected "
                "as many. Mend the file, or state frames_axis in the sidecar if the axes are swapped."
            )
        unit_names, kept = _units(file, chosen, traces.shape[1])
        if kept is not None:
            notes["cells"] = f"{len(kept)} of {traces.shape[1]} ROIs are accepted as cells"
            unit_names = tuple(unit_names[unit] for unit in kept)
            traces = SelectedFrames(traces, kept)
        region = _only_region(file)
        session = make_session(
            path,
            sidecar,
            loaded_if_small(traces),
            rate_hz=_rate(first),
            signal=chosen.signal,
            identity_found=_identity(file),
            metadata=notes,
            time_s=time_s,
            unit_names=unit_names,
            brain_regions=(region,) * traces.shape[1] if region else None,
        )
    return [session]


@dataclass(frozen=True)
class _Population:
    """What can be read as the traces of a recording.

    Attributes:
        name: path of the series in the file; of a family of series the path with `*` for the numbers.
        kind: `dff`, `fluorescence`, `companion` (neuropil and the like), `family` or `matrix`.
        series: path of the series, or of each unit's.
    """

    name: str
    kind: str
    series: tuple[str, ...]

    @property
    def signal(self) -> str:
        return self.kind if self.kind in ("dff", "fluorescence") else self.name.rpartition("/")[2].strip("_*")

    def frames(
        self,
        file: h5py.File,
        path: Path,
        time_s: np.ndarray | None,
        sidecar: Sidecar,
        notes: dict[str, str],
    ) -> FrameSource:
        """The traces [T, N] of every unit, in the series' physical unit."""
        data = file[self.series[0]]["data"]
        scale, offset = float(data.attrs.get("conversion", 1.0)), float(data.attrs.get("offset", 0.0))
        scale = scale if np.isfinite(scale) and scale != 0 else 1.0
        if data.ndim == 1:
            source: FrameSource = SeriesFrames(path, self.series, (len(data), len(self.series)))
        else:
            frames_axis = _frames_axis(file[self.series[0]], time_s, path, sidecar, notes)
            source = Hdf5Frames.of(path, data, frames_axis)
        if (scale, offset) == (1.0, 0.0):
            return source
        return SelectedFrames(source, np.arange(source.shape[1]), scale, offset)


@dataclass(frozen=True)
class SeriesFrames:
    """Frames [T, N] of N series with one axis, read a slice at a time.

    Attributes:
        path: the file.
        series: path of each unit's series in the file.
        shape: (T, N).
    """

    path: Path
    series: tuple[str, ...]
    shape: tuple[int, int]

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        import h5py

        with h5py.File(self.path, "r") as file:
            return np.stack([file[name]["data"][frames] for name in self.series], axis=1)


def _populations(file: h5py.File) -> list[_Population]:
    """All that could be traces, in the order of the file."""
    found: list[_Population] = []
    numbered: dict[tuple[str, int], list[str]] = {}
    named: dict[tuple[str, int], list[str]] = {}
    for name, item in items_of(file).items():
        data = _data_of(item)
        if data is None or name.startswith(_NOT_RECORDINGS):
            continue
        kind = _type_of(item)
        if kind == "RoiResponseSeries" and data.ndim == 2:
            found.append(_Population(name, _roi_kind(name, file), (name,)))
        elif kind in ("RoiResponseSeries", "TimeSeries") and data.ndim == 1:
            numbered.setdefault((re.sub(r"\d+", "*", name), len(data)), []).append(name)
            named.setdefault((f"{name.rpartition('/')[0]}/*", len(data)), []).append(name)
        elif kind == "TimeSeries" and data.ndim == 2 and min(data.shape) >= _MIN_UNITS:
            found.append(_Population(name, "matrix", (name,)))
    families = _families(numbered, _MIN_FAMILY) or _families(named, _MIN_NAMED_FAMILY)
    return found + families


def _families(by_pattern: Mapping[tuple[str, int], list[str]], min_units: int) -> list[_Population]:
    return [
        _Population(pattern, "family", tuple(sorted(names, key=_by_number)))
        for (pattern, _), names in by_pattern.items()
        if len(names) >= min_units
    ]


def _choose(populations: Iterable[_Population], path: Path, sidecar: Sidecar) -> _Population:
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
        raise RecordingError(
            f"{path}: {sidecar.variable} (the sidecar's variable) fits {len(named)} of the series; it holds "
            f"{listed or 'none'}. Give the whole path of one."
        )
    for kind in ("dff", "fluorescence", "companion", "family", "matrix"):
        of_kind = [population for population in populations if population.kind == kind]
        if len(of_kind) == 1:
            return of_kind[0]
        if of_kind:
            names = ", ".join(population.name for population in of_kind)
            raise RecordingError(
                f"{path}: several series could be the traces: {names}. Name one as variable in the sidecar."
            )
    raise RecordingError(
        f"{path}: holds no population recording; expected a RoiResponseSeries in DfOverF or Fluorescence, or "
        "TimeSeries of one length, a unit each."
    )


def _notes(file: h5py.File, chosen: _Population, populations: Iterable[_Population]) -> Mapping[str, str]:
    others = [population.name for population in populations if population != chosen]
    notes = {"also_in_the_file": ", ".join(others)} if others else {}
    for key, name in {
        "description": "session_description",
        "experiment": "general/experiment_description",
    }.items():
        if value := text_of(file, name):
            notes[key] = value
    return notes


def _type_of(item: Any) -> str:
    value = item.attrs.get("neurodata_type", "")
    return value.decode() if isinstance(value, bytes) else str(value)


def _data_of(item: Any) -> h5py.Dataset | None:
    """The numbers of a series, with one or two axes."""
    import h5py

    data = item.get("data") if isinstance(item, h5py.Group) else None
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "iuf" or data.ndim not in (1, 2):
        return None
    return data if data.size else None


def _roi_kind(name: str, file: h5py.File) -> str:
    if _COMPANIONS.search(name.partition("/")[2]):
        return "companion"
    is_dff = _type_of(file[name].parent) == "DfOverF" or _DFF.search(name.rpartition("/")[2])
    return "dff" if is_dff else "fluorescence"


def _by_number(name: str) -> list[Any]:
    """Sorts Activity_2 before Activity_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _frames_axis(
    series: h5py.Group, time_s: np.ndarray | None, path: Path, sidecar: Sidecar, notes: dict[str, str]
) -> int:
    """By the specification 0; files that swap the axes are told by their ROIs or timestamps."""
    shape = series["data"].shape
    if sidecar.frames_axis is not None:
        return sidecar.frames_axis
    rois = series.get("rois")
    if rois is not None and shape[0] != shape[1] and len(rois) in shape:
        return 1 - shape.index(len(rois))
    if time_s is not None and shape[0] != shape[1] and len(time_s) in shape:
        return shape.index(len(time_s))
    return choose_frames_axis(shape, path, sidecar, notes)


def _timestamps(series: h5py.Group) -> np.ndarray | None:
    """float64 [T], seconds; None where the series states a start and a rate."""
    stamps = series.get("timestamps")
    return None if stamps is None else np.asarray(stamps[()], np.float64).ravel()


def _rate(series: h5py.Group) -> float | None:
    start = series.get("starting_time")
    rate = None if start is None else float(start.attrs.get("rate", np.nan))
    return rate if rate and np.isfinite(rate) and rate > 0 else None


def _units(file: h5py.File, chosen: _Population, num_units: int) -> tuple[tuple[str, ...], np.ndarray | None]:
    """A name for each unit, and which units the segmentation accepts as cells; None where it does not say."""
    if chosen.kind == "family":
        return tuple(name.rpartition("/")[2] for name in chosen.series), None
    names = tuple(f"roi{unit}" for unit in range(num_units))
    rois = file[chosen.name].get("rois")
    table = None if rois is None or len(rois) != num_units else rois.attrs.get("table")
    if not table:
        return names, None
    segmentation, rows = file[table], np.asarray(rois[()], np.int64)
    if "id" in segmentation and (rows.size == 0 or rows.max() < len(segmentation["id"])):
        names = tuple(f"roi{number}" for number in np.asarray(segmentation["id"][()])[rows].tolist())
    for column in _ACCEPTED_COLUMNS:
        if column in segmentation and len(segmentation[column]) > rows.max():
            flags = np.asarray(segmentation[column][()])
            accepted = (flags if flags.ndim == 1 else flags[:, 0])[rows] > 0.5
            return names, (None if accepted.all() else np.flatnonzero(accepted))
    return names, None


def _only_region(file: h5py.File) -> str | None:
    """Where the imaging plane lies, if the file tells of one region only."""
    planes = file.get("general/optophysiology")
    found = {text_of(plane, "location") for plane in planes.values()} if planes is not None else set()
    region = found.pop() if len(found) == 1 else None
    return None if region is None or region.strip().lower() in ("", "unknown", "n/a") else region


def _identity(file: h5py.File) -> dict[str, str | None]:
    species = text_of(file, "general/subject/species")
    return {
        "species": _SPECIES.get(species.strip().lower(), species) if species else None,
        "subject": text_of(file, "general/subject/subject_id"),
        "session": text_of(file, "general/session_id") or text_of(file, "identifier"),
    }
