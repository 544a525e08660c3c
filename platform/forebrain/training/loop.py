"""The training loop, the same in a plain process and in each worker of a cluster."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from forebrain.errors import CheckpointError, ForebrainError, ShardError, StoppedByPeerError, StorageError
from forebrain.shards.stream import Batch, Stream, build_order
from forebrain.training.checkpoints import Checkpoint
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.data import (
    check_same_data,
    dataset_names,
    mixture_of,
    open_windows,
    sessions_without_windows,
)
from forebrain.training.events import (
    CheckpointSaved,
    Committing,
    Ended,
    Event,
    Listener,
    Skipped,
    Started,
    StepDone,
    Stopped,
    Validated,
)
from forebrain.training.forecasting import affordable_windows
from forebrain.training.learner import Learner
from forebrain.training.ledger import AttemptClock, Ledger, account, read_attempts, require_checkpoints
from forebrain.training.memory import peak_memory_bytes, peak_rss_bytes
from forebrain.training.progress import Progress
from forebrain.training.run_folder import RunFolder, check_same_run
from forebrain.training.saving import Saved, Saver, Snapshot
from forebrain.training.state import derived_seed
from forebrain.training.stopping import StopRequests
from forebrain.training.totals import StepTotals

# No session has more units: none is split over the workers.
UNSPLIT = 2**62


@dataclass(frozen=True)
class StepResult:
    """The outcome of one optimiser step.

    Attributes:
        loss: errors of the global batch, summed, over its predicted values.
        gradient_norm: joint norm before clipping.
        communication_s: exchange of the gradients, waiting for the slowest worker included.
        bytes_given: what this worker gave to collective calls, whoever made them.
        totals: what the workers told each other in the step.
    """

    loss: float
    gradient_norm: float
    communication_s: float
    bytes_given: int
    totals: StepTotals


class Trainer:
    """A run on one worker.

    Args:
        config: what is asked.
        group: the workers of the run.
        device: where this worker computes.
        report: called on the first worker with each event of the run.
        requests: where this worker hears that it should stop.
        launched: when the driver began, seconds of the Unix clock; None for now.

    Attributes:
        learner: the model and its optimisers.
        stream: the batches.
        steps_done: optimiser steps so far.
        stopped: why it stopped before the end, from `requests`; or None.
    """

    def __init__(
        self,
        config: PretrainConfig,
        group: WorkerGroup,
        device: torch.device,
        report: Listener,
        requests: StopRequests | None = None,
        launched: float | None = None,
    ) -> None:
        self.folder = RunFolder(config.out)
        self.clock = AttemptClock(self.folder if group.is_first else None, launched)
        self.config, self.group, self.device = config, group, device
        self.training = config.training.resolved(config.protocol)
        self.requests = requests or StopRequests()
        self._listener: Listener = report if group.is_first else (lambda event: None)
        self._not_written: ForebrainError | None = None

        self.windows = open_windows(config, self.folder.shards(config.data), self.folder.kept_index())
        self.order = build_order(
            self.windows,
            self.training.batch_size,
            config.seed,
            config.mixture,
            self.training.units_per_window,
        )
        self.validation_windows = affordable_windows(self.windows, self.order, config, share=0.05)
        torch.manual_seed(derived_seed(config.seed, "backbone"))
        backbone = config.resolved_model().build(len(dataset_names(self.windows))).to(device)
        self.backbone_parameters = sum(parameter.numel() for parameter in backbone.parameters())
        split_above = self.training.split_above if backbone.splits_units else UNSPLIT
        self.stream = Stream(self.windows, self.order, group.rank, group.size, split_above)
        self.learner = Learner(config, backbone, self.stream.owned_sessions, self.windows, group, device)

        self.store = self.folder.checkpoints(self.training.keep_checkpoints)
        self.saver = Saver(self.store, group, self._before_commit)
        self.progress = Progress()
        self.steps_done = 0
        self.stopped: str | None = None
        self._snapshot_step: int | None = None

    def run(self) -> Progress:
        """Trains from the newest checkpoint, or from the start, to the last step or until asked to stop.

        Raises:
            CheckpointError: the checkpoints belong to another config or data set, or cannot be written.
            DivergenceError: a loss or gradient is not finite.
            ShardError: a shard is damaged.
        """
        try:
            return self._run()
        finally:
            self.learner.close()

    def _run(self) -> Progress:
        with self.clock.during("resume"):
            self._resume()
        self.group.gather_from(self._require_room)
        self._keep(lambda: self.clock.begin(self.steps_done))
        self.report(self._started())
        self._counted_until = time.perf_counter()
        is_over = self.progress.is_out_of(self.training.patience)
        last = self.steps_done if is_over else self.training.steps
        batches = self.stream.batches(self.steps_done, last)
        with contextlib.closing(self.saver), contextlib.closing(batches):
            for batch in _or_error(batches):
                began = time.perf_counter()
                result = self.step(batch)
                assert isinstance(batch, Batch)
                self._report_step(batch, result, time.perf_counter() - began)
                if self.saver.in_flight and not result.totals.saving:
                    self._report_saved(self.saver.advance())
                if self._is_due(self.training.validate_every):
                    self._save(self._validate())
                elif self._is_due(self.training.checkpoint_every):
                    self._save()
                self._heed_requests(result.totals)
                is_over = self.progress.is_out_of(self.training.patience)
                if is_over or self.stopped:
                    break
            self._report_saved(self.saver.wait())
        self._count_seconds()
        self._keep(self.clock.save)
        self.group.gather_from(self._require_written)
        if self.stopped and self.steps_done < self.training.steps and not is_over:
            self.report(Stopped(self.steps_done, self.stopped))
        else:
            self.stopped = None
            self._report_end(stopped_early=is_over)
        self._require_written()
        return self.progress

    def report(self, event: Event) -> None:
        """Tells an event to who listens on the first worker."""
        self._keep(lambda: self._listener(event))

    def step(self, batch: Batch | ForebrainError) -> StepResult:
        """One optimiser step on this worker's part of a global batch.

        A worker that could not read its part, or not write its checkpoint or what else belongs to the run,
        says so in the same message that carries the gradients, so all workers stop at the same step instead
        of waiting for it.
        """
        given_before = self.group.bytes_given
        problem = batch if isinstance(batch, ForebrainError) else self.saver.error or self._not_written
        totals = StepTotals(self.device)
        totals.failed += problem is not None
        totals.saving += self.saver.busy
        totals.stop += self.requests.asked() is not None
        totals.poll += self.requests.is_poll_due()
        readable = self.stream.stand_in(self.steps_done) if isinstance(batch, ForebrainError) else batch
        communication_s = self.learner.form_gradients(readable, totals)
        if problem is not None:
            raise problem
        if totals.failed:
            raise StoppedByPeerError("another worker of this run could not go on; see its error.")
        self._count_skipped(readable, totals)
        loss, norm = self.learner.update(readable, totals)
        self.steps_done += 1
        return StepResult(loss, norm, communication_s, self.group.bytes_given - given_before, totals)

    def _resume(self) -> None:
        """Goes on from the newest whole checkpoint, of which each worker reads the backbone and what holds
        the units that it owns."""
        found = self.store.newest(self.learner.interfaces.units, self.group)
        if found is None:
            self.group.gather_from(lambda: require_checkpoints(self.folder))
            return
        checkpoint, contents = found
        self.group.gather_from(lambda: self._load(checkpoint, contents))
        if self.group.is_first:
            self.store.remove_damaged(checkpoint.step)

    def _load(self, checkpoint: Checkpoint, contents: dict[str, bytes]) -> None:
        # Data may have moved; it is their content that counts.
        stored = {**checkpoint.record["identity"], "data": self.config.data}
        check_same_run(stored, self._identity(), self.folder.uri)
        check_same_data(checkpoint, self.config, self.windows.shards.fingerprint)
        self.learner.load(contents)
        self.steps_done = self._snapshot_step = checkpoint.step
        self.progress = Progress.from_record(checkpoint.record["progress"])

    def _require_room(self) -> None:
        """Raises CheckpointError where the disk has no room for the checkpoints that are kept; else all that
        was computed would be lost with the first that does not fit."""
        free = self.folder.folder.free_bytes() if self.group.is_first else None
        if free is None:
            return
        # Weights and two moments in fp32. One more is there while it takes an old one's place.
        each = 12 * self.backbone_parameters
        saves = (self.training.steps - self.steps_done) // min(
            self.training.checkpoint_every, self.training.validate_every
        )
        number = min(saves, 1 if self.steps_done else self.training.keep_checkpoints + 1)
        wanted = number * each
        if wanted > free:
            raise CheckpointError(
                f"{self.folder.uri}: {_megabytes(free)} are free on its disk; expected {_megabytes(wanted)} "
                f"at least, for {number} checkpoints that will be there at once. Free some space, or give "
                "another --out. Nothing was trained."
            )

    def _validate(self) -> float | None:
        """Scores the validation part; returns what the best checkpoint is chosen by, None if undefined."""
        began = time.perf_counter()
        with self.clock.during("validation"):
            evaluation = self.learner.evaluate("validation", self.validation_windows)
        scores = evaluation.summary("model")
        loss = scores.value("mse") if self.training.select_by == "loss" else 1 - scores.value("score")
        # A data set too short for a validation window has no loss to choose the best checkpoint by.
        validation_loss = None if math.isnan(loss) else loss
        self.progress.note_validation(validation_loss, self.steps_done)
        by_session = {name: own.headline()["score"] for name, own in evaluation.scores["model"].items()}
        self.report(Validated(self.steps_done, scores, by_session, time.perf_counter() - began))
        return validation_loss

    def _save(self, validation_loss: float | None = None) -> None:
        """Begins to save the state after this step; waits only for a checkpoint still being written."""
        self._report_saved(self.saver.wait())
        self.clock.snapshot(self.steps_done)
        self._count_seconds()
        self._snapshot_step = self.steps_done
        self.saver.start(lambda: self._take_snapshot(validation_loss))

    def _take_snapshot(self, validation_loss: float | None) -> Snapshot:
        record = {
            "identity": self._identity(),
            "data_fingerprint": self.windows.shards.fingerprint,
            "datasets": self.learner.datasets,
            "seed": self.config.seed,
            "num_workers": self.group.size,
            "progress": asdict(self.progress),
        }
        return Snapshot(
            self.steps_done, validation_loss, record, self.learner.export(), self.learner.exported_units()
        )

    def _before_commit(self, step: int) -> float:
        """Tells listeners, in the saver's thread, that a checkpoint comes; returns the goodput so far."""
        self._listener(Committing(step))
        return self._ledger().goodput

    def _heed_requests(self, totals: StepTotals) -> None:
        """Does what any worker was asked to; all workers do it after the same step."""
        save_now = bool(totals.poll) and self.requests.poll()
        if totals.stop:
            reasons = self.group.gather(self.requests.asked())
            self.stopped = next(reason for reason in reasons if reason)
        if (save_now or self.stopped) and self._snapshot_step != self.steps_done:
            self._save()

    def _count_skipped(self, batch: Batch, totals: StepTotals) -> None:
        """Counts windows that any worker could not read; all workers meet here at the same steps.

        Raises:
            ShardError: none of the batch could be read.
        """
        if totals.windows_skipped:
            self.progress.windows_skipped += int(totals.windows_skipped)
            self.progress.bad_shards = self._bad_shards()
        if batch.num_rows == int(totals.rows_skipped):
            raise ShardError(
                f"step {batch.step}: not one of its {batch.num_windows} windows can be read; bad shards are "
                f"{', '.join(self.progress.bad_shards[:8])}. Prepare them again."
            )

    def _bad_shards(self) -> list[str]:
        """Names of the shards in which any worker, of any attempt, found damage."""
        found = self.group.gather(sorted(self.windows.shards.bad_shards))
        return sorted({*self.progress.bad_shards, *itertools.chain.from_iterable(found)})

    def _started(self) -> Started:
        return Started(
            step=self.steps_done,
            steps=self.training.steps,
            seconds=self.progress.seconds,
            mixture=mixture_of(self.windows, self.order),
            without_windows=sessions_without_windows(self.windows),
            backbone_parameters=self.backbone_parameters,
            rows_each_step=int(self.order.rows_each_epoch.sum() / self.order.steps_each_epoch),
            steps_each_epoch=self.order.steps_each_epoch,
            validation_windows=self.validation_windows,
            device=str(self.device),
        )

    def _report_step(self, batch: Batch, result: StepResult, seconds: float) -> None:
        self.clock.add("wait", batch.wait_s)
        self.clock.add("communication", result.communication_s)
        self.clock.add("step", seconds - result.communication_s)
        rows_read = batch.num_rows - int(result.totals.rows_skipped)
        units_x_frames = rows_read * (self.config.model.context + self.config.model.horizon)
        self.progress.units_x_frames += units_x_frames
        self.report(
            StepDone(
                step=self.steps_done,
                loss=result.loss,
                gradient_norm=result.gradient_norm,
                learning_rate=self.training.learning_rate_at(batch.step),
                step_s=seconds,
                wait_s=batch.wait_s,
                communication_s=result.communication_s,
                bytes_given=result.bytes_given,
                memory_bytes=peak_memory_bytes(self.device),
                units_x_frames_per_s=units_x_frames / (seconds + batch.wait_s),
            )
        )
        self._keep(lambda: self.clock.step(self.steps_done))

    def _report_saved(self, saved: Saved | None) -> None:
        if saved is None:
            return
        self.clock.add("checkpoint", saved.stall_s)
        self._keep(lambda: self.clock.committed(saved.step))
        self.report(CheckpointSaved(saved.step, saved.seconds, saved.stall_s, saved.told))
        self.requests.saved(saved.seconds)

    def _report_end(self, stopped_early: bool) -> None:
        progress = self.progress
        peak_rss = max(self.group.gather(peak_rss_bytes()))
        skipped = Skipped(progress.windows_skipped, self._bad_shards())
        if self.group.is_first:
            self.report(
                Ended(
                    step=self.steps_done,
                    stopped_early=stopped_early,
                    seconds=progress.seconds,
                    units_x_frames_per_s=progress.units_x_frames / max(progress.seconds, 1e-9),
                    peak_rss_bytes=peak_rss,
                    num_workers=self.group.size,
                    skipped=skipped,
                    ledger=self._ledger(),
                )
            )

    def _keep(self, write: Callable[[], None]) -> None:
        """Writes what belongs to the run besides checkpoints, which only the first worker does; that it
        failed, all hear at the next step."""
        try:
            write()
        except (OSError, StorageError) as error:
            self._not_written = self._not_written or CheckpointError(
                f"{self.folder.uri}: what belongs to the run could not be written ({error}). Its checkpoints "
                "are intact; once it can be written again, the same command goes on from the newest."
            )

    def _require_written(self) -> None:
        if self._not_written is not None:
            raise self._not_written

    def _ledger(self) -> Ledger:
        return account(read_attempts(self.folder))

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._counted_until
        self._counted_until = now

    def _identity(self) -> dict[str, Any]:
        """The config's identity as JSON gives it back."""
        return json.loads(json.dumps(self.config.identity()))

    def _is_due(self, every: int) -> bool:
        return self.steps_done % every == 0 or self.steps_done == self.training.steps


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _or_error(batches: Iterator[Batch]) -> Iterator[Batch | ForebrainError]:
    """The batches; an error in reading one comes as an item, for `step` to tell the other workers."""
    try:
        yield from batches
    except ForebrainError as error:
        yield error
