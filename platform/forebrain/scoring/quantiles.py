"""Metrics of forecasts that say how sure they are: quantiles, scored with proper losses and by what they
cover.

A forecast is given by its quantiles at LEVELS. All definitions are on normalised values, for one session:

- pinball loss of level q: rho_q(e) = max(q e, (q - 1) e), e = target - quantile.
- `mwql`: mean weighted quantile loss, sum over targets of the mean over deciles of 2 rho_q, over sum
  |target|.
- `crps`: continuous ranked probability score, the mean over targets of twice the mean pinball loss at
  MIDPOINTS; it is exact for the 20 values at these levels, each as likely (Laio & Tamea 2007).
- `coverage`, `width` of the central 50, 80 and 90 %: the part of targets inside, bounds included, and the
  mean distance of the bounds.
- `worst_tenth_coverage`: coverage of the tenth of the units in which it is least (one unit at least): what a
  mean over units hides.
- `pit`: probability integral transform, the level at which each target lies, drawn at random between the two
  ends where several levels have the target's value, as those of counts do (Czado et al. 2009). Of a
  calibrated forecast it is uniform.

Targets that are NaN did not come and take no part. Over several sessions each metric is the mean over
sessions. Undefined is NaN here and null in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forebrain.errors import ConfigError

# 1/40 to 39/40: among them the deciles, the bounds of 50, 80 and 90 %, and the middles of 20 equal parts.
LEVELS: np.ndarray = np.arange(1, 40) / 40
DECILES = tuple(range(3, 39, 4))  # positions in LEVELS
MIDPOINTS = tuple(range(0, 39, 2))
COVERAGES = (0.5, 0.8, 0.9)
PIT_BINS = 20
INFORMATIVE = 0.95
# Levels between which pictures of forecasts are shaded.
BAND = (0.1, 0.9)


def require_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Levels of quantiles as they were asked for.

    Raises:
        ConfigError: there is none, one is not inside (0, 1), or one comes twice.
    """
    asked = tuple(float(level) for level in levels)
    if not asked or not all(0 < level < 1 for level in asked):
        raise ConfigError(
            f"quantiles are {', '.join(f'{level:g}' for level in asked) or 'none'}; expected levels between "
            "0 and 1, neither included, such as 0.1 0.5 0.9."
        )
    if len(set(asked)) != len(asked):
        raise ConfigError(
            f"quantiles are {', '.join(f'{level:g}' for level in asked)}; expected each level once."
        )
    return asked


def pinball(level: float, error: np.ndarray) -> np.ndarray:
    """rho_q of errors (target less quantile), of any shape."""
    return np.maximum(level * error, (level - 1) * error)


def bounds_of(coverage: float) -> tuple[int, int]:
    """Positions in LEVELS of the bounds of a central interval."""
    low = round((1 - coverage) / 2 * 40) - 1
    return low, len(LEVELS) - 1 - low


