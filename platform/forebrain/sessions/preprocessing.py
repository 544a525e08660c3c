"""Preprocessing: how frames of one recording become what a model of it is given, and a forecast frames again.

Made once, when a model is adapted to the recording; saved with it; used by every forecast, offline and live.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from forebrain.errors import AdaptationError, ConfigError
from forebrain.sessions.arrays import column_names, unmasked
from forebrain.sessions.repair import MAX_RATE_ERROR, repair_units
from forebrain.sessions.resample import bin_events, resample
from forebrain.sessions.session import Range, Session
from forebrain_registry.lines import some

# Between the rates of two recordings that a model may see as one: those of one laboratory differ as much.
RATE_TOLERANCE = 0.25
# A value so many deviations from a unit's mean is none, but what a device or a file puts in the place of one
# (the largest float32, 9.97e36 of netCDF): float32 cannot square it.
ABSURD = 1e9
# A unit has drifted when its mean has moved by this many standard deviations of the fit, or its spread has
# grown or shrunk by this factor; a stream or a recording has when this part of its units have.
DRIFT_MEAN = 2.0
DRIFT_SPREAD = 3.0
DRIFT_UNITS = 0.2
# Of a recording, so many stretches of so many frames, evenly over it; the spread of one alone says nothing of
# units that change slowly.
_NUM_STRETCHES, _STRETCH_FRAMES = 20, 50
# How many times as far units may have gone in a recording that is shorter than these stretches together.
_SLACK_OF_SHORT = 3.0
_FRAMES_AT_ONCE = 4096


class RateWarning(UserWarning):
    """Frames of a recording are taken as they come, though they are not, or may not be, of the rate that was
    adapted to."""


class ValuesWarning(UserWarning):
    """Frames of a recording hold other values than those that were adapted to, or held ones."""


class UnknownUnitsError(AdaptationError):
    """Values bear names that are none of the units' that a model knows."""


