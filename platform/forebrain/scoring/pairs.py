"""Differences between two forecasters, session by session and block by block of time.

Sessions, and stretches of one, differ far more than forecasters do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forebrain.scoring.intervals import percentile_interval, rng_for, session_resamples
from forebrain.scoring.metrics import Scores


@dataclass(frozen=True)
class Difference:
    """The mean over sessions of one score less another.

    Attributes:
        value: the mean; NaN without a session.
        low, high: the 95 % interval by bootstrap over sessions; NaN where there are fewer than two.
        num_sessions: sessions in which both scores are defined.
        num_better: those in which the first is larger.
    """

    value: float
    low: float
    high: float
    num_sessions: int
    num_better: int


def paired_difference(first: Mapping[str, Scores], second: Mapping[str, Scores], seed: int) -> Difference:
    """The difference in score of two forecasters on the same windows.

    Args:
        first, second: scores by session id.
        seed: of the bootstrap.
    """
    both = sorted(
        name
        for name in first.keys() & second.keys()
        if first[name].num_sessions and second[name].num_sessions
    )
    values = np.array([first[name].value("score") - second[name].value("score") for name in both])
    if not both:
        return Difference(float("nan"), float("nan"), float("nan"), 0, 0)
    low = high = float("nan")
    if len(both) > 1:
        low, high = (
            float(bound[0])
            for bound in percentile_interval(session_resamples(values[:, None], rng_for(seed, "pairs")))
        )
    return Difference(float(values.mean()), low, high, len(both), int((values > 0).sum()))


def difference_over_time(first: Scores, second: Scores) -> tuple[float, float, float]:
    """The difference in score of two forecasters on the same windows of one session.

    Returns:
        The difference, and the 95 % interval (low, high) by bootstrap over blocks of time; NaN where the
        session is too short for one.
    """
    low = high = float("nan")
    if first.block_scores.size and second.block_scores.size:
        low, high = map(float, percentile_interval(first.block_scores - second.block_scores))
    return first.value("score") - second.value("score"), low, high
