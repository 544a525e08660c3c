"""The Perceiver encoder of POYO (Azabou et al. 2023) in plain tensor code: a population of any size is read
into a few latents, and read out again. Equations 4 to 6 of POCO; all layers are pre-norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.models.base import SessionInput, over_population
from forebrain.models.dropout import drop
from forebrain.models.rotary import Rotation, inverse, rotate


class FeedForward(nn.Module):
    """LayerNorm, then GEGLU: W2 (a * gelu(g)) + b2 with [a | g] = W1 y + b1. The residual is the caller's."""

    def __init__(self, width: int, multiple: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * multiple * width)
        self.contract = nn.Linear(multiple * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] to its update [..., d]."""
        value, gate = self.expand(self.norm(x)).chunk(2, dim=-1)
        return self.contract(drop(value * F.gelu(gate), self.dropout, self.training))


class CrossAttention(nn.Module):
    """One head of cross-attention: LayerNorm on both sides, keys and queries rotated by their times."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, head_width, bias=False)
        self.to_key = nn.Linear(width, head_width, bias=False)
        self.to_value = nn.Linear(width, head_width, bias=False)
        self.to_out = nn.Linear(head_width, width)

    def query(self, x: Tensor, rotation: Rotation) -> Tensor:
        """q = R Wq LN(x), [..., h]."""
        return rotate(self.to_query(self.norm(x)), rotation)

    def scores(self, query: Tensor, context: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Scaled scores [B, Q, T] of queries [B, Q, h] with the keys of a context [B, T, d], whose values
        [B, T, h], not rotated, come with them."""
        normed = self.norm_context(context)
        key = rotate(self.to_key(normed), rotation)
        return query @ key.transpose(-1, -2) * self.head_width**-0.5, self.to_value(normed)


class EncoderAttention(CrossAttention):
    """Latents read the tokens of the population. Values are rotated too, and the sum is turned back."""

    def forward(
        self, latents: Tensor, tokens: Tensor, at: Rotation, tokens_at: Rotation, entry: SessionInput
    ) -> Tensor:
        """The update [B, K, d] of latents [B, K, d] from tokens [B, T, d] of a session.

        Args:
            latents, tokens: see above.
            at, tokens_at: rotations [K, h] and [T, h] to their times.
            entry: the session, which says where its other units are.
        """
        scores, values = self.scores(self.query(latents, at), tokens, tokens_at)
        read = over_population(entry, scores, rotate(values, tokens_at))
        return self.to_out(rotate(read, inverse(at)))


class DecoderAttention(CrossAttention):
    """Units read the latents. Values are not rotated."""

    def forward(self, units: Tensor, latents: Tensor, at: Rotation, latents_at: Rotation) -> Tensor:
        """The update [B, n, d] of units [n, d] that read latents [B, K, d]; rotations [1, h] and [K, h]."""
        scores, values = self.scores(self.query(units, at), latents, latents_at)
        return self.to_out(scores.softmax(dim=-1) @ values)


class SelfAttention(nn.Module):
    """Latents attend to one another; query, key and value are rotated, the output is turned back."""

    def __init__(self, width: int, num_heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads, self.head_width = num_heads, head_width
        self.norm = nn.LayerNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * num_heads * head_width, bias=False)
        self.to_out = nn.Linear(num_heads * head_width, width)

    def forward(self, latents: Tensor, rotation: Rotation) -> Tensor:
        """Latents [B, K, d] to their update [B, K, d]."""
        packed = self.to_query_key_value(self.norm(latents))
        # [B, heads, 3, K, h]
        split = packed.unflatten(-1, (3, self.num_heads, self.head_width)).transpose(1, 3)
        # Rotations are float32, and attention among so few is twice as fast in it, and more exact.
        with torch.autocast(latents.device.type, enabled=False):
            query, key, value = rotate(split.to(latents.dtype), rotation).unbind(2)
            read = F.scaled_dot_product_attention(query, key, value)  # [B, heads, K, h]
            turned = rotate(read, inverse(rotation))
        return self.to_out(turned.transpose(1, 2).flatten(2))


class ProcessorLayer(nn.Module):
    """One layer over the latents, with dropout on both residual branches."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        head_width: int,
        multiple: int,
        dropout: float,
        branch_dropout: float,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, num_heads, head_width)
        self.feed_forward = FeedForward(width, multiple, dropout)
        self.branch_dropout = branch_dropout

    def forward(self, latents: Tensor, rotation: Rotation) -> Tensor:
        """Latents [B, K, d] to the next [B, K, d]."""
        latents = latents + drop(self.attention(latents, rotation), self.branch_dropout, self.training)
        return latents + drop(self.feed_forward(latents), self.branch_dropout, self.training)
