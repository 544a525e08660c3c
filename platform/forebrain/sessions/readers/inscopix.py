"""Inscopix Data Processing Software: CSV exports of cell traces (wide) and of cell events (long).

Traces have a row of cell names, a row of cell statuses (`Time(s)/Cell Status, accepted, rejected, ...`), then
a row for each frame. Events have the columns `Time (s), Cell Name, Value`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.readers._common import make_session
from forebrain.sessions.readers._text import TextTable, look_at
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

_EVENT_COLUMNS = ("time(s)", "cellname", "value")


def recognises(path: Path) -> bool:
    table = look_at(path) if path.is_file() else None
    return table is not None and (_is_traces(table) or _is_events(table))


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads an export.

    Raises:
        RecordingError: no cell is left, a value is no number, or no bin width for events can be told.
    """
    table = look_at(path)
    if table is None:
        raise RecordingError(f"{path}: no table of numbers in text.")
    return [_read_events(table, sidecar) if _is_events(table) else _read_traces(table, sidecar)]


def _is_traces(table: TextTable) -> bool:
    return "cellstatus" in _plain(table.rows[1][0])


def _is_events(table: TextTable) -> bool:
    return tuple(_plain(name) for name in table.rows[0]) == _EVENT_COLUMNS


def _read_traces(table: TextTable, sidecar: Sidecar) -> Session:
    path = table.path
    names, statuses = np.array(table.rows[0][1:]), np.array([_plain(word) for word in table.rows[1][1:]])
    metadata = {"axis_from": "the layout of Inscopix: rows are frames", "rate_from": "the column of times"}
    if sidecar.columns is not None:
        unknown = set(sidecar.columns) - set(names.tolist())
        if unknown:
            raise RecordingError(
                f"{path}: no cell is called {', '.join(sorted(unknown))} (the sidecar's columns)."
            )
        kept = np.isin(names, sidecar.columns)
    else:
        kept = statuses == "accepted"
        if not kept.any():
            kept = statuses != "rejected"
            metadata["cells_note"] = "no cell is accepted; the undecided are kept"
    metadata["cells"] = f"{int(kept.sum())} of {len(names)} cells are read (the row of statuses)"
    if not kept.any():
        raise RecordingError(
            f"{path}: all {len(names)} cells are rejected. List those to use as columns in the sidecar."
        )
    frame = table.load(num_header_rows=2, sidecar=sidecar)
    _refuse_text(frame.dtypes.tolist(), ["Time", *names], path)
    values = frame.to_numpy(np.float64)
    return make_session(
        path,
        sidecar,
        values[:, 1:][:, kept],
        time_s=values[:, 0],
        unit_names=tuple(names[kept].tolist()),
        metadata=metadata,
    )


def _read_events(table: TextTable, sidecar: Sidecar) -> Session:
    path = table.path
    frame = table.load(num_header_rows=1, sidecar=sidecar)
    _refuse_text([frame[0].dtype, frame[2].dtype], ["Time (s)", "Value"], path)
    if sidecar.columns is not None:
        frame = frame[frame[1].isin(sidecar.columns)]
    if frame.empty:
        raise RecordingError(f"{path}: holds no events of the cells in question.")
    times_s, values = frame[0].to_numpy(np.float64), frame[2].to_numpy(np.float64)
    names, cells = np.unique(frame[1].to_numpy(str), return_inverse=True)
    bin_s = sidecar.bin_s or (1 / sidecar.rate_hz if sidecar.rate_hz else _frame_interval(times_s, path))
    # Events lie on frames, so bins are centred on multiples of the interval.
    bins = np.rint(times_s / bin_s).astype(np.int64)
    traces = np.zeros((bins.max() + 1, len(names)), np.float32)
    np.add.at(traces, (bins, cells), values)
    return make_session(
        path,
        sidecar,
        traces,
        rate_hz=1 / bin_s,
        signal="calcium_events",
        unit_names=tuple(names.tolist()),
        metadata={
            "axis_from": "the layout of Inscopix: a row for each event",
            "rate_from": f"bins of {bin_s:.6g} s",
            "bins_note": f"events summed in bins of {bin_s:.6g} s; the last event ends the recording",
        },
    )


def _frame_interval(times_s: np.ndarray, path: Path) -> float:
    """The interval between frames, by events in successive frames."""
    intervals = np.diff(np.unique(times_s))
    intervals = intervals[intervals > 1e-5]  # times are rounded to 1e-6
    single = intervals[intervals < 1.5 * intervals.min(initial=np.inf)]
    if single.size < 10:
        raise RecordingError(
            f"{path}: too few events follow each other to tell the frame rate; state rate_hz or bin_s in the "
            "sidecar."
        )
    even = np.abs(single / np.median(single) - 1) < 1e-3  # others lie across a restart of the clock
    return float(single[even].mean())


def _refuse_text(dtypes: list[np.dtype], names: list[str], path: Path) -> None:
    text = [name for name, dtype in zip(names, dtypes, strict=True) if dtype.kind not in "fiu"]
    if text:
        raise RecordingError(f"{path}: column {text[0]} holds text where numbers are expected.")


def _plain(name: str) -> str:
    return name.lower().replace(" ", "")
