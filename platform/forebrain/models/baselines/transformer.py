"""An autoregressive Transformer over time: a frame of the whole population is a token, the next follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.errors import ConfigError
from forebrain.models.base import Interface, Model, ModelConfig, SessionInput


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """Sizes of the Transformer.

    Attributes:
        width: of a token.
        num_layers: layers.
        num_heads: attention heads of a layer.
        feed_forward_multiple: hidden width of a feed-forward over the token's.
        dropout: dropout on the residual branches while training.
    """

    title = "Transformer"
    name: Literal["transformer"] = "transformer"
    width: int = 128
    num_layers: int = 2
    num_heads: int = 4
    feed_forward_multiple: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "width", "num_layers", "num_heads", "feed_forward_multiple")
        self.require_dropout("dropout")
        if self.width % self.num_heads:
            raise ConfigError(
                f"model.width is {self.width} and model.num_heads {self.num_heads}; expected a multiple."
            )

    def build(self, num_datasets: int = 1) -> Transformer:
        return Transformer(self)


class Transformer(Model):
    """A session's own maps carry its frames into tokens and tokens back into frames; between lie causal
    layers that all sessions share. A unit's row holds its map in [d], its map out [d] and its bias.

    It forecasts the change from one frame to the next, feeds itself what it forecast, and is trained through
    that. Keys and values of earlier frames are kept, so a forecast costs one pass over context and horizon.
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.position = nn.Parameter(0.02 * torch.randn(config.context + config.horizon - 1, config.width))
        self.layers = nn.ModuleList(_CausalLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        width = self.config.width
        maps = [(width, num_units**-0.5), (width, width**-0.5), (1, 0.0)]
        return Interface.of_maps(num_units, maps, generator)

    def forecast_session(self, entry: SessionInput) -> Tensor:
        width = self.config.width
        into, out_of, bias = entry.interface.unit.split([width, width, 1], dim=1)
        pasts: list[Tensor | None] = [None] * self.config.num_layers
        frames, first, forecasts = entry.context, 0, []
        for _ in range(self.config.horizon):
            tokens = frames @ into + self.position[first : first + frames.shape[1]]
            first += frames.shape[1]
            for number, layer in enumerate(self.layers):
                tokens, pasts[number] = layer(tokens, pasts[number])
            frames = frames[:, -1:] + self.norm(tokens[:, -1:]) @ out_of.T + bias[:, 0]
            forecasts.append(entry.of_forecast(frames, 2))
        return torch.cat(forecasts, dim=1)


class _CausalLayer(nn.Module):
    """One pre-norm layer that can go on where it left off."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.feed_forward_multiple * config.width
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """New tokens [B, T, d] after those whose keys and values [2, B, heads, P, d / heads] are the past.

        Several new tokens are allowed where there is no past.
        """
        packed = self.to_query_key_value(self.norm_attention(tokens))
        query, *new = packed.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        known = torch.stack(new) if past is None else torch.cat([past, torch.stack(new)], dim=3)
        read = F.scaled_dot_product_attention(query, known[0], known[1], is_causal=past is None)
        tokens = tokens + self._dropped(self.to_out(read.transpose(1, 2).flatten(2)))
        hidden = F.gelu(self.expand(self.norm_feed_forward(tokens)))
        return tokens + self._dropped(self.contract(hidden)), known

    def _dropped(self, branch: Tensor) -> Tensor:
        return F.dropout(branch, self.dropout, self.training)
