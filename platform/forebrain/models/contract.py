"""What a model is given and what belongs to a session.

A model is a slot: one config, one module whose `forward` takes a list of `SessionInput` and returns one
forecast for each. Everything that belongs to a session is in its `Interface`; the rest is the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class SessionInput:
    """The windows of one session in a batch.

    Attributes:
        context: [B, C, N] normalised activity, the frames before the forecast; B may be 0.
        interface: the session's embeddings.
        dataset: position in the backbone's list of datasets, None for a data set it was not trained on.
    """

    context: Tensor
    interface: Interface
    dataset: int | None = None
