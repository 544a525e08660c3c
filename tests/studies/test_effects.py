"""Effects: pairs of the same seed and session, and how sure one may be of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from forebrain.config import from_values
from forebrain.studies.effects import measure_effects
from forebrain.studies.resampling import draw_weights, interval, means
from forebrain.studies.study import Outcome
from forebrain.studies.trials import Trial
from forebrain.training.config import PretrainConfig


def outcome(variant: str, seed: int, scores: dict[str, float | None], target: str | None = None) -> Outcome:
    config = dataclasses.replace(from_values(PretrainConfig, {"data": "d", "out": "o"}), seed=seed)
    by_session = {session: {"score": score} for session, score in scores.items()}
    return Outcome(Trial(variant, config, target), "finished", "", {"test": {"by_session": by_session}})


def study(gain: float, noise: float, num_sessions: int = 8) -> list[Outcome]:
    rng = np.random.default_rng(0)
    level = rng.normal(0.2, 0.3, num_sessions)
    found = []
    for seed in range(2):
        plain = {f"s{number}": float(level[number]) for number in range(num_sessions)}
        other = {name: score + gain + float(rng.normal(0, noise)) for name, score in plain.items()}
        found += [outcome("reference", seed, plain), outcome("other", seed, other)]
    return found


def test_a_small_gain_shows_through_sessions_that_differ_much() -> None:
    (effect,) = measure_effects(study(gain=0.02, noise=0.01), "reference", "test")
    assert effect.difference[0] == pytest.approx(0.02, abs=0.006)
    assert effect.difference[1] > 0 and effect.is_clear
    assert (effect.num_seeds, effect.num_sessions) == (2, 8)


def test_noise_is_no_effect() -> None:
    (effect,) = measure_effects(study(gain=0.0, noise=0.05), "reference", "test")
    assert effect.difference[1] < 0 < effect.difference[2] and not effect.is_clear


def test_only_seeds_and_sessions_that_both_have_are_compared() -> None:
    outcomes = [
        outcome("reference", 0, {"a": 0.1, "b": 0.2, "c": None}),
        outcome("reference", 1, {"a": 0.3}),
        outcome("other", 0, {"a": 0.2, "c": 0.9, "d": 0.9}),
    ]
    (effect,) = measure_effects(outcomes, "reference", "test")
    assert effect.difference[0] == pytest.approx(0.1)
    assert effect.num_sessions == 1 and effect.together is None and not effect.is_clear


def test_a_variant_with_nothing_in_common_has_no_effect() -> None:
    outcomes = [outcome("reference", 0, {"a": 0.1}), outcome("other", 1, {"a": 0.2})]
    assert measure_effects(outcomes, "reference", "test") == []


def test_of_a_target_only_its_own_session_counts() -> None:
    outcomes = [
        outcome("alone", 0, {"a": 0.1}, target="a"),
        outcome("alone", 0, {"b": 0.3}, target="b"),
        outcome("more", 0, {"a": 0.2, "b": 0.9}, target="a"),
        outcome("more", 0, {"a": 0.9, "b": 0.2}, target="b"),
    ]
    (effect,) = measure_effects(outcomes, "alone", "test")
    assert effect.difference[0] == pytest.approx(0.0) and effect.num_sessions == 2


def test_intervals_that_hold_together_are_wider() -> None:
    (alone,) = measure_effects(study(0.02, 0.01), "reference", "test")
    many = [*study(0.02, 0.01)]
    many += [
        dataclasses.replace(each, trial=dataclasses.replace(each.trial, variant=f"other {number}"))
        for number in range(20)
        for each in many
        if each.trial.variant == "other"
    ]
    first = measure_effects(many, "reference", "test")[0]
    assert first.difference == alone.difference
    assert first.together is not None and alone.together is not None
    assert first.together[0] < alone.together[0] and first.together[1] > alone.together[1]


def test_resampling_draws_seeds_and_sessions_together() -> None:
    cells = [(seed, session) for seed in range(3) for session in "abcd"]
    values = np.array([1.0 if session == "a" else 0.0 for _, session in cells])
    resamples = means(draw_weights(cells, 0), values)
    # The share of session a in four sessions drawn with replacement: binomial, whatever the seeds.
    assert resamples.mean() == pytest.approx(0.25, abs=0.02)
    assert resamples.std() == pytest.approx(np.sqrt(0.25 * 0.75 / 4), abs=0.02)


def test_the_interval_covers_the_truth_where_sessions_are_few() -> None:
    """Differences that vary between sessions around 0: about one interval in twenty misses it."""
    rng = np.random.default_rng(1)
    for num_sessions in (3, 8):
        cells = [(seed, f"s{number}") for seed in range(2) for number in range(num_sessions)]
        weights = draw_weights(cells, 0, 1000)
        missed = 0
        for _ in range(200):
            values = np.tile(rng.normal(size=num_sessions), 2) + 0.3 * rng.normal(size=len(cells))
            low, high = interval(values.mean(), means(weights, values), cells)
            missed += not low <= 0 <= high
        assert missed <= 20, num_sessions


def test_seeds_that_drew_other_sessions_are_resampled_without_empty_draws() -> None:
    cells = [(seed, f"session-{seed}") for seed in range(3)]
    assert draw_weights(cells, 0).sum(axis=1).min() > 0


def test_one_seed_shows_nothing_clearly() -> None:
    outcomes = [each for each in study(gain=0.2, noise=0.001) if each.trial.seed == 0]
    (effect,) = measure_effects(outcomes, "reference", "test")
    assert effect.difference[1] > 0 and not effect.is_clear
