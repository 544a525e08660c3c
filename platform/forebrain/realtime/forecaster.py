"""The live forecaster: a frame in, a forecast out, in fixed memory, whatever the stream does.

    live = realtime.open(adapted.backbone, adapted.interface, Fit(adapted.mean, adapted.scale))
    for frame in stream:                 # [N], NaN where a unit has no value
        forecast = live.step(frame)      # [H, N], in the frame's own units

What happens to late, missing, repeated and damaged frames is in docs/live.md; all of it is counted, and
`status` has the counts. Nothing here waits: saving the state and updating the interface happen elsewhere.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from forebrain.accelerate import accelerate
from forebrain.errors import ConfigError, FrameError
from forebrain.models.base import Interface, Model, SessionInput
from forebrain.realtime.arrivals import Arrivals
from forebrain.realtime.ring import Ring
from forebrain.realtime.rolling import RollingScore
from forebrain.realtime.running import RunningMoments
from forebrain.sessions.repair import MIN_GAP_FRAMES
from forebrain.shards.fits import Fit

# A unit has drifted when its running mean has moved by this many standard deviations of the fit, or its
# running spread has grown or shrunk by this factor; the stream has when this part of its units have.
DRIFT_MEAN = 2.0
DRIFT_SPREAD = 3.0
DRIFT_UNITS = 0.2
MIN_FALLBACK_WINDOWS = 64

Source = Literal["warm-up", "model", "copy"]
State = tuple[dict[str, np.ndarray], dict[str, Any]]
# What `status` counts from the start, in its order.
COUNTED = (
    "frames", "forecasts", "skipped", "missing_frames", "empty_frames", "gaps", "late", "repeated",
    "restarts", "refused", "missing_values", "vanished", "appeared", "unknown_units", "not_finite",
    "fallbacks", "updates",
)  # fmt: skip


@dataclass(frozen=True)
class LiveConfig:
    """How a stream is normalised and judged.

    Attributes:
        normalise: by the mean and scale the interface was fitted with (`fit`), or by those of the stream so
            far (`running`), which an interface without a fit needs.
        memory: time constant of running statistics, frames.
        score_windows: newest forecasts that the rolling score is over.
        fallback: give copy's forecast while the model's rolling score is below it.
        precision: of the matrix products: `fp32`, bit for bit what an adapted model gives offline, or `bf16`.
    """

    normalise: Literal["fit", "running"] = "fit"
    memory: int = 1000
    score_windows: int = 256
    fallback: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        for name in ("memory", "score_windows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more.")


class LiveForecaster:
    """Forecasts a stream of frames; see `open`.

    `step` is `ingest`, `forecast` and `settle` in one. A server calls them apart: it answers, then settles.
    """

    def __init__(
        self,
        model: Model,
        interface: Interface,
        fit: Fit | None,
        rate_hz: float | None,
        unit_names: Sequence[str] | None,
        columns: np.ndarray | None,
        num_recorded: int | None,
        dataset: int | None,
        config: LiveConfig,
        threads: int,
    ) -> None:
        num_units = len(interface.unit)
        self.model, self.interface, self.config = model.eval(), interface, config
        self.num_units, self.horizon, self.context = num_units, model.config.horizon, model.config.context
        self.unit_names = None if unit_names is None else tuple(unit_names)
        self.source: Source = "warm-up"
        self.counts = Counter(dict.fromkeys(COUNTED, 0))
        self.arrivals = Arrivals(rate_hz)
        self.ring = Ring(self.context, num_units)
        self.moments = RunningMoments(num_units, config.memory)
        self.score = RollingScore(self.horizon, num_units, config.score_windows)
        self.drifted_units = 0
        self.segment = 0  # counts the stretches of frames between which some are missing

        self.fit = _checked_fit(fit, num_units, config)
        self.dataset = dataset
        self._mean, self._scale = self.fit.mean.copy(), self.fit.scale.copy()
        self._last = self._mean.copy()  # of each unit the last value known; the mean before there is one
        self.frame = np.empty(num_units, np.float32)
        self._known = np.zeros(num_units, bool)
        self._absent = np.full(num_units, self.context)  # frames since the unit had a value
        self._empty_run = 0
        self.num_recorded = num_units if num_recorded is None else num_recorded
        self._recorded_columns = columns
        self._named: _Named | None = None
        self._normalised = np.empty((self.context, num_units), np.float32)
        self._input = torch.from_numpy(self._normalised)[None]
        self._forecast: np.ndarray | None = None  # of the newest frame, by the model
        self.answer = np.repeat(self._last[None], self.horizon, axis=0)
        self._falls_back = False
        compute_dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self._executor = accelerate(self.model, "stream", compute_dtype, threads=threads)
        if unit_names is not None and (len(unit_names), len(set(unit_names))) != (num_units, num_units):
            raise ConfigError(
                f"{len(unit_names)} unit names, {len(set(unit_names))} of them different, for {num_units} "
                "units; expected a name of its own for each."
            )

    def step(
        self,
        frame: np.ndarray,
        index: int | None = None,
        time_s: float | None = None,
        units: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Takes in a frame and forecasts the next H.

        Args:
            frame: [N] in the recording's units; what is not finite counts as missing.
            index: of the frame in the stream; lets missing, repeated and late frames be told.
            time_s: when it was taken; does the same where there is no index, and measures the rate.
            units: names of the frame's values, from this frame on: units that vanish, appear or change
                places. Units of the interface that are not named have no value; names it does not know are
                counted and left out.

        Returns:
            float32 [H, N] in the recording's units, always finite. Until C frames have come in a row, and
            where `source` is `copy`, it is the last frame known, repeated.

        Raises:
            FrameError: the frame has the wrong shape or type, or no place. It changes nothing.
        """
        if self.ingest(frame, index, time_s, units):
            self.forecast()
            self.settle()
        return self.answer.copy()

    def ingest(
        self,
        frame: np.ndarray,
        index: int | None = None,
        time_s: float | None = None,
        units: Sequence[str] | None = None,
    ) -> bool:
        """Takes in a frame without a forecast. False for a frame that changes nothing: late or repeated."""
        named = self._named if units is None else _Named.of(units, self.unit_names)
        values = self._checked(frame, named)
        arrival = self.arrivals.judge(index, time_s)
        if units is not None and named is not None:
            self._named = named
            self.counts["unknown_units"] += named.num_values - len(named.sources)
        if arrival.kind in ("late", "repeated"):
            self.counts[arrival.kind] += 1
            return False
        self.counts["frames"] += 1
        if arrival.kind == "restart":
            self.counts["restarts"] += 1
            self._restart()
        self._pass_over(arrival.missing)
        np.isfinite(values, out=self._known)
        self._take(values)
        return True

    @torch.inference_mode()
    def forecast(self) -> np.ndarray:
        """[H, N] from the newest frame on, in memory that the next call overwrites."""
        self._forecast = None
        self.answer[:] = self._last
        self.source = "warm-up"
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
        self.counts["forecasts"] += 1
        return self.answer

    @torch.inference_mode()
    def rehearse(self) -> None:
        """Forecasts from the window as it is and forgets it, so that no frame has to meet a first call."""
        self._call_model()

    def settle(self) -> None:
        """The work that an answer need not wait for: scores the forecasts so far, looks for drift."""
        self.score.observe(self.frame, self._known, self._scale)
        if self._forecast is not None:
            self.score.add(self._forecast, self.frame)
            self._forecast = None
        if self.config.normalise == "fit":
            self.drifted_units = self._count_drifted()
        if self.config.fallback and self.score.num_windows >= MIN_FALLBACK_WINDOWS:
            self._falls_back = self.score.score < 0

    def replace_interface(self, interface: Interface) -> None:
        """Goes on with another interface of the same units, from the next forecast on."""
        self.interface = interface
        self.rehearse()  # which prepares it
        self.counts["updates"] += 1

    def state(self) -> State:
        """A copy of all that `restore` needs: arrays, and plain values. Forecasts that are not scored yet are
        left out: their windows will not be scored."""
        arrays = {
            "window": self.ring.window,
            "last": self._last,
            "absent": self._absent,
            "mean": self.moments.mean,
            "variance": self.moments.variance,
            "count": self.moments.count,
            "scored": self.score.windows,
            "unit": self.interface.unit.detach().numpy(),
            "session": self.interface.session.detach().numpy(),
        }
        plain = {
            "index": self.arrivals.index,
            "time_s": self.arrivals.time_s,
            "filled": self.ring.filled,
            "empty_run": self._empty_run,
            "num_scored": self.score.num_scored,
            "falls_back": self._falls_back,
            "counts": dict(self.counts),
        }
        return {name: array.copy() for name, array in arrays.items()}, plain

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Goes on where a forecaster of the same model, units and settings was."""
        arrays, plain = state
        self.ring.restore(arrays["window"], plain["filled"])
        self._last[:], self._absent[:] = arrays["last"], arrays["absent"]
        self.moments.restore(arrays["mean"], arrays["variance"], arrays["count"])
        self.score.restore(arrays["scored"], plain["num_scored"])
        self.arrivals.restore(plain["index"], plain["time_s"])
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
        self.counts = Counter(plain["counts"])

    def status(self) -> dict[str, Any]:
        """What happened so far, plain and JSON-able; undefined is None."""
        return {
            "index": self.arrivals.index,
            "source": self.source,
            "score": self.rolling_score,
            "score_windows": self.score.num_windows,
            "drift": self.drifts,
            "drifted_units": self.drifted_units,
            "units_without_value": int((self._absent > 0).sum()),
            "rate_hz": self.arrivals.rate_hz,
            "measured_hz": self.arrivals.measured_hz,
            "rate_differs": self.arrivals.rate_differs,
            **self.counts,
        }

    @property
    def rolling_score(self) -> float | None:
        """Of the model against copy, over the newest windows; None while it is not defined."""
        score = self.score.score
        return float(score) if np.isfinite(score) else None

    @property
    def drifts(self) -> bool:
        """Whether the stream has left what the interface was fitted on."""
        return self.drifted_units > DRIFT_UNITS * self.num_units

    def _checked(self, frame: np.ndarray, named: _Named | None) -> np.ndarray:
        """The frame as float32 [N], NaN where it has no value."""
        values = np.asarray(frame)
        columns = self._recorded_columns if named is None else None
        if columns is not None and values.shape == (self.num_recorded,):
            values = values[columns]
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
        if named is None:
            return values
        spread = np.full(self.num_units, np.nan, np.float32)
        spread[named.targets] = values[named.sources]
        return spread

    def _pass_over(self, missing: int) -> None:
        """Frames that did not come: a few are held at the last values, after more the window starts anew."""
        if not missing:
            return
        self.counts["missing_frames"] += missing
        self.segment += 1
        self._known[:] = False
        if missing >= MIN_GAP_FRAMES:
            self._gap()
            return
        for _ in range(missing):
            self.ring.push(self._last)
            self.score.observe(self._last, self._known, self._scale)

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

    def _gap(self) -> None:
        self.counts["gaps"] += 1
        self._restart()

    def _restart(self) -> None:
        self.segment += 1
        self.ring.clear()
        self.score.restart()

    def _call_model(self) -> np.ndarray:
        np.subtract(self.ring.window, self._mean, out=self._normalised)
        np.divide(self._normalised, self._scale, out=self._normalised)
        entry = SessionInput(self._input, self.interface, self.dataset)
        with torch.inference_mode():
            (forecast,) = self._executor.forecast([entry])
        return forecast[0].numpy() * self._scale + self._mean

    def _count_drifted(self) -> int:
        fit, moments = self.fit, self.moments
        seen = moments.count >= min(self.context, moments.memory)
        moved = np.abs(moments.mean - fit.mean) > DRIFT_MEAN * fit.scale
        ratio = np.sqrt(moments.variance) / fit.scale
        return int(np.count_nonzero(seen & (moved | (ratio > DRIFT_SPREAD) | (ratio * DRIFT_SPREAD < 1))))


def open(
    model: Model,
    interface: Interface,
    fit: Fit | None = None,
    *,
    rate_hz: float | None = None,
    unit_names: Sequence[str] | None = None,
    columns: np.ndarray | None = None,
    num_recorded: int | None = None,
    dataset: int | None = None,
    config: LiveConfig | None = None,
    threads: int = 1,
) -> LiveForecaster:
    """A live forecaster of one session.

    Args:
        model: the backbone.
        interface: the session's embeddings.
        fit: mean and scale of each unit that the interface was fitted with. None: those of the stream so far.
        rate_hz: frames a second that the interface was fitted at; None where not known.
        unit_names: of the N units, so that a sender may name its own.
        columns, num_recorded: int [N], which of the recorded values the units are, and how many are recorded:
            frames may then hold these instead.
        dataset: see `SessionInput`.
        config: None for the defaults; without a fit, running statistics.
        threads: that share the units of a forecast by POCO, 512 each at a time. They want a core each, and
            `torch.set_num_threads(1)`: torch's own threads wait for one another after every operation.

    Raises:
        ConfigError: the fit or the names do not belong to the interface's units.
    """
    if config is None:
        config = LiveConfig(normalise="fit" if fit is not None else "running")
    return LiveForecaster(
        model, interface, fit, rate_hz, unit_names, columns, num_recorded, dataset, config, threads
    )


class _Named(NamedTuple):
    """Which value of a frame is which unit's.

    Attributes:
        targets, sources: positions among the N units, and in the frame.
        num_values: of a frame.
    """

    targets: np.ndarray
    sources: np.ndarray
    num_values: int

    @classmethod
    def of(cls, names: Sequence[str], unit_names: Sequence[str] | None) -> _Named:
        """Raises FrameError if a name comes twice, or the interface's units have no names."""
        if unit_names is None:
            raise FrameError("units were named, but the model's have no names; expected all N, in order.")
        if len(set(names)) != len(names):
            raise FrameError("a unit is named twice; expected each name once.")
        position = {name: column for column, name in enumerate(unit_names)}
        sources = [source for source, name in enumerate(names) if name in position]
        targets = [position[names[source]] for source in sources]
        return cls(np.array(targets, np.intp), np.array(sources, np.intp), len(names))


def _checked_fit(fit: Fit | None, num_units: int, config: LiveConfig) -> Fit:
    if config.normalise == "running":
        return Fit(np.zeros(num_units, np.float32), np.ones(num_units, np.float32))
    if fit is None:
        raise ConfigError("there is no fit to normalise by; give one, or normalise 'running'.")
    mean, scale = np.asarray(fit.mean, np.float32), np.asarray(fit.scale, np.float32)
    if fit.components is not None or mean.shape != (num_units,) or scale.shape != (num_units,):
        raise ConfigError(
            f"the fit has {mean.shape} means and {scale.shape} scales for {num_units} units; expected one of "
            "each for each unit, and no components."
        )
    if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise ConfigError("the fit has a mean that is not finite or a scale that is not above 0; fit again.")
    return Fit(mean, scale)
