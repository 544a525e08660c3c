"""The part of POCO that every row (one unit of one sample) passes alone: feed-forward, then FiLM forecaster.

    e1 = e0 + W2 (m * a * gelu(g)) + b2      [a | g] = W1 LN(e0) + b1, m the dropout mask
    y  = Wo (h * gamma) + Wf e1 + bf         h = hidden layers of the context, gamma = Wg e1 + bg

This is nine tenths of the arithmetic, and its temporaries are 1,024 wide. Rows are independent, so they
pass in blocks that stay in the cache. For the backward pass e0, e1 and the mask are kept; the results of the
three wide products, 12 kB a row, are formed again block by block (0.3 M multiply-adds a row besides 1.1 M).
FiLM's shift enters linearly, so the caller folds Wo Wb into Wf [H, d].

It is tested and timed against the plain formulation of the same equations in models/plain.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows in a block: [rows, 1024] temporaries of a block fit in a CPU core's cache; on a GPU one launch
# should fill the device.
CPU_BLOCK_ROWS = 384
GPU_BLOCK_ROWS = 65_536
NORM_EPS = 1e-5


class RowHeadWeights(NamedTuple):
    """Weights as (out, in), biases (out).

    `hidden` alternates weight and bias of the context's hidden layers, [M, C], [M], then [M, M], [M], ...
    """

    norm_weight: Tensor
    norm_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor
    contract_weight: Tensor
    contract_bias: Tensor
    scale_weight: Tensor
    scale_bias: Tensor
    shift_weight: Tensor
    shift_bias: Tensor
    out_weight: Tensor
    hidden: tuple[Tensor, ...]


def row_head(
    embeddings: Tensor, context: Tensor, weights: RowHeadWeights, dropout: float, compute_dtype: torch.dtype
) -> Tensor:
    """Forecasts rows.

    Args:
        embeddings: [R, d] unit vectors after the decoder's cross attention.
        context: [R, C] each row's own past.
        weights: see `RowHeadWeights`.
        dropout: probability of dropping a hidden value of the feed-forward; 0 outside training.
        compute_dtype: dtype of the matrix products; sums over rows are kept in float32.

    Returns:
        [R, H] in the dtype of `embeddings`.
    """
    keep_mask = None
    if dropout > 0:
        size = (embeddings.shape[0], weights.contract_weight.shape[1])
        keep_mask = _random_mask(size, 1 - dropout, embeddings.device)
    *plain, hidden = weights
    return _RowHead.apply(embeddings, context, keep_mask, dropout, compute_dtype, *plain, *hidden)


def _normed(rows: Tensor, weights: RowHeadWeights) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of the rows in the compute dtype, their means and inverse deviations."""
    normed, mean, rstd = torch.native_layer_norm(
        rows, [rows.shape[-1]], weights.norm_weight, weights.norm_bias, NORM_EPS
    )
    return normed.to(weights.expand_weight.dtype), mean, rstd


def _activated(expanded: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """gelu(gate), and value * gelu(gate) after dropout."""
    value, gate = expanded.chunk(2, dim=-1)
    gelu = F.gelu(gate)
    activated = value * gelu
    if mask is not None:
        activated.mul_(mask).mul_(1 / (1 - dropout))
    return gelu, activated


def _hidden_layers(context: Tensor, hidden: tuple[Tensor, ...]) -> list[Tensor]:
    """The context [r, C] and every hidden layer's output after it."""
    layers = [context]
    for weight, bias in zip(hidden[::2], hidden[1::2], strict=True):
        layers.append(F.linear(layers[-1], weight, bias).relu_())
    return layers


class _RowHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        context: Tensor,
        keep_mask: Tensor | None,
        dropout: float,
        compute_dtype: torch.dtype,
        *parameters: Tensor,
    ) -> Tensor:
        weights = _cast(parameters, compute_dtype)
        context = context.to(compute_dtype)
        forecast = embeddings.new_empty(embeddings.shape[0], weights.out_weight.shape[0])
        refined = torch.empty_like(embeddings)
        for rows in _blocks(embeddings):
            mask = None if keep_mask is None else keep_mask[rows]
            normed, _, _ = _normed(embeddings[rows], weights)
            expanded = F.linear(normed, weights.expand_weight, weights.expand_bias)
            _, activated = _activated(expanded, mask, dropout)
            update = F.linear(activated, weights.contract_weight, weights.contract_bias)
            torch.add(embeddings[rows], update, out=refined[rows])
            conditioned = refined[rows].to(compute_dtype)
            scale = F.linear(conditioned, weights.scale_weight, weights.scale_bias)
            layers = _hidden_layers(context[rows], weights.hidden)
            shift = F.linear(conditioned, weights.shift_weight, weights.shift_bias)
            forecast[rows] = torch.addmm(shift, scale * layers[-1], weights.out_weight.T)
        ctx.save_for_backward(embeddings, refined, context, keep_mask, *parameters)
        ctx.dropout, ctx.compute_dtype = dropout, compute_dtype
        return forecast

    @staticmethod
    def backward(ctx: Any, grad_forecast: Tensor) -> tuple[Any, ...]:
        embeddings, refined, context, keep_mask, *parameters = ctx.saved_tensors
        dtype, dropout = ctx.compute_dtype, ctx.dropout
        weights = _cast(parameters, dtype)
        wanted = ctx.needs_input_grad[5:]
        grads = _RowHeadGradients(parameters, wanted)
        grad_embeddings = torch.empty_like(embeddings) if ctx.needs_input_grad[0] else None
        for rows in _blocks(embeddings):
            mask = None if keep_mask is None else keep_mask[rows]
            grad_rows = _backward_block(
                embeddings[rows], refined[rows], context[rows], mask, dropout,
                grad_forecast[rows].to(dtype), weights, grads,
            )  # fmt: skip
            if grad_embeddings is not None:
                grad_embeddings[rows] = grad_rows
        return (grad_embeddings, None, None, None, None, *grads.tensors)