class Places(NamedTuple):
    """Which of some values is which unit's.

    Attributes:
        targets, sources: positions among the N units, and among the values.
        num_values: that were named.
    """

    targets: np.ndarray
    sources: np.ndarray
    num_values: int

    def spread(self, values: np.ndarray, num_units: int) -> np.ndarray:
        """Values [..., num_values] as float32 [..., N], NaN of units that were not named."""
        found = np.full((*values.shape[:-1], num_units), np.nan, np.float32)
        found[..., self.targets] = values[..., self.sources]
        return found


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """The units of a recording that a model knows, their normalisation, and the rates.

    Attributes:
        mean, scale: float32 [N], by which raw frames become what the model sees: (frame - mean) / scale.
        columns: int64 [N], which of the recording's units these are; repair drops useless ones.
        num_recorded: units of the recording before repair.
        unit_names: N names; empty where the units have none.
        rate_hz: frames a second that the model is given; None where the recording did not state it.
        recorded_rate_hz: the recording's own, stated or told by its frame times.
        event_rate_hz: bins that the recording's events were summed into, Hz; None where they were not.
        resample_hz: rate that it was resampled to; None where it was not.
        fitted_on: the frames, after repair, that mean and scale were fitted on.

    Raises:
        ConfigError: a value is not finite, a scale not above 0, or their numbers differ.
    """

    mean: np.ndarray
    scale: np.ndarray
    columns: np.ndarray
    num_recorded: int
    unit_names: tuple[str, ...] = ()
    rate_hz: float | None = None
    recorded_rate_hz: float | None = None
    event_rate_hz: float | None = None
    resample_hz: float | None = None
    fitted_on: tuple[Range, ...] = ()

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("mean", "scale", "columns")}
        if set(shapes.values()) != {(self.num_units,)}:
            raise ConfigError(f"mean, scale and columns have shapes {shapes}; expected one for each unit.")
        if self.unit_names and len(self.unit_names) != self.num_units:
            raise ConfigError(
                f"{len(self.unit_names)} unit names for {self.num_units} units; expected one each."
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ConfigError("a mean is not finite or a scale not above 0; fit them again.")
        if not (self.columns.size == 0 or 0 <= self.columns.min() <= self.columns.max() < self.num_recorded):
            raise ConfigError(f"columns lie outside of the {self.num_recorded} units recorded.")

    @classmethod
    def of_units(cls, mean: np.ndarray, scale: np.ndarray, **known: Any) -> Preprocessing:
        """The preprocessing of a recording whose every unit remains; `known` are further attributes."""
        return cls(mean, scale, np.arange(len(mean)), len(mean), **known)

    @classmethod
    def none(cls, num_units: int, **known: Any) -> Preprocessing:
        """Frames as they are: mean 0 and scale 1."""
        return cls.of_units(np.zeros(num_units, np.float32), np.ones(num_units, np.float32), **known)

    @property
    def num_units(self) -> int:
        """N."""
        return len(self.mean)

    def name(self, unit: int) -> str:
        """A unit's name, or its number among the recorded where it has none."""
        return self.unit_names[unit] if self.unit_names else f"unit {self.columns[unit]}"

    def places(self, names: Sequence[str]) -> Places:
        """Which of the values of these names is which unit's.

        Raises:
            UnknownUnitsError: more names than units were recorded and not adapted are none of the model's.
            AdaptationError: a name comes twice, or the model's units have none.
        """
        if not self.unit_names:
            raise AdaptationError(
                "units were named, but the model's have no names; expected all N, in order and without names."
            )
        if len(set(names)) != len(names):
            raise AdaptationError("a unit is named twice; expected each name once.")
        position = {name: column for column, name in enumerate(self.unit_names)}
        unknown = [name for name in names if name not in position]
        if len(unknown) > self.num_recorded - self.num_units:
            raise UnknownUnitsError(
                f"{len(unknown)} of {len(names)} units are none of the model's: {some(unknown)}; "
                f"expected names of its {len(self.unit_names)}, {some(self.unit_names)}. Leave values of "
                "others out; names that pandas or xarray bear are names too, and to_numpy() has none."
            )
        sources = [source for source, name in enumerate(names) if name in position]
        targets = [position[names[source]] for source in sources]
        return Places(np.array(targets, np.intp), np.array(sources, np.intp), len(names))

    def takes_in_order(self, labels: Sequence[str]) -> bool:
        """Whether values of these labels are in the units' order, since these were recorded without names,
        and no label is one that was made up for them. Warns once that they are."""
        if self.unit_names not in ((), self._made_up) or set(labels) & set(self._made_up):
            return False
        warnings.warn(
            f"values are labelled ({some(labels)}), and the units that were adapted to have no names: they "
            "are taken in order.",
            ValuesWarning,
            stacklevel=3,
        )
        return True

    @property
    def _made_up(self) -> tuple[str, ...]:
        """What units are called that were recorded without names."""
        return tuple(f"unit {column}" for column in self.columns)

    def normalise(self, frames: np.ndarray) -> np.ndarray:
        """Raw frames [..., N] as the model sees them."""
        return (frames - self.mean) / self.scale

    def denormalise(self, frames: np.ndarray) -> np.ndarray:
        """The model's output [..., N] in the recording's own units of measurement."""
        return frames * self.scale + self.mean

    def is_sound(self, frames: np.ndarray) -> np.ndarray:
        """bool [..., N], which values of raw frames are finite and no more than ABSURD deviations off."""
        with np.errstate(over="ignore", invalid="ignore"):
            sound: np.ndarray = np.abs(frames - self.mean) <= ABSURD * self.scale
        return sound

    def drifted(self, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """bool [N], which units have left what was fitted.

        Args:
            mean, spread: [N] of raw frames by now, the spread as standard deviation.
        """
        ratio = spread / self.scale
        moved: np.ndarray = np.abs(mean - self.mean) > DRIFT_MEAN * self.scale
        return moved | (ratio > DRIFT_SPREAD) | (ratio * DRIFT_SPREAD < 1)

    def window(self, frames: np.ndarray, context: int) -> np.ndarray:
        """The last frames of the model's units, checked.

        Args:
            frames: raw frames [at least `context`, N] at `rate_hz`; or [.., all recorded units]. Where
                columns bear names, as those of a data frame, units are found by these.
            context: C.

        Returns:
            float32 [C, N].

        Raises:
            AdaptationError: too few frames, another number of units, other names, or a value that is not
                finite or more than ABSURD deviations off.
        """
        names, frames = column_names(frames), unmasked(frames)
        is_named = names is not None and frames.ndim == 2 and tuple(names) != self.unit_names
        if names is not None and is_named and not self.takes_in_order(names):
            places = self.places(names)
            if lost := [name for name in self.unit_names if name not in names]:
                raise AdaptationError(
                    f"the window has no column of {some(lost)} ({len(lost)} of {self.num_units} units); "
                    "expected all, by these names or in order without names."
                )
            frames = places.spread(frames, self.num_units)
        if frames.ndim != 2 or frames.shape[1] not in (self.num_units, self.num_recorded):
            either = f"{self.num_units}" + (
                f" (or all {self.num_recorded} recorded)" if self.num_recorded != self.num_units else ""
            )
            raise AdaptationError(
                f"a window of shape {frames.shape} was given; expected [frames, units] with {either} units."
            )
        if len(frames) < context:
            raise AdaptationError(
                f"a window of {len(frames)} frames was given; this model forecasts from {context}."
            )
        frames = frames[-context:].astype(np.float32)
        if frames.shape[1] != self.num_units:
            frames = frames[:, self.columns]
        if not (sound := self.is_sound(frames)).all():
            unit = int(np.flatnonzero(~sound.all(axis=0))[0])
            value = frames[~sound[:, unit], unit][0]
            what = f"{value:.6g}, absurdly far off" if np.isfinite(value) else "not finite"
            raise AdaptationError(
                f"the window holds values of {self.name(unit)} that are {what}; hold the last known value "
                "in their place."
            )
        # One layout, so that the same numbers give the same bits wherever a window is from.
        return np.ascontiguousarray(frames)

    def recording(self, session: Session, context: int | None = None) -> Session:
        """A recording of the same animal as the model is given it: cut, held, binned and resampled.

        Missing values hold the unit's last known one, and gaps break the recording, as they did when it was
        adapted to. A unit has no finite value before its first one.

        Args:
            session: as it was recorded, with the same units in the same order.
            context: C, where a forecast is made from its last frames.

        Raises:
            RecordingError: the recording ends in frames without most units, or cannot be read.
            AdaptationError: it has other units, by number or by name, or another rate.

        Warns:
            RateWarning: its rate is another within the tolerance, so its seconds are not those of the model;
                or is not known; or its frame times, or the arrival of frames that were streamed without, tell
                another than is stated.
            ValuesWarning: more than a fifth of the units have left what was fitted, as in other units of
                measurement; or some have no value in the whole context; or none changes at the end.
        """
        self._require_same_units(session)
        recorded = session
        session, report = repair_units(session, self.columns)
        doubts = [each.words for each in report.findings if each.kind == "rate_mismatch"]
        if note := session.metadata.get("arrival_note"):
            doubts.append(note)
        if session.rate_hz is None and self.recorded_rate_hz is not None:
            session = replace(session, rate_hz=self.recorded_rate_hz)
            doubts.append(
                f"its rate is not known; its frames are taken to come at {self.recorded_rate_hz:.4g} Hz, as "
                "those adapted to did. State rate_hz in a sidecar if they do not"
            )
        if self.resample_hz is None and not rates_agree(session.rate_hz, self.recorded_rate_hz):
            raise AdaptationError(
                f"session {session.id}: has {session.rate_hz:.4g} frames a second; the recording that was "
                f"adapted to had {self.recorded_rate_hz:.4g}. Adapt to this one."
            )
        if self.event_rate_hz is not None:
            session, _ = bin_events(session, self.event_rate_hz)
        if self.resample_hz is not None:
            session, _ = resample(session, self.resample_hz)
        own, expected = session.rate_hz, self.rate_hz
        if own is not None and expected is not None and abs(own / expected - 1) > MAX_RATE_ERROR:
            doubts.append(
                f"has {own:.4g} frames a second and {expected:.4g} were adapted to: its frames are taken as "
                f"they come, and seconds are counted at {expected:.4g} Hz"
            )
        for doubt in doubts:
            warnings.warn(f"session {session.id}: {doubt}", RateWarning, stacklevel=3)
        still = [each.words for each in report.findings if each.kind == "still_end"]
        for words in (self._held(recorded, context), self._left(session), *still):
            if words:
                warnings.warn(f"session {session.id}: {words}", ValuesWarning, stacklevel=3)
        return session

    def _held(self, session: Session, context: int | None) -> str:
        """Which units have no value in the whole context, and for how long."""
        if context is None:
            return ""
        count = context
        if session.rate_hz is not None and self.rate_hz is not None:
            count = math.ceil(context * session.rate_hz / self.rate_hz)
        stop = session.num_frames
        lost = np.arange(self.num_units)
        last_known = np.full(self.num_units, -1)
        for end in (stop, *range(stop - count, 0, -_FRAMES_AT_ONCE)):
            start = max(0, end - (count if end == stop else _FRAMES_AT_ONCE))
            known = np.isfinite(session.frames(start, end)[:, self.columns[lost]])
            is_found = known.any(axis=0)
            last_known[lost[is_found]] = end - 1 - known[::-1].argmax(axis=0)[is_found]
            lost = lost[~is_found]
            if not lost.size:
                break
        held = np.flatnonzero((last_known >= 0) & (last_known < stop - count))  # without any is an error
        if not held.size:
            return ""
        lengths = stop - 1 - last_known[held]
        span = f"{lengths.min()} to " * int(lengths.min() < lengths.max()) + f"{lengths.max()} frames"
        if session.rate_hz is not None:
            span += f" ({lengths.max() / session.rate_hz:.3g} s at most)"
        names = some([self.name(int(unit)) for unit in held])
        return (
            f"{held.size} of {self.num_units} units ({names}) have no value in the last {span}; "
            "the forecast is made from the last one that is known"
        )

    def _left(self, session: Session) -> str:
        """That many units of a session that is made ready have left what was fitted, or all vary less.

        A unit that is silent for a while varies less and has not drifted; over all units that evens out.
        """
        last = session.num_frames - _STRETCH_FRAMES
        if last < 0:
            return ""
        starts = np.unique(np.linspace(0, last, _NUM_STRETCHES).astype(int))
        is_short = session.num_frames < _NUM_STRETCHES * _STRETCH_FRAMES  # so that stretches overlap
        slack = _SLACK_OF_SHORT if is_short else 1.0
        frames = np.concatenate([session.frames(start, start + _STRETCH_FRAMES) for start in starts])
        with np.errstate(over="ignore", invalid="ignore"):  # said of what is absurd by `window`
            moved = np.abs(frames.mean(axis=0) - self.mean) / self.scale
            ratio = frames.std(axis=0) / self.scale
            number = np.count_nonzero((moved > slack * DRIFT_MEAN) | (ratio > slack * DRIFT_SPREAD))
            together = float(np.sqrt(np.mean(ratio**2)))
        if number > DRIFT_UNITS * self.num_units:
            what = f"{number} of {self.num_units} units have left what the interface was fitted on, by their "
            what += "mean or their spread"
        elif together * slack * DRIFT_SPREAD < 1:
            what = f"units vary by {together:.2g} of what the interface was fitted on"
        else:
            return ""
        what += ". Is it of other units of measurement, or processed in another way? Then adapt to it"
        return f"drift: {what}"

    def _require_same_units(self, session: Session) -> None:
        mend = "Give one of the same units in the same order, or adapt to this one."
        if session.num_units != self.num_recorded:
            raise AdaptationError(
                f"session {session.id}: has {session.num_units} units; the recording that was adapted to had "
                f"{self.num_recorded}. {mend}"
            )
        if session.unit_names is None or self.unit_names in ((), self._made_up):
            return
        names = [session.unit_names[column] for column in self.columns]
        others = [unit for unit, name in enumerate(names) if name != self.unit_names[unit]]
        if others:
            unit = others[0]
            order = " in another order" if sorted(names) == sorted(self.unit_names) else ""
            raise AdaptationError(
                f"session {session.id}: other units{order} than the recording that was adapted to: number "
                f"{self.columns[unit]} is called {names[unit]}, and was {self.unit_names[unit]} "
                f"({len(others)} of {self.num_units} differ). {mend}"
            )

    def latest_window(self, session: Session, context: int) -> np.ndarray:
        """The last frames of a recording of the same animal, as `window` takes them: float32 [C, N].

        Args:
            session: see `recording`.
            context: C.

        Raises:
            AdaptationError: see `recording`; or it ends with too few unbroken frames, or a unit has no value
                yet.
        """
        return self.last_window(self.recording(session, context), context)

    def last_window(self, session: Session, context: int) -> np.ndarray:
        """The last frames of what `recording` gives: float32 [C, N]. Raises AdaptationError, as above."""
        start, stop = session.segments[-1]
        if stop - start < context:
            raise AdaptationError(
                f"session {session.id}: its last unbroken stretch has {stop - start} frames; a forecast is "
                f"made from {context}."
            )
        window = session.frames(stop - context, stop)
        lost = [self.name(int(unit)) for unit in np.flatnonzero(np.isnan(window).any(axis=0))]
        if lost:
            raise AdaptationError(
                f"session {session.id}: {', '.join(lost[:5])}{', ...' if lost[5:] else ''} "
                f"({len(lost)} of {self.num_units} units) have no value when its last {context} frames "
                "begin, nor before. Adapt to this recording."
            )
        return window


def rates_agree(rate_hz: float | None, other_hz: float | None) -> bool:
    """Whether two rates are within `RATE_TOLERANCE`; one that is not known agrees with any."""
    if rate_hz is None or other_hz is None:
        return True
    return abs(math.log(rate_hz / other_hz)) <= math.log(1 + RATE_TOLERANCE)
