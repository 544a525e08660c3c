"""Ways for the workers of a run to train one backbone."""

from __future__ import annotations

from forebrain.accelerate import accelerate
from forebrain.errors import ConfigError
from forebrain.models.base import Model
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import ResolvedTraining
from forebrain.training.strategies.base import Strategy
from forebrain.training.strategies.replicated import Replicated

__all__ = ["Strategy", "build_strategy"]


def build_strategy(backbone: Model, config: ResolvedTraining, group: WorkerGroup) -> Strategy:
    """The strategy that the config asks for.

    Args:
        backbone: the same on every worker, on its device.
        config: the optimisation.
        group: the workers of the run.

    Raises:
        ConfigError: DeepSpeed is not installed, or refuses `training.deepspeed`; or all weights belong to
            sessions, which nothing shares.
    """
    if config.strategy != "ddp" and not any(True for _ in backbone.parameters()):
        raise ConfigError(
            f"training.strategy is {config.strategy} and model {backbone.config.name} has no weights besides "
            "those of sessions; expected ddp."
        )
    executor = accelerate(backbone, "train", config.dtype, kernels=config.kernels, compile=config.compile)
    # Imported where they are used: DeepSpeed takes seconds, and a laptop need not have it.
    if config.strategy.startswith("zero"):
        from forebrain.training.strategies.zero import Zero

        return Zero(backbone, executor, config, group)
    if config.strategy == "fsdp":
        from forebrain.training.strategies.fsdp import FullyShared

        return FullyShared(backbone, executor, config, group)
    return Replicated(backbone, executor, config, group)
