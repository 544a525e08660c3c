"""What a trial leaves behind, and what the cluster has room for; without a cluster."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.util.state.exception import ServerUnavailable

from forebrain.console import make_console
from forebrain.errors import ConfigError, DivergenceError
from forebrain.scoring.metrics import Scores
from forebrain.studies import tuning
from forebrain.studies.notes import NOTE, read_note, unfinished
from forebrain.studies.trials import Trial, Variant, make_trials
from forebrain.studies.tuning import StudyStoppedError, run_trials
from forebrain.training.config import PretrainConfig
from forebrain.training.events import StepDone, Stopped, Validated
from forebrain.training.stopping import StopSignals
from forebrain_registry.storage import Folder


@pytest.fixture
def trials(base: PretrainConfig) -> list[Trial]:
    return make_trials(base, [Variant("a", {}), Variant("b", {})], 1)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Tune is told."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tuning.tune, "report", told.append)
    return told


def finish(trial: Trial) -> None:
    part = {"score": 0.25, "by_session": {}, "baselines": {}}
    result = {"steps": 4, "backbone_parameters": 1000, "seconds": 2.0, "validation": part, "test": part}
    Folder(trial.config.out).write("result.json", json.dumps(result).encode())


def on_trial(number: int, **given: Any) -> Any:
    return SimpleNamespace(config={"number": number}, last_result={"step": 2}, **given)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DivergenceError("step 3: loss nan", "The same command goes on."), "step 3: loss nan"),
        (ZeroDivisionError("no such luck"), "ZeroDivisionError: no such luck"),
    ],
)
def test_a_trial_that_fails_says_why_and_is_tried_again(
    trials, reports, monkeypatch, error: Exception, words: str
) -> None:
    def fail(*given: Any) -> None:
        raise error

    monkeypatch.setattr(tuning, "pretrain", fail)
    tuning._run_trial({"number": 0}, trials)
    note = read_note(trials[0])
    assert note is not None and note.status == "failed" and note.reason == words
    assert unfinished(trials) == trials and len(reports) == 1
    monkeypatch.setattr(tuning, "pretrain", lambda config, *rest: finish(trials[0]))
    tuning._run_trial({"number": 0}, trials)
    assert read_note(trials[0]) is None and unfinished(trials) == trials[1:]


def test_validations_are_told_but_not_the_last_nor_undefined_ones(trials, reports, monkeypatch) -> None:
    def train(config: PretrainConfig, console: Any, tell: Any) -> None:
        for step, score in ((1, 0.1), (2, None), (3, 0.3), (4, 0.4)):
            tell(Stopped(step, "another kind of event"))
            values = np.full((4, 2), np.nan if score is None else score)
            scores = Scores(values, values, values, "none", np.zeros(5), num_windows=1, num_sessions=1)
            tell(Validated(step, scores, {}, seconds=0.1))

    monkeypatch.setattr(tuning, "pretrain", train)
    tuning._run_trial({"number": 0}, trials)
    assert reports == [{"step": 1, "score": 0.1}, {"step": 3, "score": 0.3}, {"step": 4, "score": 0.3}]


def test_a_trial_tells_the_same_again_so_that_tune_can_stop_it(trials, reports, monkeypatch) -> None:
    now = [0.0]

    def train(config: PretrainConfig, console: Any, tell: Any) -> None:
        for step in range(4):
            now[0] += 1.5
            tell(StepDone(step, 0.5, 1.0, 1e-3, 1.5, 0.0, 0.0, 0, 0, 1.0))

    monkeypatch.setattr(tuning, "pretrain", train)
    monkeypatch.setattr(tuning, "time", SimpleNamespace(monotonic=lambda: now[0]))
    tuning._run_trial({"number": 0}, trials)
    assert reports == [{"step": 0, "score": 0.0}] * 2 + [{"step": 4, "score": 0.0}]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_study_that_is_stopped_asks_the_dashboard_nothing(is_stopped, trials, monkeypatch) -> None:
    asked = []

    class Tuner:
        def __init__(self, *given: Any, **options: Any) -> None: ...

        def fit(self) -> None:
            if is_stopped:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(tuning, "start_ray", lambda: None)
    monkeypatch.setattr(tuning.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(tuning.tune, "Tuner", Tuner)
    monkeypatch.setattr(tuning, "_remove_placement_groups", lambda: asked.append(1))
    with pytest.raises(StudyStoppedError) if is_stopped else nullcontext():
        run_trials(trials, trials[0].config.out, make_console())
    assert bool(asked) != is_stopped


def test_a_trial_that_tune_stopped_is_not_run_again(trials) -> None:
    progress = tuning._Progress(trials, 2, make_console(), StopSignals())
    progress.on_trial_complete(1, [], on_trial(0))
    note = read_note(trials[0])
    assert note is not None and note.status == "stopped" and "after step 2" in note.text
    assert unfinished(trials) == trials[1:]


def test_a_trial_whose_process_was_lost_is_noted(trials) -> None:
    progress = tuning._Progress(trials, 2, make_console(), StopSignals())
    progress.on_trial_error(1, [], on_trial(1, get_error=lambda: "trace\nThe actor died."))
    note = read_note(trials[1])
    assert note is not None and note.status == "failed" and note.text.endswith("The actor died.")


def test_trials_that_a_signal_ended_are_left_to_go_on(trials) -> None:
    signals = StopSignals()
    signals.received = "SIGTERM"
    progress = tuning._Progress(trials, 2, make_console(), signals)
    progress.on_trial_complete(1, [], on_trial(0))
    assert tuning._WhenAsked(progress).stop_all() and unfinished(trials) == trials


def test_a_study_whose_folder_is_away_ends_with_the_error_of_that(trials) -> None:
    """And not with Ray Tune's forty lines of where it met that, nor once all trials have tried."""
    progress, out = tuning._Progress(trials, 2, make_console(), StopSignals()), Folder(trials[0].config.out)
    assert not tuning._WhenAsked(progress).stop_all()
    with out.anchored_by("held-1.json", b"{}"):
        progress.on_trial_error(1, [], on_trial(0, get_error=lambda: "not there any more"))
    assert tuning._WhenAsked(progress).stop_all() and unfinished(trials) == trials
    assert "is not there any more" in str(progress.error) and read_note(trials[0]) is None


