"""Records frames, forecasts and events as they come, into one file that `fb.read` opens.

The file is netCDF in its classic format, which xarray, MATLAB (`ncread`), R and Julia open too: a header,
then records of one size, appended. The number of records in the header is raised only after they lie there,
so what was written before a kill reads. A thread writes; a frame only costs a copy, memory is bounded, and
where the disk is too slow or full, or the file is taken away or cut, frames are left out, counted and said,
and forecasts go on.

    adaptation                   an attribute: a hash of what was fitted to the units, which forecasts
    unit, step                   names of the units; how many frames ahead
    activity [frame, unit]       as it came, NaN where a unit had no value
    forecast [frame, step, unit] that was given for it, NaN where none was
    source [frame]               of the forecast: a position in the attribute `flag_meanings`
    index, time_s, arrived_s     of the frame: its own index and time (NaN without one), and when it came,
                                 seconds since 1970
    segment [frame]              no window crosses from one to the next
    inputs [frame, input]        as they were taken, NaN before any came; where the adaptation knows inputs
    step_ms, score [frame]       from the frame's arrival to its forecast; rolling score against copy
    event [frame]                text: what happened since the frame before
    crc32 [frame]                of the frame's bytes before it: all but the forecast
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from forebrain.errors import ConfigError
from forebrain.realtime.closing import last_write
from forebrain.realtime.forecaster import LiveForecaster
from forebrain.realtime.state import adaptation_of
from forebrain.sessions.readers.live_record import CHECKSUM, KIND, MAGIC, SOURCES, checksum
from forebrain_registry.storage import path_here

EVENT_BYTES = 240
MAX_WAITING_BYTES = 64 << 20  # of records that are not written yet
QUIET_S = 10.0
_NUM_RECORDS_AT = 4  # in the file: the classic format's count of records, big-endian int32
_log = logging.getLogger(__name__)


class Recorder:
    """Appends to one file.

    Args:
        path: of the file. One that is there is gone on with if it is of the same units and adaptation.
        live: the forecaster, as it was opened.
        about: what is known of the animal: `species`, `subject`, `session`, `dataset`, `signal`.

    Raises:
        ConfigError: another file is there, or none can be written.
        StorageError: the path is an address in an object store, where nothing can be appended to.
    """

    def __init__(self, path: str | Path, live: LiveForecaster, about: Mapping[str, str]) -> None:
        self.path = path_here(path)
        self._dtype = _dtype(live)
        self._header = _header(live, about)
        self._start = len(self._header)
        self._is_gone = False
        if self.path.exists() and not self.path.is_file():  # a pipe would be waited for
            raise ConfigError(f"{self.path}: cannot be written (no file, but a folder, device or pipe).")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("r+b" if self.path.exists() else "x+b", buffering=0)
        except OSError as error:
            raise self._cannot_be_written(error) from error
        try:
            _lock(self._file, self.path)
            self.num_recorded = self._go_on()
            self._segment = 0
            if self.num_recorded:
                self._segment = 1 + int(self._record(self.num_recorded - 1)["segment"])
        except BaseException as error:
            self._file.close()
            if isinstance(error, OSError):
                raise self._cannot_be_written(error) from error
            raise
        self._first_segment = live.segment
        self._events: list[str] = []
        waiting = max(8, MAX_WAITING_BYTES // self._dtype.itemsize)
        self._waiting: queue.Queue[np.ndarray | None] = queue.Queue(maxsize=waiting)
        self._warned_at = -QUIET_S
        self._lost = 0  # records that the writer could not write, or that lie there no more
        self._counted = 0  # of these by the forecaster
        self._writer = threading.Thread(target=self._write_all, name="live-record", daemon=True)
        self._writer.start()

    def frame(self, live: LiveForecaster) -> None:
        """Has the newest frame and its forecast written. Costs a copy."""
        record = np.zeros(1, self._dtype)
        was_forecast = live.step_ms == live.step_ms
        index, time_s, score = live.arrivals.index, live.arrivals.time_s, live.rolling_score
        record["index"] = np.nan if index is None else index
        record["time_s"] = np.nan if time_s is None else time_s
        record["arrived_s"] = time.time()
        record["segment"] = self._segment + live.segment - self._first_segment
        record["source"] = SOURCES.index(live.source if was_forecast else "none")
        record["step_ms"] = live.step_ms
        record["score"] = np.nan if score is None else score
        record["event"] = _text(self._events)
        if live.inputs is not None:
            record["inputs"] = live.inputs.newest
        record["activity"] = np.where(live.known, live.frame, np.nan)
        record["forecast"] = live.answer if was_forecast else np.nan
        lost = self._lost
        live.counts["lost_records"] += lost - self._counted
        self._counted = lost
        try:
            self._waiting.put_nowait(record)
            self._events.clear()
        except queue.Full:
            live.counts["lost_records"] += 1

    def event(self, live: LiveForecaster, text: str) -> None:
        """Keeps an event for the next frame's record."""
        self._events.append(text)
        del self._events[:-20]

    def idle(self, live: LiveForecaster) -> None:
        """Nothing came, so nothing is recorded."""

    def close(self) -> None:
        """Writes what waits, and ends the file; an event after the last frame belongs to that one then."""
        with last_write(self.path):
            self._waiting.put(None)
            self._writer.join()
            if self._events and self.num_recorded:
                last = self._record(self.num_recorded - 1)
                last["event"] = _text([last["event"].decode(errors="replace"), *self._events])
                self._write(self._start + (self.num_recorded - 1) * self._dtype.itemsize, _checked(last))
            self._file.close()
        if self._lost > self._counted:
            _log.warning("%s: %d more frames were not recorded", self.path, self._lost - self._counted)

    def _go_on(self) -> int:
        """Whole records that the file holds already, of the same units; a new one gets its header."""
        there = self._read(0, self._start)
        if len(there) < self._start and self._header.startswith(there):  # new, or ended while it was begun
            self._write(0, self._header)
            return 0
        number = int.from_bytes(there[_NUM_RECORDS_AT : _NUM_RECORDS_AT + 4], "big")
        if there != self._counting(number):
            raise ConfigError(
                f"{self.path} is there already, and is no recording of these units by this adaptation, or "
                "is one of an earlier version; nothing is overwritten. Name another file."
            )
        there_are = (self.path.stat().st_size - self._start) // self._dtype.itemsize
        whole = min(number, there_are)
        while whole and not self._is_whole(whole - 1):
            whole -= 1
        while number <= whole < there_are and self._is_whole(whole):  # of a count that reached no disk
            whole += 1
        if self._begins_anew(max(number, whole)):
            raise ConfigError(
                f"{self.path} holds one recording behind another, which would be overwritten. Name another "
                "file."
            )
        if number != whole:  # a kill, a power cut, or a copy that was cut short
            _log.warning("%s: %d frames were counted and %d lie there whole; it goes on behind them.",
                         self.path, number, whole)  # fmt: skip
            self._write(_NUM_RECORDS_AT, whole.to_bytes(4, "big"))
        return whole

    def _cannot_be_written(self, error: OSError) -> ConfigError:
        return ConfigError(f"{self.path}: cannot be written ({error.strerror or error}).")

    def _begins_anew(self, number: int) -> bool:
        """Whether another file begins behind the last record that is counted."""
        return self._read(self._start + number * self._dtype.itemsize, len(MAGIC)) == MAGIC

    def _is_whole(self, number: int) -> bool:
        record = self._record(number)
        return bool(record.tobytes() == _checked(record))

    def _record(self, number: int) -> Any:
        data = self._read(self._start + number * self._dtype.itemsize, self._dtype.itemsize)
        return np.frombuffer(data, self._dtype)[0].copy()

    def _write_all(self) -> None:
        ends = False
        while not ends:
            records = [self._waiting.get()]
            while not self._waiting.empty() and len(records) < 256:
                records.append(self._waiting.get())
            ends = records[-1] is None
            data = b"".join(_checked(each) for each in records if each is not None)
            try:
                self._append(data)
            except OSError as error:
                self._lost += len(data) // self._dtype.itemsize
                if time.monotonic() - self._warned_at > QUIET_S:
                    self._warned_at = math.inf if self._is_gone else time.monotonic()
                    _log.warning("%s: frames are not recorded, forecasting goes on: %s", self.path, error)

    def _append(self, data: bytes) -> None:
        """First the records, then their number: whatever was counted lies there whole."""
        self._check_file()
        end = self._start + self.num_recorded * self._dtype.itemsize
        num_recorded = self.num_recorded + len(data) // self._dtype.itemsize
        try:
            self._write(end, data)
            self._write(_NUM_RECORDS_AT, num_recorded.to_bytes(4, "big"))
        except OSError:
            with contextlib.suppress(OSError):  # counted as lost, they are not to be gone on behind one day
                self._file.truncate(end)
            raise
        self.num_recorded = num_recorded

    def _check_file(self) -> None:
        """Goes on behind what lies there where the file was cut.

        Raises:
            OSError: it is not at its path any more, or another record was written over it; it is let alone
                from then on, wherever it is.
        """
        there = os.fstat(self._file.fileno())
        with contextlib.suppress(FileNotFoundError):
            is_there = not self._is_gone and os.path.samestat(self.path.stat(), there)
            if is_there and self._counting(self.num_recorded).startswith(self._read(0, self._start)):
                whole = max(0, there.st_size - self._start) // self._dtype.itemsize
                was, self.num_recorded = self.num_recorded, min(whole, self.num_recorded)
                if cut := was - self.num_recorded:
                    self._lost += cut
                    _log.warning("%s: was cut while it was recorded to, and %d frames are lost; it goes on "
                                 "behind the other %d.", self.path, cut, whole)  # fmt: skip
                if cut or there.st_size < self._start:
                    self._write(0, self._counting(self.num_recorded))
                return
        self._is_gone = True
        self._lost += self.num_recorded
        went, self.num_recorded = self.num_recorded, 0
        raise OSError(f"it was removed, moved, replaced or written over, and {went} frames went with it")

    def _counting(self, number: int) -> bytes:
        """The header of so many records."""
        at = _NUM_RECORDS_AT
        return self._header[:at] + number.to_bytes(4, "big") + self._header[at + 4 :]

    def _read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        data: bytes = self._file.read(size)
        return data

    def _write(self, at: int, data: bytes) -> None:
        self._file.seek(at)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


