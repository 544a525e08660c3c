"""Two baselines that say how sure they are: a random walk, and autoregressions.

- `normal`: N(last frame, h s^2), s the standard deviation of one-step differences in the training part.
- `ar_valql`: AR(p) of each unit with an intercept, by least squares, and normal quantiles by the root mean
  square of its residuals at each step. The order grows until ten orders have brought no gain in quantile
  loss on the validation part; coefficients and residuals are then taken of train and validation part (Lu et
  al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from forebrain.scoring.protocols import Part
from forebrain.scoring.quantiles import DECILES, LEVELS, pinball
from forebrain.scoring.window_source import WindowSource

PATIENCE = 10
# Windows of a session, evenly spaced, that regressions and choices are made of.
MAX_FIT_WINDOWS = 1024
# Of the mean diagonal: settles units that never move, and too little to be seen otherwise.
TINY = 1e-11
DEVIATES = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def normal_quantiles(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """[39, B, H, N]: quantiles at LEVELS of normal distributions with mean [B, H, N] and deviation [H, N]."""
    quantiles: np.ndarray = mean + DEVIATES[:, None, None, None] * deviation
    return quantiles


@dataclass(frozen=True, eq=False)
class NormalBaseline:
    """N(last frame, h s^2).

    Attributes:
        horizon: H, frames.
        step: [N], s.
    """

    horizon: int
    step: np.ndarray

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """context [B, C, N] -> quantiles [39, B, H, N] at LEVELS."""
        last = np.repeat(context[:, -1:].astype(np.float64), self.horizon, axis=1)
        return normal_quantiles(last, np.sqrt(np.arange(1, self.horizon + 1))[:, None] * self.step)


@dataclass(frozen=True, eq=False)
class AutoRegression:
    """An AR(p) of each unit, as the maps from its past to each step ahead.

    Attributes:
        order: int [N], p of each unit.
        weights: float64 [N, P, H], of the newest frame first; P is the largest order.
        intercept: float64 [H, N].
        deviation: float64 [H, N], root mean square of residuals.
    """

    order: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    deviation: np.ndarray

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """context [B, C, N] -> quantiles [39, B, H, N] at LEVELS."""
        return normal_quantiles(self.points(context), self.deviation)

    def points(self, context: np.ndarray) -> np.ndarray:
        """context [B, C, N] -> forecast [B, H, N]."""
        past = np.ascontiguousarray(
            context[:, ::-1][:, : self.weights.shape[1]].transpose(2, 0, 1), np.float64
        )
        points: np.ndarray = (past @ self.weights).transpose(1, 2, 0) + self.intercept
        return points


def step_deviation(source: WindowSource, session: int = 0, units: np.ndarray | None = None) -> np.ndarray:
    """float64 [N]: standard deviation of one-step differences in the training part, normalised.

    NaN where the part has no window.

    Args:
        source: of the session's windows.
        session: its number in the source.
        units: by number; None for all.
    """
    length, count = source.context + source.horizon, source.num_windows(session, "train")
    chosen = slice(None) if units is None else units
    num_units = source.sessions[session].num_units if units is None else len(units)
    # Windows that share one frame hold each difference once.
    step = max(length - 1, -(-count * length // (MAX_FIT_WINDOWS * length)))
    total, squares, number, newest = np.zeros(num_units), np.zeros(num_units), 0, -1
    for window in sorted({*range(0, count, step), count - 1} - {-1}):
        context, target, starts = source.read(session, "train", np.array([window]))
        if not len(starts):
            continue
        frames = np.concatenate([context, target], axis=1)[0][:, chosen].astype(np.float64)
        fresh = max(0, newest - int(starts[0]))
        change = np.diff(frames[fresh:], axis=0)
        newest = int(starts[0]) + length - 1
        total += change.sum(axis=0)
        squares += np.square(change).sum(axis=0)
        number += len(change)
    if not number:
        return np.full(num_units, np.nan)
    return np.sqrt(np.maximum(0, squares / number - np.square(total / number)))


def fit_autoregression(
    source: WindowSource, session: int = 0, units: np.ndarray | None = None
) -> AutoRegression:
    """AR(valQL) of one session; the test part is never read.

    Args:
        source: of the session's windows. Orders go up to its context.
        session: its number in the source.
        units: by number; None for all.

    Raises:
        ValueError: the training or the validation part has no window.
    """
    train, validation = (_windows(source, session, part, units) for part in ("train", "validation"))
    if not (len(train[0]) and len(validation[0])):
        raise ValueError(f"{source.sessions[session].id} has no window to fit or choose an autoregression on")
    both = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
    num_units = train[0].shape[2]
    gram, moment = _normal_equations(train)
    best_loss, best_order = np.full(num_units, np.inf), np.ones(num_units, int)
    for order in range(1, source.context + 1):
        growing = np.flatnonzero(order - best_order <= PATIENCE)
        if not len(growing):
            break
        fit = _of_order(gram[growing], moment[growing], order, _some(train, growing))
        loss = _quantile_loss(fit, _some(validation, growing))
        better = loss < best_loss[growing]
        best_loss[growing[better]], best_order[growing[better]] = loss[better], order
    gram, moment = _normal_equations(both)
    horizon, largest = source.horizon, int(best_order.max())
    weights = np.zeros((num_units, largest, horizon))
    intercept, deviation = np.zeros((horizon, num_units)), np.zeros((horizon, num_units))
    for order in np.unique(best_order):
        chosen = np.flatnonzero(best_order == order)
        fit = _of_order(gram[chosen], moment[chosen], int(order), _some(both, chosen))
        weights[chosen, :order] = fit.weights
        intercept[:, chosen], deviation[:, chosen] = fit.intercept, fit.deviation
    return AutoRegression(best_order, weights, intercept, deviation)


_Windows = tuple[np.ndarray, np.ndarray]  # context [W, C, N], target [W, H, N]


def _windows(source: WindowSource, session: int, part: Part, units: np.ndarray | None) -> _Windows:
    found: list[_Windows] = []
    chosen = slice(None) if units is None else units
    count = source.num_windows(session, part)
    numbers = np.arange(0, count, max(1, -(-count // MAX_FIT_WINDOWS)))
    for first in range(0, len(numbers), 256):
        context, target, _ = source.read(session, part, numbers[first : first + 256])
        found.append((context[..., chosen], target[..., chosen]))
    if not found:
        return np.zeros((0, source.context, 0)), np.zeros((0, source.horizon, 0))
    contexts, targets = zip(*found, strict=True)
    return np.concatenate(contexts), np.concatenate(targets)


def _some(windows: _Windows, units: np.ndarray) -> _Windows:
    return windows[0][..., units], windows[1][..., units]


def _normal_equations(windows: _Windows) -> tuple[np.ndarray, np.ndarray]:
    """Of the first step on 1 and all lags: gram [N, 1 + C, 1 + C], moment [N, 1 + C]."""
    context, target = windows
    lags = context[:, ::-1].transpose(2, 0, 1).astype(np.float64)  # [N, W, C]
    design = np.concatenate([np.ones((*lags.shape[:2], 1)), lags], axis=2)
    gram = design.transpose(0, 2, 1) @ design
    moment = design.transpose(0, 2, 1) @ target[:, 0].T.astype(np.float64)[..., None]
    return gram, moment[..., 0]


def _of_order(gram: np.ndarray, moment: np.ndarray, order: int, windows: _Windows) -> AutoRegression:
    size = 1 + order
    system = gram[:, :size, :size]
    ridge = TINY * np.trace(system, axis1=1, axis2=2) / size
    found = np.linalg.solve(system + ridge[:, None, None] * np.eye(size), moment[:, :size, None])[..., 0]
    horizon, num_units = windows[1].shape[1], len(found)
    weights, intercept = _iterated(found[:, 0], found[:, 1:], horizon)
    fit = AutoRegression(np.full(num_units, order), weights, intercept, np.zeros((horizon, num_units)))
    residual = windows[1] - fit.points(windows[0])
    deviation = np.sqrt(np.mean(np.square(residual), axis=0))
    return AutoRegression(fit.order, weights, intercept, deviation)


def _iterated(constant: np.ndarray, lags: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps of 1 to H steps, weights [N, p, H] and intercept [H, N], of those of one step, [N] and [N, p]."""
    order = lags.shape[1]
    weights = np.zeros((len(lags), order, horizon))
    intercept = np.zeros((horizon, len(lags)))
    for step in range(horizon):
        intercept[step] = constant
        if step < order:
            weights[:, : order - step, step] = lags[:, step:]
        for back in range(1, min(step, order) + 1):
            weights[:, :, step] += lags[:, back - 1, None] * weights[:, :, step - back]
            intercept[step] += lags[:, back - 1] * intercept[step - back]
    return weights, intercept


def _quantile_loss(fit: AutoRegression, windows: _Windows) -> np.ndarray:
    """[N]: pinball loss over windows, steps and deciles; infinite where it is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = windows[1] - fit.points(windows[0])
        loss = sum(
            pinball(LEVELS[place], error - DEVIATES[place] * fit.deviation).sum(axis=(0, 1))
            for place in DECILES
        )
    return np.where(np.isfinite(loss), loss, np.inf)
