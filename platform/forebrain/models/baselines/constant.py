"""Copy and mean as models: they show what the machinery alone does to a forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from forebrain.errors import ConfigError
from forebrain.models.base import Interface, Model, ModelConfig, SessionInput


@dataclass(frozen=True)
class CopyConfig(ModelConfig):
    """The last frame, repeated. Nothing is trained."""

    title = "Copy (model)"
    name: Literal["copy"] = "copy"

    def with_default(self, relative: bool) -> Self:
        return self

    def build(self, num_datasets: int = 1) -> Copy:
        return Copy(self)


class Copy(Model):
    """See `CopyConfig`."""

    splits_units = True

    def __init__(self, config: CopyConfig) -> None:
        super().__init__()
        self.config = config

    def forecast_session(self, entry: SessionInput) -> Tensor:
        return entry.of_forecast(entry.context[:, -1:], 2).repeat_interleave(self.config.horizon, dim=1)


@dataclass(frozen=True)
class MeanConfig(ModelConfig):
    """A level for each unit, learnt: its mean, where the squared error is the loss."""

    title = "Mean (trained)"
    name: Literal["mean"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relative:
            raise ConfigError("model.relative is true; expected false: a level has no frame of reference.")

    def with_default(self, relative: bool) -> Self:
        return self

    def build(self, num_datasets: int = 1) -> Mean:
        return Mean(self)


class Mean(Model):
    """See `MeanConfig`. A unit's row is its level; before training 0, the mean of normalised values."""

    splits_units = True

    def __init__(self, config: MeanConfig) -> None:
        super().__init__()
        self.config = config

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return Interface.of_maps(num_units, [(1, 0.0)], generator)

    def forecast_session(self, entry: SessionInput) -> Tensor:
        levels = entry.of_forecast(entry.interface.unit, 0).T  # [1, M]
        return levels.expand(len(entry.context), self.config.horizon, -1)
