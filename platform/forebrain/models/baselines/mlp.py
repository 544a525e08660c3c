"""A perceptron from a unit's own past to its future, shared by all: POCO without its population."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.models.base import ModelConfig, PerUnitModel


@dataclass(frozen=True)
class MlpConfig(ModelConfig):
    """Size of the perceptron.

    Attributes:
        width: units of a hidden layer.
        num_layers: hidden layers.
    """

    title = "MLP"
    name: Literal["mlp"] = "mlp"
    width: int = 1024
    num_layers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "width", "num_layers")

    def build(self, num_datasets: int = 1) -> Mlp:
        return Mlp(self)


class Mlp(PerUnitModel):
    """See `MlpConfig`."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.context] + [config.width] * config.num_layers
        self.hidden = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in itertools.pairwise(widths))
        self.out = nn.Linear(config.width, config.horizon)

    def forecast_unit_windows(self, past: Tensor) -> Tensor:
        for layer in self.hidden:
            past = F.relu(layer(past))
        return self.out(past)
