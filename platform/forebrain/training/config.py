"""Configs of a training run: the data, the model, the optimisation, the evaluation."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from forebrain.accelerate import Kernels
from forebrain.config import one_of
from forebrain.errors import ConfigError
from forebrain.models.base import LossName, ModelConfig
from forebrain.models.poco import PocoConfig
from forebrain.models.registry import MODELS
from forebrain.scoring.protocol_defaults import DEFAULTS
from forebrain.scoring.protocols import PROTOCOLS, ProtocolName
from forebrain.shards.holdout import HoldoutConfig
from forebrain.shards.options import PrepareConfig
from forebrain.shards.stream import MixtureConfig
from forebrain.shards.subset import SubsetConfig
from forebrain.training.optimise import CLIP_NORM, Schedule, learning_rate_at

StrategyName = Literal["ddp", "zero1", "zero2", "zero3", "fsdp"]


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation. Fields that are None follow the protocol, see `resolved`.

    Attributes:
        steps: optimiser steps.
        batch_size: windows in a global batch, over all workers.
        learning_rate: peak learning rate of AdamW.
        schedule: constant, or cosine to a tenth of the peak. None: cosine, under protocol poco constant.
        warmup_steps: steps of linear warm-up. None: a twentieth of the steps, under protocol poco 0.
        loss: squared error, or relative: squared error over the window's squared spread, so that loud windows
            do not outvote others. None: relative, under protocol poco squared.
        select_by: what makes a checkpoint the best on the validation part: score, or loss (its mean squared
            error). None: score, under protocol poco loss.
        weight_decay: decoupled weight decay.
        amsgrad: AdamW keeps the largest second moment. None: false, under protocol poco true.
        clip_norm: largest norm of the gradient.
        joint_clip: clip backbone and interfaces by their joint norm. None: false, under protocol poco true.
        move_unread_interfaces: decay and move interfaces also in steps that do not read them. None: false,
            under protocol poco true.
        precision: dtype of the matrix products; weights and optimiser state are always fp32.
        units_per_window: of a larger session, forecast and train on so many units a step, drawn at random;
            all its units are still read as the context. None: all units.
        split_above: sessions of more units are split by units over all workers. None: those too large for
            one worker. Another value changes no result beyond rounding.
        accumulation: parts a worker's batch is computed in, to save memory; the gradient is the same.
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints; each validation saves one too.
        keep_checkpoints: newest checkpoints kept, besides the best.
        patience: validations without improvement before training stops; None never stops early.
        threads: CPU threads of a worker. None: OMP_NUM_THREADS, else the cores that may be used, shared by
            the workers.
        strategy: how the workers hold the backbone: ddp, each the whole of it; zero1, zero2, zero3,
            DeepSpeed, sharing out optimiser state, gradients too, weights too; fsdp, sharing out all with
            PyTorch's own. A run may stop under one and go on under another.
        kernels: plain, PyTorch's operations; or fused, Triton kernels for FiLM on GPUs that have them.
        compile: pass the plain equations by torch.compile.
        deepspeed: JSON file, or JSON, with more of DeepSpeed's own options for zero1 to zero3, see
            cluster/deepspeed.
    """

    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-4
    schedule: Schedule | None = None
    warmup_steps: int | None = None
    loss: LossName | None = None
    select_by: Literal["score", "loss"] | None = None
    weight_decay: float = 1e-4
    amsgrad: bool | None = None
    clip_norm: float = CLIP_NORM
    joint_clip: bool | None = None
    move_unread_interfaces: bool | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    units_per_window: int | None = None
    split_above: int | None = None
    accumulation: int = 1
    validate_every: int = 100
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    patience: int | None = None
    threads: int | None = None
    strategy: StrategyName = "ddp"
    kernels: Kernels = "plain"
    compile: bool = False
    deepspeed: str | None = None

    def __post_init__(self) -> None:
        for name in (
            "steps", "batch_size", "accumulation", "validate_every", "checkpoint_every", "keep_checkpoints",
            "patience", "threads", "units_per_window",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"training.{name} is {value}; expected 1 or more.")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"training.{name} is {value}; expected a positive number.")
        if self.split_above is not None and self.split_above < 0:
            raise ConfigError(f"training.split_above is {self.split_above}; expected 0 or more.")
        if self.weight_decay < 0:
            raise ConfigError(f"training.weight_decay is {self.weight_decay}; expected 0 or more.")
        if self.warmup_steps is not None and not 0 <= self.warmup_steps <= self.steps:
            raise ConfigError(
                f"training.warmup_steps is {self.warmup_steps}; expected 0 to training.steps ({self.steps})."
            )
        if self.deepspeed is not None and not self.strategy.startswith("zero"):
            raise ConfigError(
                f"training.deepspeed is given and training.strategy is {self.strategy}; "
                "expected zero1, zero2 or zero3, which run on DeepSpeed."
            )

    def resolved(self, protocol: str) -> ResolvedTraining:
        """The same with the protocol's defaults filled in."""
        defaults = DEFAULTS[protocol]
        own = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        given = {name: value for name, value in own.items() if value is not None}
        warmup_steps = self.steps * defaults.warmup_percent // 100
        of_protocol = {name: getattr(defaults, name) for name in own if hasattr(defaults, name)}
        return ResolvedTraining(**{**own, **of_protocol, "warmup_steps": warmup_steps, **given})


