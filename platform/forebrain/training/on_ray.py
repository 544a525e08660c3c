"""A run on a Ray cluster, or on a Ray started in this process: Ray Train around the same loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from forebrain import errors
from forebrain.errors import ConfigError, ForebrainError, StoppedByPeerError, StoppedError
from forebrain.machine import asked_threads
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.events import Event, Listener, StepDone
from forebrain.training.loop import Trainer
from forebrain.training.ray_metrics import RayMetrics
from forebrain.training.run_folder import RunFolder
from forebrain.training.stopping import StopRequests, StopSignals
from forebrain.training.telemetry import MetricsLog
from forebrain_registry.storage import carrying_anchors

# Environment of every worker: nothing printed twice, names of files in UTF-8 whatever the locale.
WORKER_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0", "PYTHONUTF8": "1"}
# What Ray Train reads in the driver; set by hand, these stand.
TRAIN_ENVIRONMENT = {
    # How soon a lost worker is noticed.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # How long workers are waited for on a node that is gone, before the group is placed anew.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
}
# Restarts in a row that brought no new checkpoint, after which more will not help.
MAX_FRUITLESS_RESTARTS = 5
# A collective that a lost worker will never join is given up after this long.
COLLECTIVE_TIMEOUT_S = 300
# Between the looks of all workers together whether a node is about to be taken away; one takes 5 ms.
PREEMPTION_POLL_S = 2.0
# A node is left this long before it is taken away, or three times what the last checkpoint took.
LEAVE_BEFORE_S = 5.0
PREEMPTION = "a node is about to be taken away, going on elsewhere"


def train_on_ray(config: PretrainConfig, report: Listener, launched: float | None = None) -> None:
    """Trains on the cluster that Ray is connected to.

    Args:
        config: what is asked; `workers` processes train together, or as few as `min_workers`.
        report: called in this process with each event of the run.
        launched: when this process began, seconds of the Unix clock; None for now.

    Raises:
        StoppedError: SIGTERM or SIGINT came; the state is saved.
        ForebrainError: what stopped the workers and is not mended by starting them again, or workers were
            lost again and again.
    """
    for name, value in TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    fewest = config.workers if config.min_workers is None else config.min_workers
    cores = int(ray.cluster_resources().get("CPU", 1))
    if config.workers > cores and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(
            f"workers is {config.workers} and there are {cores} cores of this machine to use; "
            "expected at most one worker a core."
        )
    use_gpu = config.use_gpu
    if use_gpu is None:
        use_gpu = ray.cluster_resources().get("GPU", 0) >= fewest
    # The driver's own machine may have no GPU.
    environment = {**WORKER_ENVIRONMENT, "DS_ACCELERATOR": "cuda" if use_gpu else "cpu"}
    # On the driver's node, whose loss ends the run in any case; anywhere else it could be lost alone.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    desk = ray.remote(_Desk).options(num_cpus=0, scheduling_strategy=here).remote(config.max_restarts)
    trainer = TorchTrainer(
        carrying_anchors(_train_on_worker),
        train_loop_config={
            "config": config,
            "desk": desk,
            "launched": time.time() if launched is None else launched,
            "threads": config.training.threads or _threads_asked(),
        },
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=config.workers if fewest == config.workers else (fewest, config.workers),  # type: ignore[arg-type]
            use_gpu=use_gpu,
            elastic_resize_monitor_interval_s=config.resize_check_s,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name="run",
            storage_path=RunFolder(config.out).ray_uri,
            # Ray starts workers again without end; `_Desk.begin` counts, because it knows of progress.
            failure_config=FailureConfig(max_failures=-1),
            # The stub that type checkers see is of Ray Train's first version.
            worker_runtime_env={"env_vars": environment},  # type: ignore[call-arg]
        ),
    )
    # The name under which the run reserves its share of the cluster. With a new one each time, an elastic run
    # whose driver was killed would wait 180 s for its own reservation to expire.
    run_id = uuid.uuid5(uuid.NAMESPACE_URL, config.out).hex
    object.__setattr__(trainer.train_run_context, "run_id", run_id)  # type: ignore[attr-defined]
    with StopSignals() as signals:
        step = _fit(trainer, desk, signals, report)
    if signals.received:
        raise StoppedError(signals.received, step)


def _fit(trainer: TorchTrainer, desk: Any, signals: StopSignals, report: Listener) -> int:
    """Runs `trainer` in a thread, and hands its events to `report` in this one, which takes signals.

    Returns:
        The last step that was reported.
    """
    failures: list[Exception] = []
    step, error = 0, None

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as caught:
            failures.append(caught)

    thread = threading.Thread(target=fit, name="fit", daemon=True)
    thread.start()
    told = False
    while True:
        is_last = not thread.is_alive()
        for event in ray.get(desk.heard.remote()):
            if isinstance(event, _Error):
                error = getattr(errors, event.type)(*event.message.splitlines())
                continue
            step = event.step
            report(event)
        if is_last:
            break
        if signals.received and not told:
            told = True
            ray.get(desk.ask_to_stop.remote(signals.received))
        thread.join(0.2)
    ray.kill(desk)
    if error:
        raise error
    if failures and isinstance(failures[0], TrainingFailedError):
        raise ForebrainError(
            *f"training was lost: {failures[0]}".splitlines(),
            "The checkpoints are kept; the same command goes on.",
        ) from failures[0]
    if failures:
        raise failures[0]
    return step


@dataclass(frozen=True)
class _Error:
    """An error that starting the workers again would meet again; `type` is a class of `forebrain.errors`."""

    type: str
    message: str


class _Desk:
    """An actor between the driver and the workers: events one way, the wish to stop the other.

    Args:
        max_restarts: as in the config.
    """

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._events: list[Event | _Error] = []
        self._stop, self._reason = asyncio.Event(), ""
        self._restarts = self._fruitless = self._step = self._workers = 0
        self._excused, self._failure = True, "a worker was lost"

    async def tell(self, event: Event | _Error) -> None:
        self._events.append(event)

    async def fail(self, message: str) -> None:
        """A worker is lost; Ray will start it again."""
        self._failure = message

    async def heard(self) -> list[Event | _Error]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    async def ask_to_stop(self, reason: str) -> None:
        self._reason = reason
        self._stop.set()

    async def stop_reason(self) -> str:
        """Answers when the driver was asked to stop."""
        await self._stop.wait()
        return self._reason

    async def excuse(self) -> None:
        """The workers leave by themselves; that is no failure."""
        self._excused = True

    async def begin(self, step: int, workers: int) -> str | None:
        """Workers have started, with a checkpoint of this step; why they should not go on, or None."""
        if not self._excused and workers == self._workers:
            self._restarts += 1
            self._fruitless = self._fruitless + 1 if step <= self._step else 0
        self._excused, self._step, self._workers = False, step, workers
        after = f"the last failure was: {self._failure}\nThe checkpoints are kept; the same command goes on."
        if 0 <= self._max_restarts < self._restarts:
            return f"workers were lost more often than max_restarts ({self._max_restarts}); {after}"
        if self._fruitless > MAX_FRUITLESS_RESTARTS:
            return (
                f"workers were lost {self._fruitless} times in a row before a new checkpoint, after step "
                f"{step}. If that is no fault of the code, lower training.checkpoint_every; {after}"
            )
        return None


class _LeaveError(Exception):
    """Makes Ray Train place the workers anew."""


class _ClusterRequests(StopRequests):
    """Requests of the driver, and notices that Ray has of nodes that will be taken away."""

    def __init__(self, desk: Any, group: WorkerGroup) -> None:
        self._group = group
        self._stop = desk.stop_reason.remote() if group.is_first else None
        self._polled = time.monotonic()
        self._deadline: float | None = None
        self._margin_s = LEAVE_BEFORE_S

    def asked(self) -> str | None:
        if self._stop is not None and ray.wait([self._stop], timeout=0)[0]:
            return ray.get(self._stop)
        is_close = self._deadline is not None and time.time() > self._deadline - self._margin_s
        return PREEMPTION if is_close else None

    def is_poll_due(self) -> bool:
        return self._group.is_first and time.monotonic() - self._polled > PREEMPTION_POLL_S

    def poll(self) -> bool:
        self._polled = time.monotonic()
        info = ray.train.get_preemption_info()
        is_new = info is not None and self._deadline is None
        if info is not None:
            # Without a deadline it may happen at any moment.
            self._deadline = (info.deadline_ms or 0) / 1000
        return is_new

    def saved(self, seconds: float) -> None:
        self._margin_s = max(LEAVE_BEFORE_S, 3 * seconds)


def _train_on_worker(arguments: dict[str, Any]) -> None:
    config: PretrainConfig = arguments["config"]
    desk = arguments["desk"]
    torch.set_num_threads(arguments["threads"] or _threads_each())
    group = WorkerGroup()
    run = RunFolder(config.out)
    logs: list[Listener] = [MetricsLog(run), RayMetrics(run.uri)] if group.is_first else []

    last_sent = 0.0

    def report(event: Event) -> None:
        nonlocal last_sent
        for log in logs:
            log(event)
        # Progress for people needs no more than one step a second, and each costs a message.
        if not isinstance(event, StepDone) or time.monotonic() - last_sent > 1:
            last_sent = time.monotonic()
            desk.tell.remote(event)

    def begin() -> None:
        if group.is_first:
            reason = ray.get(desk.begin.remote(run.checkpoints().newest_step(), group.size))
            if reason is not None:
                raise ForebrainError(*reason.splitlines())

    try:
        group.gather_from(begin)
        requests = _ClusterRequests(desk, group)
        trainer = Trainer(config, group, get_device(), report, requests, arguments["launched"])
        trainer.run()
    except StoppedByPeerError:
        return
    except ForebrainError as error:
        # Starting again would meet the same error, so this is an end and not a failure to Ray.
        ray.get(desk.tell.remote(_Error(type(error).__name__, str(error))))
        return
    except Exception as error:
        ray.get(desk.fail.remote(f"{type(error).__name__}: {error}"))
        raise
    if trainer.stopped == PREEMPTION:

        def excuse() -> None:
            if group.is_first:
                ray.get(desk.excuse.remote())

        # The first that leaves ends all others: not before what happened is told.
        group.gather_from(excuse)
        raise _LeaveError(PREEMPTION)


def _threads_asked() -> int | None:
    """OMP_NUM_THREADS of whoever has started Ray here; in its own processes Ray sets it itself."""
    is_ours = "RAY_ADDRESS" not in os.environ and ray.get_runtime_context().get_actor_id() is None
    return asked_threads() if is_ours else None


def _threads_each() -> int:
    """This node's cores, shared by the workers on it."""
    context = ray.get_runtime_context()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
    return max(1, int(node["Resources"].get("CPU", 1)) // ray.train.get_context().get_local_world_size())
