"""A run on a Ray cluster, or on a Ray started in this process: Ray Train around the same loop."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Queue

from forebrain import errors
from forebrain.errors import ConfigError, ForebrainError, StoppedByPeerError
from forebrain.storage import Folder
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.loop import Report, Trainer
from forebrain.training.ray_metrics import RayMetrics
from forebrain.training.run_folder import RunFolder
from forebrain.training.telemetry import MetricsLog

# Environment of every worker: no usage statistics, no compiling at start, nothing printed twice.
WORKER_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "DS_ACCELERATOR": "cuda" if torch.cuda.is_available() else "cpu",
}
MAX_RESTARTS = 3
# A collective that a lost worker will never join is given up after this long.
COLLECTIVE_TIMEOUT_S = 300


def train_on_ray(config: PretrainConfig, report: Report, launched: float | None = None) -> None:
    """Trains on the cluster that Ray is connected to.

    Args:
        config: what is asked; `workers` processes train together.
        report: called in this process with each event of the run.
        launched: when this process began, seconds of the Unix clock; None for now.

    Raises:
        ForebrainError: what stopped the workers and is not mended by starting them again, or workers were
            lost more than MAX_RESTARTS times.
    """
    use_gpu = ray.cluster_resources().get("GPU", 0) >= config.workers
    cores = int(ray.cluster_resources().get("CPU", 1))
    if config.workers > cores and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(
            f"workers is {config.workers} and this machine has {cores} cores; "
            "expected at most one worker a core."
        )
    cores_each = max(1, cores // config.workers)
    events = Queue(actor_options={"num_cpus": 0})
    listener = _Listener(events, report)
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={
            "config": config,
            "events": events,
            "threads": cores_each,
            "launched": time.time() if launched is None else launched,
        },
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name="run",
            storage_path=Folder(config.out).uri_of("ray"),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            # The stub that type checkers see is of Ray Train's first version.
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},  # type: ignore[call-arg]
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise ForebrainError(
            f"training was lost after {MAX_RESTARTS} restarts: {error}\n"
            "The checkpoints are kept; the same command goes on from the newest."
        ) from error
    finally:
        listener.close()
        events.shutdown()
    if listener.error:
        raise listener.error


def _train_on_worker(arguments: dict[str, Any]) -> None:
    config: PretrainConfig = arguments["config"]
    events: Queue = arguments["events"]
    torch.set_num_threads(config.training.threads or arguments["threads"])
    group = WorkerGroup()
    logs: list[Report] = [MetricsLog(RunFolder(config.out)), RayMetrics(config.out)] if group.is_first else []

    last_sent = 0.0

    def report(event: dict[str, Any]) -> None:
        nonlocal last_sent
        for log in logs:
            log(event)
        # Progress for people needs no more than one step a second, and each costs a message.
        if event["kind"] != "step" or time.monotonic() - last_sent > 1:
            last_sent = time.monotonic()
            events.put(event)

    def saved(event: dict[str, Any]) -> None:
        # Metrics only: the commit record is the truth about checkpoints, and a folder that Ray lists but
        # that was removed since keeps a run from being restored.
        ray.train.report(event)

    try:
        Trainer(config, group, get_device(), report, saved, arguments["launched"]).run()
    except StoppedByPeerError:
        return
    except ForebrainError as error:
        # Starting again would meet the same error, so this is an end and not a failure to Ray.
        events.put({"kind": "error", "type": type(error).__name__, "message": str(error)})


class _Listener:
    """Hands the workers' events to the driver while `fit` blocks it."""

    def __init__(self, events: Queue, report: Report) -> None:
        self.error: ForebrainError | None = None
        self._events, self._report = events, report
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hands on what is still queued, then ends."""
        self._closing.set()
        self._thread.join()

    def _listen(self) -> None:
        while not (self._closing.is_set() and self._events.empty()):
            for event in self._events.get_nowait_batch(min(100, self._events.qsize())):
                if event["kind"] == "error":
                    self.error = getattr(errors, event["type"])(event["message"])
                else:
                    self._report(event)
            self._closing.wait(0.2)