@dataclass(frozen=True, kw_only=True)
class ResolvedTraining(TrainingConfig):
    """A `TrainingConfig` with nothing left to the protocol."""

    schedule: Schedule
    warmup_steps: int
    loss: LossName
    select_by: Literal["score", "loss"]
    amsgrad: bool
    joint_clip: bool
    move_unread_interfaces: bool

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: linear warm-up, then constant or cosine to a tenth."""
        return learning_rate_at(step, self.learning_rate, self.steps, self.warmup_steps, self.schedule)


@dataclass(frozen=True)
class EvaluationConfig:
    """The choice of the windows that are scored.

    Attributes:
        windows_per_session: at most this many windows of a session, evenly over its part; fewer where
            scoring would take more than a tenth of the training's time.
        full: score every window.
        exact: score no fewer at the end, whatever it takes, so that runs that train on more or on less are
            scored on the same windows.
        longest_context: score windows with room for a context of so many frames, so that runs with shorter
            contexts forecast the same frames. None: the model's own context.
        brief: scores alone, without intervals and pictures, which take as long again.
    """

    windows_per_session: int = 256
    full: bool = False
    exact: bool = False
    longest_context: int | None = None
    brief: bool = False

    def __post_init__(self) -> None:
        if self.windows_per_session < 1:
            raise ConfigError(
                f"evaluation.windows_per_session is {self.windows_per_session}; expected 1 or more."
            )


@dataclass(frozen=True)
class PretrainConfig:
    """A pretraining run.

    Attributes:
        data: prepared shards, a folder or s3:// address (the --out of `forebrain prepare`); or a recording or
            folder of recordings, which are prepared into the run folder first; or sim://default, simulated.
        out: the run folder, a folder or s3:// address. The same command resumes the run that is there.
        protocol: how recordings are split and normalised.
        workers: processes that train together.
        min_workers: train with as few as this where the cluster has no room for more, and with more once it
            has. None: always with all.
        max_restarts: times that lost workers are started again; -1: as long as checkpoints are made in
            between. Nodes that announce their end do not count.
        resize_check_s: seconds between looks for room for more workers, where there are fewer.
        use_gpu: a GPU for each worker. None: if there are enough now. True waits for them, also on a cluster
            that starts machines with GPUs only when they are asked for.
        seed: of weights, interfaces, data order, dropout.
        model: the backbone; `name` chooses it, and with it the options that it has.
        training: the optimisation.
        mixture: how data sets are mixed.
        evaluation: which windows are scored.
        subset: which part of the data it trains on.
        holdout: which sessions it trains on nothing of; they are scored apart.
        prepare: how recordings become shards, where `data` names recordings.
    """

    data: str
    out: str
    protocol: ProtocolName = "chronological"
    workers: int = 1
    min_workers: int | None = None
    max_restarts: int = -1
    resize_check_s: float = 60.0
    use_gpu: bool | None = None
    seed: int = 0
    model: ModelConfig = field(default_factory=PocoConfig, metadata=one_of(MODELS))
    training: TrainingConfig = field(default_factory=TrainingConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    subset: SubsetConfig = field(default_factory=SubsetConfig)
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"protocol is {self.protocol!r}; expected one of {', '.join(PROTOCOLS)}.")
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; expected 0 (this process, without Ray) or more.")
        strategy = self.training.strategy
        if strategy != "ddp" and self.workers == 0:
            raise ConfigError(
                f"training.strategy is {strategy} and workers is 0; expected 1 or more workers, "
                "or strategy ddp, which needs no process group."
            )
        if strategy.startswith("zero") and self.training.resolved(self.protocol).joint_clip:
            raise ConfigError(
                f"training.strategy is {strategy}, which clips the backbone's gradients itself and cannot "
                "clip them jointly with those of interfaces; expected ddp or fsdp, or "
                "--training.joint_clip false."
            )
        if self.training.split_above is not None and not self.model.splits_units:
            raise ConfigError(
                f"training.split_above is {self.training.split_above} and model {self.model.name} needs all "
                "units of a session on one worker; expected no split_above, or another model."
            )
        if self.use_gpu is not None and self.workers == 0:
            raise ConfigError(
                f"use_gpu is {self.use_gpu} and workers is 0, which takes this machine's GPU if it has one; "
                "expected no use_gpu, or 1 or more workers."
            )
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ConfigError(f"min_workers is {self.min_workers}; expected 1 to workers ({self.workers}).")
        if self.max_restarts < -1:
            raise ConfigError(f"max_restarts is {self.max_restarts}; expected -1 (no limit) or more.")
        longest = self.evaluation.longest_context
        if longest is not None and longest < self.model.context:
            raise ConfigError(
                f"evaluation.longest_context is {longest}; expected at least model.context "
                f"({self.model.context})."
            )
        if not self.resize_check_s > 0:
            raise ConfigError(f"resize_check_s is {self.resize_check_s}; expected a positive number.")

    def resolved_model(self) -> ModelConfig:
        """The model with the protocol's defaults filled in."""
        return self.model.with_default(DEFAULTS[self.protocol].relative)

    def identity(self) -> dict[str, Any]:
        """The part of the config that makes it this run and no other: everything but where it is, what
        computes it and how, and how often it is saved.

        The address of the data is part of it, and their fingerprint is in the checkpoints besides.
        """
        values = dataclasses.asdict(self)
        for name in ("out", "workers", "min_workers", "max_restarts", "resize_check_s", "use_gpu"):
            del values[name]
        for name in ("threads", "strategy", "kernels", "compile", "deepspeed", "split_above"):
            del values["training"][name]
        for name in ("checkpoint_every", "keep_checkpoints"):
            del values["training"][name]
        del values["mixture"]["on_bad_shard"]
        del values["evaluation"]["brief"]
        return values
