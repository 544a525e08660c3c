"""The loop: learns, resumes exactly, and computes the same for any number of workers and parts."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from forebrain.errors import CheckpointError, DivergenceError, ShardError, StorageError
from forebrain.runs.trained import TrainedModel
from forebrain.sealed import unsealed
from forebrain.training.checkpoints import CheckpointStore
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.events import CheckpointSaved, Ended, Event, Started, StepDone, Validated
from forebrain.training.ledger import AttemptClock, require_checkpoints
from forebrain.training.loop import Trainer
from forebrain.training.run_folder import RunFolder
from forebrain.training.stopping import StopRequests
from forebrain.training.telemetry import MetricsLog
from run_events import losses_of
from worker_processes import start_workers

Make = Callable[..., PretrainConfig]
Train = Callable[[PretrainConfig], list[Event]]
NO_DROPOUT = {"feed_forward_dropout": 0.0, "branch_dropout": 0.0}


def test_training_learns_to_beat_copy(make_config: Make, train: Train) -> None:
    config = make_config(training={"steps": 150, "validate_every": 150, "checkpoint_every": 150})
    events = train(config)
    assert sum(losses_of(events)[-10:]) < 0.9 * sum(losses_of(events)[:10])
    (validated,) = [event for event in events if isinstance(event, Validated)]
    assert validated.score > 0.1


@pytest.mark.parametrize("protocol", ["chronological", "poco"])
def test_a_run_that_stopped_goes_on_bit_for_bit(make_config: Make, train: Train, protocol: str) -> None:
    whole = losses_of(train(make_config("whole", protocol=protocol)))
    config = make_config("broken", protocol=protocol)
    seen: list[Event] = []

    class PowerCutError(Exception):
        pass

    def cut_after_five(event: Event) -> None:
        seen.append(event)
        if isinstance(event, StepDone) and event.step == 5:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        Trainer(config, WorkerGroup(), torch.device("cpu"), cut_after_five).run()
    resumed = train(config)
    # The checkpoint of step 4 was being written; the one before it was waited for.
    assert resumed[0].step in (3, 4)
    assert losses_of(seen) == whole[:5]
    assert losses_of(resumed) == whole[resumed[0].step :]


def test_a_finished_run_has_nothing_left_to_do(make_config: Make, train: Train) -> None:
    train(make_config())
    assert [type(event) for event in train(make_config())] == [Started, Ended]


def test_a_run_of_another_config_is_refused_and_the_difference_named(make_config: Make, train: Train) -> None:
    train(make_config())
    with pytest.raises(CheckpointError, match=r"training.batch_size was 8 and is now 4"):
        train(make_config(training={"batch_size": 4}))


def test_other_data_is_refused(make_config: Make, train: Train) -> None:
    config = make_config()
    train(config)
    store = RunFolder(config.out).checkpoints()
    for name in [name for name in store.folder.names() if name.endswith(".json")]:
        record = unsealed(store.folder.read(name))
        record["record"]["data_fingerprint"] = "0" * 64
        store.folder.write(name, json.dumps(record).encode())
    with pytest.raises(CheckpointError, match="trained on other data"):
        train(config)


def test_accumulation_changes_the_memory_and_not_the_result(make_config: Make, train: Train) -> None:
    whole = losses_of(train(make_config("whole", model=NO_DROPOUT)))
    parts = losses_of(train(make_config("parts", model=NO_DROPOUT, training={"accumulation": 3})))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_bf16_trains_near_fp32(make_config: Make, train: Train) -> None:
    exact = losses_of(train(make_config("fp32", model=NO_DROPOUT)))
    rough = losses_of(train(make_config("bf16", model=NO_DROPOUT, training={"precision": "bf16"})))
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.02)


def test_training_stops_when_validation_no_longer_improves(make_config: Make, train: Train) -> None:
    config = make_config(
        training={"steps": 40, "validate_every": 1, "patience": 2, "learning_rate": 1e-30, "warmup_steps": 0}
    )
    end = train(config)[-1]
    assert end.stopped_early and end.step < 40


def test_interfaces_that_no_window_reads_stay_as_they_were(make_config: Make) -> None:
    config = make_config(training={"batch_size": 1})
    trainer = Trainer(config, WorkerGroup(), torch.device("cpu"), lambda event: None)
    batch = trainer.stream.batch(0)
    of_session = trainer.learner.interfaces.of_session
    before = {name: own.unit.detach().clone() for name, own in of_session.items()}
    trainer.step(batch)
    moved = {name for name, own in of_session.items() if not own.unit.equal(before[name])}
    assert moved == {batch.groups[0].session}


def test_a_loss_that_is_not_finite_names_step_and_sessions(make_config: Make) -> None:
    trainer = Trainer(make_config(), WorkerGroup(), torch.device("cpu"), lambda event: None)
    batch = trainer.stream.batch(0)
    batch.groups[0].context[:] = float("nan")
    with pytest.raises(DivergenceError, match=f"step 0.*{batch.groups[0].session}"):
        trainer.step(batch)


def test_a_damaged_shard_stops_the_run_at_its_step(make_config: Make, train: Train, tmp_path: Path) -> None:
    import shutil

    copied = tmp_path / "copied"
    shutil.copytree(make_config().data, copied)
    for tar in (copied / "shards").rglob("*.tar"):
        content = bytearray(tar.read_bytes())
        content[len(content) // 2] ^= 1
        tar.write_bytes(bytes(content))
    with pytest.raises(ShardError, match=r"\.tar"):
        train(make_config(data=str(copied)))


def test_when_every_checkpoint_is_damaged_nothing_starts_over(make_config: Make, train: Train) -> None:
    config = make_config()
    train(config)
    for path in Path(config.out).glob("checkpoints/*/backbone-*"):
        path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        train(config)


@pytest.mark.parametrize("is_mount_point", [False, True])
def test_when_the_checkpoints_are_away_nothing_starts_over(
    make_config: Make, train: Train, is_mount_point: bool
) -> None:
    """As where they lie on a scratch disk, which is purged or not mounted."""
    config = make_config()
    train(config)
    checkpoints = Path(config.out, "checkpoints")
    checkpoints.rename(Path(config.out, "away"))
    if is_mount_point:
        checkpoints.mkdir()
    for check in (train, lambda config: require_checkpoints(RunFolder(config.out))):
        with pytest.raises(CheckpointError, match="came to a checkpoint at step 6, and none is there now"):
            check(config)


def test_without_validation_windows_training_neither_stops_early_nor_fails(
    make_config: Make, train: Train
) -> None:
    config = make_config(model={"context": 36, "horizon": 12}, training={"validate_every": 1, "patience": 1})
    events = train(config)
    assert events[0].without_windows["validation"]
    assert events[-1].step == 6 and not events[-1].stopped_early


def test_an_animal_that_is_held_out_is_not_called_too_short(make_config: Make, train: Train) -> None:
    events = train(make_config(holdout={"sessions": ["lab-a/subject-two/*"]}))
    assert events[0].without_windows == {"train": [], "validation": [], "test": []}


def test_the_trained_model_is_the_best_checkpoint(make_config: Make, train: Train) -> None:
    config = make_config()
    run = RunFolder(config.out)
    run.claim(config)
    train(config)
    trained = TrainedModel.load(run)
    best = min(
        run.checkpoints().committed(),
        key=lambda found: float("inf") if found.validation_loss is None else found.validation_loss,
    )
    assert trained.checkpoint == best
    assert set(trained.interfaces) == {
        "lab-a/subject-one/one",
        "lab-a/subject-two/two",
        "lab-b/subject-three/three",
    }


def test_metrics_hold_each_step_once_after_a_resume(make_config: Make) -> None:
    config = make_config()
    run = RunFolder(config.out)

    class PowerCutError(Exception):
        pass

    def attempt(cut_at: int | None) -> None:
        log = MetricsLog(run)

        def report(event: Event) -> None:
            log(event)
            if isinstance(event, StepDone) and event.step == cut_at:
                raise PowerCutError

        Trainer(config, WorkerGroup(), torch.device("cpu"), report).run()

    with pytest.raises(PowerCutError):
        attempt(5)
    attempt(None)
    steps = [row["step"] for row in run.read_metrics() if row["kind"] == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]


class Requests(StopRequests):
    """On worker 0 a wish to look for notices before step 2, which finds one; on worker 1 one to stop, before
    step 4."""

    def __init__(self, rank: int) -> None:
        self._rank, self._step = rank, 0

    def asked(self) -> str | None:
        self._step += 1
        return "enough" if self._rank == 1 and self._step >= 4 else None

    def is_poll_due(self) -> bool:
        return self._rank == 0 and self._step == 2

    def poll(self) -> bool:
        return True


def test_a_disk_without_room_for_the_checkpoints_is_said_before_a_step(
    make_config: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not by the first checkpoint, hours later."""
    config = make_config(training={"steps": 4, "validate_every": 2, "checkpoint_every": 2})
    seen: list[Event] = []
    trainer = Trainer(config, WorkerGroup(), torch.device("cpu"), seen.append)
    room = shutil.disk_usage("/")
    fits = 2 * 12 * trainer.backbone_parameters  # two checkpoints of weights and two moments
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=fits - 1))
    with pytest.raises(CheckpointError, match=r"MB are free.*expected .* for 2 checkpoints.*--out"):
        trainer.run()
    assert not seen
    for told in ({"free": fits}, {"total": 0, "free": 0}):  # a disk may not tell
        monkeypatch.setattr(shutil, "disk_usage", lambda path, told=told: room._replace(**told))
        train(config)


