"""Events of a training run: told by the first worker, heard by telemetry, the console and studies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from forebrain.scoring.metrics import Scores
from forebrain.scoring.protocols import Part
from forebrain.training.data import DatasetShare
from forebrain.training.ledger import Ledger


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on.

    Attributes:
        step: steps done so far.
        steps: steps of the whole run.
        seconds: wall time of the steps so far, over all attempts.
        mixture: the data sets.
        without_windows: ids of the sessions that are too short for a window, by part.
        backbone_parameters: how many numbers belong to no session.
        rows_each_step: unit-windows of a batch, on average.
        steps_each_epoch: steps in which every data set is drawn as often as it has windows, weighted.
        validation_windows: windows of a session that a validation scores; None for all.
        device: where the first worker computes.
    """

    step: int
    steps: int
    seconds: float
    mixture: tuple[DatasetShare, ...]
    without_windows: dict[Part, list[str]]
    backbone_parameters: int
    rows_each_step: int
    steps_each_epoch: int
    validation_windows: int | None
    device: str


@dataclass(frozen=True)
class StepDone:
    """One optimiser step.

    Attributes:
        step: steps done, this one included.
        loss: errors of the global batch, summed, over its predicted values.
        gradient_norm: joint norm before clipping.
        learning_rate: of the step.
        step_s: forward, backward and optimiser, communication included.
        wait_s: waiting for the data.
        communication_s: exchange of the gradients, waiting for the slowest worker included.
        bytes_given: what the first worker gave to collective calls.
        memory_bytes: largest memory of the first worker so far.
        units_x_frames_per_s: activity values read a second, by all workers.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    step_s: float
    wait_s: float
    communication_s: float
    bytes_given: int
    memory_bytes: int
    units_x_frames_per_s: float


@dataclass(frozen=True)
class Validated:
    """The validation part was scored.

    Attributes:
        step: steps done.
        scores: mean over the sessions.
        by_session: score by session id; None where it is undefined.
        seconds: that it took.
    """

    step: int
    scores: Scores
    by_session: dict[str, float | None]
    seconds: float

    @property
    def score(self) -> float | None:
        """The mean score, None where it is undefined."""
        value = self.scores.value("score")
        return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Committing:
    """A checkpoint is about to exist: what a run that goes on from it must find belongs on disk now.

    Told in another thread than all other events.

    Attributes:
        step: of the checkpoint.
    """

    step: int


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint exists.

    Attributes:
        step: of the checkpoint.
        seconds: from the copy of the state until all workers knew that it is safe.
        stall_s: how much of that training stood still.
        goodput: useful time over wall time, since the run was launched; see `training.ledger`.
    """

    step: int
    seconds: float
    stall_s: float
    goodput: float


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop before its last step; its state is saved.

    Attributes:
        step: steps done.
        reason: who asked.
    """

    step: int
    reason: str


@dataclass(frozen=True)
class Skipped:
    """Data that could not be read, where `mixture.on_bad_shard` allows that.

    Attributes:
        windows: training windows passed over.
        shards: names of the damaged shards.
    """

    windows: int
    shards: list[str]


@dataclass(frozen=True)
class Ended:
    """Training is done.

    Attributes:
        step: steps done.
        stopped_early: validations no longer improved, see `training.patience`.
        seconds: wall time of all steps, validations and checkpoints included.
        units_x_frames_per_s: activity values read a second, over all of it.
        peak_rss_bytes: resident memory of the largest worker.
        num_workers: that trained at the end.
        skipped: what could not be read.
        ledger: where the time went.
    """

    step: int
    stopped_early: bool
    seconds: float
    units_x_frames_per_s: float
    peak_rss_bytes: int
    num_workers: int
    skipped: Skipped
    ledger: Ledger


Event = Started | StepDone | Validated | Committing | CheckpointSaved | Stopped | Ended
Listener = Callable[[Event], None]


def metrics_row(event: Event) -> dict[str, Any] | None:
    """The event's line in metrics.jsonl; None for events that have none."""
    match event:
        case StepDone():
            return {"kind": "step", **asdict(event)}
        case Validated(step, scores, by_session, seconds):
            values = {**scores.to_json(), "by_session": by_session, "seconds": seconds}
            return {"kind": "validation", "step": step, **values}
        case CheckpointSaved():
            return {"kind": "checkpoint", **asdict(event)}
    return None
