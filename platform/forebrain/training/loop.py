"""The training loop, the same in a plain process and in each worker of a cluster."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forebrain.errors import (
    CheckpointError,
    DivergenceError,
    ForebrainError,
    ShardError,
    StoppedByPeerError,
)
from forebrain.models.base import SessionInput, SessionTarget
from forebrain.scoring.evaluate import Evaluation, evaluate
from forebrain.scoring.protocols import PARTS, Part
from forebrain.shards.stream import Batch, SessionBatch, Stream, build_order
from forebrain.shards.windows import ShardWindows
from forebrain.training.checkpoints import Checkpoint, CheckpointStore
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.data import open_windows
from forebrain.training.forecasting import ModelForecaster, affordable_windows
from forebrain.training.ledger import AttemptClock, Ledger, account, read_attempts
from forebrain.training.run_folder import RunFolder, check_same_run
from forebrain.training.saving import Saved, Saver, Snapshot
from forebrain.training.state import Interfaces, derived_seed, file_of, from_files
from forebrain.training.stopping import StopRequests
from forebrain.training.strategies import Strategy, build_strategy
from forebrain.training.strategies.replicated import clip_factor, sum_of_squares
from forebrain_registry.storage import Folder

Listener = Callable[[dict[str, Any]], None]
# No session has more units: none is split over the workers.
UNSPLIT = 2**62


@dataclass(frozen=True)
class StepResult:
    """One optimiser step.

    Attributes:
        loss: errors of the global batch, summed, over its predicted values.
        gradient_norm: joint norm before clipping.
        communication_s: exchange of the gradients, waiting for the slowest worker included.
        bytes_given: what this worker gave to collective calls, whoever made them.
    """

    loss: float
    gradient_norm: float
    communication_s: float
    bytes_given: int


class StepTotals:
    """What is summed over the workers in the message that carries the backbone's gradients.

    Attributes:
        error: errors of this worker's windows, summed.
        interface_square: sum of squares of its interfaces' gradients, each counted once.
        failed: workers that could not read their part, or not write their checkpoint.
        saving: workers that are still writing a checkpoint.
        stop: workers that were asked to stop.
        poll: workers that want to look together whether a machine is about to be taken away.
        windows_skipped, rows_skipped: what could not be read.
    """

    def __init__(self, device: torch.device) -> None:
        self.tensor = torch.zeros(8, device=device)
        (
            self.error, self.interface_square, self.failed, self.saving, self.stop, self.poll,
            self.windows_skipped, self.rows_skipped,
        ) = self.tensor.unbind()  # fmt: skip

    def reduce(self, strategy: Strategy, shared: Sequence[Tensor]) -> None:
        """Sums them over the workers, and gradients [d] that workers share; all are replaced."""
        if not shared:
            return strategy.reduce(self.tensor)
        message = torch.cat([self.tensor, *shared])
        strategy.reduce(message)
        sums = message.split([len(self.tensor), *map(len, shared)])
        for tensor, summed in zip((self.tensor, *shared), sums, strict=True):
            tensor.copy_(summed)
        self.interface_square += sum_of_squares(shared)


@dataclass
class Progress:
    """What a run remembers besides its weights.

    Attributes:
        best_loss: lowest validation loss so far: what `select_by` names, 1 - score or the squared error.
        best_step: the step it was measured at.
        validations_without_improvement: since then.
        seconds: wall time of the steps so far, validations and checkpoints included, over all attempts.
        units_x_frames: activity values read so far (rows x frames of a window).
        windows_skipped: training windows that could not be read.
        bad_shards: names of the shards they, or others, would have been in.
    """

    best_loss: float | None = None
    best_step: int = 0
    validations_without_improvement: int = 0
    seconds: float = 0.0
    units_x_frames: int = 0
    windows_skipped: int = 0
    bad_shards: list[str] = field(default_factory=list)


class Trainer:
    """A run on one worker.

    Args:
        config: what is asked.
        group: the workers of the run.
        device: where this worker computes.
        report: called on the first worker with each event (`kind` is start, step, validation, checkpoint,
            stopped or end; and committing, from another thread, just before a checkpoint is made to exist);
            telemetry and the console listen there.
        requests: where this worker hears that it should stop.
        launched: when the driver began, seconds of the Unix clock; None for now.

    Attributes:
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
        self.clock = AttemptClock(Folder(config.out) if group.is_first else None, launched)
        self.config, self.group, self.device = config, group, device
        self.training = config.training.resolved(config.protocol)
        self.requests = requests or StopRequests()
        self.stopped: str | None = None
        self.report = report if group.is_first else (lambda event: None)
        self.windows = open_windows(config, RunFolder(config.out).shards(config.data))
        self.data_fingerprint = self.windows.shards.fingerprint
        self.order = build_order(
            self.windows,
            self.training.batch_size,
            config.seed,
            config.mixture,
            self.training.units_per_window,
        )
        self.datasets = dataset_names(self.windows)
        torch.manual_seed(derived_seed(config.seed, "backbone"))
        backbone = config.resolved_model().build(num_datasets=len(self.datasets)).to(device)
        split_above = self.training.split_above if backbone.splits_units else UNSPLIT
        self.stream = Stream(self.windows, self.order, group.rank, group.size, split_above)
        # No reference to the backbone is kept here: what holds it after the end holds the process group too.
        self._idle_interface = backbone.new_interface(1).requires_grad_(False).to(device)
        self.backbone_parameters = sum(p.numel() for p in backbone.parameters())
        self.strategy = build_strategy(backbone, self.training, group)
        self.interfaces = Interfaces(
            self.stream.owned_sessions, backbone.new_interface, self.training, config.seed, device
        )
        for info in self.windows.sessions:
            if info.id in self.interfaces.of_session:
                self.interfaces.of_session[info.id].is_smooth = info.is_smooth
        self.steps_done = 0
        self.store = CheckpointStore(Folder(config.out).child("checkpoints"), self.training.keep_checkpoints)
        self.saver = Saver(self.store, group, self._before_commit)
        self._snapshot_step: int | None = None
        self._totals = StepTotals(device)
        self.progress = Progress()
        self.validation_windows = affordable_windows(self.windows, self.order, config, share=0.05)

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
            self.strategy.close()

    def _run(self) -> Progress:
        with self.clock.during("resume"):
            self._resume()
        self.clock.begin(self.steps_done)
        first, last = self.steps_done, self.training.steps
        self.report(self._start_event())
        self._counted_until = time.perf_counter()
        stopped_early = self._out_of_patience()
        batches = self.stream.batches(first, first if stopped_early else last)
        with contextlib.closing(self.saver), contextlib.closing(batches):
            for batch in self._or_error(batches):
                began = time.perf_counter()
                result = self.step(batch)
                assert isinstance(batch, Batch)
                self._report_step(batch, result, time.perf_counter() - began)
                self.clock.step(self.steps_done)
                if self.saver.in_flight and not self._totals.saving:
                    self._tell(self.saver.advance())
                if self._is_due(self.training.validate_every):
                    self._validate()
                    stopped_early = self._out_of_patience()
                elif self._is_due(self.training.checkpoint_every):
                    self._save(None)
                self._heed_requests()
                if stopped_early or self.stopped:
                    break
            self._tell(self.saver.wait())
        if self.stopped and self.steps_done < last and not stopped_early:
            self._count_seconds()
            self.clock.save()
            self.report({"kind": "stopped", "step": self.steps_done, "reason": self.stopped})
        else:
            self.stopped = None
            self._report_end(stopped_early)
        return self.progress

    def step(self, batch: Batch | ForebrainError) -> StepResult:
        """One optimiser step on this worker's part of a global batch.

        A worker that could not read its part, or not write its checkpoint, says so in the same message that
        carries the gradients, so all workers stop at the same step instead of waiting for it.
        """
        config, strategy, interfaces = self.training, self.strategy, self.interfaces
        given_before = self.group.bytes_given
        interfaces.clear_gradients()
        totals = self._totals = StepTotals(self.device)
        problem = batch if isinstance(batch, ForebrainError) else self.saver.error
        totals.failed += problem is not None
        totals.saving += self.saver.busy
        totals.stop += self.requests.asked() is not None
        totals.poll += self.requests.is_poll_due()
        if isinstance(batch, Batch):
            totals.windows_skipped += batch.windows_skipped
            totals.rows_skipped += batch.rows_skipped
        torch.manual_seed(derived_seed(self.config.seed, "dropout", self.steps_done, self.group.rank))
        readable = self.stream.stand_in(self.steps_done) if isinstance(batch, ForebrainError) else batch
        self._backward(readable, totals)
        shared = interfaces.shared_gradients()
        if config.move_unread_interfaces:
            interfaces.fill_gradients()
        gradients = interfaces.gradients()
        counted_later = {id(gradient) for gradient in shared}
        own = [gradient for gradient in gradients if id(gradient) not in counted_later]
        if own:
            totals.interface_square += sum_of_squares(own)
        began = time.perf_counter()
        totals.reduce(strategy, shared)
        communication_s = time.perf_counter() - began
        if problem is not None:
            raise problem
        assert isinstance(batch, Batch)
        if totals.failed:
            raise StoppedByPeerError("another worker of this run could not go on; see its error.")
        rows_read = batch.num_rows - int(totals.rows_skipped)
        if totals.windows_skipped:
            self._count_skipped(int(totals.windows_skipped))
        if not rows_read:
            raise ShardError(
                f"step {batch.step}: not one of its {batch.num_windows} windows can be read; bad shards are "
                f"{', '.join(self.progress.bad_shards[:8])}. Prepare them again."
            )
        loss = totals.error.item() / (rows_read * self.config.model.horizon)
        interface_norm = totals.interface_square.sqrt()
        if not (np.isfinite(loss) and torch.isfinite(interface_norm)):
            raise DivergenceError(self._divergence(batch, loss))
        learning_rate = config.learning_rate_at(batch.step)
        jointly = totals.interface_square if config.joint_clip else None
        norm = strategy.step(learning_rate, config.clip_norm, jointly)
        if not torch.isfinite(norm):
            raise DivergenceError(self._divergence(batch, loss))
        if gradients:
            of_interfaces = norm if config.joint_clip else interface_norm
            torch._foreach_mul_(gradients, clip_factor(of_interfaces, config.clip_norm))
        interfaces.step(learning_rate)
        self.steps_done += 1
        joint_norm = norm if config.joint_clip else (norm.square() + totals.interface_square).sqrt()
        bytes_given = self.group.bytes_given - given_before
        return StepResult(loss, joint_norm.item(), communication_s, bytes_given)

    def _count_skipped(self, num_windows: int) -> None:
        """All workers meet here at the same steps, those in which any of them skipped windows."""
        self.progress.windows_skipped += num_windows
        self.progress.bad_shards = self._bad_shards()

    def _bad_shards(self) -> list[str]:
        """Names of the shards in which any worker, of any attempt, found damage."""
        found = self.group.gather(sorted(self.windows.shards.bad_shards))
        return sorted({*self.progress.bad_shards, *itertools.chain.from_iterable(found)})

    def _backward(self, batch: Batch, totals: StepTotals) -> None:
        """Adds the gradients of this worker's windows, and their errors to the totals."""
        parts = _parts(batch, self.training.accumulation)
        if not self.strategy.lockstep:
            parts = [part for part in parts if part is not None]
        for number, part in enumerate(parts, start=1):
            error = self._error_of_nothing() if part is None else self._error(part)
            error_scale = 1 / (batch.num_rows * self.config.model.horizon)
            self.strategy.backward(error * error_scale, is_last=number == len(parts))
            totals.error += error.detach()

    def _error_of_nothing(self) -> Tensor:
        """Zero, by way of the whole model: one unit at rest, for workers that must keep in step."""
        config = self.config.model
        entry = SessionInput(torch.zeros(1, config.context, 1, device=self.device), self._idle_interface, 0)
        nothing = torch.zeros(1, config.horizon, 1, device=self.device)
        target = SessionTarget(nothing, weight=nothing[:, :1])
        with self._autocast():
            return self.strategy.forward([entry], [target])

    def evaluate(self, part: Part, windows_per_session: int | None) -> Evaluation:
        """Scores every session on one worker and merges the scores, the same on every worker."""
        interfaces = self.interfaces.whole(self.group)
        forecaster = ModelForecaster(
            self.strategy.replica(),
            interfaces,
            self.datasets,
            self.windows.sessions,
            self._autocast,
        )
        own = [i for i, info in enumerate(self.windows.sessions) if info.id in interfaces]
        parts = self.group.gather_from(
            lambda: evaluate(
                {"model": forecaster},
                self.windows,
                part,
                sessions=own,
                windows_per_session=windows_per_session,
                seed=self.config.seed,
                as_scored=self.windows.as_scored,
            ).to_json()
        )
        return Evaluation.merge([Evaluation.from_json(part) for part in parts])

    def _error(self, batch: Batch) -> Tensor:
        inputs = [self._input(group) for group in batch.groups]
        targets = [
            SessionTarget.of(
                entry,
                self._to_device(group.target),
                self.training.loss,
                None if group.present is None else self._to_device(group.present),
            )
            for entry, group in zip(inputs, batch.groups, strict=True)
        ]
        with self._autocast():
            return self.strategy.forward(inputs, targets)

    def _input(self, group: SessionBatch) -> SessionInput:
        return SessionInput(
            self._to_device(group.context),
            self.interfaces.of_session[group.session],
            self.datasets.index(group.dataset),
            None if group.forecast_units is None else self._to_device(group.forecast_units),
            self.group if group.is_split else None,
        )

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        enabled = self.training.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _validate(self) -> None:
        began = time.perf_counter()
        with self.clock.during("validation"):
            evaluation = self.evaluate("validation", self.validation_windows)
        scores, step, progress = evaluation.summary("model"), self.steps_done, self.progress
        loss = scores.value("mse") if self.training.select_by == "loss" else 1 - scores.value("score")
        # A data set too short for a validation window has no loss to choose the best checkpoint by.
        validation_loss = None if np.isnan(loss) else loss
        if validation_loss is not None and (progress.best_loss is None or loss < progress.best_loss):
            progress.best_loss, progress.best_step = loss, step
            progress.validations_without_improvement = 0
        elif validation_loss is not None:
            progress.validations_without_improvement += 1
        self.report(
            {
                "kind": "validation",
                "step": step,
                **scores.to_json(),
                "by_session": {
                    name: own.headline()["score"] for name, own in evaluation.scores["model"].items()
                },
                "seconds": time.perf_counter() - began,
            }
        )
        self._save(validation_loss)

    def _save(self, validation_loss: float | None) -> None:
        """Begins to save the state after this step; waits only for a checkpoint still being written."""
        self._tell(self.saver.wait())
        self.clock.snapshot(self.steps_done)
        self._count_seconds()
        self._snapshot_step = self.steps_done
        self.saver.start(lambda: self._take_snapshot(validation_loss))

    def _take_snapshot(self, validation_loss: float | None) -> Snapshot:
        backbone, interfaces = (file_of(kind, self.group.rank) for kind in ("backbone", "interfaces"))
        tensors = {backbone: self.strategy.export(), interfaces: self.interfaces.export()}
        return Snapshot(
            self.steps_done,
            validation_loss,
            self._record(),
            {name: part for name, part in tensors.items() if part},
            {interfaces: self.interfaces.units},
        )

    def _before_commit(self, step: int) -> float:
        self.report({"kind": "committing", "step": step})
        return self._ledger().goodput

    def _tell(self, saved: Saved | None) -> None:
        if saved is None:
            return
        self.clock.add("checkpoint", saved.stall_s)
        self.clock.save()
        self.report(
            {
                "kind": "checkpoint",
                "step": saved.step,
                "seconds": saved.seconds,
                "stall_s": saved.stall_s,
                "goodput": saved.told,
            }
        )
        self.requests.saved(saved.seconds)

    def _heed_requests(self) -> None:
        """Does what any worker was asked to; all workers do it after the same step."""
        save_now = bool(self._totals.poll) and self.requests.poll()
        if self._totals.stop:
            reasons = self.group.gather(self.requests.asked())
            self.stopped = next(reason for reason in reasons if reason)
        if (save_now or self.stopped) and self._snapshot_step != self.steps_done:
            self._save(None)

    def _record(self) -> dict[str, Any]:
        return {
            "identity": self._identity(),
            "data_fingerprint": self.data_fingerprint,
            "datasets": self.datasets,
            "seed": self.config.seed,
            "num_workers": self.group.size,
            "progress": asdict(self.progress),
        }

    def _identity(self) -> dict[str, Any]:
        """The config's identity as JSON gives it back."""
        return json.loads(json.dumps(self.config.identity()))

    def _or_error(self, batches: Iterator[Batch]) -> Iterator[Batch | ForebrainError]:
        """The batches; an error in reading one comes as an item, for `step` to tell the other workers."""
        try:
            yield from batches
        except ForebrainError as error:
            yield error

    def _resume(self) -> None:
        """Goes on from the newest whole checkpoint, of which each worker reads the backbone and what holds
        the units that it owns."""
        found = self.store.newest(self.interfaces.units, self.group)
        if found is None:
            return
        checkpoint, contents = found
        self.group.gather_from(lambda: self._load(checkpoint, contents))
        if self.group.is_first:
            self.store.remove_after(checkpoint.step)

    def _load(self, checkpoint: Checkpoint, contents: dict[str, bytes]) -> None:
        check_same_run(checkpoint.record["identity"], self._identity(), self.config.out)
        check_data(checkpoint, self.config, self.data_fingerprint)
        self.strategy.load(from_files("backbone", contents))
        self.interfaces.load(from_files("interfaces", contents, joins=False))
        self.steps_done = self._snapshot_step = checkpoint.step
        self.progress = Progress(**checkpoint.record["progress"])

    def _start_event(self) -> dict[str, Any]:
        shares = dict.fromkeys(self.datasets, 0.0)
        for session, draws in zip(self.order.sessions, self.order.draws_each_epoch, strict=True):
            shares[session.dataset] += draws / self.order.epoch_length
        table = [
            {
                "dataset": name,
                "sessions": sum(entry.dataset == name for entry in self.windows.sessions),
                "units": sum(entry.num_units for entry in self.windows.sessions if entry.dataset == name),
                "windows": sum(
                    self.windows.num_windows(index, "train")
                    for index, entry in enumerate(self.windows.sessions)
                    if entry.dataset == name
                ),
                "share": shares[name],
            }
            for name in self.datasets
        ]
        return {
            "kind": "start",
            "step": self.steps_done,
            "steps": self.training.steps,
            "seconds": self.progress.seconds,
            "mixture": table,
            "without_windows": {
                part: [
                    info.id
                    for index, info in enumerate(self.windows.sessions)
                    if not self.windows.num_windows(index, part)
                ]
                for part in PARTS
            },
            "backbone_parameters": self.backbone_parameters,
            "rows_each_step": int(self.order.rows_each_epoch.sum() / self.order.steps_each_epoch),
            "steps_each_epoch": self.order.steps_each_epoch,
            "validation_windows": self.validation_windows,
            "device": str(self.device),
        }

    def _report_step(self, batch: Batch, result: StepResult, seconds: float) -> None:
        self.clock.add("wait", batch.wait_s)
        self.clock.add("communication", result.communication_s)
        self.clock.add("step", seconds - result.communication_s)
        rows_read = batch.num_rows - int(self._totals.rows_skipped)
        units_x_frames = rows_read * (self.config.model.context + self.config.model.horizon)
        self.progress.units_x_frames += units_x_frames
        self.report(
            {
                "kind": "step",
                "step": self.steps_done,
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "learning_rate": self.training.learning_rate_at(batch.step),
                "step_s": seconds,
                "wait_s": batch.wait_s,
                "communication_s": result.communication_s,
                "bytes_given": result.bytes_given,
                "memory_bytes": peak_memory_bytes(self.device),
                "units_x_frames_per_s": units_x_frames / (seconds + batch.wait_s),
            }
        )

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._counted_until
        self._counted_until = now

    def _ledger(self) -> Ledger:
        return account(read_attempts(Folder(self.config.out)))

    def _report_end(self, stopped_early: bool) -> None:
        self._count_seconds()
        self.clock.save()
        event = {
            "kind": "end",
            "step": self.steps_done,
            "stopped_early": stopped_early,
            "seconds": self.progress.seconds,
            "units_x_frames_per_s": self.progress.units_x_frames / max(self.progress.seconds, 1e-9),
            "peak_rss_bytes": max(self.group.gather(peak_rss_bytes())),
            "num_workers": self.group.size,
            "skipped": {"windows": self.progress.windows_skipped, "shards": self._bad_shards()},
            "ledger": asdict(self._ledger()) if self.group.is_first else None,
        }
        self.report(event)

    def _is_due(self, every: int) -> bool:
        return self.steps_done % every == 0 or self.steps_done == self.training.steps

    def _out_of_patience(self) -> bool:
        patience = self.training.patience
        return patience is not None and self.progress.validations_without_improvement >= patience

    def _divergence(self, batch: Batch, loss: float) -> str:
        sessions = ", ".join(group.session for group in batch.groups[:8])
        return (
            f"step {batch.step}: loss {loss}, or a gradient that is not finite, on windows of {sessions}. "
            "Lower training.learning_rate or training.clip_norm; the last checkpoint is intact."
        )


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory used so far: of the GPU on a GPU, else resident memory of this process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def dataset_names(windows: ShardWindows) -> list[str]:
    """Names of the data sets, in the order of the backbone's embedding of them."""
    return sorted({info.dataset for info in windows.sessions})


