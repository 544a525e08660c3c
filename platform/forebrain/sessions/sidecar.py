"""Sidecar files: what a recording's file does not say, in a small YAML or JSON file beside it.

`<file name>.session.yaml`, or the same without the file's own suffix, speaks of one recording, `session.yaml`
of every recording in its folder; the first wins field by field. All fields are optional.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from forebrain.errors import RecordingError
from forebrain.sessions.inputs import INPUT_KINDS
from forebrain_registry import plain_yaml
from forebrain_registry.plain_yaml import each_key_once

SIDECAR_SUFFIXES = (".yaml", ".yml", ".json")
_MAX_BYTES = 1 << 20
AXES = ("units", "frames", "trials", "sessions", "subjects")
_CHOICES = {
    "decimal": (".", ","),
    "time_unit": ("s", "ms", "us", "ns", "min", "h"),
    "absent_chunks": ("zeros", "missing"),
}
# Keys whose values are text, whatever else YAML or JSON would take them for.
_TEXT_KEYS = {
    "species",
    "subject",
    "session",
    "dataset",
    "signal",
    "variable",
    "columns",
    "rows",
    "time_column",
    "segment_column",
    "licence",
    "citation",
    "note",
}


@dataclass(frozen=True)
class InputFile:
    """A table of inputs in a file of its own: events, or channels.

    Attributes:
        file: its path; in a sidecar file from that file's folder on.
        time_column: of times; else it is told by its name (`time`, `onset`, ...). A table without times has a
            row for each frame.
        stop_column: of the times at which rows end; else it is told by its name, or by a duration's.
        label_column: whose values name the inputs, for example `stimulus`; empty ones and 0 name none.
        columns: that are read; all others are left out. None: all.
        time_unit: `s`, `ms`, `us`, `ns`, `min` or `h`; else as names of columns state it, else `s`.
        content: `events` or `channels`, where the times leave it open.
        offset_s: seconds to add to its clock to have the recording's, whose first frame is at 0 unless it
            states times.
        sync: pairs of one moment on both clocks, [its seconds, the recording's seconds], instead of
            `offset_s`; of two and more the clock's drift is taken too.
        recording_starts: the moment, as its times are written, at which the recording's clock is at 0; for
            times of the wall clock.
        planned: whether what it holds can be planned, unlike behaviour.
    """

    file: str
    time_column: str | None = None
    stop_column: str | None = None
    label_column: str | None = None
    columns: tuple[str, ...] | None = None
    time_unit: str | None = None
    content: str | None = None
    offset_s: float = 0.0
    sync: tuple[tuple[float, float], ...] | None = None
    recording_starts: str | None = None
    planned: bool = True


@dataclass(frozen=True)
class Sidecar:
    """The user's own statements about a recording.

    Attributes:
        rate_hz: frames a second.
        species, subject, session, dataset: identity.
        signal: what the numbers are, for example `dff`.
        variable: the array to read, where the file holds several: its path or name in the file.
        frames_axis: axis of the array that counts frames, 0 or 1, where it cannot be told.
        axes: what each axis of the array counts, in order: `units`, `frames`, `trials`, `sessions`, or
            `subjects` in place of sessions, whose numbers are then added to the names of subject and session;
            of a cell array first the cells' axes, then those of what lies in a cell.
        columns: names of the columns that are units, where a table holds others too.
        rows: of a table, only the rows that have these values in these columns, for example `{LedState: 2}`.
        header: whether the first row of a table names its columns, where it cannot be told.
        decimal: `.` or `,`, which of the two begins the decimals of a table's numbers; the other one parts
            thousands.
        time_column: name of the column or array that holds the frame times.
        time_unit: unit of the frame times, `s`, `ms`, `us`, `ns`, `min` or `h`, where nothing tells.
        segment_column: name of the column that numbers trials or segments.
        segment_frames: frames in each segment, where trials are joined end to end: one number, or a list.
        conditions: frames of each experimental condition by its name, as pairs [first, first one after].
        bin_s: width of the bins that spike times are counted in, seconds.
        sampling_rate_hz: of spike times that count samples of an electrophysiological recording.
        absent_chunks: what the chunks that a zarr store leaves out hold, `zeros` or `missing` values.
        inputs: of inputs by name, what goes over the file's word: `kind`, `unit`, `planned`.
        input_files: tables of inputs beside the recording.
        licence, citation, note: kept in the session's metadata.
    """

    rate_hz: float | None = None
    species: str | None = None
    subject: str | None = None
    session: str | None = None
    dataset: str | None = None
    signal: str | None = None
    variable: str | None = None
    frames_axis: Literal[0, 1] | None = None
    axes: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    rows: Mapping[str, str] | None = None
    header: bool | None = None
    decimal: Literal[".", ","] | None = None
    time_column: str | None = None
    time_unit: Literal["s", "ms", "us", "ns", "min", "h"] | None = None
    segment_column: str | None = None
    segment_frames: int | tuple[int, ...] | None = None
    conditions: Mapping[str, tuple[tuple[int, int], ...]] | None = None
    bin_s: float | None = None
    sampling_rate_hz: float | None = None
    absent_chunks: Literal["zeros", "missing"] | None = None
    inputs: Mapping[str, Mapping[str, Any]] | None = None
    input_files: tuple[InputFile, ...] | None = None
    licence: str | None = None
    citation: str | None = None
    note: str | None = None
    source: str = field(default="sidecar", compare=False)

    @property
    def spike_bin_s(self) -> float | None:
        """Width of the bins for spike times: `bin_s`, else one frame of `rate_hz`; None where neither is
        said."""
        return self.bin_s or (1 / self.rate_hz if self.rate_hz else None)

    def over(self, other: Sidecar) -> Sidecar:
        """This sidecar, and the other's value wherever this one says nothing."""
        merged = {}
        for item in fields(self):
            own = getattr(self, item.name)
            merged[item.name] = getattr(other, item.name) if own is None else own
        return Sidecar(**merged)


def sidecar_of(recording: Path) -> Sidecar:
    """The statements in the sidecar files of a recording; an empty Sidecar where there are none.

    Raises:
        RecordingError: a sidecar file is not valid; the message names the key and what is allowed.
    """
    found = Sidecar()
    for path in sidecar_files(recording):
        found = found.over(parse_sidecar(path))
    return found


def sidecar_files(recording: Path) -> list[Path]:
    """The sidecar files that speak of a recording, those that win first."""
    folder = recording.parent
    nearest_first = (
        folder / f"{recording.name}.session",
        folder / f"{recording.stem}.session",
        recording / "session",  # of a recording that is a folder
        folder / "session",
    )
    paths = [base.with_name(base.name + suffix) for base in nearest_first for suffix in SIDECAR_SUFFIXES]
    return [path for path in dict.fromkeys(paths) if os.path.isfile(path)]  # noqa: PTH113 (a name may be too long)


def is_sidecar(path: Path) -> bool:
    """Whether a file is called like a sidecar."""
    named = path.stem == "session" or path.stem.endswith(".session")
    return named and path.suffix in SIDECAR_SUFFIXES


def named_input_files(entries: Iterable[Path]) -> set[str]:
    """The files that sidecar files among the entries of a folder name as inputs of a recording."""
    found: set[str] = set()
    for entry in filter(is_sidecar, entries):
        with contextlib.suppress(RecordingError):  # said when its recording is opened
            found |= {each.file for each in parse_sidecar(entry).input_files or ()}
    return found


def parse_sidecar(path: Path) -> Sidecar:
    """Reads one sidecar file.

    Raises:
        RecordingError: it is no mapping, or holds an unknown key or a value of the wrong type.
    """
    sidecar = check_sidecar(read_sidecar_values(path), str(path))
    if sidecar.input_files is None:
        return sidecar
    found = tuple(replace(each, file=str(path.parent / each.file)) for each in sidecar.input_files)
    return replace(sidecar, input_files=found)


def read_sidecar_values(path: Path) -> Mapping[str, Any]:
    """The keys and values of a sidecar file, not yet checked; none of an empty file.

    Names stay as they are written: subject `010` is no 8, and session `12:30:00` no number of seconds.

    Raises:
        RecordingError: it cannot be read, or is neither YAML nor JSON.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecordingError(f"{path}: larger than {_MAX_BYTES} bytes; expected a few lines of YAML.")
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            values = as_written(
                json.loads(text, object_pairs_hook=each_key_once),
                json.loads(text, parse_int=str, parse_float=str),
            )
        else:
            values = load_yaml(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise RecordingError(f"{path}: not valid {path.suffix[1:].upper()} ({why}).") from error
    return {} if values is None else values


def load_yaml(text: str) -> Any:
    """YAML in which the values of the sidecar's text keys, and all keys, are text as it is written.

    Raises:
        yaml.YAMLError, ValueError: it is no valid YAML.
    """
    return as_written(plain_yaml.load(text), yaml.load(text, yaml.BaseLoader))


def as_written(typed: Any, text: Any, key: str = "") -> Any:
    """`typed` with the text in place of what a parser made of it: keys, and the values of `_TEXT_KEYS`.

    Args:
        typed, text: the same content, once as numbers and flags and once with every scalar as its text.
        key: under which the content stands.
    """
    if isinstance(typed, Mapping) and isinstance(text, Mapping) and len(typed) == len(text):
        return {
            str(name): as_written(value, written, key or str(name))
            for (name, written), value in zip(text.items(), typed.values(), strict=True)
        }
    if key not in _TEXT_KEYS or typed is None:
        return typed
    if isinstance(typed, list) and isinstance(text, list):
        return [as_written(value, written, key) for value, written in zip(typed, text, strict=True)]
    return text if isinstance(text, str) else typed


def check_sidecar(values: Any, where: str) -> Sidecar:
    """A sidecar of keys and values as a file holds them.

    Args:
        where: named in errors.

    Raises:
        RecordingError: as `parse_sidecar`.
    """
    if not isinstance(values, Mapping):
        raise RecordingError(f"{where}: holds a {type(values).__name__}; expected keys and values.")
    allowed = {item.name for item in fields(Sidecar)} - {"source"}
    unknown = [str(key) for key in values if key not in allowed]
    if unknown:
        raise RecordingError(
            f"{where}: unknown key {', '.join(unknown)}; allowed are {', '.join(sorted(allowed))}."
        )
    return Sidecar(**{key: _checked(where, key, value) for key, value in values.items()}, source=where)


def _checked(where: str, key: str, value: Any) -> Any:
    if value is None:
        return None
    if key in ("rate_hz", "bin_s", "sampling_rate_hz"):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise RecordingError(f"{where}: {key} is {value!r}; expected a positive number.")
        return float(value)
    if key == "frames_axis":
        if value not in (0, 1) or isinstance(value, bool):
            raise RecordingError(f"{where}: frames_axis is {value!r}; expected 0 or 1.")
        return value
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise RecordingError(f"{where}: {key} is {value!r}; expected {' or '.join(_CHOICES[key])}.")
        return value
    if key == "header":
        if not isinstance(value, bool):
            raise RecordingError(f"{where}: header is {value!r}; expected true or false.")
        return value
    if key == "axes":
        is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
        if not is_list or set(value) - set(AXES) or len(set(value)) < len(value):
            raise RecordingError(
                f"{where}: axes is {value!r}; expected each axis once, of {', '.join(AXES)}, for example "
                "[units, frames, trials]."
            )
        if not {"units", "frames"} <= set(value):
            raise RecordingError(f"{where}: axes is {value!r}; expected units and frames among them.")
        if {"sessions", "subjects"} <= set(value):
            raise RecordingError(f"{where}: axes is {value!r}; expected either sessions or subjects.")
        return tuple(value)
    if key == "rows":
        if not isinstance(value, Mapping) or not value:
            raise RecordingError(f"{where}: rows is {value!r}; expected columns with a value each.")
        return {str(name): str(wanted) for name, wanted in value.items()}
    if key == "segment_frames":
        lengths = value if isinstance(value, list) and value else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) or item < 1 for item in lengths):
            raise RecordingError(
                f"{where}: segment_frames is {value!r}; expected a number of frames, or a list."
            )
        return tuple(lengths) if isinstance(value, list) else value
    if key == "conditions":
        return _checked_conditions(where, value)
    if key == "inputs":
        return _checked_inputs(where, value)
    if key == "input_files":
        items = value if isinstance(value, list) else [value]
        return tuple(_checked_input_file(where, item) for item in items)
    if key == "columns":
        if not isinstance(value, list) or not value:
            raise RecordingError(f"{where}: columns is {value!r}; expected a list of column names.")
        return tuple(str(name) for name in value)
    if isinstance(value, dict | list):
        raise RecordingError(f"{where}: {key} is {value!r}; expected text.")
    return str(value)


def _checked_inputs(where: str, value: Any) -> Mapping[str, Mapping[str, Any]]:
    is_valid = isinstance(value, Mapping) and all(
        isinstance(said, Mapping)
        and set(said) <= {"kind", "unit", "planned"}
        and said.get("kind") in (None, *INPUT_KINDS)
        and isinstance(said.get("planned", True), bool)
        for said in value.values()
    )
    if not is_valid:
        raise RecordingError(
            f"{where}: inputs is {value!r}; expected names of inputs, each with kind "
            f"({', '.join(INPUT_KINDS)}), unit or planned (true, false), for example "
            "{odour: {unit: ppm, planned: true}}."
        )
    return {
        str(name): {key: str(word) if key == "unit" else word for key, word in said.items()}
        for name, said in value.items()
    }


def _checked_input_file(where: str, value: Any) -> InputFile:
    """One of `input_files`: a path, or keys and values."""
    value = {"file": value} if isinstance(value, str) else value
    allowed = {item.name for item in fields(InputFile)}
    if not isinstance(value, Mapping) or not value.get("file") or not set(value) <= allowed:
        raise RecordingError(
            f"{where}: input_files has {value!r}; expected a path, or file with any of "
            f"{', '.join(sorted(allowed - {'file'}))}."
        )
    said = {key: item for key, item in value.items() if item is not None}
    wrong = None
    for key, item in said.items():
        if key == "offset_s":
            is_valid = (
                isinstance(item, int | float) and not isinstance(item, bool) and abs(item) < float("inf")
            )
        elif key == "planned":
            is_valid = isinstance(item, bool)
        elif key == "columns":
            is_valid = isinstance(item, list) and bool(item)
        elif key == "sync":
            is_valid = (
                isinstance(item, list)
                and bool(item)
                and all(isinstance(pair, list) and len(pair) == 2 for pair in item)
                and all(isinstance(moment, int | float) for pair in item for moment in pair)
                and len({pair[0] for pair in item}) == len(item)
            )
        elif key == "time_unit":
            is_valid = item in _CHOICES["time_unit"]
        elif key == "content":
            is_valid = item in ("events", "channels")
        else:
            is_valid = not isinstance(item, dict | list)
        wrong = wrong or (None if is_valid else key)
    if wrong or {"sync", "offset_s"} <= set(said):
        raise RecordingError(
            f"{where}: input_files has {wrong or 'sync beside offset_s'}: {said.get(wrong or 'sync')!r}; "
            "expected names of columns, a unit of time, offset_s in seconds or sync: [[seconds there, "
            "seconds in the recording], ...], content: events or channels, planned: true or false."
        )
    for key in ("file", "time_column", "stop_column", "label_column", "recording_starts"):
        if key in said:
            said[key] = str(said[key])
    if "columns" in said:
        said["columns"] = tuple(str(name) for name in said["columns"])
    if "sync" in said:
        said["sync"] = tuple((float(there), float(here)) for there, here in said["sync"])
    return InputFile(**{**said, "offset_s": float(said.get("offset_s", 0.0))})


def _checked_conditions(where: str, value: Any) -> Mapping[str, tuple[tuple[int, int], ...]]:
    wrong = RecordingError(
        f"{where}: conditions is {value!r}; expected names, each with pairs of frames [first, first one "
        "after], for example {dots: [[0, 600], [900, 1500]]}."
    )
    if not isinstance(value, Mapping) or not value:
        raise wrong
    for pairs in value.values():
        if not isinstance(pairs, list) or not pairs:
            raise wrong
        for pair in pairs:
            is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(frame) is int for frame in pair)
            if not is_pair or not 0 <= pair[0] < pair[1]:
                raise wrong
    return {str(name): tuple((first, stop) for first, stop in pairs) for name, pairs in value.items()}
