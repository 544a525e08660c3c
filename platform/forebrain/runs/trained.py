"""A trained run, loaded for forecasting: its best backbone and the interfaces of its sessions."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forebrain.accelerate import accelerate
from forebrain.config import from_values
from forebrain.errors import CheckpointError
from forebrain.models.base import Interface, Model
from forebrain.scoring.window_source import SessionInfo
from forebrain.training.checkpoints import Checkpoint, CheckpointStore
from forebrain.training.config import PretrainConfig
from forebrain.training.forecasting import ModelForecaster
from forebrain.training.progress import Progress
from forebrain.training.run_folder import RunFolder, check_one_run
from forebrain.training.state import from_files, untrained_interface

_log = logging.getLogger(__name__)


@dataclass
class TrainedModel:
    """The best checkpoint of a run, on the CPU.

    Attributes:
        config: the run's.
        checkpoint: the one the weights are from.
        backbone: on the CPU, in evaluation mode.
        interfaces: by session id.
        datasets: names in the order of the backbone's data set embedding.
        unfinished: how many of its steps the run has done, in words; "" of one that has ended.
    """

    config: PretrainConfig
    checkpoint: Checkpoint
    backbone: Model
    interfaces: dict[str, Interface]
    datasets: list[str]
    unfinished: str = ""

    @classmethod
    def load(cls, run: RunFolder, step: int | None = None) -> TrainedModel:
        """Loads a checkpoint: that with the lowest validation loss, or the newest where none was validated.

        Of a run that has not ended a line says so.

        Args:
            run: the run.
            step: of another checkpoint to load.

        Raises:
            CheckpointError: there is no run, or no checkpoint that is whole, or it is another run's.
        """
        values = run.read_config()
        if values is None:
            raise CheckpointError(
                f"{run.uri} holds no run (no config.yaml); give the --out of a pretraining."
            )
        config = from_values(PretrainConfig, values)
        store = run.checkpoints()
        checkpoint, contents = _best_whole(store, run) if step is None else _of_step(store, step, run.uri)
        check_one_run(
            values, checkpoint.record["identity"], f"{run.uri}: the checkpoint of step {checkpoint.step}"
        )
        datasets = checkpoint.record["datasets"]
        backbone = config.resolved_model().build(num_datasets=len(datasets)).eval()
        _fill(backbone, from_files("backbone", contents), "backbone")
        tensors = from_files("interfaces", contents)
        suffix = ":unit"
        interfaces = {}
        for name, unit in tensors.items():
            if name.endswith(suffix):
                session = name.removesuffix(suffix)
                own = {"unit": unit, "session": tensors[f"{session}:session"]}
                interfaces[session] = Interface(len(unit), unit.shape[1], None, len(own["session"]))
                _fill(interfaces[session], own, f"session {session}")
        unfinished = _unfinished([checkpoint, *store.committed()], run, config)
        if unfinished:
            _say_unfinished(run.uri, unfinished)
        return cls(config, checkpoint, backbone, interfaces, datasets, unfinished)

    def forecaster(self, sessions: Sequence[SessionInfo], new: Collection[str] = ()) -> ModelForecaster:
        """A forecaster for the scorer, of those sessions that have an interface, and of new ones.

        Args:
            sessions: what a session number means.
            new: ids of sessions to forecast too if they were not trained on. They get the interface that
                training would have begun with, and no embedding of a data set that was not trained on.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backbone.to(device)
        interfaces = dict(self.interfaces)
        for info in sessions:
            if info.id in new and info.id not in interfaces:
                interfaces[info.id] = untrained_interface(
                    self.config.seed, info.id, info.num_units, self.backbone.new_interface
                )
        for info in sessions:
            if info.id in interfaces:
                interfaces[info.id].is_smooth = info.is_smooth
        for interface in interfaces.values():
            interface.to(device)
        known = {info.dataset for info in sessions if info.id in self.interfaces}
        datasets = [name if name in known else "" for name in self.datasets]
        bf16 = self.config.training.precision == "bf16"

        executor = accelerate(self.backbone, "train", torch.bfloat16 if bf16 else torch.float32)
        return ModelForecaster(executor, interfaces, datasets, sessions)


def _best_whole(store: CheckpointStore, run: RunFolder) -> tuple[Checkpoint, dict[str, bytes]]:
    best = store.best()
    lost = store.lost_best((run.read_result() or {}).get("best_step"))
    if best is not None and lost is not None:
        _log.warning(
            "%s: the best checkpoint of the run, of step %d, is gone; that of step %d is taken.",
            store.folder.uri, lost, best.step,
        )  # fmt: skip
    if best is not None:
        try:
            return best, store.read(best)
        except CheckpointError as error:
            _log.warning("%s It was the best; taking the newest that is whole.", error)
    newest = store.newest()
    if newest is None:
        raise CheckpointError(f"{run.uri}: no checkpoint that is whole; run the pretraining (again).")
    return newest


def _unfinished(checkpoints: Sequence[Checkpoint], run: RunFolder, config: PretrainConfig) -> str:
    """See `TrainedModel.unfinished`; a run that ran out of patience has ended, evaluated or not."""
    newest, steps = max(checkpoints, key=lambda checkpoint: checkpoint.step), config.training.steps
    progress = Progress.from_record(newest.record.get("progress", {}))
    has_ended = newest.step >= steps or progress.is_out_of(config.training.patience)
    # The newest checkpoint of a run that has a result may be gone.
    if has_ended or "steps" in (run.read_result() or {}):
        return ""
    return f"{newest.step:,} of {steps:,} steps"


@functools.cache  # once, of a run that is opened for each of many recordings
def _say_unfinished(run: str, done: str) -> None:
    _log.warning(
        "%s: this run has not ended; it has done %s. The same `pretrain` command goes on with it.", run, done
    )


def _of_step(store: CheckpointStore, step: int, where: str) -> tuple[Checkpoint, dict[str, bytes]]:
    committed = {checkpoint.step: checkpoint for checkpoint in store.committed()}
    if step not in committed:
        raise CheckpointError(
            f"{where}: no checkpoint of step {step}; there are {', '.join(map(str, committed)) or 'none'}."
        )
    return committed[step], store.read(committed[step])


@torch.no_grad()
def _fill(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    for name, parameter in module.named_parameters():
        if name not in tensors or tensors[name].shape != parameter.shape:
            raise CheckpointError(
                f"{where}: the checkpoint does not fit the run's config at {name}; "
                "config.yaml or the checkpoint was changed."
            )
        parameter.copy_(tensors[name])
