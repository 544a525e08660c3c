"""Layers over latents whose weights no longer change.

What weights alone decide is folded once: a LayerNorm's own weights go into the product that follows, the
scale of scores into the queries. `latent_layers` are for one window at a time and leave autograd nothing;
`FrozenLatents` are for any number of windows, and gradients pass them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.accelerate.packed_linear import PackedLinear
from forebrain.models import perceiver
from forebrain.models.poco import Poco
from forebrain.models.rotary import Rotation, inverse


def after_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that takes what is normalised, with the LayerNorm's own in them."""
    return weight * norm.weight, weight @ norm.bias + bias


def turn(rotation: Rotation) -> Tensor:
    """Complex numbers [times, h / 2] by which pairs are turned."""
    cosine, sine = rotation
    return torch.complex(cosine[:, ::2].contiguous(), sine[:, ::2].contiguous())


def pairs(x: Tensor) -> Tensor:
    """A view of [..., h] as complex numbers [..., h / 2]."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def normal(x: Tensor, eps: float) -> Tensor:
    """LayerNorm of vectors [n, d] without weights."""
    return torch.native_layer_norm(x, x.shape[-1:], None, None, eps)[0]


class FoldedFeedForward:
    """A `perceiver.FeedForward` over latents [K, d], with its residual."""

    def __init__(self, layer: perceiver.FeedForward, num_latents: int) -> None:
        weights = after_norm(layer.norm, layer.expand.weight, layer.expand.bias)
        self.expand = PackedLinear(*weights, num_latents)
        self.contract = PackedLinear(layer.contract.weight, layer.contract.bias, num_latents)
        self.eps, self.width = layer.norm.eps, layer.contract.in_features

    def __call__(self, latents: Tensor) -> Tensor:
        expanded = self.expand(normal(latents, self.eps))
        gate = F.gelu(expanded[:, self.width :])
        return self.contract.plus(gate * expanded[:, : self.width], latents)


class FoldedSelfAttention:
    """A `perceiver.SelfAttention` over latents [K, d], with its residual.

    Wide results have memory of their own, whose views are made once.
    """

    def __init__(self, layer: perceiver.SelfAttention, rotation: Rotation) -> None:
        num_latents, head_width = rotation[0].shape
        num_heads = layer.num_heads
        weight, bias = after_norm(layer.norm, layer.to_query_key_value.weight)
        # Queries carry the scale of scores.
        scale = torch.ones_like(bias)
        scale[: len(scale) // 3] = head_width**-0.5
        self.to_query_key_value = PackedLinear(weight * scale[:, None], bias * scale, num_latents)
        self.to_out = PackedLinear(layer.to_out.weight, layer.to_out.bias, num_latents)
        self.turn, self.turn_back, self.eps = (
            turn(rotation)[:, None, None],
            turn(inverse(rotation)),
            layer.norm.eps,
        )
        self.packed_shape = num_latents, 3, num_heads, head_width // 2, 2
        new = layer.to_out.weight.new_empty
        turned = new(3, num_heads, num_latents, head_width)
        self.turned_pairs = pairs(turned).permute(2, 0, 1, 3)  # [K, 3, heads, h / 2]
        query, self.key, self.value = turned
        self.query = query.mT
        self.read = new(num_heads, num_latents, head_width)
        self.read_pairs = pairs(self.read)
        turned_back = new(num_latents, num_heads, head_width)
        self.turned_back_pairs = pairs(turned_back).transpose(0, 1)
        self.turned_back = turned_back.view(num_latents, -1)

    def __call__(self, latents: Tensor) -> Tensor:
        packed = self.to_query_key_value(normal(latents, self.eps))
        torch.mul(torch.view_as_complex(packed.view(self.packed_shape)), self.turn, out=self.turned_pairs)
        # Keys first: along the last dimension softmax takes ten times as long.
        weights = torch.bmm(self.key, self.query).softmax(dim=1)
        torch.bmm(weights.mT, self.value, out=self.read)
        torch.mul(self.read_pairs, self.turn_back, out=self.turned_back_pairs)
        return self.to_out.plus(self.turned_back, latents)


def latent_layers(model: Poco) -> list[Callable[[Tensor], Tensor]]:
    """All that latents [K, d] pass after they have read a population."""
    num_latents, rotation = model.config.num_latents, model.rotation("latent")
    layers: list[Callable[[Tensor], Tensor]] = [FoldedFeedForward(model.encoder_feed_forward, num_latents)]
    for layer in model.processor:
        assert isinstance(layer, perceiver.ProcessorLayer)
        layers.append(FoldedSelfAttention(layer.attention, rotation))
        layers.append(FoldedFeedForward(layer.feed_forward, num_latents))
    return layers


class FrozenLatents:
    """All that latents pass from what they have read of a population to what units read of them.

    Latents are few, so their time is the number of operations: the equations are those of `models.poco`
    without dropout, with windows and latents as rows of one matrix.
    """

    def __init__(self, model: Poco) -> None:
        self._layers: list[Callable[[Tensor, int], Tensor]] = [_FeedForward(model.encoder_feed_forward)]
        for layer in model.processor:
            assert isinstance(layer, perceiver.ProcessorLayer)
            self._layers.append(_SelfAttention(layer.attention, model.rotation("latent")))
            self._layers.append(_FeedForward(layer.feed_forward))
        attention = model.decoder_attention
        # Whatever a unit attends to, it attends once, so values bring the bias.
        weight = torch.cat([attention.to_key.weight, attention.to_out.weight @ attention.to_value.weight])
        bias = F.pad(attention.to_out.bias, (attention.head_width, 0))
        self._weight, self._bias = after_norm(attention.norm_context, weight, bias)
        self._eps, self._turn = attention.norm_context.eps, turn(model.rotation("latent"))
        self._widths = [attention.head_width, len(attention.to_out.bias)]

    def __call__(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B, K, d] to keys [B, K, h], turned to their times, and values [B, K, d]."""
        num_windows, num_latents, width = latents.shape
        rows = latents.view(-1, width)
        for layer in self._layers:
            rows = layer(rows, num_windows)
        both = F.linear(_normal(rows, self._eps), self._weight, self._bias)
        keys, values = both.view(num_windows, num_latents, -1).split(self._widths, dim=2)
        return torch.view_as_real(pairs(keys) * self._turn).flatten(-2), values


