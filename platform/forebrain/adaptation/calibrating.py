"""The intervals of an adaptation: calibrated on frames that what forecasts was not fitted on."""

from __future__ import annotations

import hashlib

import numpy as np

from forebrain.scoring.autoregression import step_deviation
from forebrain.scoring.conformal import Calibration
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.stack import StackFit
from forebrain.scoring.uncertainty import VALIDATION, residuals_of, stack_residuals
from forebrain.scoring.window_source import WindowSource

# Forecasts that are kept: of a very large session so many that the others are made again.
REMEMBERED_BYTES = 1 << 28


class Remembered:
    """A forecaster that forecasts a batch of windows once: heads, weights and calibration read the same.

    Args:
        forecaster: (session, context [B, C, N]) -> [B, H, N].
    """

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster = forecaster
        self._known: dict[bytes, np.ndarray] = {}
        self._num_bytes = 0

    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        key = hashlib.blake2b(np.ascontiguousarray(context).data, digest_size=16).digest()
        if key in self._known:
            return self._known[key]
        forecast = self._forecaster(session, context)
        self._num_bytes += forecast.nbytes
        if self._num_bytes <= REMEMBERED_BYTES:
            self._known[key] = forecast
        return forecast


def calibration_of(
    model: Forecaster, windows: WindowSource, stack: StackFit | None, seed: int
) -> Calibration | None:
    """Calibrates what forecasts a recording: a model, or its stack.

    The model was fitted on the training part, so the validation part is calibrated on. The heads of a stack
    were fitted on both: there each block of time is forecast by heads of the others.

    Args:
        model: (session 0, context [B, C, N]) -> [B, H, N].
        windows: of the recording; the test part is never read.
        stack: None for the model alone.
        seed: of the choice of windows.

    Returns:
        None where the validation part has no window: nothing is known of how far forecasts are off.
    """
    if stack is None:
        residuals, calibrated_on = residuals_of(model, windows, seed=seed), VALIDATION
    else:
        found = stack_residuals(stack, windows, model)
        if found is None:
            return None
        residuals, calibrated_on = found
    if not np.isfinite(residuals.target).any():
        return None
    return residuals.calibrate(calibrated_on, step_deviation(windows))
