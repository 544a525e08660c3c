"""How well single units are forecast, in terms that do not flatter noise.

Copy forecasts white noise with twice the error of the noise's own mean, so every forecast that stays near the
mean is far ahead of copy there: ranked by the score alone, noise comes first. R2 against the unit's training
mean does not reward that, but a unit whose level drifts after training: knowing the level explains almost all
then. So units are ordered by the explained variance, about the unit's own mean where it is scored, which
rewards neither. Beside it stand the correlation, what noise of measurement leaves within reach, and how far
ahead the forecast can be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# A forecast is trusted as long as it explains a quarter of the variance, which is a correlation of about 0.5.
TRUSTED = 0.25
FAVOURS = (
    "The score compares a forecast with the last frame repeated, which is at its worst where a unit jumps "
    "from frame to frame: among single units it favours the noisy ones, and white noise would come first. "
    "Units are therefore ordered by explained variance: 0 is as good as the unit's own mean over the scored "
    "part, 1 is perfect, and the noise ceiling is what noise of measurement leaves within reach. R² is about "
    "the mean of the training part instead, so it is high too where a unit's level has drifted since."
)


@dataclass(frozen=True, eq=False)
class UnitScores:
    """How well a forecaster forecasts each unit of a session. What is undefined is NaN.

    Attributes:
        score: [N], 1 - MSE / MSE of copy; undefined where copy makes no error.
        explained: [N], 1 - MSE / variance of what came; undefined where that does not move.
        r2: [N], 1 - MSE / mean square about the unit's training mean; undefined where it stays there.
        correlation: [N], Pearson's r over windows, the mean over horizon steps.
        variance: [N], of what came, over windows and horizon steps.
        trusted_frames: int64 [N], the steps from the first on at which the forecast explains at least
            `TRUSTED` of the variance.
    """

    score: np.ndarray
    explained: np.ndarray
    r2: np.ndarray
    correlation: np.ndarray
    variance: np.ndarray
    trusted_frames: np.ndarray

    @classmethod
    def from_moments(
        cls,
        error: np.ndarray,
        copy_error: np.ndarray,
        variance: np.ndarray,
        spread: np.ndarray,
        correlation: np.ndarray,
    ) -> UnitScores:
        """The scores of units from their mean squares over windows.

        Args:
            error: [H, N], of forecast less target.
            copy_error: [N], of copy less target, over the whole horizon.
            variance: [N], of target over windows and horizon steps.
            spread: [H, N], of target less training mean.
            correlation: [H, N].
        """
        defined = np.isfinite(correlation)
        count = defined.sum(axis=0)
        total = np.where(defined, correlation, 0.0).sum(axis=0)
        trusted = np.nan_to_num(_ahead_of(error, np.broadcast_to(variance, error.shape)), nan=-1.0) >= TRUSTED
        return cls(
            score=_ahead_of(error.mean(axis=0), copy_error),
            explained=_ahead_of(error.mean(axis=0), variance),
            r2=_ahead_of(error.mean(axis=0), spread.mean(axis=0)),
            correlation=np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0),
            variance=variance,
            trusted_frames=np.logical_and.accumulate(trusted, axis=0).sum(axis=0),
        )

    def noise_ceiling(self, noise_variance: np.ndarray) -> np.ndarray:
        """[N]: the variance that a forecast explains which is perfect but for noise of measurement, 0 to 1.

        Args:
            noise_variance: [N], of `noise.noise_variance`, in the units of measure of the scores.
        """
        return np.maximum(_ahead_of(noise_variance, self.variance), 0.0)


def score_units(
    forecast: np.ndarray, target: np.ndarray, last_frame: np.ndarray, training_mean: np.ndarray
) -> UnitScores:
    """Scores each unit over windows that are at hand.

    Args:
        forecast, target: [W, H, N].
        last_frame: [W, N], the last frame of each context.
        training_mean: [N].
    """
    forecast, target = forecast.astype(np.float64), target.astype(np.float64)
    x, y = forecast - forecast.mean(axis=0), target - target.mean(axis=0)
    xx, yy, xy = (x * x).sum(axis=0), (y * y).sum(axis=0), (x * y).sum(axis=0)
    scale = np.sqrt(xx) * np.sqrt(yy)
    r = np.divide(xy, scale, out=np.zeros_like(scale), where=scale > 0)
    return UnitScores.from_moments(
        error=np.square(forecast - target).mean(axis=0),
        copy_error=np.square(last_frame[:, None] - target).mean(axis=(0, 1)),
        variance=target.var(axis=(0, 1)),
        spread=np.square(target - training_mean).mean(axis=0),
        correlation=np.where(yy > 0, np.clip(r, -1, 1), np.nan),
    )


def _ahead_of(error: np.ndarray, reference: np.ndarray) -> np.ndarray:
    ratio = np.divide(error, reference, out=np.full(np.shape(error), np.nan), where=reference > 0)
    return 1 - ratio
