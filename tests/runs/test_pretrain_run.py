"""A run is what its record says: one config's, from the claim of its folder to its result."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from forebrain import ray_runtime
from forebrain.alone import alone
from forebrain.commands import evaluate as evaluate_command
from forebrain.config import from_values
from forebrain.errors import CheckpointError, ClusterError, ConfigError, ForebrainError, StudyError
from forebrain.runs import evaluate
from forebrain.runs import pretrain as pretrain_module
from forebrain.runs.pretrain import pretrain
from forebrain.runs.trained import TrainedModel
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.recordings import find_all
from forebrain.training import ledger
from forebrain.training.config import PretrainConfig
from forebrain.training.events import CheckpointSaved, Ended, Event, Started, StepDone
from forebrain.training.run_folder import RunFolder
from forebrain_registry.storage import Folder

QUIET = Console(quiet=True)
Make = Callable[..., PretrainConfig]


@pytest.fixture
def make_run(small_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    # Pictures take longer than all else.
    monkeypatch.setattr(evaluate, "_report", lambda *given: {})

    def make(**changes: Any) -> PretrainConfig:
        values = {
            "data": small_shards,
            "out": str(tmp_path / "run"),
            "workers": 0,
            "model": {"name": "mlp", "context": 12, "horizon": 4, "width": 16},
            "training": {"steps": 2, "batch_size": 8, "threads": 1},
            "evaluation": {"windows_per_session": 8},
        }
        return from_values(PretrainConfig, {**values, **changes})

    return make


def test_a_folder_is_claimed_before_ray_starts_and_given_back_if_it_does_not(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = []

    def another_comes_meanwhile() -> None:
        with pytest.raises(CheckpointError, match="seed was 1 and is now 2") as caught:
            pretrain(make_run(seed=2), QUIET)
        met.append(caught.value)
        raise ClusterError("no room")

    monkeypatch.setattr(ray_runtime, "start_ray", another_comes_meanwhile)
    config = make_run(seed=1, workers=1)
    with pytest.raises(ClusterError):
        pretrain(config, QUIET)
    assert len(met) == 1 and not Path(config.out).exists()


@pytest.mark.parametrize("data", ["the set", "recordings"])
def test_a_set_that_was_there_before_a_run_that_cannot_start_is_left_as_it_is(
    make_run: Make, small_shards: str, tmp_path: Path, walk: Callable[..., Session], data: str
) -> None:
    shards = tmp_path / "run" / "shards"
    shutil.copytree(small_shards, shards)
    before = {path: path.read_bytes() for path in shards.rglob("*") if path.is_file()}
    _save_recordings(tmp_path / "recordings", walk, range(1))
    too_long = {"name": "mlp", "context": 4000, "horizon": 4, "width": 16}
    config = make_run(data=str(shards if data == "the set" else tmp_path / "recordings"), model=too_long)
    with pytest.raises(ForebrainError):
        pretrain(dataclasses.replace(config, prepare=PrepareConfig(max_window=5000)), QUIET)
    assert {path: path.read_bytes() for path in shards.rglob("*") if path.is_file()} == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["shards"]


def test_the_same_command_given_again_while_a_run_trains_is_refused_and_takes_nothing_of_it(
    make_run: Make,
) -> None:
    config = make_run(training={"steps": 6, "batch_size": 8, "threads": 1, "checkpoint_every": 2})
    refused = []

    def again(event: Event) -> None:
        if isinstance(event, StepDone):
            with pytest.raises(StudyError, match=r"another command works there \(process \d+ on") as caught:
                pretrain(config, QUIET)
            refused.append(caught.value)

    pretrain(config, QUIET, again)
    assert len(refused) == 6
    run = RunFolder(config.out)
    assert [row["step"] for row in run.read_metrics() if row["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [checkpoint.step for checkpoint in run.checkpoints().committed()][-1] == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_has_lost_its_metrics_goes_on_and_says_so(
    make_run: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    def cut(event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            raise KeyboardInterrupt

    training = {"steps": 6, "batch_size": 8, "threads": 1, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        pretrain(make_run(training=training), QUIET, cut)
    config = make_run(training=training, workers=workers)
    (Path(config.out) / "metrics.jsonl").unlink()
    assert not caplog.text
    if workers:
        pytest.importorskip("ray")
        monkeypatch.setattr(ray_runtime, "start_ray", lambda: None)
        monkeypatch.setattr("forebrain.training.on_ray.train_on_ray", lambda *given: None)
        with pytest.raises(ForebrainError, match="training ended without finishing"):
            pretrain(config, QUIET)
    else:
        pretrain(config, QUIET)
    assert caplog.text.count("metrics.jsonl: 2 of the 2 steps that are done have no row here") == 1


def test_a_run_that_another_command_has_finished_meanwhile_stays_as_it_is(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_run()
    lines = io.StringIO()

    @contextlib.contextmanager
    def waits(folder: Folder, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        monkeypatch.setattr(pretrain_module, "alone", alone)
        pretrain(config, QUIET)
        yield

    monkeypatch.setattr(pretrain_module, "alone", waits)
    pretrain(config, Console(file=lines, width=300))
    assert "Nothing is left to do" in lines.getvalue() and "Evaluating" not in lines.getvalue()


def test_an_evaluation_waits_for_another_of_the_same_run(
    make_run: Make, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_run()
    pretrain(config, QUIET)
    run = RunFolder(config.out)
    evaluating = threading.Thread(
        target=evaluate_command.run, args=(evaluate_command.Config([config.out]), QUIET)
    )
    with evaluate.evaluation_of(run), pytest.MonkeyPatch.context() as patch:
        # The best may become another while it waits, which is then the one that is scored.
        patch.setattr(evaluate_command, "best_step", lambda run: -1)
        result, deadline = run.folder.stat("result.json"), time.monotonic() + 20
        evaluating.start()
        while "another command works there" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert run.folder.stat("result.json") == result
        patch.undo()
    evaluating.join()
    assert run.folder.stat("result.json") != result


def test_a_best_checkpoint_that_was_the_newest_and_is_gone_is_told(
    make_run: Make, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_run(
        training={"steps": 4, "batch_size": 8, "threads": 1, "checkpoint_every": 2, "validate_every": 2}
    )
    pretrain(config, QUIET)
    run = RunFolder(config.out)
    run.write_result({**(run.read_result() or {}), "best_step": 4})
    assert TrainedModel.load(run).checkpoint.step and not caplog.text
    run.checkpoints().folder.remove("00000004.json")
    assert TrainedModel.load(run).checkpoint.step == 2
    assert "of step 4, is gone; that of step 2 is taken" in caplog.text


def test_a_folder_of_recordings_that_has_an_index_json_of_the_lab_is_no_set(
    make_run: Make, tmp_path: Path, walk: Callable[..., Session]
) -> None:
    _save_recordings(tmp_path / "lab", walk, range(2))
    (tmp_path / "lab" / "index.json").write_text('{"format": "our own", "rig": 3}')
    run = RunFolder(pretrain(make_run(data=str(tmp_path / "lab")), QUIET))
    assert (run.read_result() or {})["steps"] == 2


def test_a_run_in_whose_place_another_was_put_leaves_no_result(make_run: Make) -> None:
    config = make_run(seed=1)
    run = RunFolder(config.out)

    def replace_config(event: Event) -> None:
        if isinstance(event, Ended):
            run.folder.remove("config.yaml")
            run.claim(dataclasses.replace(config, seed=2))

    with pytest.raises(CheckpointError, match="seed is 1 there and 2 in config"):
        pretrain(config, QUIET, replace_config)
    assert run.read_result() is None


def test_a_record_that_is_removed_while_a_run_trains_is_written_again(make_run: Make) -> None:
    config = make_run()
    run = RunFolder(config.out)

    def remove(event: Event) -> None:
        if isinstance(event, Ended):
            run.folder.remove("config.yaml")

    pretrain(config, QUIET, remove)
    assert (run.read_config() or {})["seed"] == config.seed and run.is_finished(config)


def test_a_result_or_weights_of_another_run_than_config_yaml_are_not_taken_for_its_own(
    make_run: Make,
) -> None:
    mixed = RunFolder(pretrain(make_run(seed=2), QUIET))
    mixed.folder.remove("config.yaml")
    mixed.claim(make_run(seed=1))  # as two commands at once could leave it
    with pytest.raises(CheckpointError, match=r"result\.json holds .*seed was 2 and is now 1"):
        pretrain(make_run(seed=1), QUIET)
    with pytest.raises(
        CheckpointError, match=r"checkpoint of step 2 .*seed is 2 there and 1 in config\.yaml"
    ):
        TrainedModel.load(mixed)


def test_a_result_names_the_versions_of_every_attempt(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCutError(Exception):
        pass

    def cut(event: Event) -> None:
        if isinstance(event, Ended):
            raise PowerCutError

    config = make_run()
    with monkeypatch.context() as patch, pytest.raises(PowerCutError):
        patch.setattr(ledger, "versions", lambda: {"python": "3.10.0", "torch": "2.0"})
        pretrain(config, QUIET, cut)
    result = json.loads((Path(pretrain(config, QUIET)) / "result.json").read_text())
    assert result["earlier_versions"] == [{"python": "3.10.0", "torch": "2.0"}]
    assert result["versions"]["torch"] != "2.0" and result["ledger"]["attempts"] == 2


class StopHereError(Exception):
    """Ends a run at once, as a power cut does."""


def _stop_at(step: int) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise StopHereError

    return listen


LONGER = {"steps": 6, "batch_size": 8, "threads": 1, "checkpoint_every": 1, "validate_every": 6}


def _save_recordings(folder: Path, walk: Callable[..., Session], seeds: range) -> None:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        session = walk(seed)
        np.savez(
            folder / f"{seed}.npz",
            traces=session.traces,
            fs=2.5,
            species="worm",
            subject=f"w{seed}",
            session="one",
            source="lab",
        )


def test_a_set_that_was_moved_behind_a_link_is_the_same_data(
    make_run: Make, small_shards: str, tmp_path: Path
) -> None:
    shutil.copytree(small_shards, tmp_path / "volume 12")
    (tmp_path / "home").symlink_to("volume 12")
    config = make_run(data=str(tmp_path / "home"), training=LONGER)
    with pytest.raises(StopHereError):
        pretrain(config, QUIET, _stop_at(3))
    (tmp_path / "volume 12").rename(tmp_path / "volume 15")
    (tmp_path / "home").unlink()
    (tmp_path / "home").symlink_to("volume 15")
    said = Console(record=True, quiet=False, file=io.StringIO(), width=300)
    started: list[Event] = []
    pretrain(config, said, started.append)
    assert isinstance(started[0], Started) and started[0].step > 0
    assert f"volume 15 holds the data that were at {tmp_path / 'volume 12'}" in said.export_text()
    assert RunFolder(config.out).read_result() is not None


def test_another_set_at_another_address_is_refused_before_and_after_training(
    make_run: Make, small_shards: str, tmp_path: Path, walk: Callable[..., Session]
) -> None:
    walk(7).save(tmp_path / "7.npz")
    other = str(tmp_path / "other")
    prepare([str(tmp_path / "7.npz")], other, PrepareConfig(), lambda p: [Session.load(p)], map_here)
    config = make_run(training=LONGER)
    run = RunFolder(config.out)
    run.claim(config)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"data was {small_shards} and is now {other}"):
            pretrain(dataclasses.replace(config, data=other), QUIET)
        with pytest.raises(StopHereError):
            pretrain(config, QUIET, _stop_at(3))


def test_recordings_that_were_moved_are_the_same_data(
    make_run: Make, tmp_path: Path, walk: Callable[..., Session]
) -> None:
    _save_recordings(tmp_path / "here", walk, range(2))
    with pytest.raises(StopHereError):
        pretrain(make_run(data=str(tmp_path / "here"), training=LONGER), QUIET, _stop_at(3))
    (tmp_path / "here").rename(tmp_path / "there")
    started: list[Event] = []
    pretrain(make_run(data=str(tmp_path / "there"), training=LONGER), QUIET, started.append)
    assert isinstance(started[0], Started) and started[0].step > 0


def test_recordings_that_come_or_change_while_a_run_is_away_are_no_part_of_it(
    make_run: Make, tmp_path: Path, walk: Callable[..., Session]
) -> None:
    data = tmp_path / "data"
    _save_recordings(data, walk, range(3))
    config = make_run(data=str(data), training=LONGER)
    with pytest.raises(StopHereError):
        pretrain(config, QUIET, _stop_at(3))
    index = (tmp_path / "run" / "shards" / "index.json").read_bytes()
    _save_recordings(data, walk, range(3, 5))
    (data / "0.session.yaml").write_text("rate_hz: 5")
    said = Console(record=True, file=io.StringIO(), width=300)
    started: list[Event] = []
    pretrain(config, said, started.append)
    assert isinstance(started[0], Started) and started[0].step > 0
    assert "3 of 5 recordings are none of those that this run was prepared from" in said.export_text()
    assert (tmp_path / "run" / "shards" / "index.json").read_bytes() == index


def test_a_run_that_has_trained_nothing_yet_is_of_the_recordings_that_are_there(
    make_run: Make, tmp_path: Path, walk: Callable[..., Session]
) -> None:
    data = tmp_path / "data"
    _save_recordings(data, walk, range(3))
    config = make_run(data=str(data))
    pretrain_module.prepare_into(f"{config.out}/shards", find_all([config.data]), config, QUIET)
    (data / "1.npz").rename(tmp_path / "1.npz")
    pretrain(config, QUIET)
    result = RunFolder(config.out).read_result() or {}
    assert sorted(result["test"]["by_session"]) == ["lab/w0/one", "lab/w2/one"]


def test_options_of_prepare_that_a_prepared_set_has_not_are_refused_before_any_work(
    make_run: Make, small_shards: str, tmp_path: Path
) -> None:
    config = make_run(prepare={"pca": 3})
    for begin in (lambda: pretrain(config, QUIET), lambda: pretrain_module.check_possible(config)):
        with pytest.raises(ConfigError, match=r"prepare\.pca is 3, but .* whose pca is None"):
            begin()
    assert not (tmp_path / "run").exists()


def test_a_finished_run_says_what_has_happened_to_its_data_since(
    make_run: Make, small_shards: str, tmp_path: Path, walk: Callable[..., Session]
) -> None:
    data, growing = tmp_path / "data", tmp_path / "growing"
    _save_recordings(data, walk, range(3))
    shutil.copytree(small_shards, growing)
    of_recordings = make_run(data=str(data))
    of_set = make_run(data=str(growing), out=str(tmp_path / "of_set"))

    def said(config: PretrainConfig) -> list[str]:
        console = Console(record=True, file=io.StringIO(), width=300)
        pretrain(config, console)
        return console.export_text().splitlines()[2:]

    for config in (of_recordings, of_set):
        pretrain(config, QUIET)
        result = (Path(config.out) / "result.json").read_bytes()
        assert said(config) == []
    prepare([str(data / "0.npz")], str(growing), PrepareConfig(), run_each=map_here)
    (line,) = said(of_set)
    assert "growing has changed since this run began" in line
    (data / "1.npz").rename(tmp_path / "1.npz")
    assert said(of_recordings) == ["1 of 3 recordings that this run was prepared from are gone."]
    (data / "0.session.yaml").write_text("rate_hz: 5")
    (line,) = said(of_recordings)
    assert "1 of 2 recordings are none of those that this run was prepared from" in line
    shutil.rmtree(data)
    (line,) = said(of_recordings)
    assert "Whether its data have changed since cannot be told" in line
    assert (Path(of_set.out) / "result.json").read_bytes() == result


def test_sessions_that_come_into_a_set_while_a_run_trains_are_no_part_of_it(
    make_run: Make, small_shards: str, tmp_path: Path, walk: Callable[..., Session]
) -> None:
    data = str(tmp_path / "growing")
    shutil.copytree(small_shards, data)

    def add(seed: int) -> None:
        walk(seed).save(tmp_path / f"{seed}.npz")
        prepare([str(tmp_path / f"{seed}.npz")], data, PrepareConfig(), lambda p: [Session.load(p)], map_here)

    undisturbed = make_run(training=LONGER, out=str(tmp_path / "undisturbed"))
    pretrain(undisturbed, QUIET)
    config = make_run(data=data, training=LONGER)
    with pytest.raises(StopHereError):
        pretrain(config, QUIET, _stop_at(3))
    add(7)
    said = Console(record=True, file=io.StringIO(), width=300)
    pretrain(config, said, lambda event: add(8) if isinstance(event, StepDone) and event.step == 5 else None)
    assert f"{data} has changed since this run began" in said.export_text()
    mine, other = (RunFolder(each.out).read_result() or {} for each in (config, undisturbed))
    assert mine["test"]["by_session"] == other["test"]["by_session"]

    session = next(path for path in Path(data, "sessions").iterdir() if path.suffix == ".json")
    session.write_bytes(session.read_bytes() + b" ")
    lines = Path(data, "sessions.jsonl")
    lines.write_text("".join(line + " \n" for line in lines.read_text().splitlines()))
    RunFolder(config.out).folder.remove("result.json")
    with pytest.raises(CheckpointError, match="was trained on other data than"):
        pretrain(config, QUIET)


def test_a_brief_run_that_is_asked_for_in_full_is_evaluated_and_trained_no_further(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = make_run(evaluation={"windows_per_session": 8, "brief": True})
    pretrain(brief, QUIET)
    run = RunFolder(brief.out)
    before = run.read_result() or {}
    assert before["uncertainty"] is None
    monkeypatch.setattr(pretrain_module, "_train", None)
    pretrain(make_run(), QUIET)
    result = run.read_result() or {}
    assert result["uncertainty"] is not None and result["config"]["evaluation"]["brief"] is False
    assert {name: result[name] for name in ("ledger", "steps", "test")} == {
        name: before[name] for name in ("ledger", "steps", "test")
    }
    monkeypatch.setattr(pretrain_module, "evaluate_run", None)
    for again in (make_run(), brief):
        pretrain(again, QUIET)


def test_scores_of_a_checkpoint_that_is_the_best_no_more_are_not_kept(
    make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_run(evaluation={"windows_per_session": 8, "brief": True})
    pretrain(config, QUIET)
    run = RunFolder(config.out)
    before = run.folder.read("result.json")
    tables = run.folder.child("evaluation").names()
    steps = iter((20, 20, 40))  # before and while it is loaded, and once it is scored
    monkeypatch.setattr(evaluate, "best_step", lambda run: next(steps))
    monkeypatch.setattr(evaluate_command, "best_step", lambda run: next(steps))
    with pytest.raises(CheckpointError, match="was that of step 20, and is that of step 40 now"):
        evaluate_command.run(evaluate_command.Config([config.out], full=True), QUIET)
    assert run.folder.read("result.json") == before and run.folder.child("evaluation").names() == tables


def test_animals_that_may_be_trained_on_while_they_are_held_out_are_named_first(
    make_run: Make, walk: Callable[..., Session], tmp_path: Path
) -> None:
    for day in ("monday", "tuesday"):
        for seed in range(2):
            session = dataclasses.replace(walk(seed), dataset=day, session=day)
            (tmp_path / day).mkdir(exist_ok=True)
            session.save(tmp_path / day / f"{seed}.npz")
    said = io.StringIO()
    config = make_run(data=str(tmp_path), holdout={"subjects": ["monday/animal1"]})
    pretrain(config, Console(file=said, width=1000))
    notes = (RunFolder(config.out).read_result() or {})["notes"]
    assert len(notes) == 2 and "is called animal1 too, in tuesday" in notes[0]
    assert said.getvalue().index(notes[0]) < said.getvalue().index("Evaluating the best")
