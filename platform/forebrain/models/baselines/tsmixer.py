"""TSMixer (Chen et al. 2023, "TSMixer: An All-MLP Architecture for Time Series Forecasting"): perceptrons
over time and over units in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.models.base import Interface, Model, ModelConfig, SessionInput


@dataclass(frozen=True)
class TsMixerConfig(ModelConfig):
    """Sizes of a TSMixer.

    Attributes:
        num_blocks: blocks, each of a mixer over time and one over units.
        unit_width: hidden width of a mixer over units.
        dropout: dropout in both mixers while training.
    """

    title = "TSMixer"
    name: Literal["tsmixer"] = "tsmixer"
    num_blocks: int = 2
    unit_width: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "num_blocks", "unit_width")
        self.require_dropout("dropout")

    def build(self, num_datasets: int = 1) -> TsMixer:
        return TsMixer(self)


class TsMixer(Model):
    """Mixers over time are shared by all sessions; those over units belong to the session, whose units they
    mix.

    Normalisation is over the time and units of one window, not over a batch, so that windows do not see one
    another. There is no reversible normalisation of the input besides `relative`.
    """

    config: TsMixerConfig

    def __init__(self, config: TsMixerConfig) -> None:
        super().__init__()
        self.config = config
        self.time = nn.ModuleList(nn.Linear(config.context, config.context) for _ in range(config.num_blocks))
        self.out = nn.Linear(config.context, config.horizon)

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return new_unit_mixers(num_units, self.config.num_blocks, self.config.unit_width, generator)

    def forecast_session(self, entry: SessionInput) -> Tensor:
        rows, dropout = entry.context.mT, self.config.dropout  # [B, N, C]
        for block, time in enumerate(self.time):
            rows = rows + F.dropout(F.relu(time(_normed(rows))), dropout, self.training)
            mixed = mix_units(_normed(rows), entry.interface, block, self.config.num_blocks)
            rows = rows + F.dropout(mixed, dropout, self.training)
        return self.out(entry.of_forecast(rows, 1)).mT


def new_unit_mixers(
    num_units: int, num_mixers: int, width: int, generator: torch.Generator | None
) -> Interface:
    """An interface of perceptrons over a session's units. A unit's row holds, mixer by mixer, its weights
    into the hidden layer [width], out of it [width] and its bias; the session's vector the hidden biases."""
    maps = [(width, num_units**-0.5), (width, width**-0.5), (1, 0.0)]
    return Interface.of_maps(num_units, maps * num_mixers, generator, num_mixers * width)


def mix_units(rows: Tensor, interface: Interface, mixer: int, num_mixers: int) -> Tensor:
    """Perceptron number `mixer` of `new_unit_mixers` over the units of [B, N, T], at each time alike."""
    own = interface.unit.unflatten(1, (num_mixers, -1))[:, mixer]
    width = (own.shape[1] - 1) // 2
    into, out_of, bias = own.split([width, width, 1], dim=1)
    hidden_bias = interface.session.unflatten(0, (num_mixers, width))[mixer]
    hidden = F.relu(into.T @ rows + hidden_bias[:, None])  # [B, width, T]
    return out_of @ hidden + bias


def _normed(rows: Tensor) -> Tensor:
    return F.layer_norm(rows, rows.shape[1:])
