"""Time as files state it: units in names, columns that are clocks or counters, and the rate with its
origin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from forebrain.sessions.clock import read_clock
from forebrain.sessions.questions import RecordingQuestion
from forebrain.sessions.readers._names import listed, words_of
from forebrain.sessions.sidecar import Sidecar

# Slower and faster than any microscope that sees single cells; spikes may be binned more finely.
MIN_RATE_HZ, MAX_RATE_HZ = 0.1, 500.0
SECONDS_PER = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
MIN_RAMP_FRAMES = 16
_MAX_OFF_LINE = 0.05
_UNITS = {
    "s": ("s", "sec", "secs", "second", "seconds", "sek", "sekunden", "secondes", "segundos"),
    "ms": ("ms", "msec", "msecs", "millisecond", "milliseconds", "millis"),
    "us": ("us", "µs", "μs", "usec", "microsecond", "microseconds", "micros"),
    "ns": ("ns", "nsec", "nanosecond", "nanoseconds"),
    "min": ("min", "mins", "minute", "minutes", "minuten"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words}
_BRACKETS = re.compile(r"[(\[{]\s*([^)\]}]*?)\s*[)\]}]")


def unit_in_name(name: str) -> str | None:
    """The unit of time that a name states: in brackets, as `time (ms)`, or as its last word, as `time_ms`."""
    bracketed = _BRACKETS.findall(name)
    if bracketed:
        return _UNIT_OF.get(bracketed[-1].lower())
    words = re.findall(r"µs|μs|[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name.rpartition("/")[2])
    if not words:
        return None
    return _UNIT_OF.get(words[-1].lower()) if len(words) > 1 or words[0].lower() not in ("h",) else None


def unit_of(name: str, attrs: Mapping[str, object], sidecar: Sidecar) -> str | None:
    """The unit of frame times: the sidecar's, else what attributes or the name state; None where nothing
    does."""
    if sidecar.time_unit is not None:
        return sidecar.time_unit
    for key in ("units", "unit"):
        stated = attrs.get(key)
        if isinstance(stated, bytes):
            stated = stated.decode(errors="replace")
        if isinstance(stated, str) and (unit := _UNIT_OF.get(stated.split(" since ")[0].strip().lower())):
            return unit
    return unit_in_name(name)


def is_ramp(values: np.ndarray) -> bool:
    """Whether a column grows or falls evenly, as a clock or counter does and no neuron.

    Held to be even: nine of ten steps are alike (others may be restarts or gaps), or the values never turn
    back and follow a straight line (times that are jittered or rounded coarsely).
    """
    values = np.asarray(values, np.float64)
    if values.size < MIN_RAMP_FRAMES or not np.isfinite(values).all():
        return False
    steps = np.diff(values)
    typical = float(np.median(steps))
    alike = np.abs(steps - typical) <= 0.25 * abs(typical)
    if typical != 0 and alike.mean() >= 0.9:
        return True
    distinct = len(np.unique(values[:2048]))
    if distinct < 4 or not ((steps >= 0).all() or (steps <= 0).all()):
        return False
    if typical == 0:  # a number of trials, or a time in whole seconds: whole steps at even distances
        changes = np.flatnonzero(steps)
        sizes = np.abs(steps[changes])
        return bool(changes.size >= 3 and (sizes <= 1.01 * sizes.min()).all())
    if typical < 0:  # a fluorescence that bleaches or decays may fall all the time
        return False
    line = np.polyfit(np.arange(values.size), values, 1)
    off = values - np.polyval(line, np.arange(values.size))
    return float(np.std(off)) < _MAX_OFF_LINE * float(np.std(values))


def ramps_in(frames: np.ndarray) -> np.ndarray:
    """int64, the columns of [T, N] that are ramps."""
    if frames.shape[0] < MIN_RAMP_FRAMES:
        return np.zeros(0, np.int64)
    # Most columns are ruled out by few values: a ramp's steps are nearly all of one sign.
    rises = np.diff(frames[:512].astype(np.float64), axis=0)
    with np.errstate(invalid="ignore"):
        one_way = np.maximum((rises >= 0).mean(axis=0), (rises <= 0).mean(axis=0))
        moves = (rises != 0).any(axis=0) if len(frames) <= 513 else np.ones(frames.shape[1], bool)
    suspects = np.flatnonzero((one_way >= 0.9) & moves)
    return np.array([column for column in suspects if is_ramp(frames[:, column])], np.int64)


@dataclass(frozen=True)
class Stated:
    """A rate that a file states.

    Attributes:
        rate_hz: frames a second.
        where: its place in the file.
    """

    rate_hz: float
    where: str


_RATES = {
    "fs",
    "fps",
    "fr",
    "frame rate",
    "framerate",
    "sampling rate",
    "samplingrate",
    "sample rate",
    "samplerate",
    "sampling frequency",
    "samp freq",
    "sampfreq",
    "imaging rate",
    "scan rate",
    "volume rate",
    "volumerate",
    "acquisition rate",
    "rate",
    "srate",
    "frame freq",
    "frame frequency",
    "frequency",
    "freq",
    "hz",
    "frames per second",
    "fsample",
    "scan frame rate",
    "scan volume rate",
}
_PERIODS = listed(
    """
    dt, frame period, frameperiod, frame interval, frameinterval, sampling interval, sampling period,
    volume period, frame time, frametime, frame duration, sec per frame, seconds per frame, sample
    interval, time step, timestep, scan frame period
    """
)
_OF_THE_RECORDING = listed(
    """
    imaging, img, image, two, photon, ca, calcium, scan, scope, microscope, miniscope, frame, volume,
    plane, neural, acquisition, acq, data, trace, traces, dff, recording, p, fluorescence, gcamp
    """
)
_FACTORS = {"hz": 1.0, "khz": 1e3, "mhz": 1e-3}
# Folders and structs in which tools keep the settings of the recording that lies beside them.
_SETTINGS = listed(
    """
    ops, params, param, parameters, settings, info, meta, metadata, options, opts, acquisition, acq,
    imaging, img, scope, microscope, scanimage, si, recording, header, hdr, config, data, general,
    estimates, p, par
    """
)


def rate_factor(name: str) -> tuple[Literal["rate", "period"], float] | None:
    """How a number of this name states a rate: as frames a second or seconds a frame, times a factor."""
    words = list(words_of(name))
    if not words:
        return None
    factor = 1.0
    if len(words) > 1 and words[-1] in _FACTORS and words[-1] != "hz":
        factor = _FACTORS[words.pop()]
    elif len(words) > 1 and words[-1] == "hz":
        words.pop()
    unit = _UNIT_OF.get(words[-1]) if len(words) > 1 else None
    kept = words[:-1] if unit else words
    for start in range(len(kept)):
        if any(word not in _OF_THE_RECORDING for word in kept[:start]):
            break
        rest = " ".join(kept[start:])
        if rest in _RATES:
            return "rate", factor
        if rest in _PERIODS:
            return "period", SECONDS_PER[unit or "s"]
    return None


def rate_stated(name: str, value: float) -> float | None:
    """Frames a second, where a number of this name states them."""
    how = rate_factor(name)
    if how is None or not np.isfinite(value) or value <= 0:
        return None
    return value * how[1] if how[0] == "rate" else 1.0 / (value * how[1])


def distance(name: str, traces: str) -> int | None:
    """How far in the file a setting lies from the traces it may speak of; None where it speaks of others.

    In the traces' own folder or struct it is 0, one more for each folder above, and as far from a folder of
    settings (`ops`, `params`, ...) as from what holds that.
    """
    own = traces.split("/")[:-1]
    folder = name.split("/")[:-1]
    while folder and folder != own[: len(folder)]:
        if words_of(folder[-1]) and not set(words_of(folder[-1])) <= _SETTINGS:
            return None
        folder = folder[:-1]
    return len(own) - len(folder)


def rates_for(stated: Mapping[str, float], traces: str) -> list[Stated]:
    """The rates that may speak of the traces, the nearest first, of numbers by their place in the file."""
    found = [
        (far, Stated(rate_hz, name))
        for name, value in stated.items()
        if (rate_hz := rate_stated(name, value)) is not None and (far := distance(name, traces)) is not None
    ]
    return [rate for _, rate in sorted(found, key=lambda item: item[0])]


def chosen_rate(stated: Sequence[Stated], path: Path) -> Stated | None:
    """The one rate that is stated; None where none is.

    Raises:
        RecordingQuestion: rates differ.
    """
    if not stated:
        return None
    if max(s.rate_hz for s in stated) > 1.001 * min(s.rate_hz for s in stated):
        listed = ", ".join(f"{s.where} says {s.rate_hz:g} Hz" for s in stated)
        raise RecordingQuestion(
            f"{path}: different rates are stated: {listed}. State rate_hz in the sidecar.",
            {"rate_hz": sorted({s.rate_hz for s in stated})},
        )
    return stated[0]


def seconds(
    values: np.ndarray, name: str, unit: str | None, path: Path, notes: dict[str, str], sidecar: Sidecar
) -> np.ndarray:
    """Frame times in seconds.

    Args:
        unit: of the values; None where nothing tells: they are seconds if that makes a rate of a recording.
        notes: gets `rate_from`.

    Raises:
        RecordingQuestion: no unit is known and seconds would make a rate that no recording has.
    """
    times = np.asarray(values, np.float64).ravel()
    clock = read_clock(times)
    is_asked = unit is None and sidecar.rate_hz is None
    if is_asked and clock is not None and not is_plausible(clock.rate_hz):
        fitting = [
            other
            for other, length in SECONDS_PER.items()
            if is_plausible(clock.rate_hz / length) and other != "s"
        ]
        told = ", ".join(f"{other} ({clock.rate_hz / SECONDS_PER[other]:.4g} Hz)" for other in fitting)
        raise RecordingQuestion(
            f"{path}: {name} holds the frame times, but if they are seconds the rate is {clock.rate_hz:.4g} "
            f"Hz. "
            f"State time_unit in the sidecar{': ' + told if told else ''}, or rate_hz to do without the "
            f"times.",
            {"time_unit": fitting or list(SECONDS_PER), "rate_hz": []},
        )
    if unit is None and sidecar.rate_hz is not None and clock is not None:
        # The stated rate tells the unit, where one fits.
        unit = next(
            (u for u, s in SECONDS_PER.items() if abs(clock.interval_s * s * sidecar.rate_hz - 1) < 0.1), None
        )
    is_count = clock is not None and clock.interval_s == 1 and bool((times == np.rint(times)).all())
    if is_asked and is_count and sidecar.time_column is None:
        raise RecordingQuestion(
            f"{path}: {name} holds 0, 1, 2, ... or the like without a unit: seconds of a recording at 1 Hz, "
            f"or only "
            "numbers of frames. State time_unit: s in the sidecar if they are seconds, else rate_hz.",
            {"time_unit": ["s"], "rate_hz": []},
        )
    how = f"in {unit}" if unit else "taken for seconds, since nothing states their unit"
    notes.setdefault("rate_from", f"the frame times in {name} ({how})")
    return times * SECONDS_PER[unit or "s"]


def is_plausible(rate_hz: float) -> bool:
    """Whether a microscope that sees single cells could have this rate."""
    return rate_hz * (1 + 1e-6) >= MIN_RATE_HZ and rate_hz <= MAX_RATE_HZ * (1 + 1e-6)


def check_rate(rate_hz: float | None, where: str, signal: str, path: Path) -> None:
    """Asks about a rate that no recording has.

    Raises:
        RecordingQuestion: it lies outside `MIN_RATE_HZ` to `MAX_RATE_HZ`, and the signal is no count of
            spikes.
    """
    if rate_hz is None or is_plausible(rate_hz) or "spike_counts" in signal:
        return
    raise RecordingQuestion(
        f"{path}: the rate would be {rate_hz:.4g} Hz ({where}), which no recording of cells has "
        f"({MIN_RATE_HZ:g} to {MAX_RATE_HZ:g} Hz). It may be another device's, or in another unit. State "
        f"rate_hz "
        "in the sidecar.",
        {"rate_hz": [round(rate_hz, 6)]},
    )
