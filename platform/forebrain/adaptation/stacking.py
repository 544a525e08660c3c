"""What an adapted model forecasts together with regressions of the recording: in closed form, see `stack`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forebrain.adaptation.progress import Progress
from forebrain.scoring.baselines import LinearBaseline
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.ridge import num_windows_read
from forebrain.scoring.stack import Stack, StackFit, fit_stack
from forebrain.scoring.window_source import WindowSource


@dataclass(frozen=True, eq=False)
class StackForecaster:
    """A stack with its model, for the scorer: (session 0, context [B, C, N]) -> [B, H, N]."""

    stack: Stack
    model: Forecaster

    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        return self.stack.forecast(context, self.model(session, context))


def stack_on(
    model: Forecaster | None, source: WindowSource, linear: LinearBaseline, what: str, progress: Progress
) -> StackFit:
    """Fits the stack of a model of one recording, and tells how far it is.

    Args:
        model: (session 0, context [B, C, N]) -> [B, H, N]; None for a head on the last frame alone.
        source: of the recording's windows; the test part is never read.
        linear: fitted on the training part.
        what: whose stack it is, for the progress.
        progress: is told how many of how many windows the model has forecast.
    """
    if model is None:
        return fit_stack(source, linear, alone=True)
    total, done = num_windows_read(source, 0, ("train", "validation")), 0

    def counted(session: int, context: np.ndarray) -> np.ndarray:
        nonlocal done
        forecast = model(session, context)
        done += len(context)
        progress(f"{what}: head and weights, window", min(done, total), total)
        return forecast

    return fit_stack(source, linear, counted)
