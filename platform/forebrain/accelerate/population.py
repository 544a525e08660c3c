"""The encoder's cross-attention of POCO with no keys and values: equation 4 of `models.poco`, folded.

The arithmetic is the published one, reordered where the order is free: with K latents against thousands
of tokens, keys and values are never formed. Wk is pushed through the K queries and Wv through the K
weighted sums. What depends on weights alone, and what depends on the units alone, stands apart from what
depends on the frames, so that whoever keeps the former fixed does it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forebrain.accelerate.folded_layers import pairs, turn
from forebrain.models.base import ProcessGroup
from forebrain.models.perceiver import EncoderAttention
from forebrain.models.rotary import Rotation, inverse, rotate


@dataclass(frozen=True)
class FoldedQueries:
    """The queries of the latents to a token, whatever its unit is: made from weights and latents alone.

    A token W x + e (x its frames, e its unit's vector) is wide but made from few numbers, and a normalised
    token is (Wc x + ec) / sigma with Wc and ec centred over the width. q . R_t Wk y = (Wk^T R_-t q) . y, so
    each token time needs K vectors of width d, and no keys.

    Attributes:
        frame_weight: [d, L], Wc.
        on_frames: [S, L + K, L], above Wc^T Wc / d, which gives sigma, below each latent's query to frames.
        on_units: [L + S K, d], above 2 Wc^T / d, the cross term of sigma, below each latent's query to ec.
        on_all: [S, K, 1], its score of the LayerNorm's bias.
    """

    frame_weight: Tensor
    on_frames: Tensor
    on_units: Tensor
    on_all: Tensor


@dataclass(frozen=True)
class Tokens:
    """The part of tokens' scores that depends on their units, whatever their frames are.

    Attributes:
        queries: of the latents, that the tokens are scored by.
        units: [N, d], ec.
        products: [L + S K, N], `on_units` times these.
        square: [N], |ec|^2 / d.
    """

    queries: FoldedQueries
    units: Tensor
    products: Tensor
    square: Tensor

    def split(self, sizes: Sequence[int]) -> list[Tokens]:
        """The tokens of each session, given its number of units."""
        if len(sizes) == 1:
            return [self]
        parts = zip(
            self.units.split(sizes),
            self.products.split(sizes, dim=1),
            self.square.split(sizes),
            strict=True,
        )
        return [Tokens(self.queries, *each) for each in parts]

    def frame_terms(self) -> tuple[Tensor, Tensor]:
        """What ec adds to the two products of `on_frames` with frames, [L, N] and [S, K, N]."""
        length, shape = self.queries.frame_weight.shape[1], self.queries.on_all.shape[:2]
        return self.products[:length], self.products[length:].unflatten(0, shape)


@dataclass(frozen=True)
class FoldedRead:
    """What leads from sums over tokens to latents that have read the population: made from weights alone.

    Attributes:
        values: [L + d + 1, h], from sums of frames, of ec and of weights over sigma to values.
        turns: complex [S, K, h / 2], to a token's time and back from a latent's.
        out: [h, d], Wo.
    """

    values: Tensor
    turns: Tensor
    out: Tensor


class PopulationRead:
    """The attention of latents to tokens, by the weights of a `models.perceiver.EncoderAttention`.

    Scores, the deviations of tokens and weighted sums follow from their frames, from the unit vectors once a
    session, and from small products of the weights, in three steps: `queries` of the weights, `tokens` of the
    units, and a call with the frames. No tensor of tokens is formed, and units stay the last dimension.

    The softmax is over all tokens of a sample, wherever their units are: the largest score first, then sums
    of weighted values and of weights, [B, K, h + 1]. Only these cross between workers, in one message each
    for all sessions that are spread.

    Sessions may be many and small, so what need not see their frames apart is done for all at once.
    """

    def __init__(self, attention: EncoderAttention) -> None:
        self._attention = attention

    def queries(
        self, latents: Tensor, frame_weight: Tensor, latent_rotation: Rotation, token_rotation: Rotation
    ) -> FoldedQueries:
        """Latents [K, d] and the weight of frames W [d, L]; tables [K, h] and [S, h]."""
        attention = self._attention
        weight = frame_weight - frame_weight.mean(dim=0)
        query = rotate(attention.to_query(attention.norm(latents)), latent_rotation)  # [K, h]
        cosine, sine = inverse(token_rotation)
        turned = rotate(query, (cosine[:, None], sine[:, None]))  # [S, K, h]
        projected = turned @ attention.to_key.weight * attention.head_width**-0.5  # [S, K, d]
        scaled = projected * attention.norm_context.weight
        gram = weight.T @ weight / len(weight)
        on_frames = torch.cat([gram.expand(len(scaled), -1, -1), scaled @ weight], dim=1)
        on_units = torch.cat([weight.T * (2 / len(weight)), scaled.flatten(0, 1)])
        on_all = (projected @ attention.norm_context.bias).unsqueeze(-1)
        return FoldedQueries(weight, on_frames, on_units, on_all)

    def read(self, queries: FoldedQueries, latent_rotation: Rotation, token_rotation: Rotation) -> FoldedRead:
        """Of queries; tables [K, h] and [S, h]."""
        attention = self._attention
        of_tokens = attention.norm_context.weight[:, None] * attention.to_value.weight.T  # [d, h]
        of_weights = attention.to_value.weight @ attention.norm_context.bias
        values = torch.cat([queries.frame_weight.T @ of_tokens, of_tokens, of_weights[None]])
        # A value is turned to its token's time, and the sum back to the latent's.
        turns = turn(token_rotation)[:, None] * turn(inverse(latent_rotation))
        return FoldedRead(values, turns, attention.to_out.weight.T.contiguous())

    def tokens(self, queries: FoldedQueries, units: Tensor) -> Tokens:
        """Unit vectors [N, d], the tokens' bias included."""
        units, square = _Centred.apply(units)
        return Tokens(queries, units, queries.on_units @ units.T, square)

    def __call__(
        self, populations: Sequence[tuple[Tokens, Tensor, ProcessGroup | None]], weights: FoldedRead
    ) -> Tensor:
        """Reads the population of each session.

        Args:
            populations: at least one unit in each: its tokens; their frames [B_i, S, L, N_i]; and the workers
                that hold other units of the session, which are read with these, or None.
            weights: of the same attention.

        Returns:
            [sum B_i, K, d], to be added to the latents with the attention's last bias.
        """
        groups = [group for _, _, group in populations]
        eps = self._attention.norm_context.eps
        scored = [_Scored(tokens, frames, eps) for tokens, frames, _ in populations]
        largest = _all_reduce([each.largest() for each in scored], groups, lambda group: group.all_reduce_max)
        sums = joined([each.sums(shift) for each, shift in zip(scored, largest, strict=True)])
        turned = (pairs(sums @ weights.values) * weights.turns).sum(dim=1)
        values, total = torch.view_as_real(turned).flatten(-2), sums[..., -1:].sum(dim=1)
        if any(group is not None for group in groups):
            parts = torch.cat([values, total], dim=-1).split([len(frames) for _, frames, _ in populations])
            reduced = _all_reduce(parts, groups, lambda group: group.all_reduce_sum)
            values, total = joined(reduced).split([values.shape[-1], 1], dim=-1)
        return (values / total) @ weights.out


class _Centred(torch.autograd.Function):
    """Unit vectors [N, d] less their means, and the mean squares of that, [N].

    In three passes, backwards too, where autograd takes ten: units are many, and this is little work.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        centred = rows - rows.mean(dim=1, keepdim=True)
        ctx.save_for_backward(centred)
        return centred, torch.linalg.vector_norm(centred, dim=1).square_() / rows.shape[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_centred: Tensor, grad_square: Tensor) -> Tensor:
        (centred,) = ctx.saved_tensors
        grad = torch.addcmul(grad_centred, centred, grad_square[:, None], value=2 / centred.shape[1])
        return grad.sub_(grad.mean(dim=1, keepdim=True))


class _Scored:
    """Tokens [B, S, L, N] and their scores, which gradients reach by way of `sums`."""

    @torch.no_grad()
    def __init__(self, tokens: Tokens, frames: Tensor, eps: float) -> None:
        queries, length = tokens.queries, frames.shape[2]
        products = queries.on_frames @ frames  # [B, S, L + K, N]
        of_variance, of_scores = tokens.frame_terms()
        self.raw_scores = products[:, :, length:].add_(of_scores)
        # Variance of a token: |Wc x + ec|^2 / d, multiplied out.
        squares = products[:, :, :length].add_(of_variance).mul_(frames)
        variance = squares.sum(dim=2, keepdim=True).add_(tokens.square)
        self.inverse_deviation = variance.add_(eps).rsqrt_()  # [B, S, 1, N]
        self.scores = torch.addcmul(queries.on_all, self.raw_scores, self.inverse_deviation)  # [B, S, K, N]
        self.tokens, self.frames = tokens, frames

    def largest(self) -> Tensor:
        """[B, K], the largest score of a sample; it cancels, so no gradient need pass."""
        return self.scores.amax(dim=(1, 3))

    def sums(self, shift: Tensor) -> Tensor:
        """Sums over units of frames and units, weighted by exp(score - shift) over the deviation, and of the
        weights themselves, [B, S, K, L + d + 1]. To be called once."""
        tokens = self.tokens
        return _Sums.apply(
            self, shift, tokens.queries.on_frames, tokens.queries.on_all, tokens.products, tokens.square,
            tokens.units,
        )  # fmt: skip


class _Sums(torch.autograd.Function):
    """The sums of `_Scored.sums`, by hand in a third of autograd's operations.

    Of many small sessions it is the number of operations that costs.
    """

    @staticmethod
    def forward(ctx: Any, scored: _Scored, shift: Tensor, *tensors: Tensor) -> Tensor:
        weights = scored.scores.sub_(shift[:, None, :, None]).exp_()
        weighted = weights * scored.inverse_deviation
        frames, units = scored.frames, tensors[-1]
        ctx.save_for_backward(frames, units, scored.raw_scores, scored.inverse_deviation, weights, weighted)
        sums = weighted @ frames.transpose(2, 3), weighted @ units, weights.sum(dim=3, keepdim=True)
        return torch.cat(sums, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        frames, units, raw_scores, inverse_deviation, weights, weighted = ctx.saved_tensors
        (num_tokens, length), width = frames.shape[1:3], units.shape[1]
        of_frames, of_units, of_weights = grad.split([length, width, 1], dim=-1)
        grad_weighted = (of_units @ units.T).add_(of_frames @ frames)  # [B, S, K, N]
        grad_scores = torch.addcmul(of_weights, grad_weighted, inverse_deviation).mul_(weights)
        grad_inverse = grad_weighted.mul_(weights).addcmul_(grad_scores, raw_scores).sum(dim=2, keepdim=True)
        grad_variance = grad_inverse.mul_(inverse_deviation.pow(3)).mul_(-0.5)  # [B, S, 1, N]
        by_frames, by_scores = frames * grad_variance, grad_scores * inverse_deviation
        num_scores = num_tokens * grad_scores.shape[2]
        grad_products = by_frames.new_empty(length + num_scores, len(units))
        torch.sum(by_frames, dim=(0, 1), out=grad_products[:length])
        torch.sum(by_scores.flatten(1, 2), dim=0, out=grad_products[length:])
        grad_on_frames = grad_on_all = None
        if ctx.needs_input_grad[2]:
            by_both = torch.cat([by_frames, by_scores], dim=2)
            grad_on_frames = (by_both @ frames.transpose(2, 3)).sum(dim=0)
        if ctx.needs_input_grad[3]:
            grad_on_all = grad_scores.sum(dim=(0, 3)).unsqueeze(-1)
        return (
            None, None, grad_on_frames, grad_on_all, grad_products, grad_variance.sum(dim=(0, 1, 2)),
            weighted.flatten(0, 2).T @ of_units.flatten(0, 2),
        )  # fmt: skip


def _all_reduce(
    tensors: Sequence[Tensor],
    groups: Sequence[ProcessGroup | None],
    operation: Callable[[ProcessGroup], Callable[[Tensor], Tensor]],
) -> list[Tensor]:
    """The tensors of sessions that are spread over workers combined over these, in one message."""
    spread = [index for index, group in enumerate(groups) if group is not None]
    combined = list(tensors)
    if spread:
        group = groups[spread[0]]
        assert group is not None
        together = operation(group)(torch.cat([tensors[index] for index in spread]))
        parts = together.split([len(tensors[index]) for index in spread])
        for index, part in zip(spread, parts, strict=True):
            combined[index] = part
    return combined


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """One below the other; a single one, which may be large, is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat([*tensors])


def parted(tensor: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Parts of so many rows; a single one is the whole."""
    return [tensor] if len(sizes) == 1 else tensor.split([*sizes])
