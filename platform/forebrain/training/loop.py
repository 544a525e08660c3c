"""The training loop, the same in a plain process and in each worker of a cluster."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from forebrain.errors import CheckpointError, DivergenceError, ForebrainError, StoppedByPeerError
from forebrain.models.contract import SessionInput
from forebrain.models.poco import Poco
from forebrain.models.relative import relative_error, squared_error
from forebrain.scoring.evaluate import Evaluation, evaluate
from forebrain.scoring.protocols import PARTS, Part
from forebrain.shards.reader import ShardSet
from forebrain.shards.stream import Batch, Stream, build_order
from forebrain.shards.windows import ShardWindows
from forebrain.storage import Folder
from forebrain.training.checkpoints import Checkpoint, CheckpointStore, StoredFile
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.forecasting import ModelForecaster, affordable_windows
from forebrain.training.run_folder import RunFolder, check_same_run
from forebrain.training.state import TrainingState, derived_seed

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class StepResult:
    """One optimiser step.

    Attributes:
        loss: errors of the global batch, summed, over its predicted values.
        gradient_norm: joint norm before clipping.
    """

    loss: float
    gradient_norm: float


@dataclass
class Progress:
    """What a run remembers besides its weights.

    Attributes:
        best_loss: lowest validation loss so far: what `select_by` names, 1 - score or the squared error.
        best_step: the step it was measured at.
        validations_without_improvement: since then.
        seconds: wall time of the steps so far, validations and checkpoints included, over all attempts.
        units_x_frames: activity values read so far (rows x frames of a window).
    """

    best_loss: float | None = None
    best_step: int = 0
    validations_without_improvement: int = 0
    seconds: float = 0.0
    units_x_frames: int = 0


class Trainer:
    """A run on one worker.

    Args:
        config: what is asked.
        group: the workers of the run.
        device: where this worker computes.
        report: called on the first worker with each event (`kind` is start, step, validation, checkpoint or
            end); telemetry and the console listen there.
        saved: called on every worker when a checkpoint is committed, with the step and validation loss.
    """

    def __init__(
        self,
        config: PretrainConfig,
        group: WorkerGroup,
        device: torch.device,
        report: Report,
        saved: Report = lambda event: None,
    ) -> None:
        self.config, self.group, self.device = config, group, device
        self.training = config.training.resolved(config.protocol)
        self.saved = saved
        self.report = report if group.is_first else (lambda event: None)
        shards = ShardSet.open(RunFolder(config.out).shards(config.data))
        self.data_fingerprint = shards.fingerprint
        self.windows = ShardWindows(shards, config.protocol, config.model.context, config.model.horizon)
        self.order = build_order(self.windows, self.training.batch_size, config.seed, config.mixture)
        self.stream = Stream(self.windows, self.order, group.rank, group.size)
        self.datasets = dataset_names(shards)
        torch.manual_seed(derived_seed(config.seed, "backbone"))
        backbone = Poco(config.resolved_model(), num_datasets=len(self.datasets)).to(device)
        self.state = TrainingState(
            backbone, config.model.width, self.stream.owned_sessions, self.training, config.seed
        )
        self.store = CheckpointStore(Folder(config.out).child("checkpoints"), self.training.keep_checkpoints)
        self.progress = Progress()
        self.validation_windows = affordable_windows(self.windows, self.order, config, share=0.05)

    def run(self) -> Progress:
        """Trains from the newest checkpoint, or from the start, to the last step.

        Raises:
            CheckpointError: the checkpoints belong to another config or data set.
            DivergenceError: a loss or gradient is not finite.
            ShardError: a shard is damaged.
        """
        self._resume()
        first, last = self.state.step, self.training.steps
        self.report(self._start_event())
        self._counted_until = time.perf_counter()
        stopped_early = self._out_of_patience()
        batches = self.stream.batches(first, first if stopped_early else last)
        with contextlib.closing(batches):
            for batch in self._or_error(batches):
                began = time.perf_counter()
                result = self.step(batch)
                assert isinstance(batch, Batch)
                self._report_step(batch, result, time.perf_counter() - began)
                if self._is_due(self.training.validate_every):
                    self._validate()
                    stopped_early = self._out_of_patience()
                elif self._is_due(self.training.checkpoint_every):
                    self._save(None)
                if stopped_early:
                    break
        self._report_end(stopped_early)
        return self.progress

    def step(self, batch: Batch | ForebrainError) -> StepResult:
        """One optimiser step on this worker's part of a global batch.

        A worker that could not read its part says so in the same message that carries the gradients, so all
        workers stop at the same step instead of waiting for it.
        """
        state, config = self.state, self.training
        state.clear_gradients()
        error = torch.zeros((), device=self.device)
        num_failed = torch.zeros((), device=self.device)
        if isinstance(batch, ForebrainError):
            num_failed += 1
        else:
            torch.manual_seed(derived_seed(self.config.seed, "dropout", state.step, self.group.rank))
            error += self._backward(batch)
        if config.move_unread_interfaces:
            state.fill_interface_gradients()

        backbone_gradients = state.backbone_gradients()
        interface_gradients = state.interface_gradients()
        interface_square = _sum_of_squares(interface_gradients, self.device)
        self.group.sum_tensors([*backbone_gradients, interface_square, error, num_failed])
        if isinstance(batch, ForebrainError):
            raise batch
        if num_failed:
            raise StoppedByPeerError("another worker of this run could not go on; see its error.")
        backbone_square = _sum_of_squares(backbone_gradients, self.device)
        joint_norm = (backbone_square + interface_square).sqrt()
        loss = error.item() / (batch.num_rows * self.config.model.horizon)
        if not np.isfinite(loss) or not torch.isfinite(joint_norm):
            raise DivergenceError(self._divergence(batch, loss))
        norms = [joint_norm] * 2 if config.joint_clip else [backbone_square.sqrt(), interface_square.sqrt()]
        for gradients, norm in zip((backbone_gradients, interface_gradients), norms, strict=True):
            if gradients:
                torch._foreach_mul_(gradients, (config.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        state.apply(config.learning_rate_at(batch.step))
        return StepResult(loss, joint_norm.item())

    def _backward(self, batch: Batch) -> Tensor:
        """Adds the gradients of this worker's windows; returns their errors, summed."""
        self.state.backbone.train()
        predicted_values = batch.num_rows * self.config.model.horizon
        total = torch.zeros((), device=self.device)
        for part in _parts(batch, self.training.accumulation):
            error = self._error(part)
            (error / predicted_values).backward()
            total += error.detach()
        return total

    def evaluate(self, part: Part, windows_per_session: int | None) -> Evaluation:
        """Scores every worker's own sessions and merges them, the same on every worker."""
        forecaster = ModelForecaster(
            self.state.backbone, self.state.interfaces, self.datasets, self.windows.sessions, self._autocast
        )
        own = [i for i, info in enumerate(self.windows.sessions) if info.id in self.state.interfaces]
        parts = self.group.gather_from(
            lambda: evaluate(
                {"model": forecaster},
                self.windows,
                part,
                sessions=own,
                windows_per_session=windows_per_session,
                seed=self.config.seed,
            ).to_json()
        )
        return Evaluation.merge([Evaluation.from_json(part) for part in parts])

    def _error(self, batch: Batch) -> Tensor:
        inputs, targets = [], []
        for group in batch.groups:
            context = torch.from_numpy(group.context).to(self.device, non_blocking=True)
            targets.append(torch.from_numpy(group.target).to(self.device, non_blocking=True))
            interface = self.state.interfaces[group.session]
            inputs.append(SessionInput(context, interface, self.datasets.index(group.dataset)))
        with self._autocast():
            forecasts = self.state.backbone(inputs)
        error = relative_error if self.training.loss == "relative" else squared_error
        return torch.stack(
            [
                error(forecast.float(), target, entry.context).sum()
                for forecast, target, entry in zip(forecasts, targets, inputs, strict=True)
            ]
        ).sum()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        enabled = self.training.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _validate(self) -> None:
        began = time.perf_counter()
        evaluation = self.evaluate("validation", self.validation_windows)
        scores, step, progress = evaluation.summary("model"), self.state.step, self.progress
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
        began = time.perf_counter()
        step, rank = self.state.step, self.group.rank
        self._count_seconds()

        def write() -> list[StoredFile]:
            tensors = {f"interfaces-{rank:05d}.safetensors": self.state.export_interfaces()}
            if self.group.is_first:
                tensors["backbone.safetensors"] = self.state.export_backbone()
            return [
                self.store.write_file(step, name, save_tensors(content)) for name, content in tensors.items()
            ]

        files = [stored for part in self.group.gather_from(write) for stored in part]
        if self.group.is_first:
            self.store.commit(step, files, validation_loss, self._record())
        self.report({"kind": "checkpoint", "step": step, "seconds": time.perf_counter() - began})
        self.saved({"step": step, "validation_loss": validation_loss})

    def _record(self) -> dict[str, Any]:
        return {
            "identity": self._identity(),
            "data_fingerprint": self.data_fingerprint,
            "datasets": self.datasets,
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
        found = self.store.newest()
        if found is None:
            return
        checkpoint, contents = found
        check_same_run(checkpoint.record["identity"], self._identity(), self.config.out)
        check_data(checkpoint, self.config, self.data_fingerprint)
        load_checkpoint(self.state, contents)
        self.state.step = checkpoint.step
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
            "step": self.state.step,
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
            "backbone_parameters": sum(p.numel() for p in self.state.backbone.parameters()),
            "rows_each_step": int(self.order.rows_each_epoch.sum() / self.order.steps_each_epoch),
            "steps_each_epoch": self.order.steps_each_epoch,
            "validation_windows": self.validation_windows,
            "device": str(self.device),
        }

    def _report_step(self, batch: Batch, result: StepResult, seconds: float) -> None:
        units_x_frames = batch.num_rows * (self.config.model.context + self.config.model.horizon)
        self.progress.units_x_frames += units_x_frames
        self.report(
            {
                "kind": "step",
                "step": self.state.step,
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "learning_rate": self.training.learning_rate_at(batch.step),
                "step_s": seconds,
                "wait_s": batch.wait_s,
                "units_x_frames_per_s": units_x_frames / (seconds + batch.wait_s),
            }
        )

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._counted_until
        self._counted_until = now

    def _report_end(self, stopped_early: bool) -> None:
        self._count_seconds()
        event = {
            "kind": "end",
            "step": self.state.step,
            "stopped_early": stopped_early,
            "seconds": self.progress.seconds,
            "units_x_frames_per_s": self.progress.units_x_frames / max(self.progress.seconds, 1e-9),
            "peak_rss_bytes": max(self.group.gather(peak_rss_bytes())),
            "num_workers": self.group.size,
        }
        self.report(event)

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.training.steps

    def _out_of_patience(self) -> bool:
        patience = self.training.patience
        return patience is not None and self.progress.validations_without_improvement >= patience

    def _divergence(self, batch: Batch, loss: float) -> str:
        sessions = ", ".join(group.session for group in batch.groups[:8])
        return (
            f"step {batch.step}: loss {loss}, or a gradient that is not finite, on windows of {sessions}. "
            "Lower training.learning_rate or training.clip_norm; the last checkpoint is intact."
        )


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def dataset_names(shards: ShardSet) -> list[str]:
    """Names of the data sets, in the order of the backbone's embedding of them."""
    return sorted({entry.dataset for entry in shards.sessions})


