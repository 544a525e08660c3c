"""The noise ceiling: the score that noise of measurement alone would leave to a perfect forecast.

Activity moves little within a frame, noise is new in each. So the mean squared change over k frames, D_k, is
twice the noise variance and a part that grows with k; drawing the line through D_1 and D_2 back to k = 0
leaves the noise.
"""

from __future__ import annotations

import numpy as np

from forebrain.scoring.window_source import WindowSource

# Windows read for the structure functions; their frames are neighbours, so few say as much as all.
MAX_VALUES = 1 << 24


def noise_variance(source: WindowSource, session: int = 0) -> np.ndarray:
    """float64 [N]: each unit's noise variance max(0, (2 D_1 - D_2) / 2) in the training part, normalised
    units.

    NaN where the part has no window.
    """
    num_units, length = source.sessions[session].num_units, source.context + source.horizon
    num_windows = source.num_windows(session, "train")
    step = max(source.context + source.horizon - 2, -(-num_windows * length * num_units // MAX_VALUES), 1)
    sums, counts = np.zeros((2, num_units)), np.zeros(2)
    for number in range(0, num_windows, step):
        context, target, _ = source.read(session, "train", np.array([number]))
        for window in np.concatenate([context, target], axis=1).astype(np.float64):
            for lag in (1, 2):
                change = window[lag:] - window[:-lag]
                sums[lag - 1] += np.square(change).sum(axis=0)
                counts[lag - 1] += len(change)
    if not counts.all():
        return np.full(num_units, np.nan)
    first, second = sums / counts[:, None]
    return np.maximum(0.0, (2 * first - second) / 2)


def noise_ceiling(variance: np.ndarray, copy_mse: float) -> float:
    """The score that cannot be exceeded: 1 - mean noise variance / MSE of copy, NaN where copy makes no
    error.

    A perfect forecast still misses the noise of the frames it is scored on. Where noise is no noise (events,
    frames that were smoothed) this says little: smoothing hides noise from D_1 and D_2.

    Args:
        variance: [N], of `noise_variance`.
        copy_mse: on the part that is scored, normalised units.
    """
    return 1 - float(variance.mean()) / copy_mse if copy_mse > 0 else float("nan")
