"""Kill, then continue: whatever dies, the run goes on and computes what it would have computed.

One cluster of several nodes on this machine, everything that lasts on an S3 server, nothing on local disks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
import yaml

from forebrain.benchmarking.chaos import cluster_of, is_training, training_workers
from forebrain.config import from_values
from forebrain.shards.reader import ShardSet
from forebrain.shards.stream import build_order
from forebrain.shards.windows import ShardWindows
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.events import Event
from forebrain.training.ledger import account, read_attempts
from forebrain.training.loop import Trainer
from forebrain.training.run_folder import RunFolder
from forebrain.training.stopping import StopRequests
from forebrain_registry.storage import Folder
from run_events import steps_of
from worker_processes import start_workers

ROOT = Path(__file__).parents[2]
MODEL = {
    "context": 12, "horizon": 4, "token_length": 4, "width": 32, "num_latents": 4, "num_heads": 2,
    "head_width": 16, "film_width": 64, "feed_forward_dropout": 0.1,
}  # fmt: skip
# Runs are stopped when the faults are done, so that no fault comes too late on a fast machine.
TRAINING = {
    "steps": 100_000, "warmup_steps": 20, "batch_size": 32, "validate_every": 100_000, "checkpoint_every": 10,
    "threads": 1,
}  # fmt: skip
NO_DROPOUT = {"feed_forward_dropout": 0.0, "branch_dropout": 0.0}


class Job:
    """jobs/pretrain.py as its own process, on a cluster; the same command can be given again."""

    def __init__(self, cluster: Any, values: dict[str, Any], folder: Path) -> None:
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        self._command = [
            sys.executable, str(ROOT / "jobs" / "pretrain.py"), "--config", str(folder / "config.yaml"),
        ]  # fmt: skip
        self._environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        self._folder = folder
        self.store = RunFolder(values["out"]).checkpoints()
        self.start()

    def start(self) -> None:
        self._log = (self._folder / "log").open("wb")
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdout=self._log, stderr=self._log, cwd=self._folder
        )

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended too early:\n{self.log}"
            assert time.monotonic() < deadline, f"waited too long:\n{self.log}"
            time.sleep(0.1)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.store.newest_step() >= step)

    def wait_for_more(self, steps: int = 20) -> int:
        """Until the run is past what is saved now by at least so many steps; gives what is saved then."""
        self.wait_for_step(self.store.newest_step() + steps)
        return self.store.newest_step()

    def end(self) -> int:
        return self.process.wait(timeout=180)

    def stop(self) -> int:
        """Asks it to stop; the step it stopped after."""
        self.process.send_signal(signal.SIGTERM)
        assert self.end() == 128 + signal.SIGTERM, self.log
        stopped_at = int(self.log.split("stopped by SIGTERM after step")[1].split(";")[0])
        assert self.store.newest_step() == stopped_at
        return stopped_at

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes of the cluster put what is temporary."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def cluster(s3_bucket: str, scratch: Path) -> Iterator[Any]:
    """A head that computes nothing and two nodes of one core, started with the way to the storage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'platform'}{os.pathsep}{ROOT / 'registry'}")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TMPDIR", str(scratch))
        with cluster_of(2) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def data(s3_bucket: str, small_shards: str) -> str:
    """The small shards, on S3."""
    local, out = Folder(small_shards), Folder(f"{s3_bucket}/survival/data")
    for path in Path(small_shards).rglob("*"):
        if path.is_file():
            name = str(path.relative_to(small_shards))
            out.write(name, local.read(name))
    return out.uri


def values(data: str, out: str, model: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"data": data, "out": out, "model": {**MODEL, **(model or {})}, "training": TRAINING, **more}


def losses(run: str) -> dict[int, float]:
    rows = [row for row in RunFolder(run).read_metrics() if row["kind"] == "step"]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), (
        "a step is missing or was kept twice"
    )
    return {row["step"]: row["loss"] for row in rows}


class StopAfter(StopRequests):
    def __init__(self, step: int) -> None:
        self._left = step

    def asked(self) -> str | None:
        self._left -= 1
        return "enough" if self._left <= 0 else None


def undisturbed_here(config: PretrainConfig, steps: int) -> dict[int, float]:
    """The losses of the same run by one worker, which is this process."""
    events: list[Event] = []
    Trainer(config, WorkerGroup(), torch.device("cpu"), events.append, StopAfter(steps)).run()
    return {event.step: event.loss for event in steps_of(events)}


