"""Bootstrap intervals: over sessions, and over blocks of time within one session."""

from __future__ import annotations

import hashlib

import numpy as np

LEVEL = 0.95
NUM_RESAMPLES = 1000
_MAX_COUNTS = 4_000_000  # Entries of one matrix of resampling counts: 32 MB.


def rng_for(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and the names alone: not on workers, order or platform."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def windows_per_block(starts: np.ndarray, window_frames: int) -> int:
    """Number of neighbouring windows in a block that is at least as long as one window.

    Overlapping windows share frames, so they are no independent samples; blocks this long nearly are.

    Args:
        starts: sorted start frames [W].
        window_frames: context + horizon.
    """
    if len(starts) < 2:
        return 1
    spacing = max(1.0, float(np.median(np.diff(starts))))
    return int(np.ceil(window_frames / spacing))


def block_resamples(values: np.ndarray, block: int, rng: np.random.Generator) -> np.ndarray:
    """Means of circular moving-block resamples [NUM_RESAMPLES, K] of values [W, K] in time order.

    The series is closed to a circle, so that windows at its ends are drawn as often as all others
    (Politis & Romano 1992).
    """
    num_windows = len(values)
    circle = np.concatenate([values, values[: block - 1]])
    # Not by differences of a running sum: their rounding would turn a block of zeros into noise.
    block_sums = np.lib.stride_tricks.sliding_window_view(circle, block, axis=0).sum(axis=-1)
    num_blocks = -(-num_windows // block)
    draws = rng.integers(num_windows, size=(NUM_RESAMPLES, num_blocks))
    means = np.empty((NUM_RESAMPLES, values.shape[1]))
    rows = max(1, _MAX_COUNTS // num_windows)
    for first in range(0, NUM_RESAMPLES, rows):
        chosen = draws[first : first + rows]
        cells = (chosen + num_windows * np.arange(len(chosen))[:, None]).ravel()
        counts = np.bincount(cells, minlength=len(chosen) * num_windows).reshape(-1, num_windows)
        means[first : first + rows] = counts @ block_sums / (num_blocks * block)
    return means


def session_resamples(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means over resampled sessions [NUM_RESAMPLES, K] of values [S, K].

    A NaN takes no part in its column's mean; a resample without any defined value is NaN.
    """
    num_sessions = len(values)
    counts = rng.multinomial(num_sessions, np.full(num_sessions, 1 / num_sessions), size=NUM_RESAMPLES)
    defined = np.isfinite(values)
    drawn = counts @ defined.astype(float)
    totals = counts @ np.where(defined, values, 0.0)
    return np.divide(totals, drawn, out=np.full_like(totals, np.nan), where=drawn > 0)


def percentile_interval(resamples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The central `LEVEL` of resamples [R, ...] as (low, high); NaN where any resample is undefined."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resamples, [tail, 1 - tail], axis=0)
    return low, high
