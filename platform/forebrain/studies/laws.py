"""Scaling laws, error over size: fits of three laws, chosen by what they predict for the largest size.

Error is 1 - score, the model's mean squared error over that of copy. A law is believed where, fitted without
the largest size, it predicts that size better than no trend would; "the data support no law" is an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from forebrain.scoring.intervals import LEVEL
from forebrain.studies.resampling import Cell, draw_weights, interval, means

NUM_RESAMPLES = 200  # each is six fits
FEWEST_SIZES = 4
# A law may miss the largest size by this part of the whole change, however precisely its error is known.
TOLERANCE = 0.1
_STEEPEST = 5.0


@dataclass(frozen=True)
class Law:
    """A family of curves error(x), where x is size over its geometric mean.

    Attributes:
        name: as reports show it.
        formula: of error, for people.
        parameters: their names.
        curve: (parameters, x) -> error.
        start: (errors [M], x [M]) -> parameters to begin with.
        low, high: bounds of the parameters.
    """

    name: str
    formula: str
    parameters: tuple[str, ...]
    curve: Callable[[np.ndarray, np.ndarray], np.ndarray]
    start: Callable[[np.ndarray, np.ndarray], np.ndarray]
    low: tuple[float, ...]
    high: tuple[float, ...]


def _log_slope(errors: np.ndarray, x: np.ndarray) -> np.ndarray:
    slope, level = np.polyfit(np.log(x), errors, 1)
    return np.array([level, -slope])


def _power_start(errors: np.ndarray, x: np.ndarray) -> np.ndarray:
    span = max(np.ptp(errors), 1e-6)
    return np.array([max(errors.min() - 0.5 * span, 0.0), span, 0.5])


_FREE = np.inf
CONSTANT = Law(
    "constant", "a", ("a",), lambda p, x: np.full_like(x, p[0]), lambda e, x: np.array([e.mean()]),
    (-_FREE,), (_FREE,),
)  # fmt: skip
LOG_LINEAR = Law(
    "log-linear law", "a - b log x", ("a", "b"), lambda p, x: p[0] - p[1] * np.log(x), _log_slope,
    (-_FREE, -_FREE), (_FREE, _FREE),
)  # fmt: skip
POWER = Law(
    "power law with floor", "floor + a x^-b", ("floor", "a", "b"), lambda p, x: p[0] + p[1] * x ** -p[2],
    _power_start, (0.0, 0.0, 0.0), (_FREE, _FREE, _STEEPEST),
)  # fmt: skip
LAWS = (CONSTANT, LOG_LINEAR, POWER)


@dataclass(frozen=True)
class FittedLaw:
    """One law on one set of results.

    Attributes:
        law: which.
        parameters, low, high: its parameters for sizes in their own unit, and their central 95 %.
        prediction: of the largest size's score from the smaller ones, with its interval.
        miss: predicted less observed score of the largest size, with its interval.
        beats_constant: part of the resamples in which it predicts the largest size better than the constant.
        curve: sizes [P], score [P], low [P], high [P], fitted to all sizes, for a picture; up to four times
            the largest.
    """

    law: Law
    parameters: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    prediction: tuple[float, float, float]
    miss: tuple[float, float, float]
    beats_constant: float
    curve: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """The law that a curve of scores over sizes supports, if any.

    Attributes:
        law: the name of the law, or None: the data support no law.
        text: that in a sentence or two, with the reason.
        change: score of the largest less that of the smallest size, paired, with its interval.
        fits: every law's fit; empty where there are too few sizes or results.
    """

    law: str | None
    text: str
    change: tuple[float, float, float] | None
    fits: tuple[FittedLaw, ...]


def judge(
    sizes: Sequence[float],
    scores: np.ndarray,
    cells: Sequence[Cell],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Verdict:
    """Fits all laws and chooses.

    Args:
        sizes: M distinct sizes, ascending, positive.
        scores: [K, M], a row for each seed and session.
        cells: the K seeds and sessions.
        seed: of the bootstrap.
        num_resamples: of seeds and sessions.
    """
    num_seeds, num_sessions = len({cell[0] for cell in cells}), len({cell[1] for cell in cells})
    if len(cells) < 3 or max(num_seeds, num_sessions) < 3:
        return Verdict(
            None,
            f"No verdict: {num_sessions} sessions and {num_seeds} seeds are too few to know how results "
            "scatter; expected three of one of them.",
            None,
            (),
        )
    weights = draw_weights(cells, seed, num_resamples)
    curves = means(weights, scores)
    observed = scores.mean(axis=0)
    change = _with_interval(observed[-1] - observed[0], curves[:, -1] - curves[:, 0], cells)
    if len(sizes) < FEWEST_SIZES:
        return Verdict(
            None,
            f"No verdict: {len(sizes)} sizes are too few; expected at least {FEWEST_SIZES}, the largest of "
            "which tests the laws.",
            change,
            (),
        )
    x = np.asarray(sizes, dtype=float)
    everything = np.ones(len(cells))
    whole = [_Fitter(law, x, 1 - scores) for law in LAWS]
    smaller = [_Fitter(law, x[:-1], 1 - scores[:, :-1]) for law in LAWS]
    predicted, resampled = [], []
    for fitter in smaller:
        main = fitter.fit(everything, None)
        predicted.append(1 - fitter.errors_at(main, x[-1:])[0])
        resampled.append(
            np.array([1 - fitter.errors_at(fitter.fit(row, main), x[-1:])[0] for row in weights])
        )
    misses = [of_law - curves[:, -1] for of_law in resampled]
    fits = []
    for position, (law, fitter) in enumerate(zip(LAWS, whole, strict=True)):
        main = fitter.fit(everything, None)
        rows = np.array([fitter.fit(row, main) for row in weights])
        own = np.array([fitter.in_own_unit(row) for row in rows])
        bounds = np.quantile(own, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        beats = float(np.mean(np.abs(misses[position]) < np.abs(misses[0])))
        fits.append(
            FittedLaw(
                law,
                tuple(map(float, fitter.in_own_unit(main))),
                tuple(map(float, bounds[0])),
                tuple(map(float, bounds[1])),
                _with_interval(predicted[position], resampled[position], cells),
                _with_interval(predicted[position] - observed[-1], misses[position], cells),
                beats,
                _curve(fitter, main, rows, x),
            )
        )
    return _choose(tuple(fits), misses, change)


class _Fitter:
    """Fits one law to results, each cell shifted to the mean of all: cells differ in level, not in shape."""

    def __init__(self, law: Law, x: np.ndarray, errors: np.ndarray) -> None:
        self.law = law
        self.centre = float(np.exp(np.log(x).mean()))
        self._x = x / self.centre
        self._shifted = errors - errors.mean(axis=1, keepdims=True)
        self._levels = errors.mean(axis=1)
        scatter = np.abs(self._shifted - np.median(self._shifted, axis=0))
        self._scale = max(1.4826 * float(np.median(scatter)), 1e-6)

    def fit(self, weights: np.ndarray, start: np.ndarray | None) -> np.ndarray:
        """Parameters for cells that count `weights` [K] times.

        Residuals beyond the usual scatter count linearly (soft L1), so that a cell gone wrong does not bend
        the curve.
        """
        used = np.flatnonzero(weights)
        root = np.sqrt(weights[used] / weights.sum())[:, None]
        errors = self._shifted[used] + (weights @ self._levels) / weights.sum()
        law = self.law

        def residuals(parameters: np.ndarray) -> np.ndarray:
            return (root * (law.curve(parameters, self._x) - errors)).ravel()

        if start is None:
            start = law.start(errors.mean(axis=0), self._x)
        start = np.clip(start, law.low, law.high)
        # The weights sum to one a size, so the scatter is scaled as they are.
        scale = self._scale * float(np.sqrt(1 / len(used)))
        return least_squares(
            residuals, start, bounds=(law.low, law.high), loss="soft_l1", f_scale=scale, x_scale="jac"
        ).x

    def errors_at(self, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self.law.curve(parameters, x / self.centre)

    def in_own_unit(self, parameters: np.ndarray) -> np.ndarray:
        """Parameters for sizes as they are, not over their mean."""
        if self.law is LOG_LINEAR:
            level, slope = parameters
            return np.array([level + slope * np.log(self.centre), slope])
        if self.law is POWER:
            floor, factor, exponent = parameters
            return np.array([floor, factor * self.centre**exponent, exponent])
        return parameters


def _curve(
    fitter: _Fitter, main: np.ndarray, rows: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    at = np.geomspace(x[0], 4 * x[-1], 60)
    curves = 1 - np.array([fitter.errors_at(row, at) for row in rows])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(curves, [tail, 1 - tail], axis=0)
    return at, 1 - fitter.errors_at(main, at), low, high


def _choose(
    fits: tuple[FittedLaw, ...], misses: Sequence[np.ndarray], change: tuple[float, float, float]
) -> Verdict:
    changed = f"from the smallest to the largest size the score changes by {_text(change)}"
    if change[1] <= 0 <= change[2]:
        return Verdict(None, f"The data support no law: {changed}, which may be nothing.", change, fits)

    def is_adequate(fit: FittedLaw) -> bool:
        within_noise = fit.miss[1] <= 0 <= fit.miss[2]
        return within_noise or abs(fit.miss[0]) <= TOLERANCE * abs(change[0])

    supported = [
        position
        for position, fit in enumerate(fits)
        if fit.law is not CONSTANT and fit.beats_constant >= LEVEL and is_adequate(fit)
    ]
    if not supported:
        best = min(fits[1:], key=lambda fit: abs(fit.miss[0]))
        return Verdict(
            None,
            f"The data support no law: {changed}, but fitted to the smaller sizes no law predicts the "
            f"largest reliably; the nearest, the {best.law.name}, misses it by {_text(best.miss)} "
            f"and is nearer than no trend in {best.beats_constant:.0%} of resamples.",
            change,
            fits,
        )
    chosen, *rest = supported
    for other in rest:  # a power law with a small exponent is nearly log-linear, so the simpler has it
        if np.mean(np.abs(misses[other]) < np.abs(misses[chosen])) >= LEVEL:
            chosen = other
    law = fits[chosen]
    rivals = [fits[position].law.name for position in supported if position != chosen]
    rival = f" A {rivals[0]} would do as well or nearly." if rivals else " No other law does."
    return Verdict(
        law.law.name,
        f"A {law.law.name} holds: {changed}, and fitted to the smaller sizes it misses the largest by "
        f"{_text(law.miss)}.{rival}",
        change,
        fits,
    )


def _with_interval(value: float, resamples: np.ndarray, cells: Sequence[Cell]) -> tuple[float, float, float]:
    return (float(value), *interval(float(value), resamples, cells))


def _text(value: tuple[float, float, float]) -> str:
    return f"{value[0]:+.3f} [{value[1]:+.3f}, {value[2]:+.3f}]"
