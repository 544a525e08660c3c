"""The noise ceiling: what noise of measurement alone leaves of a perfect forecast's score.

Activity moves little within a frame, noise is new in each. So the mean squared change over k frames, D_k, is
twice the noise variance and a part that grows with k; the line through D_1 and D_2 leaves the noise at 0.
"""

from __future__ import annotations

import numpy as np

from forebrain.scoring.window_source import WindowSource

# Values read; the frames of a window are neighbours, so some windows say as much as all.
MAX_VALUES = 1 << 24


def noise_variance(source: WindowSource, session: int = 0) -> np.ndarray:
    """float64 [N]: each unit's noise variance max(0, (2 D_1 - D_2) / 2) in the training part, normalised.

    NaN where the part has no window.
    """
    num_units, length = source.sessions[session].num_units, source.context + source.horizon
    num_windows = source.num_windows(session, "train")
    # Neighbouring windows so far apart share two frames, so that every change of the part counts once.
    step = max(1, length - 2, -(-num_windows * length * num_units // MAX_VALUES))
    sums, counts = np.zeros((2, num_units)), np.zeros(2)
    for number in range(0, num_windows, step):
        context, target, _ = source.read(session, "train", np.array([number]))
        for frames in np.concatenate([context, target], axis=1).astype(np.float64):
            for lag in (1, 2):
                change = frames[lag:] - frames[:-lag]
                sums[lag - 1] += np.square(change).sum(axis=0)
                counts[lag - 1] += len(change)
    if not counts.all():
        return np.full(num_units, np.nan)
    first, second = sums / counts[:, None]
    variance: np.ndarray = np.maximum(0.0, (2 * first - second) / 2)
    return variance


def noise_ceiling(variance: np.ndarray, copy_mse: float) -> float:
    """The score that cannot be exceeded: 1 - mean noise variance / MSE of copy; NaN where copy makes no
    error.

    Smoothing hides noise from D_1 and D_2, so of traces that were denoised the ceiling says little.

    Args:
        variance: [N], of `noise_variance`.
        copy_mse: on the part that is scored, normalised.
    """
    return 1 - float(variance.mean()) / copy_mse if copy_mse > 0 else float("nan")