class _FeedForward:
    """A `perceiver.FeedForward` over rows [r, d], with its residual."""

    def __init__(self, layer: perceiver.FeedForward) -> None:
        self.weight, self.bias = after_norm(layer.norm, layer.expand.weight, layer.expand.bias)
        self.contract, self.eps = layer.contract, layer.norm.eps

    def __call__(self, rows: Tensor, num_windows: int) -> Tensor:
        value, gate = F.linear(_normal(rows, self.eps), self.weight, self.bias).chunk(2, dim=1)
        return rows + self.contract(value * F.gelu(gate))


class _SelfAttention:
    """A `perceiver.SelfAttention` over the latents of each window, rows [B K, d], with its residual."""

    def __init__(self, layer: perceiver.SelfAttention, rotation: Rotation) -> None:
        self.weight, self.bias = after_norm(layer.norm, layer.to_query_key_value.weight)
        self.to_out, self.eps, self.num_heads = layer.to_out, layer.norm.eps, layer.num_heads
        self.turn, self.turn_back = turn(rotation)[:, None, None], turn(inverse(rotation))[:, None]

    def __call__(self, rows: Tensor, num_windows: int) -> Tensor:
        packed = F.linear(_normal(rows, self.eps), self.weight, self.bias)
        split = packed.view(num_windows, len(self.turn), 3, self.num_heads, -1, 2)
        turned = torch.view_as_real(torch.view_as_complex(split) * self.turn).flatten(-2)
        query, key, value = turned.transpose(1, 3).unbind(2)  # [B, heads, K, h]
        read = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        turned_back = torch.view_as_real(pairs(read) * self.turn_back)
        return rows + self.to_out(turned_back.reshape(len(rows), -1))


def _normal(rows: Tensor, eps: float) -> Tensor:
    """LayerNorm of rows [r, d] without weights."""
    return F.layer_norm(rows, rows.shape[1:], eps=eps)
