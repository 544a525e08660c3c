from __future__ import annotations

import tracemalloc
from typing import Literal

import numpy as np
import pytest

from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import ConfigError
from forebrain.scoring import response
from forebrain.scoring.baselines import CopyBaseline
from forebrain.scoring.evoked import is_evoked
from forebrain.scoring.inputs import MAX_FEATURES, InputFeatures, lag_basis, taken_apart
from forebrain.scoring.response import (
    HeldPlan,
    Response,
    RestWindows,
    fit_response,
    past_features,
    under_plan,
)
from forebrain.scoring.ridge import fit_head
from forebrain.sessions.session import Session

CONTEXT, HORIZON = 12, 6
KERNEL = np.exp(-np.arange(30) / 4) - np.exp(-np.arange(30) / 1.5)


def answering(noise: float = 0.2, num_units: int = 5, seed: int = 0, num_frames: int = 900) -> Session:
    """Units that answer marks and the rise of a level, each in its own measure."""
    rng = np.random.default_rng(seed)
    marks = (rng.random(num_frames) < 0.04).astype(float)
    level = np.repeat(rng.random(num_frames // 30 + 1), 30)[:num_frames]
    rise = np.maximum(np.diff(level, prepend=level[0]), 0)
    traces = np.stack(
        [
            np.convolve(rng.normal() * marks + rng.normal() * 2 * rise, KERNEL)[:num_frames]
            for _ in range(num_units)
        ],
        axis=1,
    ) + noise * rng.normal(size=(num_frames, num_units))
    return Session(
        traces.astype(np.float32), 5.0, "fish", "one", "s", "lab",
        stimulus=np.stack([marks, level], axis=1).astype(np.float32), stimulus_names=("mark", "level"),
    )  # fmt: skip


def windows_of(session: Session) -> SessionWindows:
    return SessionWindows(session, "chronological", CONTEXT, HORIZON)


def score(forecast: np.ndarray, context: np.ndarray, target: np.ndarray) -> float:
    return float(1 - np.square(forecast - target).sum() / np.square(target - context[:, -1:]).sum())


def of_test_part(source: SessionWindows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return source.read(0, "test", np.arange(source.num_windows(0, "test")))


def test_a_plan_tells_what_the_past_cannot() -> None:
    source, base = windows_of(answering(noise=0.05)), CopyBaseline(HORIZON)
    context, target, starts = of_test_part(source)
    fit = fit_response(source, ["mark", "level"])
    assert fit.response is not None and fit.response.features.num_features <= MAX_FEATURES
    rest = fit_head(RestWindows(source, fit), base)
    planned = under_plan(rest.forecaster(base), context, fit.without(source, 0, starts))
    without = fit_head(source, base).forecaster(base)(0, context)
    assert score(planned, context, target) > score(without, context, target) + 0.2
    # The answer to a mark is found: the kernel's shape over 20 frames.
    features = fit.response.features
    pulse = np.zeros((1, features.before + 20, 2), np.float32)
    pulse[:, features.before, features.channels.index("mark")] = 1
    found = (fit.response(pulse) - fit.response(0 * pulse))[0, 1:]
    unit = np.abs(found).max(axis=0).argmax()
    assert abs(np.corrcoef(found[:, unit], KERNEL[:20])[0, 1]) > 0.95


def test_inputs_that_say_nothing_are_left_out() -> None:
    session = answering()
    rng = np.random.default_rng(5)
    useless = (rng.random((900, 1)) < 0.05).astype(np.float32)
    other = Session(
        rng.normal(size=(900, 4)).astype(np.float32), 5.0, "fish", "one", "s", "lab",
        stimulus=useless, stimulus_names=("mark",),
    )  # fmt: skip
    source = windows_of(other)
    fit = fit_response(source, ["mark"])
    context, target, starts = of_test_part(source)
    if fit.response is not None:
        base = CopyBaseline(HORIZON)
        rest = fit_head(RestWindows(source, fit), base)
        planned = under_plan(rest.forecaster(base), context, fit.without(source, 0, starts))
        plain = fit_head(source, base).forecaster(base)(0, context)
        assert abs(score(planned, context, target) - score(plain, context, target)) < 0.01
    assert fit_response(windows_of(session), []).reason == "no input is named"
    constant = Session(
        session.traces, 5.0, "fish", "one", "s", "lab",
        stimulus=np.ones((900, 1), np.float32), stimulus_names=("on",),
    )  # fmt: skip
    assert fit_response(windows_of(constant), ["on"]).reason == "no input changes in the training part"


def test_no_feature_reads_a_later_frame() -> None:
    source = windows_of(answering())
    starts = np.arange(0, 400, 7)
    features = InputFeatures.of_source(source, ["mark", "level"], starts=starts, memory_s=4.0)
    assert features is not None
    inputs = source.inputs(0, starts, features.before, HORIZON, features.channels)
    whole = features(inputs)
    assert whole.shape == (len(starts), 1 + HORIZON, features.num_features)
    for known in range(HORIZON):
        changed = inputs.copy()
        changed[:, features.before + known :] = 17
        assert (features(changed)[:, : 1 + known] == whole[:, : 1 + known]).all()
    np.testing.assert_array_equal(features(inputs[:, : features.before])[:, 0], whole[:, 0])
    past = past_features(source, features)(starts)[0].values
    np.testing.assert_array_equal(past, whole[:, 0])


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_window_has_the_same_bits_alone_and_in_a_batch(
    part: Literal["train", "test"], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = windows_of(answering())
    fit = fit_response(source, ["mark", "level"])
    _, _, starts = source.read(0, part, np.arange(source.num_windows(0, part)))
    together = fit.without(source, 0, starts)
    alone = np.concatenate(
        [fit.without(source, 0, starts[place : place + 1]) for place in range(len(starts))]
    )
    assert (together == alone).all()
    monkeypatch.setattr(response, "CACHED_VALUES", 3 * together[0].size)
    assert (fit.without(source, 0, starts) == together).all()


def test_units_whose_errors_are_found_a_few_at_a_time_get_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = windows_of(answering())
    together = fit_response(source, ["mark", "level"])
    monkeypatch.setattr(response, "CACHED_UNITS", 2)
    apart = fit_response(source, ["mark", "level"])
    assert together.response is not None and apart.response is not None
    assert apart.error == pytest.approx(together.error)
    np.testing.assert_allclose(apart.response.weights, together.response.weights, atol=1e-6)


def test_windows_freed_of_a_response_are_not_held() -> None:
    source = windows_of(answering(num_units=60, num_frames=1800))
    rest = RestWindows(source, fit_response(source, ["mark", "level"]))
    tracemalloc.start()
    try:
        sizes = [
            context.nbytes + target.nbytes
            for first in range(0, 900, 100)
            for context, target, _ in [rest.read(0, "train", np.arange(first, first + 100))]
        ]
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 3 * max(sizes) < sum(sizes) / 2


def test_training_windows_are_freed_of_a_response_that_was_fitted_without_them() -> None:
    source = windows_of(answering())
    fit = fit_response(source, ["mark", "level"])
    assert fit.response is not None
    rest = RestWindows(source, fit)
    context, _, starts = rest.read(0, "train", np.arange(5))
    raw, _, _ = source.read(0, "train", np.arange(5))
    length = fit.response.features.before + CONTEXT - 1
    inputs = source.inputs(0, starts, length, HORIZON, fit.response.features.channels)
    assert not np.allclose(raw - context, fit.response(inputs)[:, :CONTEXT], atol=1e-5)
    assert np.corrcoef((raw - context).ravel(), fit.response(inputs)[:, :CONTEXT].ravel())[0, 1] > 0.95


def test_a_response_survives_being_saved() -> None:
    source = windows_of(answering())
    response = fit_response(source, ["mark", "level"]).response
    assert response is not None
    again = Response.from_arrays(response.arrays(), response.features.record(), "a file")
    inputs = source.inputs(0, np.arange(5), response.features.before, HORIZON, response.features.channels)
    assert (again(inputs) == response(inputs)).all()
    with pytest.raises(ConfigError, match="a file: the response has no weights"):
        arrays = {name: value for name, value in response.arrays().items() if name != "weights"}
        Response.from_arrays(arrays, response.features.record(), "a file")
    with pytest.raises(ConfigError, match="expected \\[windows"):
        response(inputs[:, :-8, :1])


def test_a_plan_outside_what_was_seen_is_told() -> None:
    source = windows_of(answering())
    features = InputFeatures.of_source(source, ["mark", "level"])
    assert features is not None
    assert features.outside(np.array([[1, 0.5], [0, 0.4]])) == []
    assert features.outside(np.array([[1, 0.5], [2, 7.0]])) == ["mark", "level"]


def test_a_level_is_taken_apart_into_what_it_does() -> None:
    values = np.array([[0, 2, 3, 3, 2.5, 0, 0]])
    expected = {
        "level": [2, 3, 3, 2.5, 0, 0],
        "square": [4, 9, 9, 6.25, 0, 0],
        "onset": [1, 0, 0, 0, 0, 0],
        "offset": [0, 0, 0, 0, 1, 0],
        "rise": [0, 10, 0, 0, 0, 0],
        "fall": [0, 0, 0, 5, 0, 0],
    }
    for part, series in expected.items():
        assert taken_apart(values, part, 10.0)[0].tolist() == series


@pytest.mark.parametrize("unit", [1e-30, 1e-12, 1e6, 1e18])
def test_what_an_input_tells_does_not_depend_on_its_unit(make_session, unit: float) -> None:
    rng = np.random.default_rng(0)
    marks = (rng.random(400) < 0.04).astype(np.float32)
    current = np.repeat(rng.normal(size=40), 10) * (np.arange(400) % 20 < 10)  # goes on and off

    def features(unit: float) -> tuple[InputFeatures, np.ndarray]:
        stimulus = np.stack([current * unit, marks], axis=1).astype(np.float32)
        session = make_session(num_frames=400, stimulus=stimulus, stimulus_names=("current", "mark"))
        source = windows_of(session)
        found = InputFeatures.of_source(source, ["current", "mark"])
        assert found is not None
        return found, found(source.inputs(0, np.arange(100), found.before, HORIZON, found.channels))

    (found, values), (expected, as_ones) = features(unit), features(1.0)
    assert found.parts == expected.parts and np.isfinite(found.scale[: len(found.basis.T)]).all()
    np.testing.assert_allclose(values, as_ones, atol=2e-3)


def test_a_part_of_an_input_that_does_not_fit_float32_is_left_out(make_session) -> None:
    level = np.repeat(np.random.default_rng(0).random(20), 20) * 1e25  # its square does not
    session = make_session(
        num_frames=400, stimulus=level[:, None].astype(np.float32), stimulus_names=("level",)
    )
    features = InputFeatures.of_source(windows_of(session), ["level"], encoding="curved")
    assert features is not None and "square" not in dict(features.parts).values()
    assert (0, "level") in features.parts and np.isfinite(features.mean).all()


@pytest.mark.parametrize(("memory", "count"), [(150, 16), (20, 6), (900, 3), (7, 2)])
def test_a_basis_covers_every_lag_and_is_finest_just_now(memory: int, count: int) -> None:
    basis = lag_basis(memory, count)
    assert basis.shape == (memory, count) and (basis.sum(axis=1) > 0).all()
    peaks = basis.argmax(axis=0)
    assert peaks[0] == 0 and peaks[-1] >= memory - 2 and (np.diff(np.diff(peaks)) >= -1).all()
    assert (lag_basis(5, 8) == np.eye(5)).all()


def test_inputs_before_a_segment_are_held_and_events_are_not(make_session) -> None:
    stimulus = np.zeros((60, 2), np.float32)
    stimulus[[30, 45], 0] = 1
    stimulus[:30, 1], stimulus[30:, 1] = 5, 7
    session = make_session(
        num_frames=60, segment_ids=np.repeat([0, 1], 30), stimulus=stimulus,
        stimulus_names=("mark", "level"), input_kinds={"mark": "event", "level": "level"},
    )  # fmt: skip
    source = SessionWindows(session, "chronological", 4, 2)
    inputs = source.inputs(0, np.array([30]), 6, 2, ["mark", "level"])
    assert inputs[0, :, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert inputs[0, :, 1].tolist() == [7] * 8


def test_a_held_plan_is_told_by_the_past_alone() -> None:
    source = windows_of(answering())
    starts = np.arange(0, 300, 5)
    inputs = HeldPlan(source).inputs(0, starts, 8, 6, ["mark", "level"])
    np.testing.assert_array_equal(inputs[:, :8], source.inputs(0, starts, 8, 0, ["mark", "level"]))
    assert (inputs[:, 8:, 0] == 0).all() and (inputs[:, 8:, 1] == inputs[:, 7:8, 1]).all()
    fit = fit_response(HeldPlan(source), ["mark", "level"])
    assert fit.response is not None and fit.error < 1


def test_many_levels_are_taken_as_they_are_and_too_many_are_an_error(make_session) -> None:
    rng = np.random.default_rng(0)
    for count in (30, MAX_FEATURES + 1):
        names = tuple(f"level{number}" for number in range(count))
        stimulus = rng.random((400, count)).astype(np.float32)
        source = windows_of(make_session(num_frames=400, stimulus=stimulus, stimulus_names=names))
        if count > MAX_FEATURES:
            with pytest.raises(ConfigError, match="65 inputs change"):
                InputFeatures.of_source(source, names)
        else:
            features = InputFeatures.of_source(source, names)
            assert features is not None and features.num_features == 60


def test_a_window_is_evoked_where_an_input_changes_in_its_horizon(make_session) -> None:
    stimulus = np.zeros((400, 2), np.float32)
    stimulus[[30, 100, 300], 0] = 1
    stimulus[:, 1] = np.where(np.arange(400) < 200, 1.0, 1.05)
    stimulus[50:60, 1] = 2
    session = make_session(num_frames=400, stimulus=stimulus, stimulus_names=("mark", "level"))
    source = windows_of(session)
    # The horizon of a window that starts at s is s + 12 to s + 17.
    starts = np.array([12, 13, 18, 19, 33, 49, 187, 300])
    found = is_evoked(source, ["mark", "level"], starts, source.starts("train"))
    assert found.tolist() == [False, True, True, False, True, False, False, False]
