"""The live forecaster: a frame in, a forecast out, in fixed memory, whatever the stream does.

    live = adapted.stream()
    for frame in stream:                 # [N], NaN where a unit has no value
        forecast = live.step(frame)      # [H, N], in the frame's own units

What happens to late, missing, repeated and damaged frames is in docs/live.md; all of it is counted, and
`status` has the counts. Nothing here waits: saving the state and updating the interface happen elsewhere.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from forebrain.accelerate import accelerate
from forebrain.errors import AdaptationError, ConfigError, FrameError
from forebrain.machine import running_s
from forebrain.models.base import Interface, Model, SessionInput
from forebrain.realtime.arrivals import MAX_INDEX, Arrivals
from forebrain.realtime.inputs import LiveInputs
from forebrain.realtime.intervals import OnlineIntervals
from forebrain.realtime.names import UntoldNamesError, hash_of_names
from forebrain.realtime.ring import Ring
from forebrain.realtime.rolling import RollingScore
from forebrain.realtime.running import RunningMoments
from forebrain.scoring.conformal import Calibration
from forebrain.scoring.input_stacks import InputStacks, Known
from forebrain.scoring.quantiles import require_levels
from forebrain.scoring.stack import Stack
from forebrain.sessions.arrays import column_names, unmasked
from forebrain.sessions.clock import pause_after
from forebrain.sessions.preprocessing import (
    ABSURD,
    DRIFT_UNITS,
    Places,
    Preprocessing,
    UnknownUnitsError,
)
from forebrain.sessions.repair import MIN_GAP_FRAMES

MIN_FALLBACK_WINDOWS = 64
# Of a unit; before these running statistics alone do not tell what is absurd.
FEW_VALUES = 16

_log = logging.getLogger(__name__)
Source = Literal["warm-up", "model", "copy", "late", "repeated"]
State = tuple[dict[str, np.ndarray], dict[str, Any]]
# What `status` counts from the start, in its order.
COUNTED = (
    "frames", "forecasts", "skipped", "missing_frames", "empty_frames", "gaps", "time_jumps", "late",
    "repeated", "restarts", "resets", "refused", "missing_values", "vanished", "appeared", "unknown_units",
    "not_finite", "fallbacks", "updates", "lost_records",
)  # fmt: skip


@dataclass(frozen=True)
class LiveConfig:
    """How a stream is normalised and judged.

    Attributes:
        normalise: by the mean and scale the interface was fitted with (`fit`), or by those of the stream so
            far (`running`).
        memory: time constant of running statistics, frames.
        score_windows: newest forecasts that the rolling score is over.
        fallback: give copy's forecast while the model's rolling score is below it, or its intervals cover
            too much or too little.
        precision: of the matrix products: `fp32`, bit for bit what an adapted model gives offline, or `bf16`.
        quantiles: levels that every answer brings; a sender may ask for others.
        interval_memory_s: time constant in which a unit's intervals are widened or narrowed, seconds.
        coverage_frames: newest frames that the rolling coverage of 80 % intervals is over.
    """

    normalise: Literal["fit", "running"] = "fit"
    memory: int = 1000
    score_windows: int = 256
    fallback: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    quantiles: tuple[float, ...] = ()
    interval_memory_s: float = 60.0
    coverage_frames: int = 500

    def __post_init__(self) -> None:
        if self.quantiles:
            require_levels(self.quantiles)
        if not self.interval_memory_s > 0:
            raise ConfigError(f"interval_memory_s is {self.interval_memory_s}; expected more than 0.")
        for name in ("memory", "score_windows", "coverage_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more.")


class LiveForecaster:
    """Forecasts a stream of frames; see `open`.

    `step` is `ingest`, `forecast` and `settle` in one. A server calls them apart: it answers, then settles.

    Attributes:
        about: who forecasts whom, as far as it is known: `model`, `species`, `dataset`, `subject`, `session`.
    """

    def __init__(
        self,
        model: Model,
        interface: Interface,
        preprocessing: Preprocessing,
        stack: Stack | None,
        dataset: int | None,
        config: LiveConfig,
        threads: int,
        calibration: Calibration | None = None,
        inputs: InputStacks | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.about = dict(about or {})
        num_units, unit_names = len(interface.unit), preprocessing.unit_names
        if preprocessing.num_units != num_units:
            raise ConfigError(
                f"the preprocessing is of {preprocessing.num_units} units, the interface of {num_units}; "
                "they belong to different recordings."
            )
        if len(set(unit_names)) != len(unit_names):
            raise ConfigError(
                f"{len(unit_names)} unit names, {len(set(unit_names))} of them different; expected a name of "
                "its own for each unit."
            )
        self.model, self.interface, self.stack, self.config = model.eval(), interface, stack, config
        self.opened_with = interface  # whatever takes its place
        self.num_units, self.horizon, self.context = num_units, model.config.horizon, model.config.context
        self.preprocessing, self.unit_names = preprocessing, unit_names or None
        self.source: Source = "warm-up"
        self.made_at: tuple[int | None, float | None] = None, None  # index and time of the answer's frame
        self.step_ms = float("nan")  # the server's, from the newest frame to its forecast; NaN without one
        self.counts = Counter(dict.fromkeys(COUNTED, 0))
        self.arrivals = Arrivals(preprocessing.rate_hz)
        self.ring = Ring(self.context, num_units)
        self.moments = RunningMoments(num_units, config.memory)
        self.score = RollingScore(self.horizon, num_units, config.score_windows)
        self.intervals = _intervals(
            calibration, inputs, self.horizon, num_units, preprocessing.rate_hz, config
        )
        self.inputs = None if inputs is None else LiveInputs(inputs, self.context, self.horizon)
        self.knows: Known = "none"  # of inputs, the newest forecast
        self.drifted_units = 0
        self._away_s: float | None = None  # of a forecaster that was away, until it was back
        self._back_at_s = 0.0
        self.segment = 0  # counts the stretches of frames between which some are missing

        self.dataset = dataset
        fitted = preprocessing if config.normalise == "fit" else Preprocessing.none(num_units)
        self._mean, self._scale = fitted.mean.copy(), fitted.scale.copy()
        self._last = self._mean.copy()  # of each unit the last value known; the mean before there is one
        self.frame = np.empty(num_units, np.float32)
        self._known = np.zeros(num_units, bool)
        self._absent = np.full(num_units, self.context)  # frames since the unit had a value
        self._empty_run = 0
        self._reads = _Reading()
        self._reads_late: _Reading | None = None  # the late frames since the newest one
        self._misnamed: str | None = None  # why the names that came last were refused
        self._normalised = np.empty((self.context, num_units), np.float32)
        self._input = torch.from_numpy(self._normalised)[None]
        self._forecast: np.ndarray | None = None  # of the newest frame, by the model
        self.answer = np.repeat(self._last[None], self.horizon, axis=0)
        self._falls_back = False
        self._is_of_model = False  # the answer
        compute_dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self._executor = accelerate(self.model, "stream", compute_dtype, threads=threads)

    def step(
        self,
        frame: Any,
        index: int | None = None,
        time_s: float | None = None,
        units: Sequence[str] | None = None,
        inputs: Any = None,
        plan: Any = None,
    ) -> np.ndarray:
        """Takes in a frame and forecasts the next H.

        Args:
            frame: [N] in the recording's units; what is not finite, or a thousand million deviations off,
                counts as missing. What pandas or xarray call its values are `units`, of this frame alone:
                one without after it is in order.
            index: of the frame in the stream; lets missing, repeated and late frames be told.
            time_s: when it was taken; does the same where there is no index, and measures the rate. Beside an
                index it tells a pause in which none was counted: a gap.
            units: names of the frame's values, from this frame on, after a `reset` too: units that vanish,
                appear or change places; none at all: all in order again. Units of the interface that are not
                named have no value. Those of a late or repeated frame count for the late frames after it
                alone. Names it does not know are refused, and then so are frames without names, until names
                fit or are none at all; only as many as were recorded beside the units that were adapted are
                left out, and counted.
            inputs: [D], what was done at this frame, in the order of `input_names` or by name (a mapping, a
                Series); what is not finite, or None, holds a level and ends an event.
            plan: [L, D], what will be done at the next L frames, H or more, likewise. It stays
                queued: each frame uses one up, until fewer than H are left.

        Returns:
            float32 [H, N] in the recording's units, always finite. Until C frames have come in a row, and
            where `source` is `copy`, it is the last frame known, repeated. Where `source` is `late` or
            `repeated` the frame changed nothing, and it is the newest forecast once more, of `made_at`.

        Raises:
            FrameError: the frame has the wrong shape or type, or no place. It changes nothing.
        """
        if self.ingest(frame, index, time_s, units, inputs=inputs, plan=plan):
            self.forecast()
            self.settle()
        return self.answer.copy()

    def ingest(
        self,
        frame: Any,
        index: int | None = None,
        time_s: float | None = None,
        units: Sequence[str] | None = None,
        arrived_s: float | None = None,
        inputs: Any = None,
        plan: Any = None,
        is_new: bool = False,
        names: str | None = None,
        is_behind: bool = False,
    ) -> bool:
        """Takes in a frame without a forecast. False for a frame that changes nothing: late or repeated.

        Args:
            arrived_s: when it came, on any clock that only runs forward; measures the rate of frames that
                bring no times, and tells their pauses.
            is_new: it is not the newest frame again, though it may have its time and values.
            names: the hash of its units' names, where its sender says it with every frame. Without `units` it
                is read by the names that were told with this hash.
            is_behind: newer frames wait already, so that this one may have waited too.

        Raises:
            FrameError: as of `step`.
            UntoldNamesError: no names were told with this hash.
        """
        labels = column_names(frame) if units is None and names is None else None
        if labels is not None and not self.preprocessing.takes_in_order(labels):
            units, names = labels, hash_of_names(labels)  # of this frame alone
        arrivals = copy.copy(self.arrivals)  # so that a frame which is refused has not come
        try:
            arrival = arrivals.judge(index, time_s, is_new)
        except FrameError:
            self.arrivals = arrivals  # which counts what looks like another clock
            if units:  # those of the run that then begins
                with contextlib.suppress(FrameError):
                    self._reads_late = self._as_told(units, names, self._reads)
            raise
        # Late frames may be those of a sender that starts again, and names its units anew.
        reads = self._reads_late if arrival.kind != "next" and self._reads_late else self._reads
        reads = self._held(names, reads) if units is None else self._as_told(units, names, reads)
        values = self._checked(frame, reads.named)
        given, planned = self._checked_inputs(inputs, plan)
        if arrival.kind == "repeated" and index is None and not self._is_newest(values):
            return self.ingest(frame, index, time_s, units, arrived_s, inputs, plan, True, names, is_behind)
        before, self.arrivals = self.arrivals, arrivals
        if arrival.kind == "late" or arrival.kind == "repeated":
            self.counts[arrival.kind] += 1
            self.source = arrival.kind
            self._reads_late = reads
            return False
        if time_s is None and arrived_s is not None and arrivals.note_arrival(arrived_s, is_behind):
            arrival = arrival._replace(has_jumped=True)
        if units is not None or names is not None:
            self._misnamed = None
        if reads.names != self._reads.names and reads.named is not None:
            self.counts["unknown_units"] += reads.named.num_values - len(reads.named.sources)
        self._reads, self._reads_late = reads, None
        self.counts["frames"] += 1
        if arrival.kind == "restart":
            self.counts["restarts"] += 1
            self._restart()
        if self.inputs is not None:
            self.inputs.pass_over(arrival.missing)
        self._pass_over(arrival.missing)
        if arrival.has_jumped and arrival.missing < MIN_GAP_FRAMES:
            self.counts["time_jumps"] += 1
            self._gap()
        is_untimed = before.index is not None and None in (time_s, before.time_s)
        if (
            self._away_s is not None
            and is_untimed
            and arrival.kind == "next"
            and arrival.missing < MIN_GAP_FRAMES
        ):
            self._begin_blindly(is_counted=index is not None)
        self._away_s = None
        self._known[:] = self._is_sound(values)
        self._take(values)
        if self.inputs is not None:
            self.inputs.push(given, planned)
        return True

    @torch.inference_mode()
    def forecast(self) -> np.ndarray:
        """[H, N] from the newest frame on, in memory that the next call overwrites."""
        self._forecast = None
        self.answer[:] = self._last
        self.made_at = self.arrivals.index, self.arrivals.time_s
        self.source, self.knows = "warm-up", "none"
        self._is_of_model = False
        if self.ring.is_full:
            forecast = self._call_model()
            if np.isfinite(forecast).all():
                self._forecast = forecast
            else:
                self.counts["not_finite"] += 1
            if self._forecast is None or self._falls_back:
                self.counts["fallbacks"] += 1
                self.source = "copy"
            else:
                self.answer[:] = forecast
                self.source = "model"
                self._is_of_model = True
        self.counts["forecasts"] += 1
        return self.answer

    @torch.inference_mode()
    def rehearse(self) -> None:
        """Forecasts from the window as it is and forgets it, so that no frame has to meet a first call."""
        self._call_model()

    def settle(self) -> None:
        """The work that an answer need not wait for: scores the forecasts so far, looks for drift."""
        self.score.observe(self.frame, self._known, self._scale)
        if self.intervals is not None:
            self.intervals.observe(self.frame, self._known)
        if self._forecast is not None:
            self.score.add(self._forecast, self.frame)
            if self.intervals is not None:
                self.intervals.add(self._forecast, self._normalised, self._mean, self._scale, self.knows)
            self._forecast = None
        if self.config.normalise == "fit":
            self.drifted_units = self._count_drifted()
        if self.config.fallback and self.score.num_windows >= MIN_FALLBACK_WINDOWS:
            self._falls_back = self.score.score < 0 or self.coverage_alarm

    @property
    def input_names(self) -> tuple[str, ...]:
        """D names of the inputs that frames may bring, in their order."""
        return () if self.inputs is None else self.inputs.stacks.names

    @property
    def extrapolates(self) -> tuple[str, ...]:
        """Names of the inputs that the plan takes out of the range that they had in the recording."""
        return () if self.inputs is None else tuple(self.inputs.extrapolates)

    @torch.inference_mode()
    def what_if(self, plans: Sequence[Any], quantiles: Sequence[float] | None = None) -> np.ndarray:
        """Forecasts from the newest frame under plans, one after another; nothing changes.

        Args:
            plans: K plans [H, D], as of `step`, or one array [K, H, D].
            quantiles: levels, each inside (0, 1), of quantiles of what will come; None for points.

        Returns:
            float32 [K, H, N] in the recording's units, with quantiles [K, H, N, Q].

        Raises:
            FrameError: inputs are not known or not helpful here, no window is full, a plan does not fit, or
                quantiles cannot be given.
        """
        intervals = None if quantiles is None else self.require_intervals(quantiles)
        inputs, checked = self._checked_plans(plans)
        window = (self.ring.window - self._mean) / self._scale
        made = [inputs.what_if(window, self._of_model, plan) for plan in checked]
        found = _finite(np.stack([each * self._scale + self._mean for each in made]).astype(np.float32))
        if intervals is None or quantiles is None:
            return found
        return np.stack(
            [intervals.quantiles(each, window, self._mean, self._scale, quantiles, "plan") for each in found]
        )

    def effect(self, plans: Sequence[Any], quantiles: Sequence[float] | None = None) -> np.ndarray:
        """The differences that plans make to inputs that stay as they are, from the newest frame on.

        Args:
            plans: K plans [H, D], as of `step`, or one array [K, H, D].
            quantiles: levels, each inside (0, 1), of where the estimated effect may truly lie, see
                `Adapted.effect`; None for the effect itself.

        Returns:
            float32 [K, H, N] in the recording's units, with quantiles [K, H, N, Q].

        Raises:
            FrameError: as of `what_if`.
        """
        inputs, checked = self._checked_plans(plans)
        try:
            levels = None if quantiles is None else require_levels(quantiles)
            found = np.stack([inputs.effect(plan, levels) for plan in checked])
        except ConfigError as error:
            raise FrameError(f"the effect cannot be told: {error}") from error
        scaled: np.ndarray = found * (self._scale if levels is None else self._scale[:, None])
        return _finite(scaled.astype(np.float32, copy=False))

    def _checked_plans(self, plans: Sequence[Any]) -> tuple[LiveInputs, list[np.ndarray]]:
        if self.inputs is None or not self.ring.is_full:
            why = "the adaptation knows no inputs" if self.inputs is None else "the window is not full yet"
            raise FrameError(f"what would be under a plan cannot be told: {why}.")
        return self.inputs, [self.inputs.checked_plan(plan)[: self.horizon] for plan in plans]

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Quantiles of the newest forecast: of the model's as the stream has taught them, of copy's those of
        a random walk.

        Args:
            levels: each inside (0, 1).

        Returns:
            float32 [H, N, Q] in the recording's units.

        Raises:
            FrameError: there is no calibration, a level is not inside (0, 1), or one comes twice.
        """
        intervals = self.require_intervals(levels)
        if self._is_of_model:
            return intervals.quantiles(
                self.answer, self._normalised, self._mean, self._scale, levels, self.knows
            )
        return intervals.of_copy(self.answer[0], self._scale, levels)

    def require_intervals(self, levels: Sequence[float]) -> OnlineIntervals:
        """The intervals. Raises FrameError where there are none, or a level cannot be given."""
        try:
            require_levels(levels)
        except ConfigError as error:
            raise FrameError(str(error)) from error
        if self.intervals is None:
            raise FrameError(
                "quantiles were asked for, and this adaptation has no calibrated intervals: it was made "
                "before there were any, or of no recording. Adapt again."
            )
        return self.intervals

    @property
    def coverage_alarm(self) -> bool:
        """Whether 80 % intervals have lately covered far more or less of what came than they should."""
        return self.intervals is not None and self.intervals.leaves_band

    def replace_interface(self, interface: Interface) -> None:
        """Goes on with another interface of the same units, from the next forecast on."""
        self.interface = interface
        self.rehearse()  # which prepares it
        self.counts["updates"] += 1

    def reset(self) -> None:
        """Begins a new run: the next frame is the first, whatever its index and time.

        What is known of the units stays: statistics, rolling score, interface and counts; and the names that
        frames are read by, which belong to who sends them and not to a run.
        """
        self.counts["resets"] += 1
        self._away_s = None
        self.arrivals.reset()
        self._reads_late = None
        self._empty_run = 0
        self._restart()
        self.answer[:] = self._last  # so that nothing of the run before is given again
        self.source, self.made_at = "warm-up", (None, None)
        self._is_of_model = False

    def state(self) -> State:
        """A copy of all that `restore` needs: arrays, and plain values. Nothing changes."""
        arrays = {
            "window": self.ring.window,
            "last": self._last,
            "absent": self._absent,
            "mean": self.moments.mean,
            "variance": self.moments.variance,
            "count": self.moments.count,
            "unit": self.interface.unit.detach().numpy(),
            "session": self.interface.session.detach().numpy(),
            **self.score.state(),
            **({} if self.intervals is None else self.intervals.state()),
            **({} if self.inputs is None else self.inputs.state()),
        }
        plain = {
            **self.arrivals.state(),
            "units": self._reads.names or None,
            "names": self._reads.hash,
            "misnamed": self._misnamed,
            "filled": self.ring.filled,
            "empty_run": self._empty_run,
            "away_s": self._away_until_now(),
            "num_scored": self.score.num_scored,
            "falls_back": self._falls_back,
            "counts": dict(self.counts),
        }
        return {name: array.copy() for name, array in arrays.items()}, plain

    @torch.no_grad()
    def restore(self, state: State, away_s: float = 0.0) -> None:
        """Goes on where a forecaster of the same model, units and settings was.

        Args:
            away_s: seconds since then. Frames that came meanwhile are missing: a frame's index or time tells
                how many; where it has neither, a gap begins unless that is too short for one, and where it
                has no time, if that is a pause.
        """
        arrays, plain = state
        self.ring.restore(arrays["window"], plain["filled"])
        self._last[:], self._absent[:] = arrays["last"], arrays["absent"]
        self.moments.restore(arrays["mean"], arrays["variance"], arrays["count"])
        self.score.restore(arrays, plain["num_scored"])
        if self.intervals is not None:
            self.intervals.restore(arrays)
        if self.inputs is not None:
            self.inputs.restore(arrays)
        # A state of an earlier version has neither intervals nor names. What was missing before a start that
        # saw no frame still is.
        self._away_s, self._back_at_s = away_s + plain.get("away_s", 0.0), running_s()
        self.arrivals.restore(
            plain["index"], plain["time_s"], plain.get("intervals_s", ()), plain.get("late_frames", 0.0)
        )
        if units := plain.get("units"):
            self._reads = _Reading(self._known_names(units), tuple(units), plain.get("names"))
        self._misnamed = plain.get("misnamed")
        self._empty_run, self._falls_back = plain["empty_run"], plain["falls_back"]
        self.interface = copy.deepcopy(self.interface).requires_grad_(False)
        self.interface.unit.copy_(torch.from_numpy(arrays["unit"]))
        self.interface.session.copy_(torch.from_numpy(arrays["session"]))
        if self.config.normalise == "running":
            self._mean[:], self._scale[:] = self.moments.mean, self.moments.scale()
        else:
            self.drifted_units = self._count_drifted()
        self.forecast()  # for a sender that never got the newest frame's answer and asks again
        self._forecast = None
        known = {name: min(count, MAX_INDEX) for name, count in plain["counts"].items()}
        self.counts = Counter(dict.fromkeys(COUNTED, 0) | known)

    def status(self) -> dict[str, Any]:
        """The status so far, in plain values that JSON can hold; None for what is undefined."""
        return {
            "index": self.arrivals.index,
            "source": self.source,
            "score": self.rolling_score,
            "score_windows": self.score.num_windows,
            "drift": self.drifts,
            "drifted_units": self.drifted_units,
            "coverage": None if self.intervals is None else self.intervals.coverage,
            "coverage_alarm": self.coverage_alarm,
            "intervals_widened": None if self.intervals is None else self.intervals.widened,
            "units_without_value": int((self._absent > 0).sum()),
            "rate_hz": self.arrivals.rate_hz,
            "measured_hz": self.arrivals.measured_hz,
            "rate_differs": self.arrivals.rate_differs,
            **self.counts,
        }

    @property
    def naming(self) -> tuple[tuple[str, ...], str | None, str | None]:
        """By which names frames are read by now: these, their hash, and why the newest ones were refused."""
        return self._reads.names, self._reads.hash, self._misnamed

    @property
    def rolling_score(self) -> float | None:
        """The rolling score of the model against copy, over the newest windows; None while undefined."""
        score = self.score.score
        return float(score) if np.isfinite(score) else None

    @property
    def known(self) -> np.ndarray:
        """bool [N], the units that had a value in the newest frame."""
        return self._known

    @property
    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and scale [N] that frames are normalised by now."""
        return self._mean, self._scale

    @property
    def drifts(self) -> bool:
        """Whether the stream has left what the interface was fitted on, or what its intervals cover."""
        return self.units_drift or self.coverage_alarm

    @property
    def units_drift(self) -> bool:
        """Whether many units have left the mean or the spread that the interface was fitted on."""
        return self.drifted_units > DRIFT_UNITS * self.num_units

    def _as_told(self, units: Sequence[str], names: str | None, reads: _Reading) -> _Reading:
        """How values are read that are named so: as `reads`, where those are the names. Raises FrameError."""
        if tuple(units) == reads.names:
            return reads if names == reads.hash else reads._replace(hash=names)
        return _Reading(self._known_names(units), tuple(units), names) if len(units) else _Reading()

    def _held(self, names: str | None, reads: _Reading) -> _Reading:
        """How values are read of a frame that tells no names, only at most their hash. One that does not say
        it is of none who told names with a hash.

        Raises:
            UntoldNamesError: no names of this hash are held.
            FrameError: it says nothing of names, and the last ones are not known.
        """
        if names is not None:
            for held in (self._reads, self._reads_late):
                if held is not None and held.hash == names:
                    return held
            raise UntoldNamesError(
                f"names with the hash {names} were not told since the forecaster began; expected them, as "
                "`units` of the frame, once more."
            )
        if self._misnamed is not None:
            raise FrameError(
                f"{self._misnamed} Until then frames without names are refused; an empty list of names says "
                "that they are in the adaptation's order."
            )
        return reads if reads.hash is None else _Reading()

    def _known_names(self, units: Sequence[str]) -> Places:
        """Raises FrameError where names are not known; frames without names are refused too from then on."""
        try:
            return self.preprocessing.places(units)
        except AdaptationError as error:
            if isinstance(error, UnknownUnitsError):
                self._misnamed = str(error)
            raise FrameError(str(error)) from error

    def _checked(self, frame: Any, named: Places | None) -> np.ndarray:
        """The frame as float32 [N], NaN where it has no value."""
        values = unmasked(frame)
        if named is None and values.shape == (self.preprocessing.num_recorded,):
            values = values[self.preprocessing.columns]
        expected = self.num_units if named is None else named.num_values
        if values.shape != (expected,):
            raise FrameError(
                f"the frame has shape {values.shape}; expected ({expected},), a value for each unit. "
                "Name the units where they have changed."
            )
        if values.dtype.kind not in "fiu":
            raise FrameError(f"the frame holds values of type {values.dtype}; expected real numbers.")
        with np.errstate(over="ignore"):  # too large for float32: found as not finite
            values = values.astype(np.float32, copy=False)
        return values if named is None else named.spread(values, self.num_units)

    def _is_sound(self, values: np.ndarray) -> np.ndarray:
        """bool [N]: what is finite and not absurdly far off, as far as the units are known by now."""
        with np.errstate(over="ignore", invalid="ignore"):
            sound: np.ndarray = np.abs(values - self._mean) <= ABSURD * self._scale
        if self.config.normalise == "running":
            few = self.moments.count < FEW_VALUES
            if few.any():
                sound |= few & self._may_be_sound(values)
        return sound

    def _is_newest(self, values: np.ndarray) -> bool:
        """Whether values [N] are those that the newest frame left, where they are sound."""
        return bool((values == self._last)[self._is_sound(values)].all())

    def _may_be_sound(self, values: np.ndarray) -> np.ndarray:
        """bool [N]: what is not absurd of units that the stream has told little of: by the fit, or by the
        size of what came before. Where that leaves nothing of some frames in a row, what comes is taken."""
        if self._empty_run >= MIN_GAP_FRAMES:
            return np.isfinite(values)
        with np.errstate(over="ignore", invalid="ignore"):
            is_of_size = np.abs(values - self._mean) <= ABSURD * np.abs(self._mean)
        return is_of_size | self.preprocessing.is_sound(values)

    def _pass_over(self, missing: int) -> None:
        """Frames that did not come: a few are held at the last values, after more the window starts anew."""
        if not missing:
            return
        # An index may jump by more than a message can hold.
        self.counts["missing_frames"] = min(self.counts["missing_frames"] + missing, MAX_INDEX)
        self.segment += 1
        self._known[:] = False
        if missing >= MIN_GAP_FRAMES:
            self._gap()
            return
        for _ in range(missing):
            self.ring.push(self._last)
            self.score.observe(self._last, self._known, self._scale)
            if self.intervals is not None:
                self.intervals.observe(self._last, self._known)

    def _take(self, values: np.ndarray) -> None:
        """Puts a frame into the window, its missing values held at the last ones known."""
        known = self._known
        num_known = int(np.count_nonzero(known))
        if num_known == self.num_units:
            self._last[:] = values
        else:
            self.counts["missing_values"] += self.num_units - num_known
            np.copyto(self._last, values, where=known)
        if num_known:
            self._follow_units(known)
        self.frame[:] = self._last
        self.moments.add(self.frame, known)
        if self.config.normalise == "running":
            self._mean[:], self._scale[:] = self.moments.mean, self.moments.scale()
        self.ring.push(self.frame)
        self._empty_run = 0 if num_known else self._empty_run + 1
        if not num_known:
            self.counts["empty_frames"] += 1
            if self._empty_run == MIN_GAP_FRAMES:
                self._gap()
            elif self._empty_run > MIN_GAP_FRAMES:
                self.ring.clear()

    def _follow_units(self, known: np.ndarray) -> None:
        """Counts units that come and go. Of one that comes the past is not known: it gets its first value."""
        is_gone = self._absent >= self.context
        came = known & is_gone
        if came.any():
            self.ring.fill(came, self._last[came])
            if not is_gone.all():  # else it is the first frame
                self.counts["appeared"] += int(came.sum())
        self._absent += 1
        self._absent[known] = 0
        self.counts["vanished"] += int(np.count_nonzero(self._absent == self.context))

    def _away_until_now(self) -> float:
        """Seconds since the last frame of a forecaster that was away and has seen none since; 0 of others."""
        return 0.0 if self._away_s is None else self._away_s + running_s() - self._back_at_s

    def _begin_blindly(self, is_counted: bool) -> None:
        """The first frame after a while away that no time places: so many may be missing, or where they are
        counted, the sender may have paused."""
        away_s, rate_hz = self._away_until_now(), self.arrivals.rate_hz
        if is_counted:
            if away_s <= pause_after(1 / rate_hz if rate_hz else 0.0):
                return
            self.counts["time_jumps"] += 1
        elif rate_hz is not None and away_s * rate_hz < MIN_GAP_FRAMES:
            return
        what = f"frames of {away_s:.3g} s" if math.isfinite(away_s) else "any number of frames"
        _log.warning(
            "%s may be missing, which the first frame since tells neither by %s: the window starts anew",
            what, "an index nor by a time" if not is_counted else "its index, which counts on, nor by a time",
        )  # fmt: skip
        self._gap()

    def _gap(self) -> None:
        self.counts["gaps"] += 1
        self._restart()

    def _restart(self) -> None:
        self.segment += 1
        self.ring.clear()
        self.score.restart()
        if self.intervals is not None:
            self.intervals.restart()
        if self.inputs is not None:
            self.inputs.restart()

    def _call_model(self) -> np.ndarray:
        np.subtract(self.ring.window, self._mean, out=self._normalised)
        np.divide(self._normalised, self._scale, out=self._normalised)
        self.knows = "none" if self.inputs is None else self.inputs.knows
        if self.inputs is not None and self.knows != "none":
            known = self.inputs.forecast(self._normalised, self._of_model)
            return known * self._scale + self._mean
        entry = SessionInput(self._input, self.interface, self.dataset)
        with torch.inference_mode():
            (forecast,) = self._executor.forecast([entry])
        values = forecast[0].numpy()
        if self.stack is not None:
            values = self.stack.forecast(self._normalised, values)
        return values * self._scale + self._mean

    def _of_model(self, session: int, context: np.ndarray) -> np.ndarray:
        """The model's forecasts [B, H, N] of normalised contexts [B, C, N]."""
        frames = torch.from_numpy(np.ascontiguousarray(context, np.float32))
        (forecast,) = self._executor.forecast([SessionInput(frames, self.interface, self.dataset)])
        return forecast.numpy()

    def _checked_inputs(self, inputs: Any, plan: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self.inputs is not None:
            return self.inputs.checked(inputs, plan)
        if inputs is not None or plan is not None:
            raise FrameError("the frame brings inputs, and this adaptation knows none; leave them out.")
        return None, None

    def _count_drifted(self) -> int:
        moments = self.moments
        seen = moments.count >= min(self.context - 1, moments.memory)  # in time for the model's first answer
        drifted = self.preprocessing.drifted(moments.mean, np.sqrt(moments.variance))
        return int(np.count_nonzero(seen & drifted))


def open(
    model: Model,
    interface: Interface,
    preprocessing: Preprocessing | None = None,
    *,
    stack: Stack | None = None,
    dataset: int | None = None,
    config: LiveConfig | None = None,
    threads: int = 1,
    calibration: Calibration | None = None,
    inputs: InputStacks | None = None,
    about: Mapping[str, str] | None = None,
) -> LiveForecaster:
    """A live forecaster of one session; of an adaptation `Adapted.stream` opens it.

    Args:
        model: the backbone.
        interface: the session's embeddings.
        preprocessing: the session's: which units of the recording these are, what they are called, their
            normalisation and their rate. None: every value of a frame is a unit, normalised by the stream.
        stack: the weights of the model and of regressions of the session; None for the model alone.
        dataset: see `SessionInput`.
        config: None for the defaults; without preprocessing, running statistics.
        threads: that share the units of a forecast by POCO, 512 each at a time. They want a core each, and
            `torch.set_num_threads(1)`: torch's own threads wait for one another after every operation.
        calibration: of the session's intervals; None for a stream without.
        inputs: forecasts that know inputs, which frames then may bring; None for a stream without.
        about: see `LiveForecaster`.

    Raises:
        ConfigError: the preprocessing does not belong to the interface's units, two of them have one name, or
            there is none to normalise by.
    """
    if config is None:
        config = LiveConfig(normalise="running" if preprocessing is None else "fit")
    if preprocessing is None:
        if config.normalise == "fit":
            raise ConfigError("there is no preprocessing to normalise by; give it, or normalise 'running'.")
        preprocessing = Preprocessing.none(len(interface.unit))
    return LiveForecaster(
        model, interface, preprocessing, stack, dataset, config, threads, calibration, inputs, about
    )


def _intervals(
    calibration: Calibration | None,
    inputs: InputStacks | None,
    horizon: int,
    num_units: int,
    rate_hz: float | None,
    config: LiveConfig,
) -> OnlineIntervals | None:
    if calibration is None:
        if config.quantiles:
            raise ConfigError(
                "quantiles are asked for, and there is no calibration of intervals; adapt again to have one."
            )
        return None
    if calibration.size.shape != (horizon, num_units):
        raise ConfigError(
            f"the calibration is of {calibration.horizon} steps and {calibration.num_units} units, the model "
            f"of {horizon} and {num_units}; they belong to different recordings."
        )
    knowing = None if inputs is None else inputs.calibrations
    return OnlineIntervals(calibration, config.interval_memory_s, rate_hz, config.coverage_frames, knowing)


class _Reading(NamedTuple):
    """How the values of frames without names are read: as those `names`, none for all units in order; by
    senders that say it only those with the names' `hash`."""

    named: Places | None = None
    names: tuple[str, ...] = ()
    hash: str | None = None


def _finite(found: np.ndarray) -> np.ndarray:
    """What a plan gives. Raises FrameError where it is beyond all numbers."""
    if not np.isfinite(found).all():
        raise FrameError(
            "what would be under a plan cannot be told: inputs so far from those of the recording give no "
            "finite forecast; expected them in the recording's units."
        )
    return found
