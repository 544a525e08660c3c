from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebrain.errors import ConfigError, DivergenceError, RecordingError
from forebrain.scoring.metrics import METRICS, UNIT_QUANTILES, ScoreAccumulator, Scores, summarise

B, H, N = 40, 3, 4
WINDOW = 8


def _batch(seed: int = 0, num_windows: int = B) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(forecast, target, last_frame, starts)"""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(num_windows, H, N)).astype(np.float32)
    forecast = (0.5 * target + rng.normal(size=target.shape)).astype(np.float32)
    last = rng.normal(size=(num_windows, N)).astype(np.float32)
    return forecast, target, last, np.arange(num_windows)


def _scores(
    forecast: np.ndarray, target: np.ndarray, last: np.ndarray, starts: np.ndarray, session: str = "s"
) -> Scores:
    accumulator = ScoreAccumulator(session, "model", *target.shape[1:])
    accumulator.update(forecast, target, last, starts)
    return accumulator.scores(WINDOW, seed=0)


def _assert_same(one: Scores, other: Scores, rtol: float = 1e-9) -> None:
    for name in ("values", "low", "high", "unit_quantiles"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=1e-12)
    assert (one.interval, one.num_windows, one.num_sessions) == (
        other.interval,
        other.num_windows,
        other.num_sessions,
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_windows=st.integers(3, 60))
def test_every_metric_agrees_with_its_definition(seed: int, num_windows: int) -> None:
    forecast, target, last, _ = batch = _batch(seed, num_windows)
    scores = _scores(*batch)
    x, y, z = forecast.astype(float), target.astype(float), last.astype(float)[:, None]

    assert scores.value("mse") == pytest.approx(np.mean((x - y) ** 2))
    assert scores.value("mae") == pytest.approx(np.mean(np.abs(x - y)))
    assert scores.value("score") == pytest.approx(1 - np.mean((x - y) ** 2) / np.mean((z - y) ** 2))
    correlations = np.array([[np.corrcoef(x[:, h, n], y[:, h, n])[0, 1] for n in range(N)] for h in range(H)])
    assert scores.value("correlation") == pytest.approx(correlations.mean())
    np.testing.assert_allclose(scores.by_step("correlation")[0], correlations.mean(axis=1))
    np.testing.assert_allclose(scores.by_step("mse")[0], ((x - y) ** 2).mean(axis=(0, 2)))
    np.testing.assert_allclose(scores.by_step("mae")[0], np.abs(x - y).mean(axis=(0, 2)))
    ratios = ((x - y) ** 2).mean(axis=(0, 2)) / ((z - y) ** 2).mean(axis=(0, 2))
    np.testing.assert_allclose(scores.by_step("score")[0], 1 - ratios)
    units = 1 - ((x - y) ** 2).mean(axis=(0, 1)) / ((z - y) ** 2).mean(axis=(0, 1))
    np.testing.assert_allclose(scores.unit_quantiles, np.quantile(units, UNIT_QUANTILES))


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, B - 1), unique=True), shuffled=st.booleans())
def test_batches_in_any_size_and_order_give_the_same_scores(cuts: list[int], shuffled: bool) -> None:
    batch = _batch()
    pieces = np.split(np.arange(B), sorted(cuts))
    if shuffled:
        pieces.reverse()
    accumulator = ScoreAccumulator("s", "model", H, N)
    for piece in pieces:
        accumulator.update(*(array[piece] for array in batch))
    _assert_same(accumulator.scores(WINDOW, seed=0), _scores(*batch))


def test_copy_scores_exactly_zero_and_perfection_exactly_one() -> None:
    _, target, last, starts = _batch()
    copy = _scores(np.repeat(last[:, None], H, axis=1), target, last, starts)
    assert (copy.values[0] == 0).all() and (copy.unit_quantiles == 0).all()
    assert copy.bounds("score") == pytest.approx((0, 0), abs=1e-12)
    perfect = _scores(target, target, last, starts)
    assert (perfect.values[0] == 1).all()
    np.testing.assert_allclose(perfect.values[3], 1)


def test_where_nothing_moves_the_score_is_undefined_and_errors_are_not() -> None:
    forecast, _, _, starts = _batch()
    still = np.full((B, H, N), 0.3, np.float32)
    scores = _scores(forecast, still, still[:, 0], starts)
    assert scores.num_sessions == 0 and scores.num_windows == B
    assert np.isnan(scores.values[0]).all() and np.isnan(scores.unit_quantiles).all()
    assert np.isnan(scores.value("correlation"))
    assert scores.value("mse") > 0
    assert scores.headline()["score"] is None


def test_units_that_never_move_are_left_out_of_unit_quantiles_and_correlation() -> None:
    forecast, target, last, starts = _batch()
    target[..., 0] = last[:, 0] = 0.1
    scores = _scores(forecast, target, last, starts)
    moving = _scores(forecast[..., 1:], target[..., 1:], last[..., 1:], starts)
    np.testing.assert_allclose(scores.unit_quantiles, moving.unit_quantiles)
    np.testing.assert_allclose(scores.values[3], moving.values[3])


@pytest.mark.parametrize("offset", [0.1, 1e4])
def test_a_constant_forecast_of_a_moving_target_has_correlation_zero(offset: float) -> None:
    _, target, last, starts = _batch()
    assert (_scores(np.full_like(target, offset), target, last, starts).values[3] == 0).all()


def test_correlation_keeps_its_digits_where_the_mean_is_large() -> None:
    forecast, target, last, starts = _batch()
    shifted = _scores(forecast.astype(float) + 1e6, target.astype(float) + 1e6, last + 1e6, starts)
    np.testing.assert_allclose(
        shifted.values[3], _scores(forecast, target, last, starts).values[3], rtol=1e-6
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_forecast_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    forecast, target, last, starts = _batch()
    forecast[3, 1, 2] = bad
    with pytest.raises(DivergenceError, match=r"model, session fish/1: 1 of 480"):
        ScoreAccumulator("fish/1", "model", H, N).update(forecast, target, last, starts)


def test_a_target_that_is_not_finite_is_the_recordings_fault() -> None:
    forecast, target, last, starts = _batch()
    target[0, 0, 0] = np.nan
    with pytest.raises(RecordingError, match="fish/1"):
        ScoreAccumulator("fish/1", "model", H, N).update(forecast, target, last, starts)


def test_a_forecast_of_the_wrong_horizon_is_refused() -> None:
    forecast, target, last, starts = _batch()
    with pytest.raises(ConfigError, match=r"\(40, 2, 4\); expected \(40, 3, 4\)"):
        ScoreAccumulator("s", "model", H, N).update(forecast[:, :2], target, last, starts)


def test_scores_of_no_window_are_refused() -> None:
    with pytest.raises(ConfigError, match="no window"):
        ScoreAccumulator("s", "model", H, N).scores(WINDOW, seed=0)


def test_fewer_than_two_blocks_give_no_interval() -> None:
    scores = _scores(*_batch(num_windows=2 * WINDOW - 1))
    assert scores.interval == "none" and np.isnan(scores.low).all()
    assert _scores(*_batch(num_windows=2 * WINDOW)).interval == "blocks"


def test_json_gives_back_the_same_scores_to_the_last_bit() -> None:
    forecast, target, last, starts = _batch()
    target[..., 0] = last[:, 0] = 0
    for scores in (_scores(forecast, target, last, starts), _scores(*_batch(num_windows=5))):
        text = json.dumps(scores.to_json(), allow_nan=False)
        back = Scores.from_json(json.loads(text))
        _assert_same(back, scores, rtol=0)


def test_the_summary_is_the_mean_over_sessions_in_any_order() -> None:
    sessions = {f"s{seed}": _scores(*_batch(seed), session=f"s{seed}") for seed in range(6)}
    summary = summarise(sessions, H, seed=0)
    for metric in METRICS:
        mean = np.mean([scores.value(metric) for scores in sessions.values()])
        assert summary.value(metric) == pytest.approx(mean)
        low, high = summary.bounds(metric)
        assert low < mean < high
    assert summary.interval == "sessions"
    assert (summary.num_sessions, summary.num_windows) == (6, 6 * B)
    _assert_same(summarise(dict(reversed(sessions.items())), H, seed=0), summary, rtol=0)


def test_the_summary_of_one_session_is_its_own_with_its_block_interval() -> None:
    scores = _scores(*_batch())
    assert summarise({"s": scores}, H, seed=0) is scores


def test_sessions_without_a_score_take_no_part_in_the_summary() -> None:
    forecast, _, _, starts = _batch()
    still = np.zeros((B, H, N), np.float32)
    undefined = _scores(forecast, still, still[:, 0], starts)
    scored = _scores(*_batch())
    assert summarise({"a": undefined, "b": scored}, H, seed=0) is scored
    nothing = summarise({"a": undefined}, H, seed=0)
    assert nothing.num_sessions == 0 and np.isnan(nothing.values).all()
    assert nothing.values.shape == (len(METRICS), 1 + H)