def test_the_lines_of_progress_count_what_is_done(trials, capsys) -> None:
    progress = tuning._Progress(trials, 5, make_console(), StopSignals())
    finish(trials[0])
    progress.on_trial_complete(1, [], on_trial(0))
    Folder(trials[1].config.out).write(NOTE, b'{"status": "failed", "text": "why\\nwhat to do"}')
    progress.on_trial_complete(1, [], on_trial(1))
    assert capsys.readouterr().out.splitlines() == [
        "[4/5] a, seed 0: test score 0.2500", "[5/5] b, seed 0: failed: why",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("workers", "threads", "resources", "parallel", "words"),
    [
        (0, 1, {"CPU": 2.0}, 3, "parallel is 3 and the cluster has room for 2"),
        (0, 4, {"CPU": 2.0}, None, "room for 0"),
        (2, 1, {"CPU": 3.0}, 2, "room for 1"),
        (0, 1, {"CPU": 8.0, "GPU": 1.0}, 2, "room for 1"),
    ],
)
def test_more_trials_at_once_than_fit_are_refused(
    trials, monkeypatch, workers: int, threads: int, resources: dict, parallel: int | None, words: str
) -> None:
    monkeypatch.setattr(tuning, "start_ray", lambda: None)
    monkeypatch.setattr(tuning.ray, "cluster_resources", lambda: resources)
    config = trials[0].config
    training = dataclasses.replace(config.training, threads=threads)
    trial = dataclasses.replace(
        trials[0], config=dataclasses.replace(config, workers=workers, training=training)
    )
    with pytest.raises(ConfigError, match=words):
        run_trials([trial], trial.config.out, make_console(), parallel)


def test_a_damaged_result_is_no_result(trials) -> None:
    Folder(trials[0].config.out).write("result.json", b'{"steps"')
    assert unfinished(trials) == trials


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"status": "stopped"}', b'{"why": 1}'])
def test_a_damaged_note_is_no_note(trials, note: bytes, caplog) -> None:
    Folder(trials[0].config.out).write(NOTE, note)
    assert read_note(trials[0]) is None and unfinished(trials) == trials
    assert NOTE in caplog.text


@pytest.mark.parametrize("is_looked_for", [False, True])
def test_a_dashboard_that_does_not_answer_holds_no_study_up(is_looked_for, monkeypatch, caplog) -> None:
    ended = threading.Event()

    def unavailable(timeout: float, **_: Any) -> Any:
        assert timeout <= 5
        if is_looked_for:  # to which the timeout does not apply
            ended.wait(60)
        raise ServerUnavailable("Failed to make request to http://127.0.0.1:8265. Please check the log.")

    monkeypatch.setattr(tuning.ray, "get_runtime_context", lambda: SimpleNamespace(
        get_job_id=lambda: "01", gcs_address="127.0.0.1:1"))  # fmt: skip
    monkeypatch.setattr(tuning, "list_placement_groups", unavailable)
    monkeypatch.setattr(tuning, "STATE_TIMEOUT_S", 0.1 if is_looked_for else 4)
    began = time.monotonic()
    tuning._remove_placement_groups()
    ended.set()
    assert time.monotonic() - began < 5
    said = "Ray's dashboard did not answer within 0.1 s" if is_looked_for else "Failed to make request"
    assert f"kept until this process ends: {said}" in caplog.text
