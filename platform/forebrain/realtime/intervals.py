"""Intervals that stay honest in a stream: calibrated quantiles, widened and moved online by what they cover.

The start is an adaptation's calibration (`scoring.conformal`). From then on each frame that comes tells for
each unit and step whether it lay within the 80 % interval that was forecast for it; a miss widens the unit's
interval and moves it to that side, a hit narrows it, in steps whose sum is zero at 80 % (adaptive conformal
inference, Gibbs & Candes 2021, a quantile tracker by unit and step). What all units of a step missed
together widens all of them faster. Memory is fixed: three arrays [H, N] and the intervals of the last H
frames' forecasts.

One forecast in LEARN_EVERY is learned from, so of as many frames in a row, a group, each is the target of
other steps, and together they are of all: the group teaches at once, in arrays [H, N].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from forebrain.scoring.conformal import Calibration, window_spread
from forebrain.scoring.input_stacks import Known
from forebrain.scoring.quantiles import require_levels

COVERAGE = 0.8
BOUNDS = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
# The rolling coverage of all units and steps may lie here; outside the alarm is on.
BAND = (0.7, 0.9)
MIN_COVERAGE_FRAMES = 100
# Frames a second where neither the recording nor the stream states them.
DEFAULT_HZ = 5.0
# Of the time constant of a unit: of all units of a step together, and never below half a horizon.
POOLED_PART = 0.05
LEAST_HORIZONS = 0.5
# Of so many forecasts one is learned from: neighbours miss the same, and cost as much.
LEARN_EVERY = 3
# Of what is learned at once, a frame: no more than this, however short the memory.
MOST_STEP = 0.1
# A step's relaxation at COVERAGE: the slope of the miss rate over the logarithm of the width, of normal
# errors.
_SLOPE = 2 * NormalDist().pdf(NormalDist().inv_cdf(BOUNDS[1])) * NormalDist().inv_cdf(BOUNDS[1])
MOST_LEVELS = 4  # sets of levels whose deviations are kept: a rig's, the page's
_MOST = 4.0  # of the logarithm of a width: beyond 50 times nothing is learned


class OnlineIntervals:
    """The intervals of one stream.

    Args:
        calibration: of the adaptation, on normalised values.
        memory_s: time constant of a unit's width, seconds.
        rate_hz: of the frames; None for DEFAULT_HZ.
        coverage_frames: newest frames that the rolling coverage is over.
        knowing: calibrations of forecasts that know inputs. What the stream teaches is how many times as wide
            as calibrated intervals are to be, and how far off, so that it serves all of them.
    """

    def __init__(
        self,
        calibration: Calibration,
        memory_s: float,
        rate_hz: float | None,
        coverage_frames: int,
        knowing: Mapping[Known, Calibration] | None = None,
    ) -> None:
        horizon, num_units = calibration.size.shape
        self.calibration = calibration
        memory = max(1.0, memory_s * (rate_hz or DEFAULT_HZ))
        step = LEARN_EVERY * min(MOST_STEP, 1 / (_SLOPE * memory))
        pooled_memory = max(POOLED_PART * memory, LEAST_HORIZONS * horizon)
        self._pooled_step = LEARN_EVERY * min(MOST_STEP, 1 / (_SLOPE * pooled_memory))
        begun = _Begun.of(calibration)
        self._begun = {"none": begun, **{known: _Begun.of(each) for known, each in (knowing or {}).items()}}
        # What is learned: how far off, in scales of the window, and how many times as wide, the logarithm, as
        # is `pooled`; and how much of each a miss teaches.
        self._learned = np.zeros((2, horizon, num_units), np.float32)
        self.bias, self.width = self._learned
        self.pooled = np.zeros((horizon, 1), np.float32)
        self._steps = np.empty_like(self._learned)
        self._steps[0], self._steps[1] = step * (begun.bounds[1] - begun.bounds[0]) / 2, step
        self.covered = np.zeros((coverage_frames, 2), np.int64)  # by frame: targets inside, and all
        self.num_frames = 0
        self._num_observed = 0
        self._frames = np.zeros((LEARN_EVERY, num_units), np.float32)  # the group so far, NaN where not known
        self._num_known = [0] * LEARN_EVERY
        # Intervals of the newest forecasts that are learned from, [bound, slot H + step, unit], and by slot
        # whether there are any. By group and step: the slot of the forecast whose target came, and the row of
        # its bounds. Steps are filled up to whole groups, whose last rows nobody looks at.
        num_slots = -(-horizon // LEARN_EVERY)
        self._bounds = np.zeros((2, num_slots * horizon, num_units), np.float32)
        self._is_made = [False] * num_slots
        ahead = np.arange(num_slots * LEARN_EVERY)
        slots = (np.arange(num_slots)[:, None] - ahead // LEARN_EVERY) % num_slots
        self._slots = slots[:, :horizon].tolist()
        self._rows = slots * horizon + np.minimum(ahead, horizon - 1)
        self._of_all, self._ones = [num_units] * horizon, np.ones((num_units, 1), np.float32)
        filled = np.zeros((2, len(ahead), num_units), np.float32)
        self._change, self._sides = filled[:, :horizon], filled[0].reshape(num_slots, LEARN_EVERY, num_units)

    @property
    def coverage(self) -> float | None:
        """Part of the newest targets inside their 80 % intervals, of all units and steps; None before any."""
        inside, count = self.covered.sum(axis=0)
        return float(inside / count) if min(self.num_frames, len(self.covered)) and count else None

    @property
    def leaves_band(self) -> bool:
        """Whether the coverage has left BAND: intervals are not to be relied on for now."""
        coverage = self.coverage
        seen = min(self.num_frames, len(self.covered)) >= min(MIN_COVERAGE_FRAMES, len(self.covered))
        return seen and coverage is not None and not BAND[0] <= coverage <= BAND[1]

    @property
    def widened(self) -> float:
        """How many times as wide as calibrated intervals are now, the geometric mean."""
        return float(np.exp(self.width.mean(dtype=np.float64) + self.pooled.mean(dtype=np.float64)))

    def quantiles(
        self,
        forecast: np.ndarray,
        context: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        levels: Sequence[float],
        known: Known = "none",
    ) -> np.ndarray:
        """Quantiles of a forecast by the model.

        Args:
            forecast: [H, N], in the recording's units.
            context: [C, N], normalised, that it was made from.
            mean, scale: [N], of the normalisation.
            levels: each inside (0, 1).
            known: what the forecast knows of inputs.

        Returns:
            float32 [H, N, Q] in the recording's units.

        Raises:
            ConfigError: a level is not inside (0, 1), or comes twice.
        """
        begun = self._begun.get(known, self._begun["none"])
        quantiles = self._factor() * begun.deviations(levels)
        quantiles += begun.centre + self.bias
        quantiles *= begun.scale(context, scale)
        quantiles += forecast
        if begun.has_floor:
            np.maximum(quantiles, begun.calibration.floor * scale + mean, out=quantiles)
        return np.ascontiguousarray(quantiles.transpose(1, 2, 0), np.float32)

    def of_copy(self, last: np.ndarray, scale: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """Quantiles where the last frame is repeated: N(last, h s^2), s of one-step differences in training.

        Args:
            last: [N], in the recording's units.
            scale: [N], of the normalisation.
            levels: each inside (0, 1).

        Returns:
            float32 [H, N, Q] in the recording's units.
        """
        known = self.calibration.step
        step = np.where(np.isfinite(known), known, self.calibration.typical) * scale
        deviates = np.array([NormalDist().inv_cdf(level) for level in require_levels(levels)])
        deviation = np.sqrt(1 + np.arange(len(self.pooled)))[:, None] * step
        return (last[:, None] + deviation[..., None] * deviates).astype(np.float32)

    def observe(self, frame: np.ndarray, known: np.ndarray) -> None:
        """Compares what came with the intervals that had been forecast for it, and learns from it.

        Args:
            frame: [N], in the recording's units.
            known: bool [N], the values that were measured.
        """
        place = self._num_observed % LEARN_EVERY
        self._frames[place], self._num_known[place] = frame, len(known)
        if not known.all():
            self._frames[place, ~known] = np.nan
            self._num_known[place] = int(known.sum())
        self._num_observed += 1
        if place == LEARN_EVERY - 1:
            self._learn()
            # The last target of the oldest forecast has come; the next takes its place.
            self._is_made[self._slot] = False

    def add(
        self,
        forecast: np.ndarray,
        context: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        known: Known = "none",
    ) -> None:
        """Keeps the interval of a forecast by the model that was made from the frame observed last.

        Of LEARN_EVERY forecasts one. Args as of `quantiles`.
        """
        if self._num_observed % LEARN_EVERY:
            return
        begun = self._begun.get(known, self._begun["none"])
        of_window, factor = begun.scale(context, scale), self._factor()
        factor *= of_window
        middle = begun.centre + self.bias
        middle *= of_window
        middle += forecast
        bounds = self._bounds[:, self._slot * len(middle) : (self._slot + 1) * len(middle)]
        np.multiply(factor, begun.bounds, out=bounds)
        bounds += middle
        if begun.has_floor:
            np.maximum(bounds, begun.calibration.floor * scale + mean, out=bounds)
        self._is_made[self._slot] = True

    def restart(self) -> None:
        """Drops intervals whose targets will not come; what was learned stays."""
        self._learn()
        self._is_made = [False] * len(self._is_made)

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, not copied."""
        return {
            "interval_bias": self.bias,
            "interval_width": self.width,
            "interval_pooled": self.pooled,
            "interval_covered": self.covered,
            "interval_frames": np.array([self.num_frames]),
            "interval_observed": np.array([self._num_observed]),
            "interval_group": self._frames,
            "interval_known": np.array(self._num_known),
            "interval_bounds": self._bounds,
            "interval_made": np.array(self._is_made),
        }

    def restore(self, arrays: dict[str, np.ndarray] | Any) -> None:
        """Goes on where another was; a state from before there were intervals leaves them as calibrated, one
        of before they were kept has none whose targets have not come."""
        if "interval_bias" not in arrays:
            return
        if "interval_bounds" in arrays:
            self._num_observed = int(arrays["interval_observed"][0])
            self._frames[:], self._num_known = arrays["interval_group"], arrays["interval_known"].tolist()
            self._bounds[:], self._is_made = arrays["interval_bounds"], arrays["interval_made"].tolist()
        self.bias[:], self.width[:] = arrays["interval_bias"], arrays["interval_width"]
        self.pooled[:] = arrays["interval_pooled"]
        known = arrays["interval_covered"]
        if known.shape == self.covered.shape:
            self.covered[:], self.num_frames = known, int(arrays["interval_frames"][0])

    @property
    def _slot(self) -> int:
        """Of the next forecast that is learned from."""
        return self._num_observed // LEARN_EVERY % len(self._is_made)

    def _learn(self) -> None:
        """Learns from the frames of the group that have come and were not learned from."""
        num_known, num_units = self._num_known, self._frames.shape[1]
        if not any(num_known):
            return
        self._num_known = [0] * LEARN_EVERY
        group = (self._num_observed - 1) // LEARN_EVERY % len(self._is_made)
        low, high = self._bounds.take(self._rows[group], axis=1).reshape(2, *self._sides.shape)
        np.subtract(self._frames > high, self._frames < low, out=self._sides, dtype=np.float32)
        side, missed = self._change  # [H, N]
        counts = self._of_all
        due: np.ndarray | float = 1.0
        pooled_step: np.ndarray | float = self._pooled_step
        share: np.ndarray | float = self._pooled_step / num_units
        if min(num_known) < num_units or not all(self._is_made):
            counts = [
                num_known[step % LEARN_EVERY] if self._is_made[slot] else 0
                for step, slot in enumerate(self._slots[group])
            ]
            of_each = np.array(counts)[:, None]
            is_known = np.isfinite(self._frames)[np.arange(len(counts)) % LEARN_EVERY]
            due = (of_each > 0) & is_known
            side *= due
            pooled_step = pooled_step * (of_each > 0)
            share = pooled_step / np.maximum(of_each, 1)
        np.abs(side, out=missed)
        by_step = missed @ self._ones
        self._count(by_step[:, 0].tolist(), counts)
        by_step *= share
        by_step -= (1 - COVERAGE) * pooled_step
        self.pooled += by_step
        missed -= (1 - COVERAGE) * due
        self._change *= self._steps
        self._learned += self._change
        if self.num_frames // LEARN_EVERY % len(counts) == 0:
            np.clip(self.width, -_MOST, _MOST, out=self.width)
            np.clip(self.pooled, -_MOST, _MOST, out=self.pooled)

    def _count(self, missed: list[float], counts: list[int]) -> None:
        """Counts, by frame of the group, what came inside its intervals, of what came, by step."""
        for place in range(LEARN_EVERY):
            count = sum(counts[place::LEARN_EVERY])
            if count:
                inside = count - int(sum(missed[place::LEARN_EVERY]))
                self.covered[self.num_frames % len(self.covered)] = inside, count
                self.num_frames += 1

    def _factor(self) -> np.ndarray:
        """[H, N]: how many times as wide as calibrated."""
        factor = self.width + self.pooled
        return np.exp(factor, out=factor)


@dataclass(frozen=True, eq=False)
class _Begun:
    """Intervals as they were calibrated: median [H, N], and distances of BOUNDS from it [2, H, N]."""

    calibration: Calibration
    centre: np.ndarray
    bounds: np.ndarray
    has_floor: bool
    _known: dict[tuple[float, ...], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, calibration: Calibration) -> _Begun:
        low, centre, high = calibration.offsets([BOUNDS[0], 0.5, BOUNDS[1]])
        has_floor = bool(np.isfinite(calibration.floor).any())
        return cls(calibration, centre, np.stack([low - centre, high - centre]), has_floor)

    def deviations(self, levels: Sequence[float]) -> np.ndarray:
        """[Q, H, N]: distances of quantiles from the median."""
        key = require_levels(levels)
        if key not in self._known:
            if len(self._known) == MOST_LEVELS:
                self._known.clear()
            self._known[key] = self.calibration.offsets(key) - self.centre
        return self._known[key]

    def scale(self, context: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """[N]: the scale of a window, in the recording's units."""
        of_window = self.calibration.scale(window_spread(context[None])[0])
        of_window *= scale
        return of_window
