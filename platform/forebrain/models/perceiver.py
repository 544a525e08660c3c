"""The Perceiver encoder of POYO: a population of any size is read into a few latents, and read out again.

The arithmetic is the published one, reordered where the order is free: with K latents against thousands
of tokens, keys and values are never formed. Wk is pushed through the K queries and Wv through the K
weighted sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.models.contract import Peers
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
        value, gate = self.expand(self.norm(x)).chunk(2, dim=-1)
        return self.contract(F.dropout(value * F.gelu(gate), self.dropout, self.training))


class CrossAttention(nn.Module):
    """Parameters of one cross-attention head, which two subclasses use in their own way."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, head_width, bias=False)
        self.to_key = nn.Linear(width, head_width, bias=False)
        self.to_value = nn.Linear(width, head_width, bias=False)
        self.to_out = nn.Linear(head_width, width)


@dataclass(frozen=True)
class Population:
    """What the encoder reads of one session.

    Attributes:
        latents: [K, d], the same for every sample of the session.
        frames: [B, N, S, L], S tokens of L frames for each of N units.
        units: [N, d], e, who each unit is.
        peers: workers that hold other units of the session, which are read with these; None for none.
    """

    latents: Tensor
    frames: Tensor
    units: Tensor
    peers: Peers | None


class EncoderAttention(CrossAttention):
    """Latents read tokens; values are rotated too, and the sum is turned back to the latent's time.

    A token W x + e[n] (x its frames, e[n] who the unit is) is wide but made from few numbers, and a
    normalised token is (Wc x + ec[n]) / sigma with Wc and ec centred over the width. So scores, sigma and
    weighted sums follow from x, from ec once a session, and from small products of Wc: no [rows, d] tensor
    of tokens is formed.

    The softmax is over all tokens of a sample, wherever their units are: the largest score first, then sums
    of weighted values and of weights, [B, K, h + 1]. Only these cross between workers, in one message each
    for all sessions that are spread.
    """

    def forward(
        self,
        populations: Sequence[Population],
        frame_weight: Tensor,
        latent_rotation: Rotation,
        token_rotation: Rotation,
    ) -> list[Tensor]:
        """Reads the population of each session.

        Args:
            populations: at least one unit in each.
            frame_weight: [d, L], W.
            latent_rotation, token_rotation: tables [K, h] and [S, h].

        Returns:
            [B, K, d] for each, to be added to the latents.
        """
        peers = [population.peers for population in populations]
        scored = [
            _Scored(self, population, frame_weight, latent_rotation, token_rotation)
            for population in populations
        ]
        largest = _over_peers([each.largest() for each in scored], peers, lambda over: over.largest)
        sums = _over_peers(
            [each.sums(shift) for each, shift in zip(scored, largest, strict=True)],
            peers,
            lambda over: over.total,
        )
        return [
            self.to_out(rotate(summed[..., :-1] / summed[..., -1:], inverse(latent_rotation)))
            for summed in sums
        ]


