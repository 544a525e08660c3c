"""The part of POCO that every row (one unit of one sample) passes alone: feed-forward, then FiLM forecaster.

    e0 = u + a V                        u [d] the unit, a [K] what it reads of each latent, V [K, d] of these
    e1 = e0 + W2 (v * gelu(g))          [v | g] = (W1 u + a W1 V) / sigma + b1
    y  = Wo (h * gamma) + Wf e1 + bf    h = hidden layers of the context, gamma = Wg e1 + bg

This is nine tenths of the arithmetic, and its temporaries are 1,024 wide. Rows are independent, so they
pass in blocks that stay in the cache. LayerNorm is linear but for its division by sigma, so the first
product need not be one of rows: W1 u is formed once for all samples of a session and W1 V once for all its
units, forwards and backwards. The caller folds LayerNorm's weights into W1 and b1, the bias of W2 into bg and
bf, and FiLM's shift Wo Wb, which enters linearly, into Wf [H, d].

Dropout sets gates far below zero, where gelu and its slope vanish, so that it costs one addition.

For the backward pass e1 and what is dropped are kept, and the wide results where rows are few; elsewhere they
are formed again block by block.

It is tested and timed against the plain formulation of the same equations in models/plain.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.models.dropout import random_drops
from forebrain.models.fused import linear_relu, linear_times

# Rows in a block: [rows, 1024] temporaries of a block fit in a CPU core's cache; on a GPU one launch
# should fill the device.
CPU_BLOCK_ROWS = 512
GPU_BLOCK_ROWS = 65_536
# Up to so many rows keep their wide results, 10 kB a row in fp32, for the backward pass.
KEPT_ROWS = 2048
# Times -1 or less, what is added to a gate that is dropped.
DROPPED_GATE = 1e4
NORM_EPS = 1e-5


class RowHeadWeights(NamedTuple):
    """Weights as (out, in), biases (out), folded as the module says.

    `expand_weight` has rows that sum to zero, which is LayerNorm's subtraction of the mean. `hidden`
    alternates weight and bias of the context's hidden layers, [M, C], [M], then [M, M], [M], ...
    """

    expand_weight: Tensor
    expand_bias: Tensor
    contract_weight: Tensor
    scale_weight: Tensor
    scale_bias: Tensor
    shift_weight: Tensor
    shift_bias: Tensor
    out_weight: Tensor
    hidden: tuple[Tensor, ...]

    def to(self, dtype: torch.dtype) -> RowHeadWeights:
        """The same in another dtype."""
        if self.out_weight.dtype == dtype:
            return self
        return _named([tensor.to(dtype) for tensor in self.flat])

    @property
    def flat(self) -> tuple[Tensor, ...]:
        """The order in which autograd passes them."""
        *plain, hidden = self
        return (*plain, *hidden)


@dataclass(frozen=True)
class SessionRows:
    """The rows of one session: its units times its samples.

    Attributes:
        units: [N, d] float32, u.
        attention: [B, K, N] float32, a, how much each unit reads of each latent.
        values: [B, K, d] float32, V.
        context: [B, C, N], each row's own past.
        projected: [N, F] W1 u where it is known from before, in the dtype of the products; only where no
            gradient is asked for.
    """

    units: Tensor
    attention: Tensor
    values: Tensor
    context: Tensor
    projected: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and units."""
        return self.context.shape[0], self.context.shape[2]


def row_head(
    sessions: Sequence[SessionRows], weights: RowHeadWeights, dropout: float, compute_dtype: torch.dtype
) -> list[Tensor]:
    """Forecasts rows.

    Args:
        sessions: at least one sample in each.
        weights: see `RowHeadWeights`.
        dropout: probability of dropping a hidden value of the feed-forward; 0 outside training.
        compute_dtype: dtype of the matrix products; sums over rows are kept in float32.

    Returns:
        [B, H, N] for each session, in the dtype of its units.
    """
    if dropout > 0:
        weights = weights._replace(contract_weight=weights.contract_weight / (1 - dropout))
    tensors = [
        tensor for rows in sessions for tensor in (rows.units, rows.attention, rows.values, rows.context)
    ]
    call = _Call(len(sessions), dropout, compute_dtype, [rows.projected for rows in sessions])
    return list(_RowHead.apply(call, *tensors, *weights.flat))


