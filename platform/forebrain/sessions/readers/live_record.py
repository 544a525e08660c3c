"""What `forebrain live serve --record` wrote: netCDF, frames of a stream beside the forecasts of them."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.clock import MIN_ARRIVALS, arrives_at, pause_after, read_clock
from forebrain.sessions.inputs import Input
from forebrain.sessions.readers._common import make_session
from forebrain.sessions.readers._selected import loaded_if_small
from forebrain.sessions.readers._time import is_plausible
from forebrain.sessions.readers.netcdf3 import NetcdfFrames, whole_records
from forebrain.sessions.repair import MAX_RATE_ERROR
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar

KIND = "forebrain-live-record-1"
MAGIC = b"CDF\x02"
SOURCES = ("warm-up", "model", "copy", "none")
CHECKSUM = "crc32"
_HEAD_BYTES = 2048  # the attributes lie at the file's beginning
_MAX_EVENTS = 200


def recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    return head.startswith(MAGIC) and KIND.encode() in head


def read(path: Path, sidecar: Sidecar) -> list[Session]:
    """Reads the frames, a segment for each stretch without a hole; the forecasts are read with xarray.

    Raises:
        RecordingError: the file is damaged, by its form or a frame's checksum, is several in one, or holds no
            frame yet.
    """
    try:
        with whole_records(path) as file:
            num_counted, num_bytes = file.num_counted, file.num_bytes
            known = {name: _text(value) for name, value in file._attributes.items()}
            found = {
                name: np.array(file.variables[name].data)
                for name in ("index", "time_s", "arrived_s", "segment")
            }
            events = _strings(file.variables["event"].data)
            unit_names = tuple(_text(name) for name in _strings(file.variables["unit"].data).tolist())
            shape = file.variables["activity"].shape
            inputs = _inputs(file)
            damaged = _damaged(file, path)
    except Exception as error:  # scipy raises errors of many kinds on damaged files
        raise RecordingError(
            f"{path}: not readable as a recording of `forebrain live` ({type(error).__name__}: {error}). It "
            "is damaged; copy it again."
        ) from error
    with path.open("rb") as stream:
        stream.seek(num_bytes)
        if stream.read(len(MAGIC)) == MAGIC:
            raise RecordingError(
                f"{path}: holds one recording behind another, and only the first could be read. Keep each in "
                f"a file of its own; the second begins at byte {num_bytes:,}."
            )
    if damaged:
        more = f" and {len(damaged) - 1:,} more" if len(damaged) > 1 else ""
        raise RecordingError(
            f"{path}: not what was recorded is frame {damaged[0]}{more} of {shape[0]:,}, by their checksums. "
            "Copy the file again, or leave them out by xarray."
        )
    if not shape[0]:
        raise RecordingError(f"{path}: holds no frame yet; read it once the stream has begun.")
    time_s = found["time_s"].astype(np.float64)
    rate_hz = known.get("rate_hz")
    is_timed = bool(np.isfinite(time_s).all()) and len(time_s) > 1
    # Where frames did not come, or the disk had no room for them, those beside the hole are no neighbours;
    # nor are those between which time has jumped, as repair would find too.
    is_hole = np.diff(found["index"].astype(np.float64)) > 1
    clock = read_clock(time_s) if is_timed else None
    if clock is not None:
        is_hole[clock.breaks - 1] = True
    segment_ids = found["segment"] + np.concatenate([[0], is_hole.cumsum()])
    told = [f"frame {frame}: {_text(events[frame])}" for frame in np.flatnonzero(events != b"")]
    metadata = {"variable": "activity", "also_in_the_file": "forecast, source, score, step_ms: for xarray"}
    if told:
        metadata["events"] = "; ".join(told[:_MAX_EVENTS])
    if shape[0] < num_counted:
        metadata["record_note"] = f"{num_counted:,} frames were recorded and {shape[0]:,} lie there"
    by_times = None if clock is None else clock.rate_hz
    # The file has the rate that the forecaster was adapted to, whatever came.
    if rate_hz and by_times and is_plausible(by_times) and abs(by_times / rate_hz - 1) > MAX_RATE_ERROR:
        metadata["rate_note"] = (
            f"the forecaster expected {rate_hz:.4g} Hz but the frame times say {by_times:.4g} Hz; these "
            "count, and rate_hz in a sidecar corrects it"
        )
        rate_hz = None
    by_arrival = None if is_timed else _rate_by_arrival(found["arrived_s"], found["index"], segment_ids)
    if rate_hz and by_arrival and sidecar.rate_hz is None and not arrives_at(by_arrival, rate_hz):
        metadata["arrival_note"] = (
            f"the forecaster expected {rate_hz:.4g} Hz and frames without times came at {by_arrival:.4g} Hz; "
            f"they are taken to be of {rate_hz:.4g} Hz, which is right if they were only played faster or "
            "slower. State rate_hz in a sidecar"
        )
    session = make_session(
        path,
        sidecar,
        loaded_if_small(NetcdfFrames(path, "activity", 0, (shape[0], shape[1]), {})),
        rate_hz=None if rate_hz is None else float(rate_hz),
        signal=known.get("signal"),
        identity_found={name: known.get(name) for name in ("dataset", "subject", "session", "species")},
        metadata=metadata,
        unit_names=unit_names,
        segment_ids=segment_ids.astype(np.int32),
        time_s=time_s if is_timed else None,
        **inputs,
    )
    return [session]


def checksum(data: Any) -> int:
    """The CRC-32 of a frame's bytes, as the signed number that the format holds."""
    unsigned = zlib.crc32(data)
    return unsigned - (unsigned >> 31 << 32)


