"""Inputs that a sidecar file brings: tables of events or channels beside the recording, and words about
inputs that go over the file's own."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.clock import read_clock
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._inputs import (
    Channel,
    EventTable,
    FrameSpans,
    Samples,
    Values,
    refuse_outside,
    table_of,
    with_channels,
)
from forebrain.sessions.readers._names import depends_on_animal, is_counter, listed, words_of
from forebrain.sessions.readers._text import look_at
from forebrain.sessions.readers._time import SECONDS_PER, unit_in_name
from forebrain.sessions.readers.csv_table import frame_of
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import InputFile, Sidecar

if TYPE_CHECKING:
    import pandas as pd

_MIN_CHANNEL_ROWS = 16
_MAX_CHANNEL_JITTER = 0.3
_TIMES = listed("time, times, t, timestamp, timestamps, start, stop, onset, offset, end, duration")
_FRAME = {"frame", "frames", "number"}
_LABELS = {"label", "labels", "name", "names", "event", "events", "stimulus", "stim", "type", "condition"}


def brought(sessions: list[Session], path: Path, sidecar: Sidecar) -> list[Session]:
    """The sessions of a recording with the inputs that its sidecar brings.

    Raises:
        RecordingError: a file of inputs is not there, does not fit, or lies wholly outside of the frames; the
            sidecar speaks of an input that is not there.
        RecordingQuestion: there are times, but the recording states neither times nor a rate.
    """
    if sidecar.input_files and len(sessions) > 1:
        raise RecordingError(
            f"{path}: holds {len(sessions)} sessions, so nothing tells whose the inputs of the sidecar's "
            "input_files are. Save each session in a file of its own."
        )
    for given in sidecar.input_files or ():
        sessions = [_with_file(session, given, path) for session in sessions]
    if sidecar.inputs:
        sessions = [_as_said(session, sidecar, path) for session in sessions]
    return sessions


def _with_file(session: Session, given: InputFile, path: Path) -> Session:
    file = Path(given.file)
    frame = _frame(file) if file.is_file() else None
    if frame is None:
        why = "holds no table" if file.is_file() else "is not there"
        raise RecordingError(
            f"{path}: {file} (the sidecar's input_files) {why}; expected a table in text, such as CSV, of "
            "events or channels."
        )
    frame.columns = [str(name) for name in frame.columns]
    columns = _columns(frame, given, file)
    left_out: list[str] = []
    at_frames = FrameSpans(np.arange(session.num_frames), np.arange(1, session.num_frames + 1), 1.0)
    frame_column = next((name for name in columns if words_of(name) and set(words_of(name)) <= _FRAME), None)
    if any(_is_time(name) for name in columns) or given.time_column is not None:
        spans = FrameSpans.of(session)
        if spans is None:
            raise RecordingQuestion(
                f"{path}: {file.name} has times, but the recording states neither a rate nor times of frames "
                "that run forward, so nothing tells when its frames were. State rate_hz in the sidecar.",
                {"rate_hz": []},
            )
        channels = _by_time(columns, given, spans, file, left_out)
    elif frame_column is not None and len(frame) != session.num_frames:
        said = replace(given, time_column=frame_column, time_unit="s", content="events")
        channels = _by_time(columns, said, at_frames, file, left_out, "frames counted from 0")
    else:
        channels = _by_row(columns, given, session, at_frames, file, left_out)
    names = [each.name for each in session.inputs] + [each.name for each in channels]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecordingError(
            f"{path}: {', '.join(twice)} of {file.name} {'are inputs' if len(twice) > 1 else 'is an input'} "
            "already; rename what the file calls so, or list the others as its columns."
        )
    return with_channels(session, channels, left_out)


def _frame(file: Path) -> pd.DataFrame | None:
    """The rows of a table in text; None where it holds none. A table of times of the wall clock may hold no
    number."""
    import pandas as pd

    table = look_at(file)
    if table is not None:
        return frame_of(table, Sidecar())[0]
    try:
        frame = pd.read_csv(file, sep=None, engine="python")
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError, csv.Error):
        return None
    return frame if len(frame) and frame.shape[1] > 1 else None


def _columns(frame: pd.DataFrame, given: InputFile, file: Path) -> dict[str, Values]:
    """The columns that are meant, numbers as float64 and all others as text."""
    names = list(frame.columns)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecordingError(
            f"{file}: several columns are called {', '.join(twice)}; give each its own name."
        )
    named = (given.time_column, given.stop_column, given.label_column, *(given.columns or ()))
    if missing := [name for name in named if name is not None and name not in names]:
        raise RecordingError(
            f"{file}: no column is called {', '.join(missing)} (the sidecar's input_files); there are "
            f"{', '.join(names[:30])}."
        )
    columns: dict[str, Values] = {}
    for name in names:
        column = frame[name]
        if column.dtype.kind in "fiub" and name != given.label_column:
            columns[name] = column.to_numpy(np.float64)
        elif column.dtype.kind in "fiu":  # codes: 0 is none
            columns[name] = ["" if not code or code != code else f"{code:g}" for code in column]
        else:
            columns[name] = ["" if text != text else str(text) for text in column]
    if given.columns is None and given.label_column is None:
        return columns
    kept = {*(given.columns or ()), given.time_column, given.stop_column, given.label_column}
    times = {name for name in names if given.time_column is None and _is_time(name)}
    return {name: values for name, values in columns.items() if name in kept | times}


def _by_time(
    columns: dict[str, Values],
    given: InputFile,
    spans: FrameSpans,
    file: Path,
    left_out: list[str],
    clock: str = "",
) -> list[Channel]:
    """The channels of a table with times."""
    slope, offset, told = _clock_of(given)
    columns = dict(columns)
    on_clock = dict(columns)
    for name, values in list(columns.items()):
        if _is_time(name) or name in (given.time_column, given.stop_column):
            if not isinstance(values, np.ndarray):
                wall = _wall_clock(values, given, name, file)
                if wall is not None:
                    on_clock[name] = columns[name] = wall * slope + offset
                continue
            scaled = values * SECONDS_PER[given.time_unit or unit_in_name(name) or "s"] * slope
            on_clock[name] = scaled if set(words_of(name)) & {"duration", "dur"} else scaled + offset
    text = [name for name, values in columns.items() if not isinstance(values, np.ndarray)]
    are_names = given.label_column is not None or (len(text) == 1 and bool(set(words_of(text[0])) & _LABELS))
    origin = ", ".join(filter(None, [file.name, clock, told]))
    table = table_of(
        on_clock, file.stem, is_prefix=False, start=given.time_column, stop=given.stop_column, unit="s",
        planned=given.planned, values_are_names=are_names, origin=origin,
    )  # fmt: skip
    if table is None:
        raise RecordingError(
            f"{file}: no column tells when a row begins; there are {', '.join(columns)}. Name it as "
            "time_column in the sidecar's input_files."
        )
    times = table.start[np.isfinite(table.start)]
    if not times.size:
        raise RecordingError(f"{file}: holds no time; expected numbers.")
    if _are_channels(
        table.stop is not None or bool(text), table.start, bool(table.columns), given, spans, file
    ):
        samples = [
            Samples(name, values, table.start, given.planned and not depends_on_animal(name), "", origin)
            for name, values in table.columns.items()
            if isinstance(values, np.ndarray) and not is_counter(name)
        ]
        channels = [channel for each in samples if (channel := each.at(spans)) is not None]
    else:
        channels = list(table.at(spans, left_out))
    if not channels:
        raise refuse_outside(str(file), "times", times.min(), times.max(), spans)
    return channels


def _wall_clock(values: Sequence[str], given: InputFile, name: str, file: Path) -> np.ndarray | None:
    """Seconds since the recording's start of dates or times of day, NaN where there is none; None of a column
    that nobody named and that holds other text."""
    import pandas as pd

    times = pd.to_datetime(pd.Series(values).replace("", None), format="mixed", errors="coerce")
    is_named = name in (given.time_column, given.stop_column)
    if times.isna().all():
        if is_named:
            raise RecordingError(
                f"{file}: {name} holds text ({next(filter(None, values), '')!r}); expected times, as "
                "numbers or dates."
            )
        return None
    if given.recording_starts is None:
        raise RecordingError(
            f"{file}: {name} holds times of the wall clock ({next(filter(None, values), '')!r}). State when "
            "the recording's own clock is at 0 as recording_starts in the sidecar's input_files."
        )
    start = pd.to_datetime(given.recording_starts)
    if (times.dt.tz is None) != (start.tz is None):
        raise RecordingError(
            f"{file}: of {name} and recording_starts one has a time zone; expected both, or neither."
        )
    return (times - start).dt.total_seconds().to_numpy(np.float64)


def _clock_of(given: InputFile) -> tuple[float, float, str]:
    """Slope and offset, s, from a table's clock to the recording's, and how they are told."""
    if given.sync is None:
        return 1.0, given.offset_s, f"clock {given.offset_s:+g} s" if given.offset_s else ""
    there, here = np.array(given.sync).T
    slope, offset = (1.0, here[0] - there[0]) if len(there) == 1 else np.polyfit(there, here, 1)
    worst = float(np.abs(slope * there + offset - here).max())
    drift = f", drift {1e6 * (slope - 1):+.3g} ppm" if len(there) > 1 else ""
    return (
        slope,
        offset,
        f"clock {offset:+.6g} s{drift} by {len(there)} moments, off by at most {worst:.3g} s",
    )


def _are_channels(
    has_marks: bool, times: np.ndarray, has_columns: bool, given: InputFile, spans: FrameSpans, file: Path
) -> bool:
    """Whether rows are samples of channels rather than events."""
    if given.content is not None or has_marks or not has_columns:
        return given.content == "channels"
    clock = read_clock(times)
    is_even = times.size >= _MIN_CHANNEL_ROWS and clock is not None and clock.jitter <= _MAX_CHANNEL_JITTER
    if is_even and clock is not None and clock.interval_s <= 3 * spans.interval_s:
        return True
    if not is_even and np.ptp(times) > 3 * spans.interval_s * max(times.size - 1, 1):
        return False
    raise RecordingError(
        f"{file}: its {times.size} rows may be events, or samples of channels. State content: events or "
        "content: channels in the sidecar's input_files."
    )


def _by_row(
    columns: dict[str, Values],
    given: InputFile,
    session: Session,
    at_frames: FrameSpans,
    file: Path,
    left_out: list[str],
) -> list[Channel]:
    """The channels of a table with a row for each frame."""
    length = len(next(iter(columns.values())))
    if length != session.num_frames:
        raise RecordingError(
            f"{file}: has {length} rows and no times, but the recording has {session.num_frames} frames; "
            "expected a row for each frame, or a column of times (name it as time_column in the sidecar's "
            "input_files)."
        )
    origin = f"{file.name}, a row for each frame"
    text = {name: values for name, values in columns.items() if not isinstance(values, np.ndarray)}
    are_names = given.label_column is not None or len(text) == 1
    channels = [
        replace(channel, kind=None, made_of="", count=0)
        for channel in EventTable(
            file.stem, at_frames.start, None, False, text, given.planned, are_names, origin=origin
        ).at(at_frames, left_out)
        if text
    ]
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and not is_counter(name):
            planned = given.planned and not depends_on_animal(name)
            named = name if len(columns) > 1 or not name.isdigit() else file.stem
            channels.append(Channel(named, values.astype(np.float32), planned, origin=origin))
    return channels


def _is_time(name: str) -> bool:
    return bool(set(words_of(name)) & _TIMES)


def _as_said(session: Session, sidecar: Sidecar, path: Path) -> Session:
    """The session with the sidecar's words about its inputs over the file's own."""
    inputs = {each.name: each for each in session.inputs}
    said = dict(sidecar.inputs or {})
    if unknown := sorted(set(said) - set(inputs)):
        raise RecordingError(
            f"{path}: the sidecar's inputs speak of {', '.join(unknown)}; there are "
            f"{', '.join(inputs) or 'none'}."
        )
    values = session.input_values(list(inputs))
    planned = {name: said.get(name, {}).get("planned", each.can_be_planned) for name, each in inputs.items()}
    fields: dict[str, Any] = {}
    for member, wanted in (("stimulus", True), ("behaviour", False)):
        columns = [column for column, name in enumerate(inputs) if planned[name] == wanted]
        fields[member] = values[:, columns] if columns else None
        fields[f"{member}_names"] = tuple(list(inputs)[column] for column in columns) or None
    kinds = {name: words["kind"] for name, words in said.items() if words.get("kind")}
    units = {name: words["unit"] for name, words in said.items() if words.get("unit")}
    return replace(
        session,
        input_kinds={**session.input_kinds, **kinds},
        input_units={**session.input_units, **units},
        **fields,
    )