def _undisturbed_worker(rank: int, size: int, config: PretrainConfig, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", size), rank=rank, world_size=size)
    found = undisturbed_here(config, steps)
    dist.destroy_process_group()
    if rank == 0:
        Path(f"{folder}/losses.json").write_text(json.dumps(found))


def undisturbed(config: PretrainConfig, steps: int, folder: Path) -> dict[int, float]:
    """The losses of the same run, in two plain processes."""
    start_workers(_undisturbed_worker, 2, 2, config, steps, str(folder))
    return {int(step): loss for step, loss in json.loads((folder / "losses.json").read_text()).items()}


def drain(cluster: Any, node: Any, seconds: float) -> None:
    """Announces that a node will be taken away, as a cloud does for a spot instance."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    accepted, why = GcsClient(address=cluster.address).drain_node(
        node.node_id, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "taken away",
        int((time.time() + seconds) * 1000),
    )  # fmt: skip
    assert accepted, why


def test_a_run_on_two_nodes_survives_every_fault_bit_for_bit(
    cluster: Any, data: str, scratch: Path, tmp_path: Path
) -> None:
    run = data.replace("/data", "/runs/every-fault")
    asked = values(data, run, workers=2)
    job = Job(cluster, asked, tmp_path)

    job.wait_for_step(20)
    workers = training_workers(cluster)
    assert len(workers) == 2
    workers[1].kill()  # (a) a worker
    job.wait_for_more()

    node = min(cluster.worker_nodes, key=lambda node: node.unique_id)
    cluster.remove_node(node, allow_graceful=False)  # (b) a node, and another in its place
    cluster.add_node(num_cpus=1)
    job.wait_for_more()

    job.process.kill()  # (c) the driver, then the same command
    assert job.end() == -signal.SIGKILL
    job.start()
    job.wait_for_more()

    stopped_at = job.stop()  # (d) a request to stop, then the same command
    job.start()
    job.wait_for_more()

    cluster.add_node(num_cpus=1)  # (d) a notice that a node will be taken away
    draining = next(node for node in cluster.worker_nodes if _has_worker(node))
    # Clouds give half a minute to two, of which the run uses all but the last seconds.
    drain(cluster, draining, seconds=25)
    job.wait_for(lambda: "going on elsewhere" in job.log)
    left_at = job.store.newest_step()
    cluster.remove_node(draining, allow_graceful=False)
    job.wait_for_more()
    steps = job.stop()

    alone = from_values(PretrainConfig, {**asked, "out": f"{run}-alone"})
    assert losses(run) == undisturbed(alone, steps, tmp_path)
    attempts = read_attempts(RunFolder(run))
    firsts = [attempt.first_step for attempt in attempts]
    assert len(attempts) == 6, firsts
    assert firsts[4] == stopped_at and firsts[5] == left_at  # nothing is lost where there was notice
    assert account(attempts).steps_done == steps
    assert len(job.store.committed()) == 2
    kept = [path.name for folder in (scratch, tmp_path) for path in folder.rglob("*") if path.is_file()]
    # TensorBoard's events pass through a temporary folder, which a killed worker leaves behind.
    assert not [name for name in kept if name.endswith((".safetensors", ".tar", "metrics.jsonl"))]


def _has_worker(node: Any) -> bool:
    for info in node.all_processes.get("raylet", []):
        with contextlib.suppress(psutil.Error):
            return any(
                is_training(child) for child in psutil.Process(info.process.pid).children(recursive=True)
            )
    return False


def test_an_elastic_run_shrinks_and_grows_and_computes_the_same(
    cluster: Any, data: str, tmp_path: Path
) -> None:
    run = data.replace("/data", "/runs/elastic")
    asked = values(data, run, NO_DROPOUT, workers=2, min_workers=1, resize_check_s=3.0)
    job = Job(cluster, asked, tmp_path)
    job.wait_for_step(20)
    job.process.kill()  # what the dead one had reserved must not be waited for
    job.end()
    job.start()
    job.wait_for_more()
    for node in list(cluster.worker_nodes)[1:]:
        cluster.remove_node(node, allow_graceful=False)
    job.wait_for(lambda: sizes(job)[-1] == 1)
    job.wait_for_more(50)
    cluster.add_node(num_cpus=1)
    job.wait_for(lambda: sizes(job)[-1] == 2)
    job.wait_for_more(50)
    steps = job.stop()

    config = from_values(PretrainConfig, {**asked, "out": f"{run}-alone"})
    expected, found = undisturbed_here(config, steps), losses(run)
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    assert found != expected  # the number of workers did change


def test_any_number_of_workers_reads_each_unit_of_each_window_of_a_step_once(small_shards: str) -> None:
    config = from_values(PretrainConfig, values(small_shards, "unused"))
    windows = ShardWindows(
        ShardSet.open(small_shards), config.protocol, config.model.context, config.model.horizon
    )
    order = build_order(windows, config.training.batch_size, config.seed, config.mixture)
    for step in (0, 57, 4000):
        whole = order.batch(step)
        drawn = [
            (order.sessions[which].id, window, unit)
            for which, window in zip(whole.session, whole.window, strict=True)
            for unit in range(order.sessions[which].num_units)
        ]
        for size in (1, 2, 3):
            read = [
                (own.session.id, window, unit)
                for worker in range(size)
                for own in order.owned(worker, size, config.training.split_above)
                for which, window in zip(whole.session, whole.window, strict=True)
                if order.sessions[which].id == own.session.id
                for unit in range(own.start, own.stop)
            ]
            assert sorted(read) == sorted(drawn)


def sizes(job: Job) -> list[int]:
    """Numbers of workers that made the checkpoints that are kept, oldest first."""
    return [checkpoint.record["num_workers"] for checkpoint in job.store.committed()] or [0]
