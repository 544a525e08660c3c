"""The intervals of an adaptation: calibrated on frames that what forecasts was not fitted on."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from forebrain.adaptation.windows import SessionWindows
from forebrain.scoring.autoregression import step_deviation
from forebrain.scoring.conformal import Calibration, window_spread
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.input_stacks import InputFit, Known, KnownFit
from forebrain.scoring.protocols import Part
from forebrain.scoring.response import RestWindows
from forebrain.scoring.stack import StackFit
from forebrain.scoring.uncertainty import VALIDATION, residuals_of, stack_residuals
from forebrain.scoring.window_source import WindowSource

# Forecasts that are kept: of a very large session so many that the others are made again.
REMEMBERED_BYTES = 1 << 28
BATCH_WINDOWS = 64


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
    model: Forecaster, windows: WindowSource, stack: StackFit | None, seed: int, is_copy: bool = False
) -> Calibration | None:
    """Calibrates what forecasts a recording: a model, or its stack.

    The model was fitted on the training part, so the validation part is calibrated on. The heads of a stack
    were fitted on both: there each block of time is forecast by heads of the others.

    Args:
        model: (session 0, context [B, C, N]) -> [B, H, N].
        windows: of the recording; the test part is never read.
        stack: None for the model alone.
        seed: of the choice of windows.
        is_copy: whether the model repeats the last frame, so that it was fitted on nothing.

    Returns:
        None where the validation part has no window: nothing is known of how far forecasts are off.
    """
    if stack is None:
        residuals, calibrated_on = residuals_of(model, windows, seed=seed), VALIDATION
    else:
        found = stack_residuals(stack, windows, None if is_copy else model)
        if found is None:
            return None
        residuals, calibrated_on = found
    if not np.isfinite(residuals.target).any():
        return None
    return residuals.calibrate(calibrated_on, step_deviation(windows))


def calibrated(fit: InputFit, windows: SessionWindows, model: Forecaster | None) -> InputFit:
    """The same forecasts that know inputs, with intervals of their own.

    Args:
        fit: of the recording.
        windows: of it; the test part is never read.
        model: that the fit was made with; None for none but the last frame.
    """
    if fit.stacks is None:
        return fit
    step = step_deviation(windows)
    found: dict[Known, Calibration] = {}
    for known, each in fit.fits.items():
        calibration = _of_known(each, windows, model, step)
        if calibration is not None:
            found[known] = calibration
    return replace(fit, stacks=replace(fit.stacks, calibrations=found))


def _of_known(
    fit: KnownFit, windows: SessionWindows, model: Forecaster | None, step: np.ndarray
) -> Calibration | None:
    made = stack_residuals(fit.stack, fit.source, model, more=fit.more)
    if made is None or not np.isfinite(made[0].target).any():
        return None
    residuals, calibrated_on = made
    if isinstance(fit.source, RestWindows):  # as the recording has them: with the response, and its spread
        starts, context = residuals.starts, windows.context
        part: Part = "validation" if windows.num_windows(0, "validation") else "train"
        places = np.searchsorted(windows.starts(part), starts)
        forecast, target = residuals.forecast.copy(), residuals.target.copy()
        spread = np.empty_like(residuals.spread)
        for first in range(0, len(starts), BATCH_WINDOWS):
            rows = slice(first, first + BATCH_WINDOWS)
            answer = fit.source.response(0, starts[rows])[:, context:]
            forecast[rows] += answer
            target[rows] += answer
            spread[rows] = window_spread(windows.read(0, part, places[rows])[0])
        residuals = replace(residuals, forecast=forecast, target=target, spread=spread)
    return residuals.calibrate(calibrated_on, step)