def _rate_by_arrival(arrived_s: np.ndarray, index: np.ndarray, segment_ids: np.ndarray) -> float | None:
    """Frames a second between frames of one segment, without pauses; None where too few came."""
    seconds, frames = np.diff(arrived_s.astype(np.float64)), np.diff(index.astype(np.float64))
    is_step = (np.diff(segment_ids) == 0) & (frames > 0) & (seconds >= 0)
    if is_step.sum() < MIN_ARRIVALS:
        return None
    is_step &= seconds <= pause_after(float(np.median(seconds[is_step])))
    took_s = float(seconds[is_step].sum())
    return float(frames[is_step].sum()) / took_s if took_s > 0 else None


def _damaged(file: Any, path: Path) -> list[int]:
    """The frames whose bytes have another checksum than theirs; none where they have none, as in records of
    earlier versions."""
    if CHECKSUM not in file.variables:
        return []
    expected = np.array(file.variables[CHECKSUM].data).tolist()
    before = itertools.takewhile(lambda name: name != CHECKSUM, file.variables)
    variables = [file.variables[name] for name in before if file.variables[name].isrec]
    num_bytes = sum(each.data.itemsize * math.prod(each.shape[1:]) for each in variables)
    with path.open("rb") as stream:
        damaged = []
        for frame, known in enumerate(expected):
            stream.seek(file.begin + frame * file._recsize)
            if checksum(stream.read(num_bytes)) != known:
                damaged.append(frame)
    return damaged


def _inputs(file: Any) -> dict[str, Any]:
    """Fields of a session that tell its inputs; none where the forecaster knew none."""
    if "inputs" not in file.variables:
        return {}
    channels = [Input(**each) for each in json.loads(file.variables["input"].about)]
    values = np.array(file.variables["inputs"].data).astype(np.float32)
    fields: dict[str, Any] = {
        "input_kinds": {each.name: each.kind for each in channels},
        "input_units": {each.name: each.unit for each in channels if each.unit},
    }
    for member, can_be_planned in (("stimulus", True), ("behaviour", False)):
        columns = [column for column, each in enumerate(channels) if each.can_be_planned == can_be_planned]
        if columns:
            fields[member] = values[:, columns]
            fields[f"{member}_names"] = tuple(channels[column].name for column in columns)
    return fields


def _strings(characters: np.ndarray) -> np.ndarray:
    """Rows of characters [rows, length] as bytes [rows]."""
    return np.array(characters).view(f"S{characters.shape[1]}").ravel()


def _text(value: Any) -> Any:
    return value.rstrip(b"\0").decode(errors="replace") if isinstance(value, bytes) else value