@dataclass(frozen=True, eq=False)
class QuantileScores:
    """Sums over one session's windows, from which its metrics follow.

    Attributes:
        count: [H, N], targets.
        loss: [H, N], pinball losses summed over targets, twice the mean over deciles.
        crps_sum: [H, N], likewise twice the mean over MIDPOINTS.
        size: [H, N], absolute targets.
        covered, width_sum: [3, H, N], by COVERAGES.
        pit_count: [PIT_BINS], targets by their level.
        rate_hz: of the frames; None where unknown.
    """

    count: np.ndarray
    loss: np.ndarray
    crps_sum: np.ndarray
    size: np.ndarray
    covered: np.ndarray
    width_sum: np.ndarray
    pit_count: np.ndarray
    rate_hz: float | None = None

    @property
    def crps(self) -> float:
        return _ratio(self.crps_sum.sum(), self.count.sum())

    @property
    def mwql(self) -> float:
        return _ratio(self.loss.sum(), self.size.sum())

    @property
    def coverage(self) -> np.ndarray:
        """[3], by COVERAGES."""
        return self.covered.sum(axis=(1, 2)) / max(self.count.sum(), 1)

    @property
    def width(self) -> np.ndarray:
        """[3], by COVERAGES."""
        return self.width_sum.sum(axis=(1, 2)) / max(self.count.sum(), 1)

    @property
    def unit_coverage(self) -> np.ndarray:
        """[3, N]; NaN for a unit without a target."""
        count = self.count.sum(axis=0)
        covered = self.covered.sum(axis=1)
        return np.divide(covered, count, out=np.full(covered.shape, np.nan), where=count > 0)

    @property
    def worst_tenth_coverage(self) -> np.ndarray:
        """[3], by COVERAGES."""
        worst = np.full(len(COVERAGES), np.nan)
        for place, values in enumerate(self.unit_coverage):
            known = np.sort(values[np.isfinite(values)])
            if len(known):
                worst[place] = known[: max(1, len(known) // 10)].mean()
        return worst

    @property
    def pit(self) -> np.ndarray:
        """[PIT_BINS], part of the targets in each bin; 1 / PIT_BINS each where the forecast is calibrated."""
        return self.pit_count / max(self.pit_count.sum(), 1)

    def step_loss(self) -> np.ndarray:
        """[H], the mean of twice the pinball loss at each step."""
        return self.loss.sum(axis=1) / np.maximum(self.count.sum(axis=1), 1)

    def to_json(self) -> dict[str, Any]:
        """The metrics as plain values; what is undefined is None."""
        count, size = self.count.sum(axis=1), self.size.sum(axis=1)
        steps = range(len(count))
        return {
            **headline([self]),
            "pit": [_plain(value) for value in self.pit],
            "by_horizon": {
                "coverage": _by_coverage(self.covered.sum(axis=2) / np.maximum(count, 1)),
                "width": _by_coverage(self.width_sum.sum(axis=2) / np.maximum(count, 1)),
                "crps": [_plain(_ratio(self.crps_sum[step].sum(), count[step])) for step in steps],
                "mwql": [_plain(_ratio(self.loss[step].sum(), size[step])) for step in steps],
            },
            "coverage_by_unit": _by_coverage(self.unit_coverage),
        }


class QuantileAccumulator:
    """Collects the quantiles of one forecaster on one session, batch by batch; memory for ten arrays [H, N].

    Args:
        horizon: H, frames.
        num_units: N.
        rng: for the random part of the PIT.
        rate_hz: of the frames; None where unknown.
    """

    def __init__(
        self, horizon: int, num_units: int, rng: np.random.Generator, rate_hz: float | None = None
    ) -> None:
        shape = horizon, num_units
        self._rng, self._rate_hz = rng, rate_hz
        self._count, self._loss, self._crps, self._size = (np.zeros(shape) for _ in range(4))
        self._covered, self._width = np.zeros((3, *shape)), np.zeros((3, *shape))
        self._pit = np.zeros(PIT_BINS)

    def update(self, quantiles: np.ndarray, target: np.ndarray) -> None:
        """Adds a batch of windows.

        Args:
            quantiles: [39, B, H, N] at LEVELS, ascending along the first axis.
            target: [B, H, N], what came; NaN where nothing did.

        Raises:
            ConfigError: quantiles have another shape, or are not finite.
        """
        if quantiles.shape != (len(LEVELS), *target.shape):
            raise ConfigError(
                f"quantiles have shape {quantiles.shape}; expected {(len(LEVELS), *target.shape)}: levels, "
                "windows, horizon steps, units."
            )
        known = np.isfinite(target)
        target = np.where(known, target, 0).astype(np.float64)
        below, not_above = np.zeros(target.shape, np.int16), np.zeros(target.shape, np.int16)
        for place, level in enumerate(LEVELS):
            error = target - quantiles[place]
            if not np.isfinite(error).all():
                raise ConfigError(f"quantiles at {level:g} are not finite. Did training diverge?")
            below += error > 0
            not_above += error >= 0
            if place in DECILES or place in MIDPOINTS:
                loss = (2 * pinball(level, error) * known).sum(axis=0)
                if place in DECILES:
                    self._loss += loss / len(DECILES)
                if place in MIDPOINTS:
                    self._crps += loss / len(MIDPOINTS)
        for place, coverage in enumerate(COVERAGES):
            low, high = (quantiles[bound] for bound in bounds_of(coverage))
            self._covered[place] += (known & (low <= target) & (target <= high)).sum(axis=0)
            self._width[place] += ((high - low) * known).sum(axis=0, dtype=np.float64)
        self._count += known.sum(axis=0)
        self._size += np.abs(target).sum(axis=0)
        # Between the level of the last quantile below and that of the first above; where some have the
        # target's value, its probability begins and ends halfway to the levels of those that have not.
        tied = not_above > below
        low = np.where(tied & (below > 0), below + 0.5, below)
        high = np.where(tied & (not_above < len(LEVELS)), not_above + 0.5, not_above + 1)
        pit = (low + self._rng.random(target.shape) * (high - low)) / (1 + len(LEVELS))
        bins = np.minimum((pit * PIT_BINS).astype(int), PIT_BINS - 1)
        self._pit += np.bincount(bins[known], minlength=PIT_BINS)

    def scores(self) -> QuantileScores:
        """The scores of all windows so far."""
        return QuantileScores(
            self._count, self._loss, self._crps, self._size, self._covered, self._width, self._pit,
            self._rate_hz,
        )  # fmt: skip


def headline(scores: Sequence[QuantileScores]) -> dict[str, Any]:
    """Means over sessions as plain values: coverage, width, crps, mwql, worst_tenth_coverage."""
    return {
        "coverage": _levels(_mean([each.coverage for each in scores])),
        "width": _levels(_mean([each.width for each in scores])),
        "crps": _plain(float(_mean([each.crps for each in scores]))),
        "mwql": _plain(float(_mean([each.mwql for each in scores]))),
        "worst_tenth_coverage": _levels(_mean([each.worst_tenth_coverage for each in scores])),
    }


def informative_horizon(
    loss: np.ndarray, of_mean: np.ndarray, rate_hz: float | None
) -> tuple[float | None, bool]:
    """How far ahead forecasts say more than the unit's mean does.

    Args:
        loss: [H], of the forecast at each step, of any kind.
        of_mean: [H], of a forecast of each unit's mean.
        rate_hz: frames a second; None where unknown.

    Returns:
        Seconds, or frames where no rate is known, up to the last step before the loss first exceeds 95 % of
        the mean's; None where the mean makes no error. And whether it never does, so that the true horizon
        is as long or longer.
    """
    if not (of_mean > 0).all():
        return None, False
    exceeds = loss >= INFORMATIVE * of_mean
    steps = int(np.argmax(exceeds)) if exceeds.any() else len(loss)
    return steps / (rate_hz or 1.0), not exceeds.any()


def _by_coverage(values: np.ndarray) -> dict[str, list[float | None]]:
    return {
        str(level): [_plain(value) for value in row] for level, row in zip(COVERAGES, values, strict=True)
    }


def _levels(values: np.ndarray) -> dict[str, float | None]:
    return {str(level): _plain(value) for level, value in zip(COVERAGES, values, strict=True)}


def _mean(values: Sequence[Any]) -> Any:
    """The mean over sessions in which a value is defined."""
    stacked = np.array(values, float)
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else math.nan


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