class FillDisk(StopRequests):
    """From step 5 on, worker 1 cannot write more than a few bytes into a file."""

    def __init__(self, rank: int) -> None:
        self._rank, self._step = rank, 0

    def asked(self) -> None:
        self._step += 1
        if self._rank == 1 and self._step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def _worker(
    rank: int, size: int, config: PretrainConfig, results: str, requests: Callable[[int], StopRequests]
) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{results}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    events: list[Event] = []
    error, read, loaded = "", CheckpointStore.read, list[str]()

    def noted_read(*given: Any) -> dict[str, bytes]:
        contents = read(*given)
        loaded.extend(contents)
        return contents

    CheckpointStore.read = noted_read  # type: ignore[method-assign]
    try:
        Trainer(config, WorkerGroup(), torch.device("cpu"), events.append, requests(rank)).run()
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    dist.destroy_process_group()
    # Threads of the group that are left would race with the end of the interpreter and abort it.
    left = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in left if "gloo" in name], left
    Path(f"{results}/{rank}.json").write_text(
        json.dumps({"losses": losses_of(events), "error": error, "loaded": loaded})
    )


def _failing_worker(rank: int, size: int, results: str) -> None:
    store = dist.FileStore(f"{results}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)

    def work() -> int:
        if rank == 1:
            raise ShardError("a damaged page")
        return rank

    try:
        WorkerGroup().gather_from(work)
    except Exception as caught:
        Path(f"{results}/{rank}").write_text(type(caught).__name__)
    dist.barrier()
    dist.destroy_process_group()


def test_when_one_worker_fails_between_steps_all_stop(tmp_path: Path) -> None:
    start_workers(_failing_worker, 2, 2, str(tmp_path))
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["StoppedByPeerError", "ShardError"]


def never(rank: int) -> StopRequests:
    return StopRequests()


def run_workers(
    size: int, config: PretrainConfig, folder: Path, requests: Callable[[int], StopRequests] = never
) -> list[dict[str, Any]]:
    folder.mkdir()
    start_workers(_worker, size, size, config, str(folder), requests)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def test_two_workers_train_what_one_trains_and_one_goes_on_where_two_stopped(
    make_config: Make, train: Train, tmp_path: Path
) -> None:
    alone = losses_of(train(make_config("alone", model=NO_DROPOUT)))
    config = make_config("together", model=NO_DROPOUT)
    first, second = run_workers(2, config, tmp_path / "results")
    assert first["losses"] == pytest.approx(alone, rel=1e-5)
    assert second["losses"] == []  # only the first worker reports
    (last,) = [c for c in RunFolder(config.out).checkpoints().committed() if c.step == 6]
    assert sorted(stored.name for stored in last.files) == [
        "backbone-00000.safetensors", "interfaces-00000.safetensors", "interfaces-00001.safetensors",
    ]  # fmt: skip
    RunFolder(config.out).checkpoints().folder.remove("00000006.json")
    assert losses_of(train(config)) == pytest.approx(alone[4:], rel=1e-5)


@pytest.mark.parametrize("split_above", [1000, 10], ids=["no session split", "another session split"])
def test_when_one_worker_meets_a_damaged_shard_all_stop(
    make_config: Make, tmp_path: Path, split_above: int
) -> None:
    import shutil

    copied = tmp_path / "copied"
    shutil.copytree(make_config().data, copied)
    tar = min((copied / "shards").rglob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.write_bytes(bytes(content))
    config = make_config(data=str(copied), training={"split_above": split_above})
    errors = [result["error"] for result in run_workers(2, config, tmp_path / "results")]
    assert sorted(error.split(":")[0] for error in errors) == ["BadShardError", "StoppedByPeerError"]


def test_workers_skip_and_count_together_what_one_skips_and_counts(
    make_config: Make, train: Train, tmp_path: Path
) -> None:
    import shutil

    copied = tmp_path / "copied"
    shutil.copytree(make_config().data, copied)
    for name in ("lab-a-*one*.tar", "lab-b-*.tar"):  # read by one worker, and split over both
        (tar,) = (copied / "shards").rglob(name)
        content = bytearray(tar.read_bytes())
        content[len(content) // 2] ^= 1
        tar.write_bytes(bytes(content))
    changes = {"data": str(copied), "mixture": {"on_bad_shard": "skip"}, "model": NO_DROPOUT}
    alone = train(make_config("alone", **changes))
    skipped = alone[-1].skipped
    assert skipped.windows > 10 and len(skipped.shards) == 2
    config = make_config("together", training={"split_above": 10}, **changes)
    first, _ = run_workers(2, config, tmp_path / "results")
    assert first["losses"] == pytest.approx(losses_of(alone), rel=1e-5)
    (last,) = [c for c in RunFolder(config.out).checkpoints().committed() if c.step == 6]
    progress = last.record["progress"]
    assert (progress["windows_skipped"], progress["bad_shards"]) == (skipped.windows, skipped.shards)


def test_workers_save_and_stop_at_the_same_step_whoever_is_asked(make_config: Make, tmp_path: Path) -> None:
    whole = run_workers(2, make_config("whole"), tmp_path / "0")[0]["losses"]
    config = make_config("stopped", training={"checkpoint_every": 100, "validate_every": 100})
    # The schedule and the data order are those of the same steps.
    first = run_workers(2, config, tmp_path / "1", Requests)[0]
    assert first == {"losses": whole[:4], "error": "", "loaded": []}
    store = RunFolder(config.out).checkpoints()
    assert [checkpoint.step for checkpoint in store.committed()] == [2, 4]
    resumed = run_workers(2, config, tmp_path / "2")
    assert resumed[0]["losses"] == whole[4:]
    # Of the interfaces each reads its own; what one finds damaged, all pass over.
    for rank, worker in enumerate(resumed):
        assert worker["loaded"] == ["backbone-00000.safetensors", f"interfaces-0000{rank}.safetensors"]
    (newest,) = Path(config.out).glob("checkpoints/00000006-*/interfaces-00001.safetensors")
    newest.write_bytes(b"damaged")
    again = run_workers(2, config, tmp_path / "3")
    assert again[0]["losses"] == whole[4:]
    assert [len(worker["loaded"]) for worker in again] == [4, 2]


def test_when_a_worker_cannot_write_its_checkpoint_all_stop_and_the_one_before_stands(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(training={"steps": 12, "validate_every": 12})
    first, second = run_workers(2, config, tmp_path / "results", FillDisk)
    assert "StoppedByPeerError" in first["error"]
    for words in ("CheckpointError", "interfaces-00001.safetensors", "File too large", "the same command"):
        assert words in second["error"]
    found = RunFolder(config.out).checkpoints().newest()
    assert found is not None and found[0].step in (2, 4)


def test_when_a_loss_is_not_finite_all_workers_stop_at_that_step(make_config: Make, tmp_path: Path) -> None:
    config = make_config(training={"learning_rate": 1e30, "clip_norm": 1e30, "warmup_steps": 0})
    errors = [result["error"] for result in run_workers(2, config, tmp_path / "results")]
    steps = {error.split(":")[1] for error in errors}
    assert len(steps) == 1 and all(error.startswith("DivergenceError: step ") for error in errors), errors


class RefuseAttempts(StopRequests):
    """From step 3 on, worker 0 cannot write the record of its attempt."""

    def __init__(self, rank: int) -> None:
        self._rank, self._step = rank, 0

    def asked(self) -> None:
        self._step += 1
        if self._rank == 0 and self._step == 3:

            def save(clock: AttemptClock) -> None:
                raise StorageError("attempts: the disk is full")

            AttemptClock.save = save  # type: ignore[method-assign]


def test_when_what_only_the_first_worker_writes_cannot_be_written_all_stop(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(training={"steps": 12, "validate_every": 12})
    first, second = run_workers(2, config, tmp_path / "results", RefuseAttempts)
    assert "the disk is full" in first["error"] and "the same command goes on" in first["error"]
    assert "StoppedByPeerError" in second["error"] and 2 < len(first["losses"]) < 12


def test_a_run_whose_last_lines_cannot_be_written_ends_with_an_error(make_config: Make) -> None:
    def refuse(event: Event) -> None:
        if isinstance(event, Ended):
            raise StorageError("metrics.jsonl: the disk is full")

    config = make_config()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: the disk is full.*the same command goes on"):
        Trainer(config, WorkerGroup(), torch.device("cpu"), refuse).run()


def test_training_goes_on_while_a_snapshot_is_written_and_does_not_change_it(
    make_config: Make, train: Train
) -> None:
    whole = losses_of(train(make_config("whole")))
    config = make_config(training={"checkpoint_every": 3, "validate_every": 6})
    written_after: list[int] = []
    at_five = threading.Event()
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepDone) and event.step == 5:
            at_five.set()

    trainer = Trainer(config, WorkerGroup(), torch.device("cpu"), report)
    write = trainer.store.write_file

    def slow_write(*arguments: Any) -> Any:
        assert at_five.wait(30)
        written_after.append(trainer.steps_done)
        return write(*arguments)

    trainer.store.write_file = slow_write  # type: ignore[method-assign]
    trainer.run()
    assert losses_of(events) == whole and min(written_after) == 5
    (first, _) = [event for event in events if isinstance(event, CheckpointSaved)]
    assert first.step == 3 and first.stall_s < first.seconds
    trainer.store.folder.remove("00000006.json")
    resumed = train(config)
    assert resumed[0].step == 3 and losses_of(resumed) == whole[3:]
