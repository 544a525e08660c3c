"""Layers over latents whose weights no longer change, forwards and backwards by hand.

What weights alone decide is folded once: a LayerNorm's own weights go into the product that follows, the
scale of scores into the queries. A layer is passed by way of a `Pass`, which has its memory: forwards it
keeps the little that backwards needs, and gradients reach what the layer is given, never its weights. So
latents take some forty operations in both directions, where autograd records hundreds.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.accelerate.layer import Layer
from forebrain.models import perceiver
from forebrain.models.poco import Poco
from forebrain.models.rotary import Rotation, inverse

# Finding an overload by its arguments takes as long as the operation.
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
_gelu_backward = torch.ops.aten.gelu_backward.grad_input


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


class Norm:
    """LayerNorm of rows [n, d] without weights, and its gradient."""

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        self._x = x
        normal, self._mean, self._inverse_deviation = torch.native_layer_norm(
            x, x.shape[-1:], None, None, self._eps
        )
        return normal

    def backward(self, grad: Tensor) -> Tensor:
        x = self._x
        of_x, _, _ = _layer_norm_backward(
            grad, x, x.shape[-1:], self._mean, self._inverse_deviation, None, None, (True, False, False)
        )
        return of_x


class Pass(Protocol):
    """One layer's way forwards and then backwards, again and again."""

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents [B K, d] and their update."""

    def backward(self, grad: Tensor) -> Tensor:
        """The gradient of the latents that were given last, from that of what became of them."""


class FeedForward:
    """Folded from a `perceiver.FeedForward`."""

    def __init__(self, layer: perceiver.FeedForward, num_latents: int) -> None:
        weights = after_norm(layer.norm, layer.expand.weight, layer.expand.bias)
        self.expand = Layer(*weights, num_latents)
        self.contract = Layer(layer.contract.weight, layer.contract.bias, num_latents)
        self.eps, self.width, self.num_latents = layer.norm.eps, layer.contract.in_features, num_latents

    def pass_of(self, batch: int) -> _FeedForwardPass:
        return _FeedForwardPass(self, batch)


class _FeedForwardPass:
    def __init__(self, layer: FeedForward, batch: int) -> None:
        self.layer, self.norm = layer, Norm(layer.eps)
        self.grad_expanded = layer.expand.weight.new_empty(batch * layer.num_latents, 2 * layer.width)
        self.grad_value, self.grad_gate = self.grad_expanded.chunk(2, dim=1)

    def __call__(self, latents: Tensor) -> Tensor:
        layer = self.layer
        expanded = layer.expand(self.norm(latents))
        self.value, self.gate = expanded[:, : layer.width], expanded[:, layer.width :]
        self.gelu = F.gelu(self.gate)
        return layer.contract.plus(self.gelu * self.value, latents)

    def backward(self, grad: Tensor) -> Tensor:
        layer = self.layer
        grad_activated = layer.contract.backward(grad)
        torch.mul(grad_activated, self.gelu, out=self.grad_value)
        _gelu_backward(grad_activated.mul_(self.value), self.gate, grad_input=self.grad_gate)
        return self.norm.backward(layer.expand.backward(self.grad_expanded)).add_(grad)


class SelfAttention:
    """Folded from a `perceiver.SelfAttention`."""

    def __init__(self, layer: perceiver.SelfAttention, rotation: Rotation) -> None:
        num_latents, head_width = rotation[0].shape
        weight, bias = after_norm(layer.norm, layer.to_query_key_value.weight)
        # Queries carry the scale of scores.
        scale = torch.ones_like(bias)
        scale[: len(scale) // 3] = head_width**-0.5
        self.to_query_key_value = Layer(weight * scale[:, None], bias * scale, num_latents)
        self.to_out = Layer(layer.to_out.weight, layer.to_out.bias, num_latents)
        self.turn, self.turn_back = turn(rotation), turn(inverse(rotation))
        self.eps, self.sizes = layer.norm.eps, (num_latents, layer.num_heads, head_width)

    def pass_of(self, batch: int) -> _SelfAttentionPass:
        return _SelfAttentionPass(self, batch)


class _SelfAttentionPass:
    """Its wide results have memory of their own, whose views are made once."""

    def __init__(self, layer: SelfAttention, batch: int) -> None:
        num_latents, num_heads, head_width = layer.sizes
        self.layer, self.norm = layer, Norm(layer.eps)
        self.packed_shape = batch, num_latents, 3, num_heads, head_width // 2, 2
        self.turn, self.turn_back = layer.turn[:, None, None], layer.turn_back[:, None, None]
        new = layer.to_out.weight.new_empty
        self.turned = new(3, batch * num_heads, num_latents, head_width)
        self.turned_pairs = self._by_latent(self.turned)
        query, self.key, self.value = self.turned
        self.query, self.query_by_latent = query.mT, query
        self.read = new(batch * num_heads, num_latents, head_width)
        self.read_pairs, self.read_by_width = pairs(self.read).unflatten(0, (batch, num_heads)), self.read.mT
        turned_back = new(batch, num_latents, num_heads, head_width)
        self.turned_back_pairs = pairs(turned_back).transpose(1, 2)
        self.turned_back = turned_back.view(batch * num_latents, -1)

        self.grad_turned = torch.empty_like(self.turned)
        self.grad_query, self.grad_key, self.grad_value = self.grad_turned
        self.grad_turned_pairs = self._by_latent(self.grad_turned)
        self.grad_packed = new(batch * num_latents, 3 * num_heads * head_width)
        self.grad_packed_pairs = torch.view_as_complex(self.grad_packed.view(self.packed_shape))

    def _by_latent(self, turned: Tensor) -> Tensor:
        """A view of [3, B heads, K, h] as complex numbers [B, K, 3, heads, h / 2]."""
        batch, _, _, num_heads, _, _ = self.packed_shape
        return pairs(turned).unflatten(1, (batch, num_heads)).permute(1, 3, 0, 2, 4)

    def __call__(self, latents: Tensor) -> Tensor:
        layer = self.layer
        packed = layer.to_query_key_value(self.norm(latents))
        torch.mul(torch.view_as_complex(packed.view(self.packed_shape)), self.turn, out=self.turned_pairs)
        # Keys first: along the last dimension softmax takes ten times as long.
        self.weights = torch.bmm(self.key, self.query).softmax(dim=1)
        torch.bmm(self.weights.mT, self.value, out=self.read)
        torch.mul(self.read_pairs, layer.turn_back, out=self.turned_back_pairs)
        return layer.to_out.plus(self.turned_back, latents)

    def backward(self, grad: Tensor) -> Tensor:
        layer = self.layer
        batch, num_latents, _, num_heads, half, _ = self.packed_shape
        grad_out = layer.to_out.backward(grad).view(batch, num_latents, num_heads, half, 2)
        # What was read is of no more use.
        torch.mul(torch.view_as_complex(grad_out).transpose(1, 2), layer.turn, out=self.read_pairs)
        torch.bmm(self.weights, self.read, out=self.grad_value)
        grad_scores = softmax_backward(torch.bmm(self.value, self.read_by_width), self.weights)
        torch.bmm(grad_scores, self.query_by_latent, out=self.grad_key)
        torch.bmm(grad_scores.mT, self.key, out=self.grad_query)
        torch.mul(self.grad_turned_pairs, self.turn_back, out=self.grad_packed_pairs)
        return self.norm.backward(layer.to_query_key_value.backward(self.grad_packed)).add_(grad)


def softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient of scores [n, K, m] whose softmax over K is `weights`."""
    return torch._softmax_backward_data(grad, weights, 1, grad.dtype)


class ReadWeights:
    """From sums over tokens to latents that have read the population."""

    def __init__(self, layer: perceiver.EncoderAttention, latent: Rotation, token: Rotation) -> None:
        self.eps = layer.norm_context.eps
        weight, self.bias = after_norm(layer.norm_context, layer.to_value.weight)
        # Tokens are centred, so no product need see their mean.
        self.weight = (weight - weight.mean(dim=1, keepdim=True)).T.contiguous()
        # A value is turned to its token's time, and the sum back to the latent's.
        self.turn = turn(token)[:, None] * turn(inverse(latent))  # [S, K, h / 2]
        self.out, self.out_bias = layer.to_out.weight.T.contiguous(), layer.to_out.bias


def latent_layers(model: Poco) -> list[FeedForward | SelfAttention]:
    """All that latents pass after they have read a population."""
    num_latents, rotation = model.config.num_latents, model.rotation("latent")
    layers: list[FeedForward | SelfAttention] = [FeedForward(model.encoder_feed_forward, num_latents)]
    for layer in model.processor_layers():
        layers.append(SelfAttention(layer.attention, rotation))
        layers.append(FeedForward(layer.feed_forward, num_latents))
    return layers
