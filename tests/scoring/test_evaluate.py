from __future__ import annotations

import json

import numpy as np
import pytest

from forebrain.errors import ConfigError, DivergenceError
from forebrain.scoring.baselines import LinearFit
from forebrain.scoring.evaluate import Evaluation, evaluate, fit_baselines, fit_linear
from forebrain.scoring.window_source import ArrayWindows

C, H = 12, 4


@pytest.fixture(scope="module")
def source(walk) -> ArrayWindows:
    sessions = [
        walk(0),
        walk(1, num_units=9),
        walk(2, num_frames=60),  # Too short for a window in validation and test.
        walk(3, species="mouse", dataset="other", num_frames=800),
    ]
    return ArrayWindows(sessions, "chronological", C, H)


@pytest.fixture(scope="module")
def forecasters(source: ArrayWindows) -> dict:
    return {"model": lambda session, context: 0.8 * context[:, -H:], **fit_baselines(source)}


@pytest.fixture(scope="module")
def evaluation(source: ArrayWindows, forecasters: dict) -> Evaluation:
    return evaluate(forecasters, source, "test", windows_per_session=50)


def test_the_score_is_the_mean_over_sessions_of_one_minus_mse_over_copy_mse(source, forecasters) -> None:
    evaluation = evaluate(forecasters, source, "test", windows_per_session=None)
    expected = []
    for session in (0, 1, 3):
        windows = np.arange(source.num_windows(session, "test"))
        context, target, _ = source.read(session, "test", windows)
        error = forecasters["model"](session, context) - target
        expected.append(1 - np.mean(error**2) / np.mean((context[:, -1:] - target) ** 2))
    assert evaluation.summary("model").value("score") == pytest.approx(np.mean(expected), rel=1e-5)
    assert evaluation.summary("copy").value("score") == 0
    assert evaluation.summary("linear").value("score") > 0


def test_batches_of_any_size_give_the_same_scores(source, forecasters, evaluation) -> None:
    one_by_one = evaluate(forecasters, source, "test", windows_per_session=50, max_rows=1)
    for name in forecasters:
        whole, pieces = evaluation.summary(name), one_by_one.summary(name)
        np.testing.assert_allclose(pieces.values, whole.values, rtol=1e-5, atol=1e-7)


def test_evaluations_written_under_older_names_are_read(evaluation: Evaluation) -> None:
    written = json.loads(json.dumps(evaluation.to_json()))
    for info in written["sessions"]:
        info["persists"] = info.pop("is_smooth")
    assert Evaluation.from_json(written).to_json() == evaluation.to_json()


def test_merged_workers_give_what_one_gives_to_the_last_bit(source, forecasters, evaluation) -> None:
    workers = [
        evaluate(forecasters, source, "test", windows_per_session=50, sessions=numbers)
        for numbers in ([3, 1], [2], [0])
    ]
    sent = [Evaluation.from_json(json.loads(json.dumps(worker.to_json()))) for worker in workers]
    assert Evaluation.merge(sent).result("model") == evaluation.result("model")


def test_evaluations_not_made_alike_do_not_merge(source, forecasters, evaluation) -> None:
    with pytest.raises(ConfigError, match="appear twice"):
        Evaluation.merge([evaluation, evaluation])
    other = evaluate(forecasters, source, "test", windows_per_session=49, sessions=[0])
    with pytest.raises(ConfigError, match="differ in windows_per_session: 50 and 49"):
        Evaluation.merge([evaluation, other])
    other = evaluate({"x": forecasters["copy"]}, source, "test", windows_per_session=50, sessions=[0])
    with pytest.raises(ConfigError, match="different forecasters"):
        Evaluation.merge([evaluation, other])


def test_the_result_holds_what_result_json_promises(evaluation) -> None:
    result = evaluation.result("model")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["baselines"]) == {"copy", "mean", "linear"}
    for block in (result, *result["baselines"].values()):
        assert {"score", "mse", "mae", "correlation", "interval", "by_horizon"} <= set(block)
        assert set(block["by_species"]) == {"celegans", "mouse"}
        assert set(block["by_dataset"]) == {"lab", "other"}
        assert set(block["by_session"]) == {"lab/animal0/one", "lab/animal1/one", "other/animal3/one"}
        assert len(block["by_horizon"]["score"]["value"]) == H
    assert result["baselines"]["copy"]["score"] == 0
    assert result["interval"]["kind"] == "sessions"
    assert result["by_species"]["mouse"]["interval"]["kind"] == "blocks"
    assert result["windows"] == {
        "scored": 150,
        "skipped": 0,
        "available": 65 + 65 + 145,
        "per_session": 50,
        "seed": 0,
    }
    assert result["by_session"]["other/animal3/one"]["windows_available"] == 145


