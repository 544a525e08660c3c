"""The forecaster of a unit's own past that FiLM modulates (Perez et al. 2018), equation 7 of POCO."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn


class FilmForecaster(nn.Module):
    """A perceptron from a unit's past to its future, shared by all units.

    What the unit reads of the population scales and shifts the last hidden layer. All four tensors of FiLM
    start at zero: the first forecast is a bias. The factor is gamma, not 1 + gamma.

    Args:
        context: C, frames of the past.
        horizon: H, frames of the future.
        width: d of the embedding that modulates.
        film_width: M, width of the hidden layers.
        num_layers: hidden layers.
    """

    def __init__(self, context: int, horizon: int, width: int, film_width: int, num_layers: int) -> None:
        super().__init__()
        widths = [context] + [film_width] * num_layers
        self.hidden = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in itertools.pairwise(widths))
        self.scale = nn.Linear(width, film_width)
        self.shift = nn.Linear(width, film_width)
        self.out = nn.Linear(film_width, horizon)
        for parameter in (*self.scale.parameters(), *self.shift.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, past: Tensor, embedding: Tensor) -> Tensor:
        """Past [..., C] and embedding [..., d] to a forecast [..., H]."""
        hidden = past
        for layer in self.hidden:
            hidden = F.relu(layer(hidden))  # h = ReLU(Wx x + bx)
        gamma, beta = self.scale(embedding), self.shift(embedding)  # gamma = Wg E + bg, beta = Wb E + bb
        return self.out(hidden * gamma + beta)  # y = Wo (h * gamma + beta) + bo
