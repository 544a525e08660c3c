"""The three forecasters every model stands beside: copy, mean, linear. All work on normalised values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from forebrain.errors import ConfigError

BASELINES = ("copy", "mean", "linear")


@dataclass(frozen=True)
class CopyBaseline:
    """Repeats the last context frame."""

    horizon: int

    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        """context [B, C, N] -> forecast [B, H, N]."""
        return np.repeat(context[:, -1:], self.horizon, axis=1)


@dataclass(frozen=True)
class MeanBaseline:
    """Forecasts each unit's mean over the training part.

    Attributes:
        horizon: H, frames.
        training_mean: session number -> [N], in normalised units.
    """

    horizon: int
    training_mean: Callable[[int], np.ndarray]

    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        """context [B, C, N] -> forecast [B, H, N]."""
        mean = self.training_mean(session)
        return np.broadcast_to(mean, (len(context), self.horizon, len(mean)))


@dataclass(frozen=True, eq=False)
class LinearBaseline:
    """One map, shared by all units and sessions, from the context to the horizon, both less the last frame.

    The closed form of NLinear (Zeng et al. 2023), without its bias: a bias shared by units that are
    centred has nothing to do.

    Attributes:
        weights: float32 [C, H].
    """

    weights: np.ndarray

    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        """context [B, C, N] -> forecast [B, H, N]."""
        last = context[:, -1:]
        return last + np.matmul(self.weights.T, context - last)


class LinearFit:
    """The normal equations of `LinearBaseline`, gathered a session at a time; fits of workers add up.

    Each session is weighed by the inverse of its copy error, so that the fit minimises what the score
    measures, and a session of 70,000 units does not outvote a hundred worms.

    Args:
        context: C, frames.
        horizon: H, frames.
    """

    def __init__(self, context: int, horizon: int) -> None:
        self.gram = np.zeros((context, context))
        self.moment = np.zeros((context, horizon))

    def add_session(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Adds one session's training windows, as batches of (context [B, C, N], target [B, H, N]).

        A session in which nothing moves after the context adds nothing.
        """
        gram, moment, copy_error = np.zeros_like(self.gram), np.zeros_like(self.moment), 0.0
        for context, target in batches:
            last = context[:, -1:].astype(np.float64)
            x, y = (context - last).swapaxes(0, 1), (target - last).swapaxes(0, 1)
            x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
            gram += x @ x.T
            moment += x @ y.T
            copy_error += float(np.sum(y * y))
        if copy_error > 0:
            self.gram += gram / copy_error
            self.moment += moment / copy_error

    def add(self, other: LinearFit) -> None:
        """Adds the sessions of another fit."""
        self.gram += other.gram
        self.moment += other.moment

    def solve(self, ridge: float = 1e-4) -> LinearBaseline:
        """The map with the least weighted squared error.

        Args:
            ridge: penalty on the squared weights, relative to the mean diagonal of the normal
                equations. It also settles the last context frame, which is always 0.

        Raises:
            ConfigError: there is nothing to fit on.
        """
        context = len(self.gram)
        scale = np.trace(self.gram) / context
        if scale == 0:
            raise ConfigError(
                "linear baseline: no session has a training window in which anything moves. Is the "
                "training part shorter than context + horizon?"
            )
        weights = np.linalg.solve(self.gram + ridge * scale * np.eye(context), self.moment)
        return LinearBaseline(weights.astype(np.float32))