def check_data(checkpoint: Checkpoint, config: PretrainConfig, data_fingerprint: str) -> None:
    """Raises CheckpointError if a checkpoint was trained on other data."""
    stored = checkpoint.record["data_fingerprint"]
    if stored != data_fingerprint:
        raise CheckpointError(
            f"{config.out} was trained on other data than {config.data} holds now "
            f"(fingerprint {stored[:12]}, now {data_fingerprint[:12]}). "
            "Give the data it was started with, or another --out."
        )


def _parts(batch: Batch, num_parts: int) -> list[Batch | None]:
    """The batch in `num_parts` parts of about as many windows; None for a part without any.

    Windows of split sessions are in the same part on every worker, since workers read them together.
    """
    if num_parts == 1:
        return [batch if batch.groups else None]
    windows = [
        replace(
            group,
            context=group.context[i : i + 1],
            target=group.target[i : i + 1],
            present=None if group.present is None else group.present[i : i + 1],
        )
        for group in batch.groups
        for i in range(len(group.context))
    ]
    parts: list[list[SessionBatch]] = [[] for _ in range(num_parts)]
    for is_split in (True, False):
        alike = [window for window in windows if window.is_split == is_split]
        cuts = np.linspace(0, len(alike), num_parts + 1).astype(int)
        for part, (start, stop) in zip(parts, itertools.pairwise(cuts), strict=True):
            part += alike[start:stop]
    return [replace(batch, groups=part) if part else None for part in parts]
