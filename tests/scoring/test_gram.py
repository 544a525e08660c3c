from __future__ import annotations

import math

import numpy as np
import pytest

from forebrain.scoring.gram import (
    FeatureBlock,
    Gram,
    UnitSums,
    choose_strengths,
    solve,
    solve_units,
)

B, L, H, N = 60, 14, 3, 4
Made = tuple[np.ndarray, np.ndarray, list[FeatureBlock]]


def make(seed: int = 0, batch: int = B) -> Made:
    rng = np.random.default_rng(seed)
    past = rng.normal(size=(batch, L, N)).astype(np.float32)
    blocks = [
        FeatureBlock("population", rng.normal(size=(batch, 5)).astype(np.float32)),
        FeatureBlock("stimulus", rng.normal(size=(batch, 2)).astype(np.float32)),
    ]
    residual = rng.normal(size=(batch, H, N)).astype(np.float32)
    return past, residual, blocks


def test_units_weights_are_those_of_a_penalised_regression_of_each_unit() -> None:
    past, residual, blocks = make()
    strengths = {"level": math.inf, "own": 0.3, "population": 1.0, "stimulus": 0.1}
    weights = solve(Gram.of(past, residual, blocks), strengths)
    for unit in range(N):
        features = [past[:, :12, unit], *(block.values for block in blocks)]
        design = np.concatenate(features, axis=1).astype(float)
        penalty = np.concatenate(
            [
                np.full(x.shape[1], strength * np.square(x.astype(float)).sum() / x.shape[1])
                for x, strength in zip(features, (0.3, 1.0, 0.1), strict=True)
            ]
        )
        expected = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ residual[:, :, unit])
        found = np.concatenate([weights.own[unit], weights.common[:, unit]])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_block_with_infinite_strength_has_no_weight() -> None:
    past, residual, blocks = make()
    strengths = {"level": math.inf, "own": 1.0, "population": math.inf, "stimulus": 1.0}
    weights = solve(Gram.of(past, residual, blocks), strengths)
    assert not weights.shared.any() and not weights.common[:5].any() and weights.common[5:].all()
    without = solve(Gram.of(past, residual, blocks[1:]), {"level": math.inf, "own": 1.0, "stimulus": 1.0})
    np.testing.assert_allclose(weights.own, without.own, atol=1e-6)


def test_sums_add_up_and_are_taken_apart() -> None:
    past, residual, blocks = make()
    first, second = slice(0, 25), slice(25, B)

    def of(chosen: slice) -> Gram:
        return Gram.of(
            past[chosen], residual[chosen], [FeatureBlock(each.name, each.values[chosen]) for each in blocks]
        )

    whole = Gram.of(past, residual, blocks)
    for name in ("pooled", "own", "common", "cross", "squares", "num_windows"):
        np.testing.assert_allclose(getattr(of(first).plus(of(second)), name), getattr(whole, name), atol=1e-3)
        np.testing.assert_allclose(getattr(whole.less(of(first)), name), getattr(of(second), name), atol=1e-3)
        # Of no window: where trials share no frame, none is near a block of time.
        np.testing.assert_array_equal(getattr(whole.less(of(slice(0, 0))), name), getattr(whole, name))


def test_sums_that_are_solved_again_with_other_strengths_remember_none_of_the_former() -> None:
    gram, held_out = Gram.of(*make()), Gram.of(*make(seed=1, batch=40))
    again, judge = UnitSums(gram), UnitSums(held_out)
    for population, own in ((1.0, 0.3), (1.0, 3.0), (math.inf, 3.0), (0.1, math.inf), (0.1, 0.3), (1.0, 0.3)):
        strengths = {"level": math.inf, "own": own, "population": population, "stimulus": 0.1}
        weights = again.solve(strengths)
        for found, expected in zip(weights, UnitSums(gram).solve(strengths), strict=True):
            np.testing.assert_array_equal(found, expected)
        own_weights, common = solve_units(gram, strengths)
        left = UnitSums(held_out).squared_error(own_weights, common.transpose(1, 0, 2))
        assert judge.squared_error(*weights) == left


@pytest.mark.parametrize("level", [math.inf, 0.03])
def test_the_error_from_sums_is_that_of_the_forecasts(level: float) -> None:
    past, residual, blocks = make()
    other_past, other_residual, other_blocks = make(seed=1, batch=40)
    strengths = {"level": level, "own": 0.3, "population": 1.0, "stimulus": 1.0}
    weights = solve(Gram.of(past, residual, blocks), strengths)
    other = Gram.of(other_past, other_residual, other_blocks).after(weights.shared)
    rest = other_residual - weights.predict(other_past, other_blocks)
    left = UnitSums(other).squared_error(weights.own, weights.common.transpose(1, 0, 2))
    assert left == pytest.approx(np.square(rest).sum(), rel=1e-4)


def test_strengths_leave_out_what_does_not_help_on_other_blocks_of_time() -> None:
    rng = np.random.default_rng(3)
    folds = []
    for seed in range(4):
        sums = []
        for batch in (100, 300):
            past, residual, blocks = make(seed=seed + 10 * batch, batch=batch)
            residual = 0.1 * residual + blocks[1].values[:, :1, None]
            sums.append(Gram.of(past, residual.astype(np.float32), blocks))
        folds.append((sums[0], sums[1]))
    strengths, error = choose_strengths(folds)
    assert math.isfinite(strengths["stimulus"]) and error < 0.05
    noise = [
        tuple(Gram.of(*make(seed=int(rng.integers(1000)), batch=80)) for _ in range(2)) for _ in range(4)
    ]
    strengths, error = choose_strengths([(first, second) for first, second in noise])
    assert error == pytest.approx(1, abs=0.02)


def test_units_that_never_move_have_no_weight_and_harm_no_other() -> None:
    past, residual, blocks = make()
    past[:, :, 2] = residual[:, :, 2] = 0
    strengths = {"level": 0.03, "own": 0.3, "population": 1.0, "stimulus": 1.0}
    weights = solve(Gram.of(past, residual, blocks), strengths)
    assert np.isfinite(weights.own).all() and np.isfinite(weights.common).all()
    np.testing.assert_allclose(weights.own[2], 0, atol=1e-9)
    moving = [0, 1, 3]
    fewer = solve(Gram.of(past[..., moving], residual[..., moving], blocks), strengths)
    np.testing.assert_allclose(weights.own[moving], fewer.own, atol=1e-4)
