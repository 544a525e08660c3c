"""Runs the trials of a study in parallel with Ray Tune.

Tune is the executor and no more: each trial is a normal run folder, and what is there says what is done. So a
study that was killed goes on by looking into its run folders; Tune's own snapshots are never read. A trial
that fails leaves a note in its folder, and the others go on.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.util.state import list_placement_groups
from ray.util.state.exception import RayStateApiException
from rich.console import Console

from forebrain.errors import ConfigError, ForebrainError, StoppedError, StorageError
from forebrain.ray_runtime import quiet_ray, start_ray
from forebrain.runs.pretrain import pretrain
from forebrain.studies.notes import NOTE, Note, read_note, read_result, unfinished, whole_result
from forebrain.studies.trials import Trial
from forebrain.training.events import Event, StepDone, Validated
from forebrain.training.run_folder import ray_uri_in
from forebrain.training.stopping import StopSignals
from forebrain_registry.storage import Folder, carrying_anchors

Answer = TypeVar("Answer")
# A trial whose process or node was lost is started again this often; it resumes from its checkpoint.
RESTARTS = 2
STATE_TIMEOUT_S = 4  # for what Ray's dashboard is asked
TOLD_S = 2.0  # Tune can stop a trial only where it tells something; else it waits for 10 s, and kills it
_QUIET_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # StopSignals takes signals: Tune's own handler knows only SIGINT.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # The newer output prints a banner however quiet it is to be.
    "RAY_AIR_NEW_OUTPUT": "0",
}


_log = logging.getLogger(__name__)


class StudyStoppedError(StoppedError):
    """A study was asked to stop; its finished trials are kept."""

    def __init__(self, signal_name: str, num_left: int) -> None:
        ForebrainError.__init__(
            self,
            f"stopped by {signal_name} with {num_left} trials left; the same command goes on with them.",
        )
        self.signal_name = signal_name


def run_trials(
    trials: Sequence[Trial],
    out: str,
    console: Console,
    parallel: int | None = None,
    early_stopping: bool = False,
) -> None:
    """Runs the trials that are not finished.

    Args:
        trials: all of the study; they train with the same number of workers.
        out: the study's folder.
        console: where progress is shown.
        parallel: trials at once; None for as many as fit.
        early_stopping: stop trials that are behind the others after the same number of steps (ASHA).

    Raises:
        ConfigError: the cluster has no room for one trial, or for as many as asked.
        StudyStoppedError: SIGTERM or SIGINT came.
    """
    todo = unfinished(trials)
    if not todo:
        return
    for name, value in _QUIET_TUNE.items():
        os.environ.setdefault(name, value)
    quiet_ray()
    start_ray()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told by `_Progress`
    resources = _resources(todo[0])
    room = _room(todo[0])
    if room < (parallel or 1):
        raise ConfigError(
            f"parallel is {parallel or 1} and the cluster has room for {room} trials at once, which need "
            f"{_needs(todo[0])} each; expected at most {room}, or a larger cluster."
        )
    folder, name = Folder(out), uuid.uuid4().hex
    steps = todo[0].config.training.steps
    with StopSignals() as signals:
        progress = _Progress(todo, len(trials), console, signals)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(carrying_anchors(_run_trial), trials=todo), resources),
            param_space={"number": tune.grid_search(list(range(len(todo))))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=min(parallel or room, room),
                # Stops at max_t too, where the run would still be evaluated.
                scheduler=ASHAScheduler(
                    time_attr="step", metric="score", mode="max", max_t=steps + 1, grace_period=-(-steps // 8)
                )
                if early_stopping
                else None,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=ray_uri_in(folder),
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                callbacks=[progress],
                stop=_WhenAsked(progress),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            if not signals.received:  # else this process ends, and Ray takes all back
                _remove_placement_groups()
            folder.remove(f"ray/{name}")
            if not [trial for trial in unfinished(trials) if read_note(trial) is None]:
                folder.remove("ray")  # else another process may be at them
    if progress.error is not None:
        raise progress.error
    if signals.received:
        raise StudyStoppedError(signals.received, len(unfinished(trials)))


def _run_trial(parameters: dict[str, Any], trials: Sequence[Trial]) -> None:
    """Trains and evaluates a trial, in a process of its own, and tells Tune of each validation."""
    trial = trials[parameters["number"]]
    steps = trial.config.training.steps
    last = {"step": 0, "score": 0.0}
    told_s = time.monotonic()

    def tell(event: Event) -> None:
        nonlocal told_s
        is_due = isinstance(event, StepDone) and time.monotonic() - told_s > TOLD_S
        # An undefined score can be compared with nothing, so such a trial is never stopped early.
        if isinstance(event, Validated) and event.step < steps and event.score is not None:
            last.update(step=event.step, score=event.score)
            is_due = True
        if is_due:
            tune.report(dict(last))
            told_s = time.monotonic()

    trial.run.folder.remove(NOTE)
    try:
        pretrain(trial.config, Console(quiet=True), tell)
        whole_result(trial)
    except Exception as error:
        text = str(error) if isinstance(error, ForebrainError) else traceback.format_exc()
        _write_note(trial, Note("failed", text))
    tune.report({**last, "step": steps})


def _write_note(trial: Trial, note: Note) -> None:
    trial.run.folder.write(NOTE, json.dumps(vars(note)).encode())


class _WhenAsked(tune.Stopper):
    """Ends the study when a signal came, or its folder cannot be written to; running trials resume from
    their checkpoints the next time."""

    def __init__(self, progress: _Progress) -> None:
        self._progress = progress

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._progress.signals.received is not None or self._progress.error is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.stopper.NoopStopper, ()  # of a snapshot, which nobody reads


class _Progress(tune.Callback):
    """A line for each trial that ends, and a note for one whose process was lost or that was stopped.

    Attributes:
        error: why a note could not be written; None while all could.
    """

    def __init__(
        self, todo: Sequence[Trial], num_trials: int, console: Console, signals: StopSignals
    ) -> None:
        self._todo, self._console, self.signals = todo, console, signals
        self.error: StorageError | None = None
        self._num_trials = num_trials
        self._num_done = num_trials - len(todo)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.signals.received:
            return
        ended = self._of(trial)
        note = read_note(ended)
        if read_result(ended) is None and note is None:
            step = trial.last_result.get("step")
            note = Note("stopped", f"stopped early after step {step}: it was behind the others.")
            self._keep(ended, note)
        self._tell(ended, note)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ended = self._of(trial)
        lines = str(trial.get_error() or "no reason was given").strip().splitlines()
        note = Note("failed", f"its process was lost {RESTARTS + 1} times; the last time: {lines[-1]}")
        self._keep(ended, note)
        self._tell(ended, note)

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()  # as above

    def _keep(self, trial: Trial, note: Note) -> None:
        try:
            _write_note(trial, note)
        except StorageError as error:  # which Tune would tell in forty lines
            self.error = error

    def _of(self, trial: Any) -> Trial:
        return self._todo[trial.config["number"]]

    def _tell(self, trial: Trial, note: Note | None) -> None:
        self._num_done += 1
        result = read_result(trial) or {}
        score = (result.get("test") or {}).get("score")
        what = f"test score {score:.4f}" if score is not None else "test score undefined"
        if note is not None:
            what = f"{note.status}: {note.reason}"
        self._console.print(f"[{self._num_done}/{self._num_trials}] {trial.label}: {what}")


def _needs(trial: Trial) -> dict[str, float]:
    """Resources that a trial takes of the cluster, its training workers included."""
    config = trial.config
    gpus = ray.cluster_resources().get("GPU", 0)
    if config.workers:
        return {"CPU": config.workers, **({"GPU": config.workers} if gpus >= config.workers else {})}
    return {"CPU": config.training.threads or 1, **({"GPU": 1} if gpus else {})}


def _resources(trial: Trial) -> dict[str, float]:
    """Resources that Tune reserves for a trial's own process; training workers reserve theirs themselves."""
    # Nothing is refused, and a part of a core would be missing where the workers need all: so a byte.
    return {"memory": 1} if trial.config.workers else _needs(trial)