class _Call(NamedTuple):
    """What a call is besides tensors that may have gradients."""

    num_sessions: int
    dropout: float
    compute_dtype: torch.dtype
    projected: list[Tensor | None]

    def unpack(self, tensors: Sequence[Any], cast: bool = True) -> tuple[list[SessionRows], RowHeadWeights]:
        """The flat order in which autograd passes tensors, or their gradients, by name again."""
        split = 4 * self.num_sessions
        of_sessions = zip(*(tensors[first:split:4] for first in range(4)), self.projected, strict=True)
        sessions = [SessionRows(*fields) for fields in of_sessions]
        weights = _named(tensors[split:])
        return sessions, weights.to(self.compute_dtype) if cast else weights


class _Piece(NamedTuple):
    """Some samples of some units of one session, samples first, and which rows of their block they are."""

    session: int
    samples: slice
    units: slice
    rows: slice

    def rows_of(self, block: Tensor) -> Tensor:
        """Its part of a block's tensor [r, W], as [b, n, W]."""
        shape = self.samples.stop - self.samples.start, self.units.stop - self.units.start
        return block[self.rows].view(*shape, -1)

    def part_of(self, session: Tensor) -> Tensor:
        """Its part of a session's tensor [B, W, N], as [b, n, W]."""
        return session[self.samples, :, self.units].transpose(1, 2)

    def same_units(self, other: _Piece) -> bool:
        return self.session == other.session and self.units == other.units


