"""What a model is given and what belongs to a session.

A model is a slot: one config, one module whose `forward` takes a list of `SessionInput` and returns one
forecast for each. Everything that belongs to a session is in its `Interface`; the rest is the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Interface(nn.Module):
    """The embeddings of one session: what adapting to a new animal fits, 4 (N + 1) d bytes in fp32.

    Attributes:
        unit: [N, d], one vector for each unit.
        session: [d], one vector for the session.
    """

    INITIAL_STD = 0.02

    def __init__(self, num_units: int, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.empty(num_units, width))
        self.session = nn.Parameter(torch.empty(width))
        for embedding in (self.unit, self.session):
            nn.init.normal_(embedding, std=self.INITIAL_STD, generator=generator)


class Peers(Protocol):
    """Workers that each hold some of a session's units, and read the same windows of it together."""

    def largest(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over the workers; no gradient passes."""

    def total(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over the workers. The gradient is summed too: the loss is the workers' sum."""


@dataclass(frozen=True)
class SessionInput:
    """The windows of one session in a batch.

    Attributes:
        context: [B, C, N] normalised activity, the frames before the forecast; B may be 0.
        interface: the session's embeddings.
        dataset: position in the backbone's list of datasets, None for a data set it was not trained on.
        forecast_units: int64 [M], the units to forecast; all are read as the population. None for all.
        peers: where the session's other units are: N are those that this worker holds, and each worker
            forecasts its own. Their forwards are in step. None where all units are here.
    """

    context: Tensor
    interface: Interface
    dataset: int | None = None
    forecast_units: Tensor | None = None
    peers: Peers | None = None

    @property
    def num_forecast(self) -> int:
        """M: units to forecast."""
        return self.context.shape[2] if self.forecast_units is None else len(self.forecast_units)

    def of_forecast(self, tensor: Tensor, dim: int) -> Tensor:
        """A tensor with N units along `dim`, for the units to forecast."""
        return tensor if self.forecast_units is None else tensor.index_select(dim, self.forecast_units)