class _RowHeadGradients:
    """Sums over blocks, in float32; parameters that are frozen cost nothing."""

    def __init__(self, parameters: list[Tensor], wanted: tuple[bool, ...]) -> None:
        self.tensors = [
            torch.zeros_like(parameter) if want else None
            for parameter, want in zip(parameters, wanted, strict=True)
        ]
        self.named = _named(self.tensors)

    @staticmethod
    def add(weight: Tensor | None, bias: Tensor | None, grad_out: Tensor, layer_input: Tensor) -> None:
        """Adds a linear layer's gradients over the rows of one block."""
        if weight is not None:
            if grad_out.dtype == weight.dtype:
                weight.addmm_(grad_out.T, layer_input)
            else:
                weight.add_(grad_out.T @ layer_input)
        if bias is not None:
            bias.add_(grad_out.sum(0, dtype=bias.dtype))


def _backward_block(
    rows: Tensor,
    refined: Tensor,
    context: Tensor,
    mask: Tensor | None,
    dropout: float,
    grad_out: Tensor,
    weights: RowHeadWeights,
    grads: _RowHeadGradients,
) -> Tensor:
    """Gradient with respect to the rows [r, d]; adds the parameters' gradients to `grads`."""
    named = grads.named
    conditioned = refined.to(grad_out.dtype)

    # FiLM forecaster
    scale = F.linear(conditioned, weights.scale_weight, weights.scale_bias)
    layers = _hidden_layers(context, weights.hidden)
    grad_modulated = grad_out @ weights.out_weight
    grads.add(named.out_weight, None, grad_out, scale * layers[-1])
    grads.add(named.shift_weight, named.shift_bias, grad_out, conditioned)
    grad_hidden = grad_modulated * scale
    grad_scale = grad_modulated.mul_(layers[-1])
    grads.add(named.scale_weight, named.scale_bias, grad_scale, conditioned)
    for index in reversed(range(len(layers) - 1)):
        grad_hidden = torch.ops.aten.threshold_backward(grad_hidden, layers[index + 1], 0)
        grads.add(named.hidden[2 * index], named.hidden[2 * index + 1], grad_hidden, layers[index])
        if index > 0:
            grad_hidden = grad_hidden @ weights.hidden[2 * index]
    grad_refined = torch.addmm(grad_out @ weights.shift_weight, grad_scale, weights.scale_weight)

    # Feed-forward
    normed, mean, rstd = _normed(rows, weights)
    expanded = F.linear(normed, weights.expand_weight, weights.expand_bias)
    value, gate = expanded.chunk(2, dim=-1)
    gelu, activated = _activated(expanded, mask, dropout)
    grads.add(named.contract_weight, named.contract_bias, grad_refined, activated)
    grad_activated = grad_refined @ weights.contract_weight
    if mask is not None:
        grad_activated.mul_(mask).mul_(1 / (1 - dropout))
    grad_expanded = grad_activated.new_empty(grad_activated.shape[0], weights.expand_weight.shape[0])
    grad_value, grad_gate = grad_expanded.chunk(2, dim=-1)
    torch.mul(grad_activated, gelu, out=grad_value)
    torch.ops.aten.gelu_backward(grad_activated.mul_(value), gate, grad_input=grad_gate)
    grads.add(named.expand_weight, named.expand_bias, grad_expanded, normed)
    grad_normed = (grad_expanded @ weights.expand_weight).to(rows.dtype)
    grad_rows, grad_norm_weight, grad_norm_bias = torch.ops.aten.native_layer_norm_backward(
        grad_normed, rows, [rows.shape[-1]], mean, rstd, weights.norm_weight, weights.norm_bias,
        [True, named.norm_weight is not None, named.norm_bias is not None],
    )  # fmt: skip
    if named.norm_weight is not None:
        named.norm_weight.add_(grad_norm_weight)
    if named.norm_bias is not None:
        named.norm_bias.add_(grad_norm_bias)
    return grad_rows.add_(grad_refined)


def _named(tensors: Sequence[Any]) -> RowHeadWeights:
    """The flat order in which autograd passes parameters, by name again."""
    num_plain = len(RowHeadWeights._fields) - 1
    return RowHeadWeights._make([*tensors[:num_plain], tuple(tensors[num_plain:])])


def _random_mask(size: tuple[int, int], keep: float, device: torch.device) -> Tensor:
    """True with probability `keep` (to 2^-16), at four random numbers of 16 bits for each one drawn: five
    times faster than `bernoulli_` on a CPU."""
    count = size[0] * size[1]
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    threshold = round(keep * 2**16) - 2**15
    return (bits.view(torch.int16)[:count] < threshold).view(size)


def _cast(parameters: list[Tensor] | tuple[Tensor, ...], dtype: torch.dtype) -> RowHeadWeights:
    """Weights in the compute dtype; the LayerNorm's stay as they are, since it runs in the rows' dtype."""
    cast = [*parameters[:2], *(parameter.to(dtype) for parameter in parameters[2:])]
    return _named(cast)


def _blocks(rows: Tensor) -> list[slice]:
    size = GPU_BLOCK_ROWS if rows.is_cuda else CPU_BLOCK_ROWS
    return [slice(start, start + size) for start in range(0, rows.shape[0], size)]
