"""Effects: how much a variant's score differs from the reference's, in pairs of the same seed and session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebrain.studies.resampling import Cell, draw_weights, interval, means
from forebrain.studies.study import MODEL, Outcome


@dataclass(frozen=True)
class Effect:
    """A variant beside the reference, over the seeds and sessions that both have.

    Attributes:
        variant: its name.
        num_seeds, num_sessions: of the pairs.
        score, reference: mean scores over the pairs.
        difference: score less reference, with its 95 % interval.
        together: the interval that holds for all effects of the study together; None where pairs are too few.
        sessions_better: part of the sessions in which it is ahead, averaged over seeds.
    """

    variant: str
    num_seeds: int
    num_sessions: int
    score: float
    reference: float
    difference: tuple[float, float, float]
    together: tuple[float, float] | None
    sessions_better: float

    @property
    def is_clear(self) -> bool:
        """Whether the difference would be no chance even as the largest of all that were looked at.

        Of a single seed that is not known.
        """
        if self.num_seeds < 2 or self.together is None:
            return False
        return not self.together[0] <= 0 <= self.together[1]


def cells_of(
    outcomes: Sequence[Outcome], variant: str, part: str, forecaster: str = MODEL
) -> dict[Cell, float]:
    """Scores of a variant by seed and session, where they are defined."""
    return {
        (outcome.trial.seed, session): score
        for outcome in outcomes
        if outcome.trial.variant == variant
        for session, score in outcome.by_session(part, forecaster).items()
    }


def measure_effects(outcomes: Sequence[Outcome], reference: str, part: str, seed: int = 0) -> list[Effect]:
    """The effect of each variant that shares a seed and session with the reference, in order of the study.

    Args:
        outcomes: of all trials.
        reference: name of the variant that the others are compared with.
        part: validation or test.
        seed: of the bootstrap.
    """
    base = cells_of(outcomes, reference, part)
    variants = dict.fromkeys(outcome.trial.variant for outcome in outcomes)
    pairs = {}
    for variant in variants:
        cells = cells_of(outcomes, variant, part)
        shared = sorted(base.keys() & cells.keys())
        if variant != reference and shared:
            pairs[variant] = [(cell, base[cell], cells[cell]) for cell in shared]
    return [_effect(variant, own, len(pairs), seed) for variant, own in pairs.items()]


def _effect(variant: str, pairs: list[tuple[Cell, float, float]], num_effects: int, seed: int) -> Effect:
    cells = [cell for cell, _, _ in pairs]
    before, after = (np.array([pair[position] for pair in pairs]) for position in (1, 2))
    differences = after - before
    mean = float(differences.mean())
    bounds: tuple[float, float] = (np.nan, np.nan)
    together: tuple[float, float] | None = None
    if len(cells) > 1:
        resamples = means(draw_weights(cells, seed), differences)
        bounds, together = (interval(mean, resamples, cells, number) for number in (1, num_effects))
    sessions = sorted({session for _, session in cells})
    ahead = [
        differences[[position for position, cell in enumerate(cells) if cell[1] == session]].mean() > 0
        for session in sessions
    ]
    return Effect(
        variant,
        len({own_seed for own_seed, _ in cells}),
        len(sessions),
        float(after.mean()),
        float(before.mean()),
        (mean, *bounds),
        together,
        float(np.mean(ahead)),
    )


def mean_with_interval(scores: dict[Cell, float], seed: int = 0) -> tuple[float, float, float]:
    """Mean over seeds and sessions with its 95 % interval; NaN bounds for a single result."""
    cells = sorted(scores)
    values = np.array([scores[cell] for cell in cells])
    if len(cells) < 2:
        return (float(values.mean()) if len(cells) else np.nan, np.nan, np.nan)
    mean = float(values.mean())
    return (mean, *interval(mean, means(draw_weights(cells, seed), values), cells))
