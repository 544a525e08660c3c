"""NetFormer (Lu et al. 2025, "NetFormer: An interpretable model for recovering dynamical connectivity in
neuronal population dynamics"): who drives whom is attention between units, anew at each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from forebrain.errors import ConfigError
from forebrain.models.base import Interface, Model, ModelConfig, SessionInput


@dataclass(frozen=True)
class NetFormerConfig(ModelConfig):
    """Sizes of a NetFormer.

    Attributes:
        unit_width: width of the embedding that says who a unit is.
        width: of queries and keys.
    """

    title = "NetFormer"
    name: Literal["netformer"] = "netformer"
    unit_width: int = 32
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "unit_width", "width")
        if self.relative:
            raise ConfigError(
                "model.relative is true; expected false: the last frame, which drives the next, is zero then."
            )

    def with_default(self, relative: bool) -> Self:
        return self

    def build(self, num_datasets: int = 1) -> NetFormer:
        return NetFormer(self)


class NetFormer(Model):
    """A unit's token is its last C frames and its embedding; x' = x + A x, A = Q K^T / (N sqrt(d)).

    There is no softmax, so A may inhibit, and A x is Q (K^T x): no matrix of units by units is formed. The
    division by the number of units is ours, so that one backbone serves sessions of any size. Forecasts are
    fed back, frame by frame.
    """

    config: NetFormerConfig

    def __init__(self, config: NetFormerConfig) -> None:
        super().__init__()
        self.config = config
        token_width = config.context + config.unit_width
        self.norm = nn.LayerNorm(token_width)
        self.to_query = nn.Linear(token_width, config.width)
        self.to_key = nn.Linear(token_width, config.width)

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return Interface.of_maps(num_units, [(self.config.unit_width, 1.0)], generator)

    def forecast_session(self, entry: SessionInput) -> Tensor:
        history = entry.context.mT  # [B, N, C]
        units = entry.interface.unit.expand(len(history), -1, -1)
        scale = self.config.width**-0.5 / history.shape[1]
        forecasts = []
        for _ in range(self.config.horizon):
            token = self.norm(torch.cat([history, units], dim=2))
            now = history[..., -1:]
            driven = self.to_query(token) @ (self.to_key(token).mT @ now) * scale
            history = torch.cat([history[..., 1:], now + driven], dim=2)
            forecasts.append(entry.of_forecast(history[..., -1], 1))
        return torch.stack(forecasts, dim=1)