def _dtype(live: LiveForecaster) -> np.dtype:
    """A record as it lies in the file: the variables that have one, in their order."""
    num_units, num_inputs = live.num_units, len(live.input_names)
    inputs = [("inputs", ">f4", (num_inputs,))] if num_inputs else []
    return np.dtype(
        [
            ("index", ">f8"),
            ("time_s", ">f8"),
            ("arrived_s", ">f8"),
            ("segment", ">i4"),
            ("source", ">i4"),
            ("step_ms", ">f4"),
            ("score", ">f4"),
            ("event", f"S{EVENT_BYTES}"),
            *inputs,
            ("activity", ">f4", (num_units,)),
            (CHECKSUM, ">i4"),
            ("forecast", ">f4", (live.horizon, num_units)),
        ]
    )


def _checked(record: Any) -> bytes:
    """A record's bytes, with their checksum."""
    record[CHECKSUM] = checksum(record.tobytes()[: record.dtype.fields[CHECKSUM][1]])
    return record.tobytes()


_DIMENSIONS = {"event": ("text",), "inputs": ("input",), "activity": ("unit",), "forecast": ("step", "unit")}


def _header(live: LiveForecaster, about: Mapping[str, str]) -> bytes:
    """The file before its first record, as scipy writes it."""
    from scipy import io as scipy_io

    preprocessing = live.preprocessing
    names = [preprocessing.name(unit).encode() for unit in range(live.num_units)]
    dtype = _dtype(live)
    buffer = _Kept()
    file = scipy_io.netcdf_file(buffer, "w", version=2)
    attributes: dict[str, Any] = {"kind": KIND, **about, "adaptation": adaptation_of(live)[:16]}
    if preprocessing.rate_hz is not None:
        attributes["rate_hz"] = float(preprocessing.rate_hz)
    for name, value in attributes.items():
        setattr(file, name, value.encode() if isinstance(value, str) else value)
    file.createDimension("frame", None)
    for name, length in (
        ("unit", live.num_units),
        ("step", live.horizon),
        ("text", EVENT_BYTES),
        ("name", max(map(len, names))),
    ):
        file.createDimension(name, length)
    _add_names(file, "unit", "name", names)
    if live.inputs is not None:
        inputs = live.inputs.stacks.inputs
        named = [each.name.encode() for each in inputs]
        file.createDimension("input", len(inputs))
        file.createDimension("input_name", max(1, *map(len, named)))
        _add_names(file, "input", "input_name", named)
        file.variables["input"].about = json.dumps([asdict(each) for each in inputs]).encode()
    step = file.createVariable("step", "i4", ("step",))
    step[:] = np.arange(1, live.horizon + 1)
    for name in dtype.names or ():
        kind = dtype[name].base
        code = "c" if kind.kind == "S" else f"{kind.kind}{kind.itemsize}"
        variable = file.createVariable(name, code, ("frame", *_DIMENSIONS.get(name, ())))
        variable[0] = np.zeros(variable.shape[1:], kind.newbyteorder("=") if code != "c" else "S1")
        if name == "event":
            variable._Encoding = "utf-8"
        if name == "source":
            variable.flag_values = np.arange(len(SOURCES), dtype=np.int32)
            variable.flag_meanings = " ".join(SOURCES).encode()
    file.close()
    # The record that told scipy the sizes is cut off, and not counted.
    header = bytearray(buffer.content[: -dtype.itemsize])
    header[_NUM_RECORDS_AT : _NUM_RECORDS_AT + 4] = bytes(4)
    return bytes(header)


def _add_names(file: Any, variable: str, letters: str, names: list[bytes]) -> None:
    added = file.createVariable(variable, "c", (variable, letters))
    added[:] = np.array(names, f"S{file.dimensions[letters]}").view("S1").reshape(len(names), -1)
    added._Encoding = "utf-8"


class _Kept(io.BytesIO):
    """A file in memory that can be looked at after scipy closed it."""

    def close(self) -> None:
        if not self.closed:
            self.content = self.getvalue()
        super().close()


def _lock(file: Any, path: Path) -> None:
    """Raises ConfigError if another process records to the file."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigError(f"{path}: another forecaster records to this file. Name another one.") from error


def _text(events: list[str]) -> bytes:
    """As many events, the newest of them, as a record can hold."""
    text = "; ".join(each for each in events if each).encode()
    return text if len(text) <= EVENT_BYTES else b"..." + text[3 - EVENT_BYTES :]
