"""Conformal calibration: intervals for any forecaster, from the residuals that it left on frames it never
saw.

A residual of unit n and step h is taken over a scale of its window,

    scale^2 = share * spread^2 + (1 - share) * typical^2,

where spread (`window_spread`) is how much the unit moves in its context, and typical the unit's own spread
over all windows. Quantiles of these residuals are taken a unit and horizon at a time (with the (n + 1) of
split conformal prediction, Vovk et al. 2005, Lei et al. 2018) and drawn towards those of all units, scaled by
the unit's size, as far as the unit has few windows that share no target. The share is the one under which
halves of the time forecast each other's quantiles best. The quantile of a forecast is the point plus the
scale times the residual's quantile; the point stays as it is.

What comes in is arrays, so residuals of held-out frames and those of blocks of time that others forecast
(cross-conformal, `ridge.Trial`) are calibrated alike. Values that are NaN did not come and take no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, Self

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring.quantiles import DECILES, LEVELS, pinball, require_levels

SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.98)
# Windows without common targets at which a unit's own quantiles weigh as much as those of all units.
HALF_OWN = 20.0
# Of that, at which a unit's size weighs as much as the mean size: one number takes less than a quantile.
SIZE_PART = 0.25
# With fewer windows that share no frame at all, intervals are widened by this power of what is missing.
# Tried on recordings cut before their test part: 80 % intervals cover 79 to 84 %, whether there are one, two,
# three, four or five of them; with the square root 82 to 95, without widening 72 to 81.
ENOUGH_WINDOWS = 6
WIDENING = 1 / 6
# A unit has a floor, which its quantiles do not pass, if so much of its calibration targets lie there.
AT_FLOOR = 0.25
# Of more units no table is kept for each: they have their own size and the shape of all.
MAX_OWN_UNITS = 4096
# Units and values that are enough to choose by, and to find the shape of all units.
CHOICE_UNITS = 64
MAX_POOLED = 1 << 18
TINY = 1e-6
# A unit whose typical spread is below this part of the median unit's was silent while it was calibrated on:
# how far it will be off when it moves only the others can tell.
SILENT = 0.05


def window_spread(context: np.ndarray) -> np.ndarray:
    """[B, N]: how much units move in contexts [B, C, N].

    The geometric mean of the root mean square distance from the last frame and of the mean absolute change
    from frame to frame: of slow and of fast movement.
    """
    away = context - context[:, -1:]
    squares = np.einsum("bcn,bcn->bn", away, away)
    steps = away[:, 1:] - away[:, :-1]
    np.abs(steps, out=steps)
    np.sqrt(squares, out=squares)
    squares *= steps.sum(axis=1)
    squares *= 1 / (context.shape[1] ** 0.5 * max(1, context.shape[1] - 1))
    return np.sqrt(squares, out=squares)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far forecasts of one session are off, by level, step and unit; on normalised values.

    Attributes:
        share: of the window's own spread in its scale.
        typical: float32 [N], spread of the unit.
        shape: float32 [39, H], residuals' quantiles of all units, over their size.
        size: float32 [H, N], mean absolute residual, over the scale.
        own: float32 [39, H, N], quantiles of each unit; None where all have `size` times `shape`.
        floor: float32 [N], below which no quantile goes; -inf where there is none.
        step: float32 [N], standard deviation of one-step differences; NaN where not known.
        record: how it came about, plain values.
    """

    share: float
    typical: np.ndarray
    shape: np.ndarray
    size: np.ndarray
    own: np.ndarray | None
    floor: np.ndarray
    step: np.ndarray
    record: Mapping[str, Any]

    @property
    def horizon(self) -> int:
        """H, frames."""
        return self.size.shape[0]

    @property
    def num_units(self) -> int:
        """N."""
        return self.size.shape[1]

    def scale(self, spread: np.ndarray) -> np.ndarray:
        """The scale [..., N] of windows with a spread [..., N]."""
        squares: np.ndarray = self.share * np.square(spread)
        squares += self._least_square
        return np.sqrt(squares, out=squares)

    @cached_property
    def _least_square(self) -> np.ndarray:
        """[N], of the scale of a window in which nothing moves."""
        return ((1 - self.share) * np.square(self.typical) + TINY**2).astype(np.float32)

    def offsets(self, levels: Sequence[float] | None = None) -> np.ndarray:
        """Quantiles of residuals over the scale, float32 [Q, H, N]; at LEVELS where none are given.

        Raises:
            ConfigError: a level is not inside (0, 1), or comes twice.
        """
        if levels is None:
            return self.own if self.own is not None else self.shape[..., None] * self.size
        mixed = _mixture(require_levels(levels)).astype(np.float32)
        if self.own is None:
            return np.tensordot(mixed, self.shape, 1)[..., None] * self.size
        return np.tensordot(mixed, self.own, 1).astype(np.float32)

    def quantiles(
        self, forecast: np.ndarray, spread: np.ndarray, levels: Sequence[float] | None = None
    ) -> np.ndarray:
        """Quantiles of what will come.

        Args:
            forecast: [B, H, N].
            spread: [B, N] of the windows, see `window_spread`.
            levels: None for LEVELS.

        Returns:
            [Q, B, H, N], ascending with the level.
        """
        offsets = self.offsets(levels)[:, None]
        return np.maximum(forecast + self.scale(spread)[:, None] * offsets, self.floor)

    def of_units(self, units: np.ndarray) -> Calibration:
        """The calibration of some of the units, by number."""
        own = None if self.own is None else self.own[..., units]
        return Calibration(
            self.share, self.typical[units], self.shape, self.size[:, units], own, self.floor[units],
            self.step[units], self.record,
        )  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything but the record, for a safetensors file."""
        named = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        return {name: np.ascontiguousarray(values) for name, values in named.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], where: str) -> Self:
        """The calibration whose `arrays` and record these are; its quantiles have the same bits.

        Raises:
            ConfigError: an array is missing or has the wrong shape or type, or the record has no share.
        """
        size = arrays.get("size")
        share = record.get("share")
        if size is None or size.ndim != 2 or not isinstance(share, float) or not 0 <= share <= 1:
            raise ConfigError(f"{where}: holds no calibration: expected size [horizon, units] and a share.")
        horizon, num_units = size.shape
        shapes = {
            "typical": (num_units,), "shape": (len(LEVELS), horizon), "size": (horizon, num_units),
            "own": (len(LEVELS), horizon, num_units), "floor": (num_units,), "step": (num_units,),
        }  # fmt: skip
        for name, shape in shapes.items():
            values = arrays.get(name)
            if values is None and name == "own":
                continue
            if values is None or values.shape != shape or values.dtype != np.float32:
                found = "nothing" if values is None else f"{values.dtype} {list(values.shape)}"
                raise ConfigError(
                    f"{where}: {name} of the calibration is {found}; expected float32 {list(shape)}."
                )
            if name not in ("floor", "step") and not np.isfinite(values).all():
                raise ConfigError(f"{where}: {name} of the calibration is not finite. Is the file damaged?")
        own = arrays.get("own")
        return cls(
            share, arrays["typical"], arrays["shape"], size, own, arrays["floor"], arrays["step"], record
        )


_ARRAYS = ("typical", "shape", "size", "own", "floor", "step")


def calibrate(
    forecast: np.ndarray,
    target: np.ndarray,
    spread: np.ndarray,
    starts: np.ndarray,
    calibrated_on: str,
    context: int,
    *,
    step: np.ndarray | None = None,
    half_own: float = HALF_OWN,
) -> Calibration:
    """Calibrates on forecasts that were not fitted on what they forecast.

    Args:
        forecast, target: [W, H, N]; NaN where nothing came.
        spread: [W, N] of the windows, see `window_spread`.
        starts: [W], start frames of the windows, in order.
        calibrated_on: what these frames are, in words, for the record.
        context: C, frames that each window knows.
        step: [N], standard deviation of one-step differences; None where not known.
        half_own: see HALF_OWN.

    Raises:
        ConfigError: there is not a single window in which anything came.
    """
    num_windows, horizon, num_units = target.shape
    independent = num_independent(starts, horizon)
    moved = np.isfinite(target) & np.isfinite(forecast)
    if not moved.any():
        raise ConfigError(
            "there is nothing to calibrate intervals on: not a window whose targets came, of "
            f"{num_windows}. Give a longer recording."
        )
    error = np.where(moved, target - forecast, np.nan).astype(np.float32)
    typical = np.sqrt(np.nanmean(np.square(spread, dtype=np.float64), axis=0)).astype(np.float32)
    is_silent = typical <= SILENT * np.median(typical)
    typical = np.where(is_silent, max(float(np.median(typical)), TINY), typical).astype(np.float32)
    error[..., is_silent] = np.nan
    if not np.isfinite(error).any():
        error[moved] = 0  # nothing moves at all
    share = _choose_share(error, spread, typical, starts, half_own)
    fit = _fit(error, _scale(share, spread, typical), starts, half_own)
    apart = num_independent(starts, context + horizon)
    widened = max(1.0, ENOUGH_WINDOWS / apart) ** WIDENING
    record = {
        "calibrated_on": calibrated_on,
        "share": share,
        "num_windows": num_windows,
        "num_independent": independent,
        "num_apart": apart,
        "own_weight": fit.own_weight,
        "widened": widened,
        "silent_units": int(is_silent.sum()),
        "units_with_floor": 0,
        "note": None
        if widened == 1
        else (
            f"{apart} windows that share no frame are too few to calibrate on; intervals are widened "
            f"{widened:.2f} times"
        ),
    }
    own = None if num_units > MAX_OWN_UNITS else (widened * fit.table()).astype(np.float32)
    floor = _floors(target)
    record["units_with_floor"] = int(np.isfinite(floor).sum())
    known_step = np.full(num_units, np.nan) if step is None else step
    return Calibration(
        share, typical, (widened * fit.shape).astype(np.float32), fit.size.astype(np.float32), own, floor,
        known_step.astype(np.float32), record,
    )  # fmt: skip


def num_independent(starts: np.ndarray, length: int) -> int:
    """How many of windows in order of time begin at least so many frames apart."""
    count, free_from = 0, -math.inf
    for start in starts:
        if start >= free_from:
            count, free_from = count + 1, start + length
    return count


def sorted_quantiles(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles [Q, ...] along the first axis of values [W, ...], at (n + 1) q, without those that are NaN.

    Levels beyond the first or last value get that value; where there is none, 0.
    """
    ordered = np.sort(values, axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    ordered = np.where(np.isfinite(ordered), ordered, 0)
    position = np.clip(levels.reshape(-1, *[1] * count.ndim) * (count + 1) - 1, 0, np.maximum(count - 1, 0))
    below = np.floor(position).astype(np.intp)
    above = np.minimum(below + 1, np.maximum(count - 1, 0))
    low, high = np.take_along_axis(ordered, below, 0), np.take_along_axis(ordered, above, 0)
    quantiles: np.ndarray = low + (position - below) * (high - low)
    return quantiles


@dataclass(frozen=True, eq=False)
class _Fit:
    """Quantiles of residuals over their scale: shape [39, H] of all units, size [H, N], own [39, H, N]."""

    shape: np.ndarray
    size: np.ndarray
    own: np.ndarray
    own_weight: float

    def table(self) -> np.ndarray:
        """[39, H, N], ascending."""
        pooled = self.shape[..., None] * self.size
        if not self.own.size:
            return pooled
        return self.own_weight * self.own + (1 - self.own_weight) * pooled


def _fit(error: np.ndarray, scale: np.ndarray, starts: np.ndarray, half_own: float) -> _Fit:
    residual = error / scale[:, None]
    independent = num_independent(starts, error.shape[1])
    own_weight = independent / (independent + half_own)
    count = np.isfinite(residual).sum(axis=0)
    total = np.nansum(np.abs(residual), axis=0, dtype=np.float64)
    size = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    moves = size > 0
    mean_size = np.array(
        [row[move].mean() if move.any() else 0.0 for row, move in zip(size, moves, strict=True)]
    )
    # Of a unit of which nothing came, or that was silent, only the others tell.
    unseen = count == 0
    shape = _shape(residual, size)
    of_size = independent / (independent + SIZE_PART * half_own)
    size = np.where(unseen, mean_size[:, None], of_size * size + (1 - of_size) * mean_size[:, None])
    size = np.where(~moves & ~unseen, 0, size)
    if error.shape[2] > MAX_OWN_UNITS:
        return _Fit(shape, size, np.zeros((0,)), 0.0)
    own = sorted_quantiles(residual, LEVELS)
    own = np.where(unseen, shape[..., None] * size, own)
    return _Fit(shape, size, own, own_weight)


def _shape(residual: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[39, H]: quantiles over windows and units of residuals over the unit's size; 0 where nothing moves."""
    horizon, num_units = size.shape
    every = max(1, residual.shape[0] * num_units // MAX_POOLED)
    shape = np.zeros((len(LEVELS), horizon))
    for step in range(horizon):
        moves = size[step] > 0
        values = (residual[:, step, moves] / size[step, moves])[:, ::every].reshape(-1, 1)
        if np.isfinite(values).any():
            shape[:, step] = sorted_quantiles(values, LEVELS)[:, 0]
    return shape


def _scale(share: float, spread: np.ndarray, typical: np.ndarray) -> np.ndarray:
    return np.sqrt(share * np.square(spread) + (1 - share) * np.square(typical) + TINY**2)


def _choose_share(
    error: np.ndarray, spread: np.ndarray, typical: np.ndarray, starts: np.ndarray, half_own: float
) -> float:
    """The share with the least pinball loss on one half of the time by the other's quantiles."""
    units = np.unique(np.linspace(0, len(typical) - 1, min(len(typical), CHOICE_UNITS)).astype(int))
    error, spread, typical = error[..., units], spread[:, units], typical[units]
    middle = len(starts) // 2
    horizon = error.shape[1]
    early, late = starts <= starts[middle] - horizon, starts >= starts[middle]
    if not (early.any() and late.any()):
        return 0.5
    losses = []
    for share in SHARES:
        scale = _scale(share, spread, typical)
        loss = 0.0
        for fitted, judged in ((early, late), (late, early)):
            table = _fit(error[fitted], scale[fitted], starts[fitted], half_own).table()
            for place in DECILES:
                rest = error[judged] - scale[judged][:, None] * table[place]
                loss += float(np.nansum(pinball(LEVELS[place], rest), dtype=np.float64))
        losses.append(loss)
    return SHARES[int(np.argmin(losses))]


def _floors(target: np.ndarray) -> np.ndarray:
    """float32 [N]: the least target of units that lie on it for much of the time, and are not constant."""
    least = np.nanmin(np.where(np.isfinite(target), target, np.inf), axis=(0, 1))
    there = (target <= least + TINY).sum(axis=(0, 1))
    known = np.isfinite(target).sum(axis=(0, 1))
    has_floor = (there >= AT_FLOOR * known) & (there < known)
    return np.where(has_floor, least, -np.inf).astype(np.float32)


def _mixture(levels: Sequence[float]) -> np.ndarray:
    """[Q, 39]: what makes quantiles at any levels of those at LEVELS.

    Linear between two in the normal distribution's deviates; beyond the outermost ones the distance from the
    median grows as the normal distribution's does.
    """
    normal = NormalDist()
    known = np.array([normal.inv_cdf(level) for level in LEVELS])
    median = len(LEVELS) // 2
    mixture = np.zeros((len(levels), len(LEVELS)))
    for row, level in zip(mixture, levels, strict=True):
        deviate = normal.inv_cdf(level)
        if abs(deviate) >= known[-1]:
            outermost = -1 if deviate > 0 else 0
            growth = abs(deviate) / known[-1]
            row[outermost] = growth
            row[median] += 1 - growth
            continue
        above = int(np.searchsorted(known, deviate))
        if math.isclose(known[above], deviate, abs_tol=1e-9):
            row[above] = 1
            continue
        part = (deviate - known[above - 1]) / (known[above] - known[above - 1])
        row[above - 1], row[above] = 1 - part, part
    return mixture
