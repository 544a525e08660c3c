"""Ways for the workers of a run to train one backbone."""

from __future__ import annotations

from forebrain.models.poco import Poco
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import ResolvedTraining
from forebrain.training.strategies.base import Strategy
from forebrain.training.strategies.replicated import Replicated

__all__ = ["Strategy", "build_strategy"]


def build_strategy(backbone: Poco, config: ResolvedTraining, group: WorkerGroup) -> Strategy:
    """The strategy that the config asks for.

    Args:
        backbone: the same on every worker, on its device.
        config: the optimisation.
        group: the workers of the run.
    """
    return Replicated(backbone, config, group)
