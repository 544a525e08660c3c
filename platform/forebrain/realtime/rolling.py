"""The score of the last forecasts against copy, as `forebrain.scoring` defines it, in fixed memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Of a unit, in its scale: an absurd value counts as one so far off. Squared, 1e20 would be infinite, and
# what is infinite is never forgotten.
LARGEST_UNIT_ERROR = 1000.0


class RollingScore:
    """1 - MSE / MSE of copy over the newest windows whose every target has come.

    A window is a forecast that was made; copy repeats the frame it was made from. Values that did not come
    (NaN, missing frames) are targets of nobody: model and copy are compared on what was seen.

    Args:
        horizon: H, frames.
        num_units: N.
        num_windows: windows the score is over.
    """

    def __init__(self, horizon: int, num_units: int, num_windows: int) -> None:
        self._steps = np.arange(horizon)
        self._forecasts = np.zeros((horizon, horizon, num_units), np.float32)  # [origin % H, step, unit]
        self._origins = np.zeros((horizon, num_units), np.float32)
        self._is_made = np.zeros(horizon, bool)
        self._errors = np.zeros((horizon, 2))  # of each origin: the model's and copy's, summed so far
        self.windows = np.zeros((num_windows, 2))
        self.num_scored = 0
        self._now = 0
        # Of each unit, forgotten at the pace of the windows: the model's squares, copy's, and how many.
        self._unit_squares = np.zeros((2, num_units))
        self._unit_count = np.zeros(num_units)
        self._keep = 1 - 1 / num_windows

    @property
    def num_windows(self) -> int:
        """Windows the score is over."""
        return min(self.num_scored, len(self.windows))

    @property
    def score(self) -> float:
        """0 is as good as copy, 1 is perfect; NaN where there is no window yet, or nothing moved."""
        model, copy = self.windows.sum(axis=0)
        return float(1 - model / copy) if copy > 0 else float("nan")

    def unit_errors(self) -> np.ndarray:
        """[2, N], the mean square of each unit's errors, the model's and copy's, in units of its scale,
        those of a frame at most LARGEST_UNIT_ERROR; NaN for a unit that was not scored yet."""
        count = np.where(self._unit_count > 0, self._unit_count, np.nan)
        return self._unit_squares / count

    def observe(self, frame: np.ndarray, known: np.ndarray, scale: np.ndarray) -> None:
        """Compares what came with what had been forecast for it.

        Args:
            frame: [N], in the recording's units.
            known: bool [N], the values that were measured.
            scale: [N], what makes units comparable.
        """
        horizon = len(self._steps)
        self._now += 1
        slots = (self._now - 1 - self._steps) % horizon  # of the origins that forecast it 1, 2, ... H ahead
        if known.any():
            errors = np.stack([self._forecasts[slots, self._steps], self._origins[slots]])  # [2, H, N]
            errors -= frame
            errors /= scale
            if not known.all():
                errors = errors[..., known]
            squares = np.einsum("ehn,ehn->he", errors, errors, dtype=np.float64)
            made = self._is_made[slots]
            self._errors[slots] += squares * made[:, None]
            if made.any():
                self._observe_units(errors, known, made)
        complete = slots[-1]
        if self._is_made[complete]:
            self.windows[self.num_scored % len(self.windows)] = self._errors[complete]
            self.num_scored += 1
            self._is_made[complete] = False

    def _observe_units(self, errors: np.ndarray, known: np.ndarray, made: np.ndarray) -> None:
        """Adds errors [2, H, known units] of the forecasts that were made."""
        if not made.all():
            errors = errors[:, made]
        squares = np.einsum("ehn,ehn->en", errors, errors)
        np.minimum(squares, np.float32(LARGEST_UNIT_ERROR**2 * errors.shape[1]), out=squares)
        self._unit_squares *= self._keep
        self._unit_count *= self._keep
        if known.all():
            self._unit_squares += squares
        else:
            self._unit_squares[:, known] += squares
        self._unit_count += known * np.count_nonzero(made)

    def add(self, forecast: np.ndarray, frame: np.ndarray) -> None:
        """A forecast [H, N] that was made from the frame [N] observed last."""
        slot = self._now % len(self._steps)
        self._forecasts[slot], self._origins[slot] = forecast, frame
        self._errors[slot] = 0
        self._is_made[slot] = True

    def restart(self) -> None:
        """Drops forecasts whose targets will not come; windows already scored stay."""
        self._is_made[:] = False

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs besides `num_scored`, not copied."""
        return {
            "scored": self.windows,
            "score_observed": np.array([self._now]),
            "score_forecasts": self._forecasts,
            "score_origins": self._origins,
            "score_made": self._is_made,
            "score_errors": self._errors,
            "score_unit_squares": self._unit_squares,
            "score_unit_count": self._unit_count,
        }

    def restore(self, arrays: Mapping[str, np.ndarray], num_scored: int) -> None:
        """Goes on where another was; in a state of before they were kept are no forecasts whose targets have
        not come, and no errors of units."""
        self.windows[:], self.num_scored = arrays["scored"], num_scored
        if "score_forecasts" in arrays:
            self._now = int(arrays["score_observed"][0])
            self._forecasts[:], self._origins[:] = arrays["score_forecasts"], arrays["score_origins"]
            self._is_made[:], self._errors[:] = arrays["score_made"], arrays["score_errors"]
            self._unit_squares[:] = arrays["score_unit_squares"]
            self._unit_count[:] = arrays["score_unit_count"]
