"""Metrics of forecasts: score against copy, MSE, MAE, correlation; streaming, one session at a time.

Definitions, all on normalised values and for one session:

- `mse`, `mae`: mean over windows, horizon steps and units.
- `score`: 1 - mse / mse_copy on the same windows, where copy repeats the last context frame. 0 is copy, 1 is
  perfect. Where copy makes no error (nothing moved) the score is undefined, for every forecaster alike.
- `correlation`: Pearson's r over windows for a unit and a horizon step, then the mean. Where the target is
  constant it is undefined and left out, for every forecaster alike; a constant forecast of a target that
  varies has correlation 0.

Over several sessions each metric is the mean over sessions. Undefined is NaN here and null in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from forebrain.errors import ConfigError, DivergenceError, RecordingError
from forebrain.scoring.intervals import (
    LEVEL,
    block_resamples,
    percentile_interval,
    rng_for,
    session_resamples,
    windows_per_block,
)
from forebrain.scoring.units import UnitScores

METRICS = ("score", "mse", "mae", "correlation")
UNIT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
IntervalKind = Literal["sessions", "blocks", "none"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Metrics of one forecaster on one session, or averaged over several.

    Attributes:
        values: [4, 1 + H]; a row for each of `METRICS`, the first column over the whole horizon, then
            one for each step.
        low, high: [4, 1 + H], the 95 % interval; NaN where there is none.
        interval: how the interval came about: `sessions` (bootstrap over sessions), `blocks` (one
            session: bootstrap over blocks of time, which has none for correlation), or `none` (fewer
            than two blocks).
        unit_quantiles: [5], the `UNIT_QUANTILES` of the scores of single units (units that never move
            left out); for several sessions the mean of their quantiles.
        num_windows: windows scored.
        num_sessions: sessions averaged, that is, those with a defined score.
        block_scores: [R], of one session: the score over the whole horizon in each resample of its blocks,
            which are the same for every forecaster. Empty where there are none; not kept in JSON.
        units: of one session: how well each of its units is forecast; not kept in JSON.
    """

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    interval: IntervalKind
    unit_quantiles: np.ndarray
    num_windows: int
    num_sessions: int
    block_scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    units: UnitScores | None = None

    @property
    def horizon(self) -> int:
        return self.values.shape[1] - 1

    def value(self, metric: str) -> float:
        """The metric over the whole horizon."""
        return float(self.values[METRICS.index(metric), 0])

    def bounds(self, metric: str) -> tuple[float, float]:
        """The metric's interval over the whole horizon."""
        row = METRICS.index(metric)
        return float(self.low[row, 0]), float(self.high[row, 0])

    def by_step(self, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, low, high), each [H]."""
        row = METRICS.index(metric)
        return self.values[row, 1:], self.low[row, 1:], self.high[row, 1:]

    def headline(self) -> dict[str, Any]:
        """The metrics over the whole horizon as plain values for JSON; what is undefined is None."""
        return {
            **{metric: _plain(self.value(metric)) for metric in METRICS},
            "interval": {
                "kind": self.interval,
                "level": LEVEL,
                **{metric: [_plain(bound) for bound in self.bounds(metric)] for metric in METRICS},
            },
            "unit_quantiles": {
                str(quantile): _plain(value)
                for quantile, value in zip(UNIT_QUANTILES, self.unit_quantiles, strict=True)
            },
            "num_windows": self.num_windows,
            "num_sessions": self.num_sessions,
        }

    def to_json(self) -> dict[str, Any]:
        """`headline` and the horizon steps; `from_json` gives back the same scores to the last bit."""
        steps = {}
        for metric in METRICS:
            columns = zip(("value", "low", "high"), self.by_step(metric), strict=True)
            steps[metric] = {name: [_plain(value) for value in column] for name, column in columns}
        return {**self.headline(), "by_horizon": steps}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Scores:
        """The scores that `to_json` was given."""
        interval, steps = state["interval"], state["by_horizon"]

        def rows(name: str, overall: Mapping[str, Any]) -> np.ndarray:
            return np.array([[overall[metric], *steps[metric][name]] for metric in METRICS], dtype=float)

        return cls(
            values=rows("value", state),
            low=rows("low", {metric: interval[metric][0] for metric in METRICS}),
            high=rows("high", {metric: interval[metric][1] for metric in METRICS}),
            interval=interval["kind"],
            unit_quantiles=np.array([state["unit_quantiles"][str(q)] for q in UNIT_QUANTILES], dtype=float),
            num_windows=state["num_windows"],
            num_sessions=state["num_sessions"],
        )


class ScoreAccumulator:
    """Collects one forecaster's errors on one session, batch by batch.

    Memory: five float64 arrays [H, N] and three numbers a window and step, however long the session.

    Args:
        session: the session's id, for messages and to seed its bootstrap.
        forecaster: the forecaster's name, for messages.
        horizon: H, frames.
        num_units: N.
    """

    def __init__(self, session: str, forecaster: str, horizon: int, num_units: int) -> None:
        self.session = session
        self.forecaster = forecaster
        self._shape = (horizon, num_units)
        self._moments = [_PairedMoments(num_units) for _ in range(horizon)]
        self._unit_sse = np.zeros(num_units)
        self._unit_copy_sse = np.zeros(num_units)
        self._window_errors: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []

    def update(
        self, forecast: np.ndarray, target: np.ndarray, last_frame: np.ndarray, starts: np.ndarray
    ) -> None:
        """Adds a batch of windows.

        Args:
            forecast: [B, H, N].
            target: [B, H, N], what came.
            last_frame: [B, N], the last frame of the context.
            starts: [B], the frame at which each window starts.

        Raises:
            ConfigError: the forecast has the wrong shape.
            DivergenceError: the forecast is not finite.
            RecordingError: the target is not finite.
        """
        expected = (len(starts), *self._shape)
        if forecast.shape != expected:
            raise ConfigError(
                f"{self._where}: the forecast has shape {forecast.shape}; expected {expected}: "
                "windows, horizon steps, units. Do model and data agree on the horizon?"
            )
        if not (np.isfinite(target).all() and np.isfinite(last_frame).all()):
            raise RecordingError(
                f"session {self.session}: windows to score hold values that are not finite. "
                "Repair the recording and prepare it again."
            )
        finite = np.isfinite(forecast)
        if not finite.all():
            raise DivergenceError(
                f"{self._where}: {np.count_nonzero(~finite)} of {finite.size} forecast values are not "
                f"finite, in windows from frame {starts[0]}. Did training diverge?"
            )
        last_frame = last_frame.astype(np.float64)
        errors = np.empty((len(starts), 3, len(self._moments)))
        # A step at a time: what it works on stays in the cache, which is three times faster (measured).
        for step, moments in enumerate(self._moments):
            x, y = forecast[:, step].astype(np.float64), target[:, step].astype(np.float64)
            error, drift = x - y, y - last_frame
            errors[:, 1, step] = np.abs(error).mean(axis=1)
            error *= error
            drift *= drift
            errors[:, 0, step] = error.mean(axis=1)
            errors[:, 2, step] = drift.mean(axis=1)
            self._unit_sse += error.sum(axis=0)
            self._unit_copy_sse += drift.sum(axis=0)
            moments.update(x, y)
        self._window_errors.append(errors)
        self._starts.append(np.asarray(starts))

    def scores(self, window_frames: int, seed: int, training_mean: np.ndarray | None = None) -> Scores:
        """The scores of all windows so far.

        Args:
            window_frames: context + horizon, the least length of a bootstrap block.
            seed: of the bootstrap; together with the session's id, so that every forecaster meets the
                same resamples.
            training_mean: [N], each unit's mean over the training part, for the scores of single units.

        Raises:
            ConfigError: no window was added.
        """
        if not self._starts:
            raise ConfigError(f"{self._where}: no window to score.")
        starts = np.concatenate(self._starts)
        order = np.argsort(starts, kind="stable")
        steps = np.concatenate(self._window_errors)[order]  # [W, 3, H]
        errors = np.concatenate([steps.mean(axis=2, keepdims=True), steps], axis=2)
        correlations = np.stack([moments.correlation() for moments in self._moments])
        correlation = np.array([_mean_defined(correlations), *map(_mean_defined, correlations)])
        values = np.concatenate([_score_rows(errors.mean(axis=0)), correlation[None]])

        starts = starts[order]
        block = windows_per_block(starts, window_frames)
        low = high = np.full_like(values, np.nan)
        block_scores = np.zeros(0)
        interval: IntervalKind = "none"
        if len(starts) >= 2 * block:
            resamples = block_resamples(
                errors.reshape(len(starts), -1), block, rng_for(seed, "blocks", self.session)
            )
            rows = _score_rows(resamples.reshape(-1, *errors.shape[1:]))
            bounds, block_scores = percentile_interval(rows), rows[:, 0, 0].copy()
            missing = np.full_like(correlation, np.nan)[None]
            low, high = (np.concatenate([bound, missing]) for bound in bounds)
            interval = "blocks"
        return Scores(
            values=values,
            low=low,
            high=high,
            interval=interval,
            unit_quantiles=self._unit_quantiles(),
            num_windows=len(starts),
            num_sessions=int(np.isfinite(values[0, 0])),
            block_scores=block_scores,
            units=None if training_mean is None else self._units(training_mean, correlations),
        )

    def _units(self, training_mean: np.ndarray, correlation: np.ndarray) -> UnitScores:
        count = sum(map(len, self._starts)) * len(self._moments)
        return UnitScores.from_moments(
            error=np.stack([moments.error() for moments in self._moments]),
            copy_error=self._unit_copy_sse / count,
            variance=pooled_variance([moments.target() for moments in self._moments]),
            spread=np.stack([moments.spread(training_mean) for moments in self._moments]),
            correlation=correlation,
        )

    def _unit_quantiles(self) -> np.ndarray:
        moved = self._unit_copy_sse > 0
        if not moved.any():
            return np.full(len(UNIT_QUANTILES), np.nan)
        return np.quantile(1 - self._unit_sse[moved] / self._unit_copy_sse[moved], UNIT_QUANTILES)

    @property
    def _where(self) -> str:
        return f"forecaster {self.forecaster}, session {self.session}"


def summarise(sessions: Mapping[str, Scores], horizon: int, seed: int) -> Scores:
    """The mean over sessions, with a bootstrap over sessions; of one session, its own scores.

    Sessions whose score is undefined take no part.

    Args:
        sessions: scores by session id.
        horizon: H, frames.
        seed: of the bootstrap. The order of the sessions does not matter.
    """
    scored = [sessions[name] for name in sorted(sessions) if sessions[name].num_sessions]
    if len(scored) == 1:
        return scored[0]
    if not scored:
        undefined = np.full((len(METRICS), 1 + horizon), np.nan)
        return Scores(undefined, undefined, undefined, "none", np.full(len(UNIT_QUANTILES), np.nan), 0, 0)
    values = np.stack([scores.values for scores in scored])
    resamples = session_resamples(values.reshape(len(scored), -1), rng_for(seed, "sessions"))
    low, high = percentile_interval(resamples.reshape(-1, *values.shape[1:]))
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return Scores(
        values=np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0),
        low=low,
        high=high,
        interval="sessions",
        unit_quantiles=np.mean([scores.unit_quantiles for scores in scored], axis=0),
        num_windows=sum(scores.num_windows for scores in scored),
        num_sessions=len(scored),
    )


class _PairedMoments:
    """Means, variances and covariance of forecast and target over windows, for each unit.

    Batches are merged by the update of Chan, Golub & LeVeque (1983): it loses no digits where the mean
    is large, and a constant has a variance of exactly 0.
    """

    def __init__(self, num_units: int) -> None:
        self._count = 0
        self._mean_x, self._mean_y = np.zeros(num_units), np.zeros(num_units)
        self._xx, self._yy, self._xy = np.zeros(num_units), np.zeros(num_units), np.zeros(num_units)

    def update(self, x: np.ndarray, y: np.ndarray) -> None:
        """Adds x and y, both [B, N]."""
        count = self._count + len(x)
        mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
        rest_x, rest_y = x - mean_x, y - mean_y
        shift_x, shift_y = mean_x - self._mean_x, mean_y - self._mean_y
        weight = self._count * len(x) / count
        self._xx += (rest_x * rest_x).sum(axis=0) + weight * shift_x * shift_x
        self._yy += (rest_y * rest_y).sum(axis=0) + weight * shift_y * shift_y
        self._xy += (rest_x * rest_y).sum(axis=0) + weight * shift_x * shift_y
        self._mean_x += shift_x * (len(x) / count)
        self._mean_y += shift_y * (len(x) / count)
        self._count = count

    def error(self) -> np.ndarray:
        """Mean square of x - y."""
        difference = self._mean_x - self._mean_y
        return np.maximum(0, self._xx - 2 * self._xy + self._yy) / self._count + difference * difference

    def target(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of y."""
        return self._mean_y, self._yy / self._count

    def spread(self, level: np.ndarray) -> np.ndarray:
        """Mean square of y - level."""
        difference = self._mean_y - level
        return self._yy / self._count + difference * difference

    def correlation(self) -> np.ndarray:
        """Pearson's r: NaN where y is constant, else 0 where x is."""
        scale = np.sqrt(self._xx) * np.sqrt(self._yy)
        r = np.divide(self._xy, scale, out=np.zeros_like(scale), where=scale > 0)
        return np.where(self._yy > 0, np.clip(r, -1, 1), np.nan)


def pooled_variance(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The variance of parts of one size taken together, from the mean and variance of each."""
    means, variances = zip(*parts, strict=True)
    pooled: np.ndarray = np.mean(variances, axis=0) + np.var(means, axis=0)
    return pooled


def _score_rows(errors: np.ndarray) -> np.ndarray:
    """Rows (score, mse, mae) from rows (mse, mae, mse of copy), on the last axis but one."""
    mse, mae, copy_mse = errors[..., 0, :], errors[..., 1, :], errors[..., 2, :]
    ratio = np.divide(mse, copy_mse, out=np.full_like(mse, np.nan), where=copy_mse > 0)
    return np.stack([1 - ratio, mse, mae], axis=-2)


def _mean_defined(values: np.ndarray) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
