"""A latent piecewise-linear recurrent network, in the shallow form of Hess et al. 2023 ("Generalized Teacher
Forcing for Learning Chaotic Dynamics"): z' = A z + W1 relu(W2 z + h2) + h1, A diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.errors import ConfigError
from forebrain.models.base import Interface, Model, ModelConfig, SessionInput


@dataclass(frozen=True)
class PlrnnConfig(ModelConfig):
    """Sizes of the network.

    Attributes:
        width: latent dimensions.
        hidden_width: piecewise-linear units.
        forcing: over the context, the part of the state that each frame sets; the rest is the dynamics' own.
    """

    title = "PLRNN"
    name: Literal["plrnn"] = "plrnn"
    width: int = 64
    hidden_width: int = 256
    forcing: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "width", "hidden_width")
        if not 0 < self.forcing <= 1:
            raise ConfigError(f"model.forcing is {self.forcing}; expected above 0, at most 1.")

    def build(self, num_datasets: int = 1) -> Plrnn:
        return Plrnn(self)


class Plrnn(Model):
    """Dynamics that all sessions share, observed through maps of the session's own. A unit's row holds its
    map into the latent space [d], its map out of it [d] and its bias.

    Over the context the state follows the frames (teacher forcing, which the past alone decides); over the
    horizon it runs free.
    """

    config: PlrnnConfig

    def __init__(self, config: PlrnnConfig) -> None:
        super().__init__()
        self.config = config
        self.decay = nn.Parameter(torch.full((config.width,), 0.9))
        self.expand = nn.Linear(config.width, config.hidden_width)
        self.contract = nn.Linear(config.hidden_width, config.width)

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        width = self.config.width
        maps = [(width, num_units**-0.5), (width, width**-0.5), (1, 0.0)]
        return Interface.of_maps(num_units, maps, generator)

    def forecast_session(self, entry: SessionInput) -> Tensor:
        width, forcing = self.config.width, self.config.forcing
        into, out_of, bias = entry.interface.unit.split([width, width, 1], dim=1)
        seen = entry.context @ into  # [B, C, d]
        state = seen[:, 0]
        for frame in range(1, self.config.context):
            state = (1 - forcing) * self._next(state) + forcing * seen[:, frame]
        states = []
        for _ in range(self.config.horizon):
            state = self._next(state)
            states.append(state)
        out_of, bias = entry.of_forecast(out_of, 0), entry.of_forecast(bias, 0)
        return torch.stack(states, dim=1) @ out_of.T + bias[:, 0]

    def _next(self, state: Tensor) -> Tensor:
        return self.decay * state + self.contract(F.relu(self.expand(state)))