class _Scored:
    """The tokens of one population and their scores."""

    def __init__(
        self,
        attention: EncoderAttention,
        population: Population,
        frame_weight: Tensor,
        latent_rotation: Rotation,
        token_rotation: Rotation,
    ) -> None:
        frames = population.frames
        num_tokens, width, num_latents = frames.shape[2], len(frame_weight), len(population.latents)
        weight = frame_weight - frame_weight.mean(dim=0)  # [d, L]
        units = population.units - population.units.mean(dim=1, keepdim=True)  # [N, d]
        norm = attention.norm_context

        # Variance of a token: |Wc x + ec|^2 / d, multiplied out.
        cross = units @ weight * (2 / width)  # [N, L]
        variance = ((frames @ (weight.T @ weight / width) + cross[:, None]) * frames).sum(-1)
        variance = variance + units.square().mean(dim=1)[:, None]
        inverse_deviation = (variance + norm.eps).rsqrt().unsqueeze(-1)  # [B, N, S, 1]

        # q . R_t Wk y = (Wk^T R_-t q) . y, so each token time needs K vectors of width d and no keys.
        query = rotate(attention.to_query(attention.norm(population.latents)), latent_rotation)  # [K, h]
        turned = torch.stack([rotate(query, inverse(at)) for at in _each(token_rotation)])  # [S, K, h]
        probes = turned @ attention.to_key.weight * attention.head_width**-0.5  # [S, K, d]
        scaled = probes * norm.weight
        on_frames = torch.block_diag(*(scaled @ weight).transpose(1, 2))  # [S L, S K]
        scores = (frames.flatten(2) @ on_frames).unflatten(2, (num_tokens, num_latents))
        scores = scores + (units @ scaled.flatten(0, 1).T).unflatten(1, (num_tokens, num_latents))
        self.scores = scores * inverse_deviation + probes @ norm.bias  # [B, N, S, K]

        self.attention, self.frames, self.units, self.weight = attention, frames, units, weight
        self.inverse_deviation, self.token_rotation = inverse_deviation, token_rotation

    def largest(self) -> Tensor:
        """[B, K], the largest score of a sample; it cancels, so no gradient need pass."""
        return self.scores.detach().amax(dim=(1, 2))

    def sums(self, shift: Tensor) -> Tensor:
        """[B, K, h + 1]: values weighted by exp(score - shift) and summed, and the sum of the weights."""
        attention, norm = self.attention, self.attention.norm_context
        num_tokens, num_latents = self.scores.shape[2:]
        weights = (self.scores - shift[:, None, None]).exp()
        token_weights = weights.sum(dim=1).unsqueeze(-1)  # [B, S, K, 1]

        weighted = (weights * self.inverse_deviation).flatten(2).transpose(1, 2)  # [B, S K, N]
        of_frames = (weighted @ self.frames.flatten(2)).unflatten(2, (num_tokens, -1))
        of_frames = of_frames.unflatten(1, (num_tokens, num_latents)).diagonal(dim1=1, dim2=3)  # [B, K, L, S]
        of_units = (weighted.flatten(0, 1) @ self.units).view(len(weights), num_tokens, num_latents, -1)
        gathered = of_frames.permute(0, 3, 1, 2) @ self.weight.T + of_units
        gathered = gathered * norm.weight + token_weights * norm.bias  # [B, S, K, d]

        values = attention.to_value(gathered)  # [B, S, K, h]
        times = enumerate(_each(self.token_rotation))
        summed = torch.stack([rotate(values[:, t], at) for t, at in times]).sum(0)
        return torch.cat([summed, token_weights.sum(dim=1)], dim=-1)


def _over_peers(
    tensors: Sequence[Tensor],
    peers: Sequence[Peers | None],
    operation: Callable[[Peers], Callable[[Tensor], Tensor]],
) -> list[Tensor]:
    """The tensors of sessions that are spread over workers combined over these, in one message."""
    spread = [index for index, over in enumerate(peers) if over is not None]
    combined = list(tensors)
    if spread:
        over = peers[spread[0]]
        assert over is not None
        together = operation(over)(torch.cat([tensors[index] for index in spread]))
        parts = together.split([len(tensors[index]) for index in spread])
        for index, part in zip(spread, parts, strict=True):
            combined[index] = part
    return combined


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
        split = packed.unflatten(-1, (3, self.num_heads, self.head_width)).transpose(
            1, 3
        )  # [B, heads, 3, K, h]
        query, key, value = rotate(split, rotation).unbind(2)
        read = F.scaled_dot_product_attention(query, key, value)  # [B, heads, K, h]
        return self.to_out(rotate(read, inverse(rotation)).transpose(1, 2).flatten(2))


class DecoderAttention(CrossAttention):
    """Units read the latents; the values are not rotated."""

    def project_queries(self, units: Tensor, rotation: Rotation) -> Tensor:
        """Unit vectors [N, d] to queries [N, h]: once a session, since every sample asks the same."""
        return rotate(self.to_query(self.norm(units)), rotation) * self.head_width**-0.5

    def project_latents(self, latents: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Latents [B, K, d] to keys [B, K, h] and values already carried through Wo, [B, K, d]."""
        context = self.norm_context(latents)
        values = self.to_value(context) @ self.to_out.weight.T
        return rotate(self.to_key(context), rotation), values

    def read(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries [N, h] over keys [B, K, h] and values [B, K, d] to [B, N, d]."""
        attention = (queries @ keys.transpose(-1, -2)).softmax(dim=-1)
        return attention @ values + self.to_out.bias


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
        latents = latents + F.dropout(self.attention(latents, rotation), self.branch_dropout, self.training)
        return latents + F.dropout(self.feed_forward(latents), self.branch_dropout, self.training)


def _each(rotation: Rotation) -> Sequence[Rotation]:
    return list(zip(*rotation, strict=True))