def _room(trial: Trial) -> int:
    """Trials that the cluster has room for at once."""
    has = ray.cluster_resources()
    needs = _needs(trial)
    return min(int(has.get(name, 0) // amount) for name, amount in needs.items())


def _in_time(ask: Callable[[], Answer]) -> Answer:
    """What Ray's dashboard answers. Ray's own time limit does not count how long it looks for the dashboard.

    Raises:
        TimeoutError: it took longer than STATE_TIMEOUT_S; a thread that nobody waits for goes on asking.
    """
    answers: queue.SimpleQueue[tuple[Answer | None, Exception | None]] = queue.SimpleQueue()

    def put_answer() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:  # for the thread that waits
            answers.put((None, error))

    threading.Thread(target=put_answer, daemon=True).start()
    try:
        answer, error = answers.get(timeout=STATE_TIMEOUT_S)
    except queue.Empty:
        raise TimeoutError(f"Ray's dashboard did not answer within {STATE_TIMEOUT_S} s") from None
    if error is not None:
        raise error
    return cast(Answer, answer)


def _remove_placement_groups() -> None:
    """Removes what this driver's trials have reserved and did not give back, as those do that are stopped.

    Ray's dashboard is asked, which may be busy or gone where a study is stopped; Ray itself gives all back
    when this process ends.
    """
    context = ray.get_runtime_context()
    job = context.get_job_id()
    try:
        groups = _in_time(lambda: list_placement_groups(
            address=context.gcs_address,
            filters=[("creator_job_id", "=", job), ("state", "!=", "REMOVED")],
            timeout=STATE_TIMEOUT_S,
        ))  # fmt: skip
    except (RayStateApiException, OSError) as error:
        reason = str(error).partition(". ")[0]
        _log.warning("what trials had reserved is kept until this process ends: %s", reason)
        return
    for group in groups:
        with suppress(ValueError):  # it has gone meanwhile
            name = ray.PlacementGroupID.from_hex(group.placement_group_id)
            ray.util.remove_placement_group(ray.util.placement_group.PlacementGroup(name))