def check_data(checkpoint: Checkpoint, config: PretrainConfig, data_fingerprint: str) -> None:
    """Raises CheckpointError if a checkpoint was trained on other data."""
    stored = checkpoint.record["data_fingerprint"]
    if stored != data_fingerprint:
        raise CheckpointError(
            f"{config.out} was trained on other data than {config.data} holds now "
            f"(fingerprint {stored[:12]}, now {data_fingerprint[:12]}). "
            "Give the data it was started with, or another --out."
        )


def load_checkpoint(state: TrainingState, contents: Mapping[str, bytes]) -> None:
    """Loads a checkpoint's files, written by any number of workers."""
    state.load_backbone(load_tensors(contents["backbone.safetensors"]))
    interfaces: dict[str, Tensor] = {}
    for name, data in contents.items():
        if name.startswith("interfaces-"):
            interfaces |= load_tensors(data)
    state.load_interfaces(interfaces)


def _parts(batch: Batch, num_parts: int) -> list[Batch]:
    """The batch in at most `num_parts` parts of about as many groups; a part may be empty of windows."""
    if num_parts == 1 or not batch.groups:
        return [batch] if batch.groups else []
    windows = [
        type(group)(group.session, group.dataset, group.context[i : i + 1], group.target[i : i + 1])
        for group in batch.groups
        for i in range(len(group.context))
    ]
    cuts = np.linspace(0, len(windows), num_parts + 1).astype(int)
    return [
        Batch(batch.step, windows[start:stop], batch.num_windows, batch.num_rows)
        for start, stop in itertools.pairwise(cuts)
        if start < stop
    ]


def _sum_of_squares(tensors: list[Tensor], device: torch.device) -> Tensor:
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(tensors)).square().sum()