def _blocks(shapes: Sequence[tuple[int, int]], size: int) -> Iterator[list[_Piece]]:
    """Cuts sessions of (samples, units) into blocks of at most `size` rows, or one sample of `size` units.

    Pieces of the same units follow one another. Large sessions are cut by units, small ones share a block.
    """
    block: list[_Piece] = []
    filled = 0
    for session, (num_samples, num_units) in enumerate(shapes):
        num_cuts = -(-num_units // size)
        for cut in range(num_cuts):
            units = slice(cut * num_units // num_cuts, (cut + 1) * num_units // num_cuts)
            width = units.stop - units.start
            step = max(1, size // width)
            for first in range(0, num_samples, step):
                samples = slice(first, min(first + step, num_samples))
                num_rows = (samples.stop - first) * width
                if filled + num_rows > size and block:
                    yield block
                    block, filled = [], 0
                block.append(_Piece(session, samples, units, slice(filled, filled + num_rows)))
                filled += num_rows
    if block:
        yield block


class _Projections:
    """W1 u of the units that pieces ask for one after another, and W1 V with b1 below it of all samples."""

    def __init__(self, sessions: Sequence[SessionRows], weights: RowHeadWeights) -> None:
        self.sessions, self.weight = sessions, weights.expand_weight
        dtype = self.weight.dtype
        bias = weights.expand_bias
        self.of_values = [
            torch.cat([rows.values.to(dtype) @ self.weight.T, bias.expand(len(rows.values), 1, -1)], dim=1)
            for rows in sessions
        ]  # [B, K + 1, F]
        self._last: tuple[_Piece, Tensor] | None = None

    def of_units(self, piece: _Piece) -> Tensor:
        """[n, F]."""
        known = self.sessions[piece.session].projected
        if known is not None:
            return known[piece.units]
        if self._last is None or not self._last[0].same_units(piece):
            units = self.sessions[piece.session].units[piece.units]
            self._last = piece, units.to(self.weight.dtype) @ self.weight.T
        return self._last[1]


class _Buffers:
    """Memory for wide results, the same for every block, so that it stays in the cache."""

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self._like, self._dtype = like, dtype
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, num_rows: int, width: int) -> Tensor:
        """[num_rows, width], not initialised."""
        size = num_rows * width
        held = self._held.get(name)
        if held is None or len(held) < size:
            held = self._held[name] = self._like.new_empty(size, dtype=self._dtype)
        return held[:size].view(num_rows, width)


class _Block:
    """The rows of one block: what is made of their pieces before they pass as one."""

    def __init__(self, pieces: list[_Piece], sessions: Sequence[SessionRows], dtype: torch.dtype) -> None:
        self.pieces = pieces
        num_rows, units = pieces[-1].rows.stop, sessions[0].units
        self.embedding = units.new_empty(num_rows, units.shape[1])
        self.context = units.new_empty(num_rows, sessions[0].context.shape[1], dtype=dtype)
        for piece in pieces:
            rows = sessions[piece.session]
            attention = piece.part_of(rows.attention)
            torch.baddbmm(
                rows.units[piece.units].expand(len(attention), -1, -1),
                attention,
                rows.values[piece.samples],
                out=piece.rows_of(self.embedding),
            )
            piece.rows_of(self.context).copy_(piece.part_of(rows.context))
        # [r, d] and [r, 1]
        _, self.mean, self.inverse_deviation = torch.native_layer_norm(
            self.embedding, self.embedding.shape[1:], None, None, NORM_EPS
        )

    def __len__(self) -> int:
        return len(self.embedding)

    def expand(self, sessions: Sequence[SessionRows], projections: _Projections, expanded: Tensor) -> Tensor:
        """Fills [r, F], the feed-forward's first product."""
        for piece in self.pieces:
            inverse_deviation = piece.rows_of(self.inverse_deviation)
            out = piece.rows_of(expanded)
            torch.mul(projections.of_units(piece), inverse_deviation.to(out.dtype), out=out)
            out.baddbmm_(
                self.scaled_attention(piece, sessions).to(out.dtype),
                projections.of_values[piece.session][piece.samples],
            )
        return expanded

    def scaled_attention(self, piece: _Piece, sessions: Sequence[SessionRows]) -> Tensor:
        """[b, n, K + 1]: a / sigma, and 1 for the bias."""
        attention = piece.part_of(sessions[piece.session].attention)
        scaled = attention.new_ones(*attention.shape[:2], attention.shape[2] + 1)
        torch.mul(attention, piece.rows_of(self.inverse_deviation), out=scaled[..., :-1])
        return scaled


class _Wide(NamedTuple):
    """Wide results of a block that its backward pass needs.

    Attributes:
        expanded: [r, F], value and gate.
        gate: [r, F / 2], the gate after dropout.
        gelu: [r, F / 2], of that.
        hidden: the context [r, C], then [r, M] after each hidden layer.
    """

    expanded: Tensor
    gate: Tensor
    gelu: Tensor
    hidden: list[Tensor]

    @property
    def value(self) -> Tensor:
        return self.expanded[:, : self.gate.shape[1]]


class _Kept(NamedTuple):
    """What the backward pass is told of a block; `wide` is None where it is formed again."""

    pieces: list[_Piece]
    refined: Tensor
    dropped: Tensor | None
    wide: _Wide | None


def _wide(
    block: _Block,
    sessions: Sequence[SessionRows],
    projections: _Projections,
    weights: RowHeadWeights,
    dropped: Tensor | None,
    buffers: _Buffers,
) -> _Wide:
    width = len(weights.expand_weight)
    expanded = block.expand(sessions, projections, buffers.take("expanded", len(block), width))
    # In one piece, where gelu is half as fast again.
    gate = buffers.take("gate", len(block), width // 2)
    if dropped is None:
        gate.copy_(expanded[:, width // 2 :])
    else:
        torch.add(expanded[:, width // 2 :], dropped, alpha=DROPPED_GATE, out=gate)
    gelu = torch.ops.aten.gelu(gate, out=buffers.take("gelu", *gate.shape))
    hidden = [block.context]
    for index, (weight, bias) in enumerate(zip(weights.hidden[::2], weights.hidden[1::2], strict=True)):
        out = buffers.take(f"hidden {index}", len(block), len(weight))
        hidden.append(linear_relu(hidden[-1], weight, bias, out))
    return _Wide(expanded, gate, gelu, hidden)


class _RowHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        sessions, weights = call.unpack(tensors)
        units, projections = sessions[0].units, _Projections(sessions, weights)
        horizon = len(weights.out_weight)
        forecasts = tuple(units.new_empty(len(rows.context), horizon, len(rows.units)) for rows in sessions)
        keeps = any(ctx.needs_input_grad)
        kept: list[_Kept] = []
        blocks = list(_blocks([rows.shape for rows in sessions], _block_rows(units)))
        keeps_wide = keeps and sum(pieces[-1].rows.stop for pieces in blocks) <= KEPT_ROWS
        buffers = _Buffers(units, call.compute_dtype)
        for pieces in blocks:
            block = _Block(pieces, sessions, call.compute_dtype)
            dropped = None
            if call.dropout > 0:
                size = len(block), weights.contract_weight.shape[1]
                dropped = random_drops(size, call.dropout, units.device)
            own = _Buffers(units, call.compute_dtype) if keeps_wide else buffers
            wide = _wide(block, sessions, projections, weights, dropped, own)
            activated = torch.mul(wide.value, wide.gelu, out=buffers.take("activated", *wide.gelu.shape))
            refined = _add_product(block.embedding, activated, weights.contract_weight.T)
            refined = refined.to(call.compute_dtype)
            hidden = wide.hidden[-1]
            out = buffers.take("scale", *hidden.shape)
            modulated = linear_times(refined, weights.scale_weight, weights.scale_bias, hidden, out)
            shift = F.linear(refined, weights.shift_weight, weights.shift_bias)
            forecast = torch.addmm(shift, modulated, weights.out_weight.T)
            for piece in pieces:
                piece.part_of(forecasts[piece.session]).copy_(piece.rows_of(forecast))
            if keeps:
                kept.append(_Kept(pieces, refined, dropped, wide if keeps_wide else None))
        if keeps:
            ctx.save_for_backward(*tensors)
            ctx.call, ctx.kept = call, kept
        return forecasts

    @staticmethod
    def backward(ctx: Any, *grad_forecasts: Tensor) -> tuple[Any, ...]:
        tensors, num_of_sessions = ctx.saved_tensors, 4 * ctx.call.num_sessions
        grads = [
            None if not wanted else torch.zeros_like(tensor) if index < num_of_sessions else _zeros(tensor)
            for index, (tensor, wanted) in enumerate(zip(tensors, ctx.needs_input_grad[1:], strict=True))
        ]
        backward = _Backward(ctx.call, tensors, grads)
        for kept in ctx.kept:
            backward.add_block(kept, grad_forecasts)
        backward.finish()
        return None, *grads


class _Backward:
    """Sums gradients over blocks, in the dtype of the parameters; what is frozen costs nothing."""

    def __init__(self, call: _Call, tensors: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        self.call = call
        self.sessions, self.weights = call.unpack(tensors)
        self.of_sessions, self.of_weights = call.unpack(grads, cast=False)
        self.projections = _Projections(self.sessions, self.weights)
        dtype = self.sessions[0].units.dtype
        self.of_projected_values = [
            torch.zeros_like(projected, dtype=dtype) for projected in self.projections.of_values
        ]
        self._of_projected_units: tuple[_Piece, Tensor] | None = None
        self._buffers = _Buffers(self.sessions[0].units, call.compute_dtype)

    def add_block(self, kept: _Kept, grad_forecasts: Sequence[Tensor]) -> None:
        weights, of_weights, buffers = self.weights, self.of_weights, self._buffers
        block = _Block(kept.pieces, self.sessions, self.call.compute_dtype)
        wide = kept.wide or _wide(block, self.sessions, self.projections, weights, kept.dropped, buffers)
        refined = kept.refined
        grad_out = refined.new_empty(len(refined), len(weights.out_weight))
        for piece in kept.pieces:
            piece.rows_of(grad_out).copy_(piece.part_of(grad_forecasts[piece.session]))

        # FiLM forecaster
        hidden = wide.hidden[-1]
        grad_scale = torch.mm(grad_out, weights.out_weight, out=buffers.take("film", *hidden.shape))
        if any(grad is not None for grad in (of_weights.out_weight, *of_weights.hidden)):
            scale = buffers.take("scale", *hidden.shape)
            torch.addmm(weights.scale_bias, refined, weights.scale_weight.T, out=scale)
            modulated = torch.mul(scale, hidden, out=buffers.take("product", *hidden.shape))
            _add_linear(of_weights.out_weight, None, grad_out, modulated)
            self._add_hidden(scale.mul_(grad_scale), wide.hidden)
        _add_linear(of_weights.shift_weight, of_weights.shift_bias, grad_out, refined)
        grad_scale.mul_(hidden)
        _add_linear(of_weights.scale_weight, of_weights.scale_bias, grad_scale, refined)
        grad_refined = torch.addmm(grad_out @ weights.shift_weight, grad_scale, weights.scale_weight)

        # Feed-forward
        half = wide.gelu.shape
        if of_weights.contract_weight is not None:
            activated = torch.mul(wide.value, wide.gelu, out=buffers.take("scale", *half))
            _add_linear(of_weights.contract_weight, None, grad_refined, activated)
        grad_expanded = buffers.take("film", *wide.expanded.shape)
        grad_value, grad_gate = grad_expanded.chunk(2, dim=-1)
        grad_activated = torch.mm(grad_refined, weights.contract_weight, out=buffers.take("scale", *half))
        torch.mul(grad_activated, wide.gelu, out=grad_value)
        grad_activated.mul_(wide.value)
        grad_gate.copy_(
            torch.ops.aten.gelu_backward(grad_activated, wide.gate, grad_input=buffers.take("product", *half))
        )
        self._add_pieces(block, wide.expanded, grad_expanded, grad_refined)

    def _add_hidden(self, grad_hidden: Tensor, hidden: list[Tensor]) -> None:
        """Passes the gradient of the last hidden layer on to the weights; overwrites it."""
        weights, of_weights = self.weights.hidden, self.of_weights.hidden
        for index in reversed(range(len(hidden) - 1)):
            torch.ops.aten.threshold_backward(grad_hidden, hidden[index + 1], 0, grad_input=grad_hidden)
            _add_linear(of_weights[2 * index], of_weights[2 * index + 1], grad_hidden, hidden[index])
            if index > 0:
                grad_hidden = grad_hidden @ weights[2 * index]

    def _add_pieces(
        self, block: _Block, expanded: Tensor, grad_expanded: Tensor, grad_refined: Tensor
    ) -> None:
        """Passes gradients of `expanded` [r, F] and of e1 [r, d] on to units, attention and values."""
        dtype, width = block.embedding.dtype, block.embedding.shape[1]
        # What each latent, and b1, would change: [r, K + 1].
        asked = torch.cat(
            [
                (
                    piece.rows_of(grad_expanded)
                    @ self.projections.of_values[piece.session][piece.samples].transpose(1, 2)
                ).flatten(0, 1)
                for piece in block.pieces
            ]
        ).to(dtype)
        # The gradient of LayerNorm by way of sigma: g . (expanded - b1) / sigma^2 / d, along the centred row.
        product = torch.mul(grad_expanded, expanded, out=self._buffers.take("product", *expanded.shape))
        along = product.sum(dim=1, keepdim=True).to(dtype) - asked[:, -1:]
        along *= block.inverse_deviation.square() / width
        grad_rows = grad_refined.to(dtype).addcmul(along, block.embedding - block.mean, value=-1)
        for piece in block.pieces:
            rows, of = self.sessions[piece.session], self.of_sessions[piece.session]
            of_values = self.of_projected_values[piece.session][piece.samples]
            grad, grad_row = piece.rows_of(grad_expanded), piece.rows_of(grad_rows)
            scaled = block.scaled_attention(piece, self.sessions)
            _add_product(of_values, scaled.to(grad.dtype).transpose(1, 2), grad)
            attention = rows.attention[piece.samples, :, piece.units]
            values = rows.values[piece.samples]
            if of.values is not None:
                of.values[piece.samples].baddbmm_(attention, grad_row)
            inverse_deviation = piece.rows_of(block.inverse_deviation)
            if of.attention is not None:
                by_sums = piece.rows_of(asked)[..., :-1] * inverse_deviation
                by_sums += grad_row @ values.transpose(1, 2)
                piece.part_of(of.attention).copy_(by_sums)
            if of.units is not None:
                of.units[piece.units] += grad_row.sum(dim=0)
            if of.units is not None or self.of_weights.expand_weight is not None:
                self._add_projected_units(piece, grad.mul_(inverse_deviation.to(grad.dtype)))

    def _add_projected_units(self, piece: _Piece, grad: Tensor) -> None:
        """Sums gradients of W1 u [b, n, F] over the pieces of the same units, then passes the sum on."""
        rows = self.sessions[piece.session]
        summed = grad[0] if len(grad) == 1 else grad.sum(dim=0)
        pending = self._of_projected_units
        if len(grad) == len(rows.attention):
            self._pass_on(piece, summed)
        elif pending is not None and pending[0].same_units(piece):
            pending[1].add_(summed)
        else:
            self._pass_on_pending()
            self._of_projected_units = piece, summed.to(rows.units.dtype, copy=True)

    def _pass_on_pending(self) -> None:
        if self._of_projected_units is not None:
            self._pass_on(*self._of_projected_units)
            self._of_projected_units = None

    def _pass_on(self, piece: _Piece, grad: Tensor) -> None:
        """The gradient of W1 u [n, F], to W1 and u."""
        grad = grad.to(self.call.compute_dtype)
        units, of_units = self.sessions[piece.session].units, self.of_sessions[piece.session].units
        if of_units is not None:
            _add_product(of_units[piece.units], grad, self.weights.expand_weight)
        _add_linear(self.of_weights.expand_weight, None, grad, units[piece.units].to(grad.dtype))

    def finish(self) -> None:
        """Passes on what was summed over blocks."""
        self._pass_on_pending()
        of_weights = self.of_weights
        for rows, of, of_projected in zip(
            self.sessions, self.of_sessions, self.of_projected_values, strict=True
        ):
            grad = of_projected[:, :-1].flatten(0, 1).to(self.call.compute_dtype)
            if of.values is not None:
                _add_product(of.values.flatten(0, 1), grad, self.weights.expand_weight)
            _add_linear(of_weights.expand_weight, None, grad, rows.values.flatten(0, 1).to(grad.dtype))
            if of_weights.expand_bias is not None:
                of_weights.expand_bias.add_(of_projected[:, -1].sum(dim=0))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Adds a matrix product, or one for each of a batch, to a total in place."""
    if total.dtype != left.dtype:
        return total.add_(left @ right)
    return total.addmm_(left, right) if total.ndim == 2 else total.baddbmm_(left, right)


def _zeros(weight: Tensor) -> Tensor:
    """Where a weight's gradient is summed. Where a layer has more outputs than inputs its transpose is
    contiguous, since products with the wider factor on the right are a fifth faster on a CPU."""
    if weight.ndim == 2 and weight.shape[0] > weight.shape[1]:
        return weight.new_zeros(weight.shape[::-1]).T
    return torch.zeros_like(weight)


def _add_linear(weight: Tensor | None, bias: Tensor | None, grad_out: Tensor, layer_input: Tensor) -> None:
    """Adds a linear layer's gradients over the rows of one block; None for what is frozen."""
    if weight is not None and weight.is_contiguous():
        _add_product(weight, grad_out.T, layer_input)
    elif weight is not None:
        _add_product(weight.T, layer_input.T, grad_out)
    if bias is not None:
        bias.add_(grad_out.sum(0))


def _named(tensors: Sequence[Any]) -> RowHeadWeights:
    """The flat order in which autograd passes parameters, by name again."""
    num_plain = len(RowHeadWeights._fields) - 1
    return RowHeadWeights._make([*tensors[:num_plain], tuple(tensors[num_plain:])])


def _block_rows(tensor: Tensor) -> int:
    return GPU_BLOCK_ROWS if tensor.is_cuda else CPU_BLOCK_ROWS