def test_sessions_without_windows_are_listed(evaluation) -> None:
    assert evaluation.result("model")["sessions_without_windows"] == ["lab/animal2/one"]


def test_sessions_in_which_nothing_moves_are_listed_and_left_out(walk) -> None:
    still = walk(5)
    still.traces[300:] = 1.0
    source = ArrayWindows([walk(0), still], "chronological", C, H)
    result = evaluate({"model": lambda s, x: x[:, -H:], **fit_baselines(source)}, source, "test").result(
        "model"
    )
    assert result["sessions_without_score"] == ["lab/animal5/one"]
    assert result["by_session"]["lab/animal5/one"]["score"] is None
    assert result["num_sessions"] == 1 and result["interval"]["kind"] == "blocks"


def test_no_result_without_all_baselines(source, forecasters) -> None:
    evaluation = evaluate({"model": forecasters["model"], "copy": forecasters["copy"]}, source, "test")
    with pytest.raises(ConfigError, match="mean, linear are missing"):
        evaluation.result("model")


def test_an_unknown_model_is_refused(evaluation) -> None:
    with pytest.raises(ConfigError, match="no forecaster 'modle'; there are model, copy"):
        evaluation.result("modle")


def test_a_model_that_diverged_is_named_with_its_session(source, forecasters) -> None:
    def broken(session: int, context: np.ndarray) -> np.ndarray:
        return np.full((len(context), H, context.shape[2]), np.nan)

    with pytest.raises(DivergenceError, match="forecaster broken, session lab/animal0/one"):
        evaluate({"broken": broken}, source, "test")


def test_two_sessions_of_one_name_are_refused(walk) -> None:
    source = ArrayWindows([walk(0), walk(0)], "chronological", C, H)
    with pytest.raises(ConfigError, match="lab/animal0/one appear twice"):
        evaluate({"copy": lambda s, x: x[:, -H:]}, source, "test")


def test_every_forecaster_sees_the_same_windows_once(source) -> None:
    seen: dict[str, list[np.ndarray]] = {"a": [], "b": []}

    def watch(name: str):
        def forecast(session: int, context: np.ndarray) -> np.ndarray:
            seen[name].append(context)
            return context[:, -H:]

        return forecast

    evaluate({name: watch(name) for name in seen}, source, "test", sessions=[0], max_rows=100)
    for one, other in zip(*seen.values(), strict=True):
        assert one is other
    assert sum(map(len, seen["a"])) == source.num_windows(0, "test")


@pytest.mark.parametrize("limit", [None, 7])
def test_progress_is_told_in_windows(source, forecasters, limit: int | None) -> None:
    told: list[tuple[int, int]] = []
    evaluated = evaluate(
        forecasters, source, "test", windows_per_session=limit, max_rows=20,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    scored = sum(scores.num_windows for scores in evaluated.scores["copy"].values())
    assert told[-1] == (scored, scored) and {total for _, total in told} == {scored}
    assert len(told) > len(source.sessions)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_the_linear_fit_of_workers_is_that_of_one(source) -> None:
    whole = fit_linear(source).solve()
    sum_of_workers = LinearFit(C, H)
    for numbers in ([2, 0], [3, 1]):
        sum_of_workers.add(fit_linear(source, numbers))
    np.testing.assert_allclose(sum_of_workers.solve().weights, whole.weights, rtol=1e-5, atol=1e-6)


def test_of_very_many_sessions_the_linear_fit_uses_few_windows_of_each(source, monkeypatch) -> None:
    monkeypatch.setattr("forebrain.scoring.evaluate._MAX_FIT_WINDOWS", 12)
    some = fit_linear(source).solve().weights
    assert some.tobytes() == fit_linear(source, windows_per_session=3).solve().weights.tobytes()
    sum_of_workers = LinearFit(C, H)
    for numbers in ([2, 0], [3, 1]):
        sum_of_workers.add(fit_linear(source, numbers))
    np.testing.assert_allclose(sum_of_workers.solve().weights, some, rtol=1e-5, atol=1e-6)


def test_the_linear_fit_uses_some_units_of_a_session_of_many(source, monkeypatch) -> None:
    whole = fit_linear(source, [1]).solve().weights
    monkeypatch.setattr("forebrain.scoring.evaluate._MAX_FIT_ROWS", 256 * 5)
    some = fit_linear(source, [1]).solve().weights
    assert (some != whole).any()
    np.testing.assert_allclose(some, whole, atol=0.5)
