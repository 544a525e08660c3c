"""Bootstrap over seeds and sessions at once: both are drawn anew, and a result counts as often as both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from forebrain.scoring.intervals import LEVEL, rng_for

NUM_RESAMPLES = 4000

Cell = tuple[int, str]  # seed and session


def draw_weights(cells: Sequence[Cell], seed: int, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """Weights of the cells in each resample, float64 [R, K]: how often each was drawn.

    Resamples that hold no cell are drawn again. Where there is but one seed or one session, the intervals
    know nothing of how others would differ.

    Args:
        cells: K results, each of a seed and a session; they need not be crossed.
        seed: of the bootstrap.
        num_resamples: R.
    """
    seeds, which_seed = np.unique([cell[0] for cell in cells], return_inverse=True)
    sessions, which_session = np.unique([cell[1] for cell in cells], return_inverse=True)
    rng = rng_for(seed, "seeds and sessions")

    def draw(num_resamples: int) -> np.ndarray:
        of_seed, of_session = (
            rng.multinomial(count, np.full(count, 1 / count), size=num_resamples)
            for count in (len(seeds), len(sessions))
        )
        return (of_seed[:, which_seed] * of_session[:, which_session]).astype(float)

    weights = draw(num_resamples)
    while (empty := np.flatnonzero(weights.sum(axis=1) == 0)).size:
        weights[empty] = draw(empty.size)
    return weights


def means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted means [R, ...] of values [K, ...]."""
    total = weights.sum(axis=1).reshape(-1, *[1] * (values.ndim - 1))
    return np.tensordot(weights, values, axes=1) / total


def interval(
    value: float, resamples: np.ndarray, cells: Sequence[Cell], num_comparisons: int = 1
) -> tuple[float, float]:
    """The 95 % interval of a mean over cells.

    Few sessions, drawn anew, scatter too little: with three the plain percentiles would miss the truth in a
    fifth of all studies. So they are moved away from the value as Student's t is wider than a normal one.

    Args:
        value: the mean itself.
        resamples: [R], of it.
        cells: what it is the mean of.
        num_comparisons: so many intervals are to hold together (Bonferroni).
    """
    tail = (1 - LEVEL) / 2 / num_comparisons
    sessions, seeds = ({cell[position] for cell in cells} for position in (1, 0))
    count = len(sessions) if len(sessions) > 1 else len(seeds)
    if count < 2:
        return (np.nan, np.nan)
    wider = stats.t.isf(tail, count - 1) / stats.norm.isf(tail) * np.sqrt(count / (count - 1))
    low, high = np.quantile(resamples, [tail, 1 - tail])
    return float(value + wider * (low - value)), float(value + wider * (high - value))
