"""ZAPBench's own protocol (Lueckmann et al. 2025): one larval zebrafish, nine conditions, errors a step.

A condition loses a frame at both ends, and its frames are split 70/10/20 in time; `taxis` is held out of
training and tested whole. What is split are the frames that are forecast: a context may reach back into the
part before, so every context length is tested on the same windows. The score is the mean absolute error in
the recording's own units at each step, averaged over windows and units, then over the eight trained
conditions; the held-out one stands apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring.evaluate import Forecaster, evaluate
from forebrain.scoring.protocols import Part
from forebrain.scoring.window_source import SessionInfo, WindowSource
from forebrain.scoring.zapbench_frames import HELD_OUT, HORIZON, forecast_frames

# Steps that the published tables show.
SHOWN_STEPS = (1, 4, 8, 16, 32)
_TESTED: tuple[Part, ...] = ("test", "held_out")


@dataclass(frozen=True, eq=False)
class ZapbenchScores:
    """Errors of one forecaster by ZAPBench's rules.

    Attributes:
        by_condition: mean absolute error at each step [H], of every condition, the held-out one too.
        num_windows: windows tested, over all conditions.
    """

    by_condition: Mapping[str, np.ndarray]
    num_windows: int

    @property
    def mean(self) -> np.ndarray:
        """Mean absolute error at each step [H], over the trained conditions, each counting alike."""
        return np.mean([errors for name, errors in self.by_condition.items() if name != HELD_OUT], axis=0)

    @property
    def held_out(self) -> np.ndarray:
        """Mean absolute error at each step [H] in the held-out condition."""
        return self.by_condition[HELD_OUT]

    def to_json(self) -> dict[str, Any]:
        return {
            "mean": self.mean.tolist(),
            "held_out": self.held_out.tolist(),
            "by_condition": {name: errors.tolist() for name, errors in self.by_condition.items()},
            "num_windows": self.num_windows,
        }


def score_zapbench(
    forecasters: Mapping[str, Forecaster],
    source: WindowSource,
    in_own_units: Callable[[int, np.ndarray], np.ndarray],
    windows_per_condition: int | None = None,
) -> dict[str, ZapbenchScores]:
    """Scores forecasters by name.

    Args:
        forecasters: the baselines belong among them.
        source: windows of the one recording under protocol `zapbench`.
        in_own_units: (session, normalised values [..., N]) -> the same in the recording's units, up to an
            offset.
        windows_per_condition: at most this many windows of a condition, spread evenly; None for all, which
            are 1,557 with the held-out ones.

    Raises:
        ConfigError: the source holds more than the one recording, or forecasts another number of steps.
    """
    if len(source.sessions) != 1 or source.horizon != HORIZON:
        raise ConfigError(
            f"protocol zapbench: {len(source.sessions)} sessions and a horizon of {source.horizon} frames "
            f"were given; expected the one recording and --model.horizon {HORIZON}."
        )
    errors: dict[str, dict[str, np.ndarray]] = {name: {} for name in forecasters}
    num_windows = 0
    for part in _TESTED:
        first = 0
        for condition, (start, stop) in forecast_frames(part).items():
            count = stop - start - HORIZON + 1
            evaluation = evaluate(
                forecasters,
                _OneCondition(source, first, count),
                part,
                windows_per_session=windows_per_condition,
                as_scored=in_own_units,
            )
            first += count
            for name, scores in evaluation.scores.items():
                (of_session,) = scores.values()
                errors[name][condition] = of_session.by_step("mae")[0]
            num_windows += of_session.num_windows
    return {name: ZapbenchScores(by_condition, num_windows) for name, by_condition in errors.items()}


@dataclass(frozen=True)
class _OneCondition:
    """Windows [first, first + count) of each part of a source."""

    source: WindowSource
    first: int
    count: int

    @property
    def sessions(self) -> Sequence[SessionInfo]:
        return self.source.sessions

    @property
    def context(self) -> int:
        return self.source.context

    @property
    def horizon(self) -> int:
        return self.source.horizon

    def num_windows(self, session: int, part: Part) -> int:
        return self.count

    def read(
        self, session: int, part: Part, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.source.read(session, part, self.first + windows)

    def training_mean(self, session: int) -> np.ndarray:
        return self.source.training_mean(session)
