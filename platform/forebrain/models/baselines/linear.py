"""Linear maps from the context to the horizon (Zeng et al. 2023, "Are Transformers Effective for Time Series
Forecasting?"): as it is, less the last frame (NLinear), or of trend and rest apart (DLinear)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from forebrain.errors import ConfigError
from forebrain.models.base import Interface, Model, ModelConfig, SessionInput


@dataclass(frozen=True)
class LinearConfig(ModelConfig):
    """One linear map.

    Attributes:
        individual: each unit has a map of its own; false: all share one.
    """

    title = "Linear (trained)"
    name: Literal["linear"] = "linear"
    individual: bool = False

    def build(self, num_datasets: int = 1) -> Linear:
        return Linear(self)


@dataclass(frozen=True)
class NLinearConfig(ModelConfig):
    """One linear map of the context less its last frame, which is added to the forecast.

    Attributes:
        individual: each unit has a map of its own; false: all share one.
    """

    title = "NLinear"
    name: Literal["nlinear"] = "nlinear"
    individual: bool = False

    def build(self, num_datasets: int = 1) -> NLinear:
        return NLinear(self)


@dataclass(frozen=True)
class DLinearConfig(ModelConfig):
    """A linear map of the trend and one of the rest.

    Attributes:
        individual: each unit has maps of its own; false: all share them.
        kernel: frames of the moving average that is the trend; an odd number.
    """

    title = "DLinear"
    name: Literal["dlinear"] = "dlinear"
    individual: bool = False
    kernel: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "kernel")
        if self.kernel % 2 == 0:
            raise ConfigError(f"model.kernel is {self.kernel}; expected an odd number.")

    def build(self, num_datasets: int = 1) -> DLinear:
        return DLinear(self)


class Linear(Model):
    """A sum of linear maps over time, one for each component of the context.

    Where maps are individual, a unit's row holds its weights [maps, C, H] and its biases [H], and there is
    no backbone.
    """

    splits_units = True
    num_components = 1
    config: LinearConfig | NLinearConfig | DLinearConfig

    def __init__(self, config: LinearConfig | NLinearConfig | DLinearConfig) -> None:
        super().__init__()
        self.config = config
        num_maps = 0 if config.individual else self.num_components
        self.maps = nn.ModuleList(nn.Linear(config.context, config.horizon) for _ in range(num_maps))

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        if not self.config.individual:
            return Interface(num_units, 0)
        weights = self.num_components * self.config.context * self.config.horizon
        std = (3 * self.config.context) ** -0.5  # that of torch's linear maps
        return Interface.of_maps(num_units, [(weights, std), (self.config.horizon, 0.0)], generator)

    def components(self, context: Tensor) -> list[Tensor]:
        """The parts [B, C, M] of contexts [B, C, M] that are mapped each by its own map."""
        return [context]

    def forecast_session(self, entry: SessionInput) -> Tensor:
        components = self.components(entry.of_forecast(entry.context, 2))
        if not self.config.individual:
            mapped = [map_(part.mT) for map_, part in zip(self.maps, components, strict=True)]
            return torch.stack(mapped).sum(0).mT
        own = entry.of_forecast(entry.interface.unit, 0)
        weights, bias = own[:, : -self.config.horizon], own[:, -self.config.horizon :]
        weights = weights.unflatten(1, (self.num_components, self.config.context, self.config.horizon))
        return torch.einsum("sbcm,msch->bhm", torch.stack(components), weights) + bias.T


class NLinear(Linear):
    """See `NLinearConfig`."""

    def forecast_session(self, entry: SessionInput) -> Tensor:
        return entry.of_forecast(entry.context[:, -1:], 2) + super().forecast_session(entry)

    def components(self, context: Tensor) -> list[Tensor]:
        return [context - context[:, -1:]]


class DLinear(Linear):
    """See `DLinearConfig`."""

    num_components = 2
    config: DLinearConfig

    def components(self, context: Tensor) -> list[Tensor]:
        half = self.config.kernel // 2
        first, last = context[:, :1].expand(-1, half, -1), context[:, -1:].expand(-1, half, -1)
        trend = torch.cat([first, context, last], dim=1).unfold(1, self.config.kernel, 1).mean(-1)
        return [context - trend, trend]
