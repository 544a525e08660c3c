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
        on_units: [S K, d], each latent's query to ec.
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
        frame_terms: [S, L + K, N], what ec adds to products of `on_frames` with frames.
        square: [N], |ec|^2 / d.
    """

    queries: FoldedQueries
    units: Tensor
    frame_terms: Tensor
    square: Tensor

    def split(self, sizes: Sequence[int]) -> list[Tokens]:
        """The tokens of each session, given its number of units."""
        parts = zip(
            self.units.split(sizes),
            self.frame_terms.split(sizes, dim=2),
            self.square.split(sizes),
            strict=True,
        )
        return [Tokens(self.queries, *each) for each in parts]


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
        on_all = (projected @ attention.norm_context.bias).unsqueeze(-1)
        return FoldedQueries(weight, on_frames, scaled.flatten(0, 1), on_all)

    def tokens(self, queries: FoldedQueries, units: Tensor) -> Tokens:
        """Unit vectors [N, d], the tokens' bias included."""
        num_tokens, num_latents, width = *queries.on_all.shape[:2], units.shape[1]
        units, square = _Centred.apply(units)
        # Twice, since it is the cross term of a square.
        weight = torch.cat([queries.frame_weight.T * (2 / width), queries.on_units])
        cross, raw_scores = (weight @ units.T).split(
            [len(weight) - len(queries.on_units), len(queries.on_units)]
        )
        raw_scores = raw_scores.unflatten(0, (num_tokens, num_latents))
        frame_terms = torch.cat([cross.expand(num_tokens, -1, -1), raw_scores], dim=1)
        return Tokens(queries, units, frame_terms, square)

    def __call__(
        self,
        populations: Sequence[tuple[Tokens, Tensor, ProcessGroup | None]],
        latent_rotation: Rotation,
        token_rotation: Rotation,
    ) -> Tensor:
        """Reads the population of each session.

        Args:
            populations: at least one unit in each: its tokens; their frames [B_i, S, L, N_i]; and the workers
                that hold other units of the session, which are read with these, or None.
            latent_rotation, token_rotation: tables [K, h] and [S, h].

        Returns:
            [sum B_i, K, d], to be added to the latents.
        """
        attention = self._attention
        groups = [group for _, _, group in populations]
        scored = [_Scored(tokens, frames, attention.norm_context.eps) for tokens, frames, _ in populations]
        largest = _all_reduce([each.largest() for each in scored], groups, lambda group: group.all_reduce_max)
        sums = [each.sums(shift) for each, shift in zip(scored, largest, strict=True)]
        of_frames, of_units, token_weights = (torch.cat(each) for each in zip(*sums, strict=True))
        gathered = of_frames @ populations[0][0].queries.frame_weight.T + of_units  # [sum B, S, K, d]
        gathered = gathered * attention.norm_context.weight + token_weights * attention.norm_context.bias
        cosine, sine = token_rotation
        values = rotate(attention.to_value(gathered), (cosine[:, None], sine[:, None]))
        summed = torch.cat([values.sum(dim=1), token_weights.sum(dim=1)], dim=-1)
        parts = summed.split([len(frames) for _, frames, _ in populations])
        summed = torch.cat(_all_reduce(parts, groups, lambda group: group.all_reduce_sum))
        return attention.to_out(rotate(summed[..., :-1] / summed[..., -1:], inverse(latent_rotation)))


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
        products = (queries.on_frames @ frames).add_(tokens.frame_terms)  # [B, S, L + K, N]
        self.raw_scores = products[:, :, length:]
        # Variance of a token: |Wc x + ec|^2 / d, multiplied out.
        variance = products[:, :, :length].mul_(frames).sum(dim=2, keepdim=True).add_(tokens.square)
        self.inverse_deviation = variance.add_(eps).rsqrt_()  # [B, S, 1, N]
        self.scores = torch.addcmul(queries.on_all, self.raw_scores, self.inverse_deviation)  # [B, S, K, N]
        self.tokens, self.frames = tokens, frames

    def largest(self) -> Tensor:
        """[B, K], the largest score of a sample; it cancels, so no gradient need pass."""
        return self.scores.amax(dim=(1, 3))

    def sums(self, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames [B, S, K, L] and units [B, S, K, d], weighted by exp(score - shift) over the deviation, and
        the weights themselves [B, S, K, 1], summed over units. To be called once."""
        tokens = self.tokens
        return _Sums.apply(
            self, shift, tokens.queries.on_frames, tokens.queries.on_all, tokens.frame_terms, tokens.square,
            tokens.units,
        )  # fmt: skip


class _Sums(torch.autograd.Function):
    """The sums of `_Scored.sums`, by hand in a third of autograd's operations.

    Of many small sessions it is the number of operations that costs.
    """

    @staticmethod
    def forward(ctx: Any, scored: _Scored, shift: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = scored.scores.sub_(shift[:, None, :, None]).exp_()
        weighted = weights * scored.inverse_deviation
        frames, units = scored.frames, tensors[-1]
        ctx.save_for_backward(frames, units, scored.raw_scores, scored.inverse_deviation, weights, weighted)
        of_frames = weighted @ frames.transpose(2, 3)
        return of_frames, weighted @ units, weights.sum(dim=3, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_frames: Tensor, of_units: Tensor, of_weights: Tensor) -> tuple[Any, ...]:
        frames, units, raw_scores, inverse_deviation, weights, weighted = ctx.saved_tensors
        grad_weighted = (of_units @ units.T).add_(of_frames @ frames)  # [B, S, K, N]
        grad_scores = torch.addcmul(of_weights, grad_weighted, inverse_deviation).mul_(weights)
        grad_inverse = grad_weighted.mul_(weights).addcmul_(grad_scores, raw_scores).sum(dim=2, keepdim=True)
        grad_variance = grad_inverse.mul_(inverse_deviation.pow(3)).mul_(-0.5)  # [B, S, 1, N]
        grad_products = torch.cat([frames * grad_variance, grad_scores * inverse_deviation], dim=2)
        return (
            None, None,
            (grad_products @ frames.transpose(2, 3)).sum(dim=0),
            grad_scores.sum(dim=(0, 3)).unsqueeze(-1),
            grad_products.sum(dim=0),
            grad_variance.sum(dim=(0, 1, 2)),
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
