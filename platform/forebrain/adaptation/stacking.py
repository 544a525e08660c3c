"""What of an adaptation is closed form: the stack, forecasts that know inputs, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebrain.adaptation.calibrating import Remembered, calibrated, calibration_of
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.pretrained import Pretrained
from forebrain.adaptation.progress import Progress
from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import AdaptationError, ConfigError
from forebrain.scoring.baselines import LinearBaseline
from forebrain.scoring.conformal import Calibration
from forebrain.scoring.evaluate import Forecaster, fit_linear
from forebrain.scoring.input_stacks import InputFit, fit_inputs
from forebrain.scoring.inputs import MAX_FEATURES
from forebrain.scoring.ridge import num_windows_read
from forebrain.scoring.stack import Stack, StackFit, fit_stack
from forebrain.scoring.window_source import WindowSource
from forebrain.sessions.inputs import Input
from forebrain.sessions.session import Session


@dataclass(frozen=True, eq=False)
class StackForecaster:
    """A stack with its model, for the scorer: (session 0, context [B, C, N]) -> [B, H, N]."""

    stack: Stack
    model: Forecaster

    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        return self.stack.forecast(context, self.model(session, context))


def linear_on(windows: WindowSource, seed: int) -> LinearBaseline:
    """The linear baseline of a recording; where no window trains, as copy.

    Raises:
        AdaptationError: nothing moves in the windows that train.
    """
    if not windows.num_windows(0, "train"):
        return LinearBaseline(np.zeros((windows.context, windows.horizon), np.float32))
    try:
        return fit_linear(windows, seed=seed).solve()
    except ConfigError as error:
        raise AdaptationError(
            f"session {windows.sessions[0].id}: nothing moves in its training part."
        ) from error


def stack_on(
    model: Forecaster | None,
    source: WindowSource,
    linear: LinearBaseline,
    what: str,
    progress: Progress,
    *,
    is_fitted: bool,
) -> StackFit:
    """Fits the stack of a model of one recording, and tells how far it is.

    Args:
        model: (session 0, context [B, C, N]) -> [B, H, N]; None for a head on the last frame alone.
        source: of the recording's windows; the test part is never read.
        linear: fitted on the training part.
        what: whose stack it is, for the progress.
        progress: is told how many of how many windows the model has forecast.
        is_fitted: the model was trained on the training part.
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

    return fit_stack(source, linear, counted, is_fitted=is_fitted)


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """What is fitted to one recording in closed form, beside a model.

    Attributes:
        stack: weights of the model, linear and their heads; None for the model alone.
        inputs: forecasts that know inputs; None where none are to be known.
        calibration: of intervals; None where nothing could be calibrated on.
    """

    stack: StackFit | None
    inputs: InputFit | None
    calibration: Calibration | None


def fit_closed_form(
    backbone: Pretrained,
    model: Forecaster,
    windows: SessionWindows,
    linear: LinearBaseline,
    inputs: Sequence[Input],
    config: FitConfig,
    what: str,
    progress: Progress,
    *,
    is_fitted: bool,
) -> ClosedForm:
    """Fits all of it.

    Args:
        backbone: whose adapted model it is.
        model: the adapted one, (session 0, context [B, C, N]) -> [B, H, N].
        windows: of the recording; the test part is never read.
        linear: fitted on the training part.
        inputs: that forecasts may know.
        config: whether there is a stack.
        what: whose it is, for the progress.
        progress: is told how far it is.
        is_fitted: the model was trained on the training part.
    """
    remembered = Remembered(model)
    weighed = None if is_copy(backbone) else remembered
    stack = known = None
    if is_stacked(backbone, config):
        stack = stack_on(weighed, windows, linear, what, progress, is_fitted=is_fitted)
        if inputs:
            progress("fitting what the inputs do", 0, 1)
            known = calibrated(fit_inputs(windows, inputs, linear, weighed, stack), windows, weighed)
    calibration = calibration_of(remembered, windows, stack, config.seed, is_copy(backbone))
    return ClosedForm(stack, known, calibration)


def is_copy(backbone: Pretrained) -> bool:
    """Whether there is no backbone, only the last frame."""
    return backbone.description.model.name == "copy"


def is_stacked(backbone: Pretrained, config: FitConfig) -> bool:
    """Whether a backbone's forecast is weighed with regressions: not where a publication is compared with."""
    return config.stack and backbone.description.protocol != "poco"


def inputs_to_know(session: Session, names: Sequence[str] | None, stacked: bool) -> list[Input]:
    """The inputs of a recording that forecasts may know.

    Args:
        session: the recording.
        names: of inputs; None for all that can be planned, or none where these are too many to be told apart.
        stacked: whether there is a stack, which is what knows them.

    Raises:
        AdaptationError: there is no input of that name, or inputs are named and nothing would know them.
    """
    if names is None:
        planned = [each for each in session.inputs if each.can_be_planned]
        return planned if stacked and len(planned) <= MAX_FEATURES else []
    known = {each.name: each for each in session.inputs}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise AdaptationError(
            f"session {session.id}: has no input {', '.join(unknown)}; it has {', '.join(known) or 'none'}."
        )
    if names and not stacked:
        raise AdaptationError(
            f"inputs {', '.join(names)} are named, and a model alone knows none; leave out --stack false, or "
            "adapt under another protocol than poco."
        )
    return [known[name] for name in names]


def too_many_inputs(session: Session) -> str | None:
    """What to say of a recording whose inputs were left out since they are too many; None of others."""
    count = sum(each.can_be_planned for each in session.inputs)
    if count <= MAX_FEATURES:
        return None
    return (
        f"{count} inputs can be planned, more than the {MAX_FEATURES} that can be told apart: none is known "
        "to forecasts. Name those that matter (--inputs NAME ...)."
    )
