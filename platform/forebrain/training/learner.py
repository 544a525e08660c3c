"""The model that a worker trains: backbone, interfaces and their optimisers; the mathematics of a step."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from forebrain.errors import DivergenceError
from forebrain.models.base import Model, SessionInput, SessionTarget
from forebrain.scoring.evaluate import Evaluation, evaluate
from forebrain.scoring.protocols import Part
from forebrain.shards.order import OwnedSession
from forebrain.shards.stream import Batch, SessionBatch
from forebrain.shards.windows import ShardWindows
from forebrain.training.batch_parts import parts_of
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.data import dataset_names
from forebrain.training.forecasting import ModelForecaster
from forebrain.training.optimise import clip, sum_of_squares
from forebrain.training.state import Interfaces, PortableTensors, derived_seed, file_of, from_files
from forebrain.training.strategies import build_strategy
from forebrain.training.totals import StepTotals


class Learner:
    """The model on one worker, with the interfaces of its sessions and the optimisers of both.

    A step is `form_gradients`, then `update`. All workers make the same calls in the same order.

    Args:
        config: the run's.
        backbone: the same on every worker, on its device.
        sessions: those that this worker reads.
        windows: the data.
        group: the workers of the run.
        device: where this worker computes.

    Attributes:
        strategy: how the workers hold the backbone.
        interfaces: of the sessions that this worker reads.
        datasets: names in the order of the backbone's data set embedding.
    """

    def __init__(
        self,
        config: PretrainConfig,
        backbone: Model,
        sessions: Iterable[OwnedSession],
        windows: ShardWindows,
        group: WorkerGroup,
        device: torch.device,
    ) -> None:
        self._config, self._group, self._device = config, group, device
        self._training = config.training.resolved(config.protocol)
        self._windows, self.datasets = windows, dataset_names(windows)
        # No reference to the backbone is kept here: what holds it after the end holds the process group too.
        self._idle_interface = backbone.new_interface(1).requires_grad_(False).to(device)
        self.strategy = build_strategy(backbone, self._training, group)
        self.interfaces = Interfaces(sessions, backbone.new_interface, self._training, config.seed, device)
        for info in windows.sessions:
            if info.id in self.interfaces.of_session:
                self.interfaces.of_session[info.id].is_smooth = info.is_smooth

    def form_gradients(self, batch: Batch, totals: StepTotals) -> float:
        """Forms the gradients of this worker's part of a batch and sums them over the workers.

        Args:
            batch: this worker's part.
            totals: gets the errors and what was skipped, and is summed in the same message.

        Returns:
            Seconds of the exchange, waiting for the slowest worker included.
        """
        self.interfaces.clear_gradients()
        totals.windows_skipped += batch.windows_skipped
        totals.rows_skipped += batch.rows_skipped
        torch.manual_seed(derived_seed(self._config.seed, "dropout", batch.step, self._group.rank))
        self._backward(batch, totals)
        shared = self.interfaces.shared_gradients()
        if self._training.move_unread_interfaces:
            self.interfaces.fill_gradients()
        # Those of split sessions are counted when they are summed.
        counted_later = {id(gradient) for gradient in shared}
        own = [each for each in self.interfaces.gradients() if id(each) not in counted_later]
        if own:
            totals.interface_square += sum_of_squares(own)
        began = time.perf_counter()
        totals.reduce(self.strategy, shared)
        return time.perf_counter() - began

    def update(self, batch: Batch, totals: StepTotals) -> tuple[float, float]:
        """Clips the gradients and moves backbone and interfaces.

        Returns:
            Loss of the global batch, and joint norm of the gradients before clipping.

        Raises:
            DivergenceError: the loss or a gradient is not finite.
        """
        training = self._training
        rows_read = batch.num_rows - int(totals.rows_skipped)
        loss = totals.error.item() / (rows_read * self._config.model.horizon)
        interface_norm = totals.interface_square.sqrt()
        if not (np.isfinite(loss) and torch.isfinite(interface_norm)):
            raise DivergenceError(_divergence(batch, loss))
        learning_rate = training.learning_rate_at(batch.step)
        jointly = totals.interface_square if training.joint_clip else None
        norm = self.strategy.step(learning_rate, training.clip_norm, jointly)
        if not torch.isfinite(norm):
            raise DivergenceError(_divergence(batch, loss))
        clip(self.interfaces.gradients(), norm if training.joint_clip else interface_norm, training.clip_norm)
        self.interfaces.step(learning_rate)
        joint_norm = norm if training.joint_clip else (norm.square() + totals.interface_square).sqrt()
        return loss, joint_norm.item()

    def evaluate(self, part: Part, windows_per_session: int | None) -> Evaluation:
        """Scores every session on one worker and merges the scores, the same on every worker."""
        interfaces = self.interfaces.whole(self._group)
        forecaster = ModelForecaster(
            self.strategy.replica(), interfaces, self.datasets, self._windows.sessions
        )
        own = [number for number, info in enumerate(self._windows.sessions) if info.id in interfaces]
        parts = self._group.gather_from(
            lambda: evaluate(
                {"model": forecaster},
                self._windows,
                part,
                sessions=own,
                windows_per_session=windows_per_session,
                seed=self._config.seed,
                as_scored=self._windows.as_scored,
            ).to_json()
        )
        return Evaluation.merge([Evaluation.from_json(part) for part in parts])

    def export(self) -> dict[str, PortableTensors]:
        """A copy of this worker's part of the state, by the name of its file in a checkpoint."""
        tensors = {
            file_of("backbone", self._group.rank): self.strategy.export(),
            file_of("interfaces", self._group.rank): self.interfaces.export(),
        }
        return {name: part for name, part in tensors.items() if part}

    def exported_units(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Units whose embeddings a file of `export` holds, by its name; see `StoredFile`."""
        return {file_of("interfaces", self._group.rank): self.interfaces.units}

    def load(self, contents: dict[str, bytes]) -> None:
        """Takes over the files of a checkpoint, whoever wrote them.

        Raises:
            CheckpointError: they belong to another model or data set.
        """
        self.strategy.load(from_files("backbone", contents))
        self.interfaces.load(from_files("interfaces", contents, joins=False))

    def close(self) -> None:
        """Lets go of what would outlive the process group. Nothing else is called after it."""
        self.strategy.close()

    def _backward(self, batch: Batch, totals: StepTotals) -> None:
        """Adds the gradients of this worker's windows, and their errors to the totals."""
        parts = parts_of(batch, self._training.accumulation)
        if not self.strategy.lockstep:
            parts = [part for part in parts if part is not None]
        for number, part in enumerate(parts, start=1):
            error = self.error_of_nothing() if part is None else self._error(part)
            error_scale = 1 / (batch.num_rows * self._config.model.horizon)
            self.strategy.backward(error * error_scale, is_last=number == len(parts))
            totals.error += error.detach()

    def error_of_nothing(self) -> Tensor:
        """Zero, by way of the whole model: one unit at rest, for workers that must keep in step."""
        config = self._config.model
        entry = SessionInput(torch.zeros(1, config.context, 1, device=self._device), self._idle_interface, 0)
        nothing = torch.zeros(1, config.horizon, 1, device=self._device)
        target = SessionTarget(nothing, weight=nothing[:, :1])
        return self.strategy.forward([entry], [target])

    def _error(self, batch: Batch) -> Tensor:
        inputs = [self._input(group) for group in batch.groups]
        targets = [
            SessionTarget.of(
                entry,
                self._to_device(group.target),
                self._training.loss,
                None if group.present is None else self._to_device(group.present),
            )
            for entry, group in zip(inputs, batch.groups, strict=True)
        ]
        return self.strategy.forward(inputs, targets)

    def _input(self, group: SessionBatch) -> SessionInput:
        return SessionInput(
            self._to_device(group.context),
            self.interfaces.of_session[group.session],
            self.datasets.index(group.dataset),
            None if group.forecast_units is None else self._to_device(group.forecast_units),
            self._group if group.is_split else None,
        )

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def _divergence(batch: Batch, loss: float) -> str:
    sessions = ", ".join(group.session for group in batch.groups[:8])
    return (
        f"step {batch.step}: loss {loss}, or a gradient that is not finite, on windows of {sessions}. "
        "Lower training.learning_rate or training.clip_norm; the last checkpoint is intact."
    )
