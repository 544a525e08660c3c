"""A trial whose process is lost, with Ray Tune as it is: it is started again, at most twice."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forebrain.console import make_console
from forebrain.studies import tuning
from forebrain.studies.notes import read_note, read_result
from forebrain.studies.trials import Trial, Variant, make_trials
from forebrain.training.config import PretrainConfig

ray = pytest.importorskip("ray")
run_trial = tuning._run_trial


def _lost_trial(parameters: dict[str, Any], trials: list[Trial]) -> None:
    """A trial whose process is killed whenever it starts; the second one's only the first time."""
    number = parameters["number"]
    out = Path(trials[number].config.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "starts").open("ab") as stream:
        stream.write(b".")
    if number == 0 or (out / "starts").stat().st_size == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    run_trial(parameters, trials)


@pytest.fixture
def as_values() -> Iterator[None]:
    """Ray's processes cannot import this file."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()


@pytest.mark.slow
def test_a_lost_trial_is_started_again_at_most_twice(
    base: PretrainConfig, as_values: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = make_trials(base, [Variant("lost", {}), Variant("saved", {})], 1)
    monkeypatch.setattr(tuning, "_run_trial", _lost_trial)
    tuning.run_trials(trials, base.out, make_console())
    starts = [len((Path(trial.config.out) / "starts").read_bytes()) for trial in trials]
    assert starts == [1 + tuning.RESTARTS, 2]
    note = read_note(trials[0])
    assert note is not None and note.status == "failed" and "its process was lost 3 times" in note.text
    assert read_note(trials[1]) is None and (read_result(trials[1]) or {})["steps"] == base.training.steps
    said = capsys.readouterr().out
    assert (
        "lost, seed 0: failed: its process was lost 3 times" in said and "saved, seed 0: test score" in said
    )
