"""A study as people run it: trials that fail, a kill, the same command again; and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml

from forebrain.commands import main
from forebrain.config import from_values
from forebrain.console import make_console
from forebrain.errors import CheckpointError, ConfigError, StudyError
from forebrain.studies.ablation import AblateConfig, ablate, report_effects
from forebrain.studies.report import publish
from forebrain.studies.study import conduct, left_out
from forebrain.studies.trials import Trial
from forebrain.studies.tuning import NOTE
from forebrain.training.run_folder import RunFolder
from forebrain.training.versions import versions
from forebrain_registry.storage import Folder

ROOT = Path(__file__).parents[2]


def run_job(config: Path, **options: Any) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'registry'}",
    }
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "ablate.py"), "--config", str(config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


def test_a_killed_study_goes_on_where_it_was_and_a_trial_that_fails_stops_no_other(
    tmp_path: Path, small_run: dict[str, Any]
) -> None:
    config, out = tmp_path / "study.yaml", tmp_path / "study"
    values = {
        "pretrain": small_run,
        "variants": {
            "diverges": {"training.learning_rate": 1e30, "training.clip_norm": 1e30},
            "long": {"training.steps": 100_000, "training.checkpoint_every": 100_000},
        },
        "num_seeds": 1,
        "parallel": 1,
    }
    config.write_text(yaml.safe_dump(values))
    first = run_job(config, start_new_session=True)
    trials = out / "trials"
    while not list(trials.glob("long/*/attempts/*.json")):  # written as its loop begins
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    reference = trials / "reference" / "seed-0" / "result.json"
    before = reference.stat().st_mtime_ns
    assert json.loads((trials / "diverges" / "seed-0" / "trial.json").read_text())["status"] == "failed"

    # The long one would never end, so the study goes on without it, and with another.
    values["variants"]["wide"] = {"model.width": 32}
    del values["variants"]["long"]
    config.write_text(yaml.safe_dump(values))
    second = run_job(config)
    printed, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    assert "3 trials" in printed and "1 of them done already" in printed
    assert reference.stat().st_mtime_ns == before
    assert "diverges, seed 0: failed: step" in printed and "Traceback" not in printed + errors
    assert "wide, seed 0: test score" in printed
    page = (out / "report.html").read_text()
    assert "diverges, seed 0: failed: step" in page and "width" in (out / "study.yaml").read_text()
    assert json.loads((out / "results.json").read_text())["effects"][0]["variant"] == "wide"
    assert not (out / "ray").exists()
    assert list((out / "tensorboard").rglob("events*"))


@pytest.fixture
def ablation(small_run: dict[str, Any]) -> AblateConfig:
    values = {"pretrain": small_run, "axes": {"model.width": [32]}, "num_seeds": 1}
    return from_values(AblateConfig, values)


def finish(trial: Trial, score: float | None, **more: Any) -> None:
    """A run folder as if the trial had finished."""
    run = RunFolder(trial.config.out)
    run.claim(trial.config)
    by_session = {"lab-a/subject-one/one": {"score": score}}
    part = {"score": score, "by_session": by_session, "baselines": {}}
    run.write_result(
        {"steps": 4, "validation": part, "test": part, "backbone_parameters": 1000, "seconds": 2.0, **more}
    )


def test_a_trial_that_was_scored_on_other_windows_since_is_refused(ablation: AblateConfig, base) -> None:
    for trial, per_session in zip(ablation.trials(base), (8, None), strict=True):
        finish(trial, 0.1)
        result = trial.run.read_result()
        result["test"]["windows"] = {"per_session": per_session}
        trial.run.write_result(result)
    with pytest.raises(ConfigError, match=r"width=32, seed 0: its test part was scored on every window, and"):
        conduct(ablation, make_console())


def test_a_finished_study_starts_nothing_and_reads_what_is_there(ablation: AblateConfig, base) -> None:
    for trial, score in zip(ablation.trials(base), (0.1, 0.3), strict=True):
        finish(trial, score)
    outcomes = conduct(ablation, make_console())
    assert [outcome.by_session("test") for outcome in outcomes] == [
        {"lab-a/subject-one/one": 0.1}, {"lab-a/subject-one/one": 0.3},
    ]  # fmt: skip


def test_trials_of_another_version_are_named_on_the_console_and_in_the_report(
    ablation: AblateConfig, base, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = ablation.trials(base)
    finish(first, 0.1, versions=versions())
    finish(second, 0.3, versions={**versions(), "code": "0123456789ab"})
    report = Path(base.out) / "report.md"
    ablate(ablation, make_console(), "")
    said = [line for line in capsys.readouterr().out.splitlines() if "are used as they are" in line]
    assert len(said) == 1 and said[0].startswith("trials of forebrain") and "0123456789ab" in said[0]
    for name in ("report.md", "report.html"):
        text = report.with_name(name).read_text()
        assert text.count("Not all is of one version") == 1 and "code 0123456789ab (1)" in text

    shutil.rmtree(second.config.out)
    finish(second, 0.3, versions=versions())
    ablate(ablation, make_console(), "")
    assert "Not all is of one version" not in report.read_text()
    assert "are used as they are" not in capsys.readouterr().out


def test_another_base_in_the_same_folder_is_refused(ablation: AblateConfig, base, small_run) -> None:
    for trial in ablation.trials(base):
        finish(trial, 0.1)
    conduct(ablation, make_console())
    small_run["training"]["steps"] = 5
    values = {"pretrain": small_run, "axes": {"model.width": [32]}, "num_seeds": 1}
    other = from_values(AblateConfig, values)
    with pytest.raises(CheckpointError, match=r"training\.steps was 4 and is now 5"):
        conduct(other, make_console())


def test_of_two_studies_that_start_in_one_folder_at_once_one_wins(
    ablation: AblateConfig, small_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("forebrain.studies.tuning.run_trials", lambda *given: None)
        conduct(ablation, make_console())
    small_run["seed"] = 7
    values = {"pretrain": small_run, "axes": {"model.width": [32]}, "num_seeds": 1}
    other = from_values(AblateConfig, values)
    exists = Folder.exists
    monkeypatch.setattr(  # it looked before the first was there
        Folder, "exists", lambda folder, name: name != "study.yaml" and exists(folder, name)
    )
    with pytest.raises(CheckpointError, match="seed was 0 and is now 7"):
        conduct(other, make_console())
    stored = yaml.safe_load(Folder(ablation.pretrain.out).read("study.yaml"))
    assert stored["pretrain"]["seed"] == 0


@pytest.mark.parametrize("content", [b"", b"- a list", b"{ unclosed", b"pretrain: 3"])
def test_a_damaged_study_is_one_clear_error(ablation: AblateConfig, content: bytes) -> None:
    Folder(ablation.pretrain.out).write("study.yaml", content)
    with pytest.raises(CheckpointError, match=r"study\.yaml: damaged .*Remove it") as raised:
        conduct(ablation, make_console())
    assert "\n" not in str(raised.value)


def test_a_study_without_any_result_reports_and_ends_with_an_error_that_says_why(
    ablation: AblateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(trials: list[Trial], *given: Any) -> None:
        for trial in trials:
            trial.run.folder.write(NOTE, b'{"status": "failed", "text": "no such luck"}')

    monkeypatch.setattr("forebrain.studies.tuning.run_trials", fail)
    with pytest.raises(StudyError, match=r"none of 2 trials has a result.*no such luck"):
        ablate(ablation, make_console(), "the command")
    assert "no such luck" in (tmp_path / "study" / "report.md").read_text()


def test_an_impossible_trial_is_refused_before_any_starts(small_run, tmp_path: Path) -> None:
    values = {"pretrain": small_run, "variants": {"too much": {"subset.frames": 10_000}}, "num_seeds": 1}
    config = from_values(AblateConfig, values)
    with pytest.raises(ConfigError, match=r"too much, seed 0: subset\.frames is 10000"):
        conduct(config, make_console())
    assert not (tmp_path / "study").exists()


def test_a_variant_of_how_recordings_are_prepared_is_refused_before_any_starts(
    small_run, tmp_path: Path
) -> None:
    values = {"pretrain": small_run, "variants": {"components": {"prepare.pca": 3}}, "num_seeds": 1}
    config = from_values(AblateConfig, values)
    with pytest.raises(ConfigError, match=r"components, seed 0: changes options of prepare"):
        conduct(config, make_console())
    assert not (tmp_path / "study").exists()


def test_a_study_whose_recordings_changed_came_or_went_ends_with_an_error(
    small_run, walk, tmp_path: Path, monkeypatch
) -> None:
    data = tmp_path / "recordings"
    data.mkdir()
    for seed in range(2):
        walk(seed, num_frames=200).save(data / f"{seed}.npz")
    (data / "useless.npz").write_bytes(b"")
    small_run["data"] = str(data)
    values = {"pretrain": small_run, "axes": {"model.width": [32]}, "num_seeds": 1}
    config = from_values(AblateConfig, values)
    monkeypatch.setattr("forebrain.studies.tuning.run_trials", lambda *given: None)

    def refused(*names: str) -> None:
        with pytest.raises(
            ConfigError, match=f"came or went: {', '.join(str(data / each) for each in names)}"
        ):
            conduct(config, make_console())

    conduct(config, make_console())
    kept = (data / "0.npz").read_bytes()
    (data / "0.npz").rename(tmp_path / "0.npz")
    refused("0.npz")
    walk(7, num_frames=200).save(data / "0.npz")
    refused("0.npz")
    (data / "0.npz").write_bytes(kept)
    walk(8, num_frames=200).save(data / "8.npz")
    refused("8.npz")
    told = tmp_path / "study" / "left-out.json"
    told.write_text('{"left_out": []}')  # of an earlier version
    (data / "useless.npz").unlink()
    refused("8.npz")
    (data / "8.npz").unlink()
    conduct(config, make_console())


def test_recordings_are_prepared_once_for_all_trials(small_run, walk, tmp_path: Path, monkeypatch) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    walk(1, num_frames=200).save(recordings / "recording.npz")
    useless = walk(2, num_frames=200)
    dataclasses.replace(useless, traces=useless.traces * np.nan).save(recordings / "useless.npz")
    small_run["data"] = str(recordings)
    values = {"pretrain": small_run, "axes": {"model.width": [32]}, "num_seeds": 1}
    config = from_values(AblateConfig, values)
    started = []
    monkeypatch.setattr("forebrain.studies.tuning.run_trials", lambda trials, *rest: started.append(trials))
    for _ in range(2):
        outcomes = conduct(config, make_console())
    shards = str(tmp_path / "study" / "shards")
    assert {trial.config.data for trials in started for trial in trials} == {shards}
    assert {outcome.status for outcome in outcomes} == {"missing"}
    effects = report_effects(outcomes, "reference", "test", "")
    publish(str(tmp_path / "study"), effects, outcomes, make_console())
    report = (tmp_path / "study" / "report.md").read_text()
    assert "useless.npz: session lab/animal2/one: nothing usable remains" in report
    index = (tmp_path / "study" / "shards" / "index.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "study" / "trials", ignore_errors=True)
    conduct(config, make_console())
    assert (tmp_path / "study" / "shards" / "index.json").stat().st_mtime_ns == index
    told = left_out(Folder(tmp_path / "study"))
    (tmp_path / "study" / "left-out.json").write_text('{"left_out": null}')  # killed before it was known
    conduct(config, make_console())
    assert left_out(Folder(tmp_path / "study")) == told and told is not None


def test_a_study_lives_in_a_bucket_as_in_a_folder(
    small_run: dict[str, Any], s3_bucket: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "study.yaml", f"{s3_bucket}/study"
    values = {"pretrain": {**small_run, "out": out}, "axes": {"model.width": [32]}, "num_seeds": 1}
    config.write_text(yaml.safe_dump(values))
    command = ["study", "ablate", "--config", str(config)]
    try:
        assert main(command) == 0
    finally:
        ray.shutdown()
    printed, errors = capfd.readouterr()
    assert "width=32, seed 0: test score" in printed and "Traceback" not in errors, errors
    folder = Folder(out)
    assert len(json.loads(folder.read("results.json"))["trials"]) == 2
    assert folder.exists("trials/width=32/seed-0/result.json")

    assert main(command) == 0 and not ray.is_initialized()
    again, errors = capfd.readouterr()
    assert "2 trials" in again and "2 of them done already" in again, errors
