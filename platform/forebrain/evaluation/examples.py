"""Examples for pictures: a stretch of one session with every forecaster's forecasts along it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring.conformal import Calibration, window_spread
from forebrain.scoring.evaluate import MAX_ROWS, Evaluation, Forecaster
from forebrain.scoring.protocols import Part
from forebrain.scoring.quantiles import BAND
from forebrain.scoring.units import UnitScores, score_units
from forebrain.scoring.window_source import SessionInfo, WindowSource

# A picture shows no more; the model still sees every unit.
_MAX_WINDOWS = 240
_MAX_UNITS = 400


@dataclass(frozen=True, eq=False)
class Example:
    """Forecasts from P neighbouring windows of one session, and what came.

    Forecast p knows the frames up to p + C - 1 of the stretch, and says frames p + C to p + C + H - 1.

    Attributes:
        session: the session.
        part: the part of it.
        first_frame: where in the recording the stretch starts.
        context: C, frames.
        units: [N] numbers of the units shown.
        activity: [P + C + H - 1, N], normalised.
        forecasts: forecaster -> [P, H, N].
        bands: forecaster -> [2, P, H, N], the bounds of its 80 % intervals, where it has any.
        training_mean: [N], each unit's mean over the training part.
    """

    session: SessionInfo
    part: Part
    first_frame: int
    context: int
    units: np.ndarray
    activity: np.ndarray
    forecasts: Mapping[str, np.ndarray]
    training_mean: np.ndarray
    bands: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def horizon(self) -> int:
        return next(iter(self.forecasts.values())).shape[1]

    def targets(self) -> np.ndarray:
        """Activity that was to be forecast, [P, H, N]."""
        windows = np.lib.stride_tricks.sliding_window_view(
            self.activity[self.context :], self.horizon, axis=0
        )
        return windows.swapaxes(1, 2)

    def copies(self) -> np.ndarray:
        """The last frame that each forecast knew, which copy repeats: [P, 1, N]."""
        return self.activity[self.context - 1 : -self.horizon, None]

    def unit_scores(self, forecaster: str) -> UnitScores:
        """How well each unit is forecast along this stretch."""
        return score_units(
            self.forecasts[forecaster], self.targets(), self.copies()[:, 0], self.training_mean
        )

    def step_score(self, forecaster: str, step: int) -> float:
        """The score against copy of one horizon step, 1 to H, along this stretch."""
        target = self.targets()[:, step - 1]
        error = np.sum((self.forecasts[forecaster][:, step - 1] - target) ** 2)
        copy_error = np.sum((self.copies()[:, 0] - target) ** 2)
        return float(1 - error / copy_error) if copy_error > 0 else float("nan")


def typical_session(evaluation: Evaluation, model: str) -> str:
    """The session whose score is nearest to the median: a picture of it flatters nobody.

    Raises:
        ConfigError: no session has a score.
    """
    scores = {
        name: one.value("score") for name, one in sorted(evaluation.scores[model].items()) if one.num_sessions
    }
    if not scores:
        raise ConfigError(f"evaluation on {evaluation.part}: no session has a score, so there is no example.")
    median = float(np.median(list(scores.values())))
    return min(scores, key=lambda name: abs(scores[name] - median))


def make_example(
    forecasters: Mapping[str, Forecaster],
    source: WindowSource,
    session: int,
    part: Part,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Example:
    """Forecasts along the longest unbroken stretch in the middle of a session's part.

    Args:
        forecasters: by name.
        source: of the windows.
        session: its number in the source.
        part: with windows.
        calibrations: of forecasters whose 80 % intervals are wanted, for all units of the session.

    Raises:
        ConfigError: the session has no window in the part, or none that can be read.
    """
    info = source.sessions[session]
    available = source.num_windows(session, part)
    if not available:
        raise ConfigError(f"session {info.id} has no window in {part}, so there is no example of it.")
    middle = max(0, (available - _MAX_WINDOWS) // 2)
    units = np.unique(np.linspace(0, info.num_units - 1, min(info.num_units, _MAX_UNITS)).astype(int))

    windows, starts = [], []
    forecasts: dict[str, list[np.ndarray]] = {name: [] for name in forecasters}
    known = {name: each.of_units(units) for name, each in (calibrations or {}).items()}
    bands: dict[str, list[np.ndarray]] = {name: [] for name in known}
    size = max(1, MAX_ROWS // info.num_units)
    for first in (middle, *range(0, available, _MAX_WINDOWS)):  # further ones where none can be read
        stop = min(available, first + _MAX_WINDOWS)
        for begin in range(first, stop, size):
            context, target, begins = source.read(session, part, np.arange(begin, min(begin + size, stop)))
            if len(begins):
                windows.append(np.concatenate([context[..., units], target[..., units]], axis=1))
                starts.append(begins)
                for name, forecaster in forecasters.items():
                    forecasts[name].append(forecaster(session, context)[..., units])
                    if name in known:
                        spread = window_spread(context[..., units])
                        bands[name].append(known[name].quantiles(forecasts[name][-1], spread, BAND))
        if starts:
            break
    else:
        raise ConfigError(
            f"session {info.id}: no window in {part} can be read, so there is no example of it."
        )
    chosen = _longest_run(np.concatenate(starts))
    frames = np.concatenate(windows)[chosen]
    return Example(
        session=info,
        part=part,
        first_frame=int(np.concatenate(starts)[chosen][0]),
        context=source.context,
        units=units,
        activity=np.concatenate([frames[:, 0], frames[-1, 1:]]),
        forecasts={name: np.concatenate(batches)[chosen] for name, batches in forecasts.items()},
        bands={name: np.concatenate(batches, axis=1)[:, chosen] for name, batches in bands.items()},
        training_mean=source.training_mean(session)[units],
    )


def _longest_run(starts: np.ndarray) -> slice:
    """The longest run of neighbouring starts."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(starts) != 1) + 1, [len(starts)]])
    longest = int(np.argmax(np.diff(edges)))
    return slice(int(edges[longest]), int(edges[longest + 1]))
