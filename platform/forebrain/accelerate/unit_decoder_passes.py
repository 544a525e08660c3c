"""How blocks of unit-windows pass POCO's decoder, forwards and backwards: see `accelerate.unit_decoder`.

Wide results lie in memory that the next block takes again. A block that passes backwards does so while what
it needs of its way forwards lies there still.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.accelerate.film_kernels import FilmWeights, film_kernels
from forebrain.accelerate.memory import keep_freed_memory
from forebrain.accelerate.packed_linear import PackedLinear
from forebrain.accelerate.unit_blocks import Piece, block_unit_windows, blocks_of
from forebrain.accelerate.unit_decoder_weights import DecoderLayers, DecoderWeights
from forebrain.models.dropout import dropout_mask as draw_mask

# Added to a gate, times the dropout mask, which is -1 or less where it masks.
DROPPED_GATE = 1e4
# Samples of a session from which on unit-windows share the projections of units and values in training.
SHARED_FROM = 3
# Values between rows of 1,024, which would else lie in the same places of a cache.
APART = 16
NORM_EPS = 1e-5
# Of memory that is held: as many as some calls of equal shapes take.
MOST_VIEWS = 64
_gelu, _gelu_backward = torch.ops.aten.gelu.out, torch.ops.aten.gelu_backward.grad_input


@dataclass(frozen=True)
class UnitWindows:
    """The unit-windows of one session: its units times its samples.

    Attributes:
        units: [N, d] float32, u.
        attention: [B, K, N] float32, a, how much each unit reads of each latent.
        values: [B, K, d] float32, V.
        context: [B, C, N], each unit-window's own past.
    """

    units: Tensor
    attention: Tensor
    values: Tensor
    context: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and units."""
        return self.context.shape[0], self.context.shape[2]


class SessionGradients(NamedTuple):
    """The gradients of a session's unit-windows; None where no gradient is wanted.

    Blocks fill those of units and attention, and add to those of values.
    """

    units: Tensor | None
    attention: Tensor | None
    values: Tensor | None


class _Projections:
    """W1 u of the units that pieces need one after another, and W1 V with b1 below it of all samples.

    Args:
        sessions: whose units and values are projected.
        weights: in the dtype of the products.
        trains: a session of fewer than SHARED_FROM samples has none, since hardly anything would share them.

    Attributes:
        of_values: [B, K + 1, F] for each session; None for one that has none.
    """

    def __init__(self, sessions: Sequence[UnitWindows], weights: DecoderWeights, trains: bool) -> None:
        self.sessions, self.weight, self._bias = sessions, weights.expand_weight, weights.expand_bias
        self.of_values = [
            None if trains and len(rows.context) < SHARED_FROM else self._of_values(rows) for rows in sessions
        ]
        self._last: tuple[Piece, Tensor] | None = None

    def rows_without(self, pieces: Sequence[Piece]) -> list[slice]:
        """The unit-windows of pieces that have no projections, adjacent ones together."""
        found: list[slice] = []
        for piece in pieces:
            if self.of_values[piece.session] is None:
                follows = found and found[-1].stop == piece.rows.start
                start = found.pop().start if follows else piece.rows.start
                found.append(slice(start, piece.rows.stop))
        return found

    def _of_values(self, rows: UnitWindows) -> Tensor:
        """W1 V with b1 below it, [B, K + 1, F]."""
        projected = rows.values.to(self.weight.dtype) @ self.weight.T
        return torch.cat([projected, self._bias.expand(len(projected), 1, -1)], dim=1)

    def of_units(self, piece: Piece) -> Tensor:
        """W1 u of the units of a piece, [n, F]."""
        if self._last is None or not self._last[0].same_units(piece):
            units = self.sessions[piece.session].units[piece.units]
            self._last = piece, units.to(self.weight.dtype) @ self.weight.T
        return self._last[1]


class _Buffers:
    """Memory for wide results, the same for every block, so that it stays in the cache."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}
        self._taken: dict[tuple[str, int, int, torch.dtype], Tensor] = {}

    def take(self, name: str, num_rows: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory [num_rows, width], not initialised."""
        key = name, num_rows, width, dtype
        taken = self._taken.get(key)
        if taken is None:
            # They outlive the call, and the next one may not be in inference mode.
            with torch.inference_mode(False):
                taken = self._taken[key] = self._memory(name, num_rows * width, dtype, device).view(
                    num_rows, width
                )
        return taken

    def _memory(self, name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        held = self._held.get((name, dtype))
        if held is None or len(held) < size:
            self._taken.clear()
            held = self._held[name, dtype] = torch.empty(size, dtype=dtype, device=device)
        elif len(self._taken) > MOST_VIEWS:
            self._taken.clear()
        return held[:size]


class _OfThread(threading.local):
    """The buffers of a CPU thread, kept from call to call: 30 MB, which would else be new pages each time."""

    def __init__(self) -> None:
        self.buffers = _Buffers()
        keep_freed_memory()


_OF_THREAD = _OfThread()


class _Block:
    """The unit-windows of one block: what is made of their pieces before they pass as one.

    Attributes:
        embedding: [r, d] e0.
        normal: [r, d], centred and over sigma.
        inverse_deviation: [r, 1], 1 / sigma.
        context: [r, C].
    """

    def __init__(self, pieces: list[Piece], sessions: Sequence[UnitWindows], dtype: torch.dtype) -> None:
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
            # Cast first, since transposing and casting at once takes twice as long.
            seen = rows.context[piece.samples, :, piece.units].to(dtype)
            piece.rows_of(self.context).copy_(seen.transpose(1, 2))
        # Half of what PyTorch's own LayerNorm takes.
        centred = self.embedding - self.embedding.mean(dim=1, keepdim=True)
        square = torch.linalg.vector_norm(centred, dim=1, keepdim=True).square_()
        self.inverse_deviation = square.div_(centred.shape[1]).add_(NORM_EPS).rsqrt_()
        self.normal = centred.mul_(self.inverse_deviation)

    def __len__(self) -> int:
        return len(self.embedding)

    def expand(
        self,
        sessions: Sequence[UnitWindows],
        projections: _Projections,
        layer: PackedLinear,
        expanded: Tensor,
    ) -> Tensor:
        """[r, F], the feed-forward's first product; `expanded` is memory that it may be in."""
        for rows in projections.rows_without(self.pieces):
            normal = self.normal[rows].to(expanded.dtype)
            if len(normal) == len(self):
                return layer(normal, expanded)
            expanded[rows] = layer(normal)
        for piece in self.pieces:
            of_values = projections.of_values[piece.session]
            if of_values is None:
                continue
            inverse_deviation, out = piece.rows_of(self.inverse_deviation), piece.rows_of(expanded)
            torch.mul(projections.of_units(piece), inverse_deviation.to(out.dtype), out=out)
            scaled = piece.part_of(sessions[piece.session].attention) * inverse_deviation
            with_bias = F.pad(scaled, (0, 1), value=1.0)
            out.baddbmm_(with_bias.to(out.dtype), of_values[piece.samples])
        return expanded


class _Film(NamedTuple):
    """The wide results of a block's FiLM forecaster.

    Attributes:
        hidden: the context [r, C], then [r, M] after each hidden layer.
        scale: [r, M], gamma; overwritten by the next where the hidden layers are frozen.
        modulated: [r, M], times the last hidden layer.
    """

    hidden: list[Tensor]
    scale: Tensor
    modulated: Tensor


class _Passed(NamedTuple):
    """Results of a block's forward pass that its backward pass needs, most in memory that the next takes.

    Attributes:
        expanded: [r, F], value and gate.
        gate: [r, F / 2], the gate after dropout.
        gelu: [r, F / 2], of that.
        activated: [r, F / 2], value times gelu.
        contributed: [r, d], what the feed-forward adds to e0.
        refined: [r, d], e1 in the dtype of the products.
        film: None where a kernel formed it and threw it away.
        forecast: [r, H].
    """

    block: _Block
    expanded: Tensor
    gate: Tensor
    gelu: Tensor
    activated: Tensor
    contributed: Tensor
    refined: Tensor
    film: _Film | None
    forecast: Tensor


class Forward:
    """Passes blocks of unit-windows forwards.

    Args:
        sessions: whose unit-windows they are.
        weights: in the dtype of the products.
        layers: of these where they no longer change.
        dropout: probability of dropping a hidden value of the feed-forward.
        trains: the blocks will pass backwards at once.
        kernels: FiLM by Triton kernels where the device has them.
    """

    def __init__(
        self,
        sessions: Sequence[UnitWindows],
        weights: DecoderWeights,
        layers: DecoderLayers | None,
        dropout: float,
        trains: bool,
        kernels: bool = False,
    ) -> None:
        self.sessions, self.weights, self.dropout = sessions, weights, dropout
        self.layers = layers or DecoderLayers.of(weights, None)
        self.projections = _Projections(sessions, weights, trains)
        self.fused = film_kernels(weights, self.units.device) if kernels else None
        self._buffers = _Buffers() if self.units.is_cuda else _OF_THREAD.buffers

    @property
    def units(self) -> Tensor:
        """The units of the first session, which have the dtype and device of all."""
        return self.sessions[0].units

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the products."""
        return self.weights.out_weight.dtype

    def blocks(self) -> Iterator[list[Piece]]:
        """The pieces of each block, see `unit_blocks.blocks_of`."""
        size = block_unit_windows(self.units.device)
        return blocks_of([each.shape for each in self.sessions], size)

    def take(self, name: str, num_rows: int, width: int) -> Tensor:
        """Memory [num_rows, width] in the dtype of the products, until it is taken again."""
        return self._buffers.take(name, num_rows, width, self.compute_dtype, self.units.device)

    def dropout_mask(self, pieces: list[Piece]) -> Tensor | None:
        """Draws the dropout mask of a block's hidden values; None without dropout."""
        if self.dropout == 0:
            return None
        size = pieces[-1].rows.stop, self.weights.contract_weight.shape[1]
        return draw_mask(size, self.dropout, self.units.device)

    def __call__(self, pieces: list[Piece], mask: Tensor | None, keeps_scale: bool) -> _Passed:
        weights, layers, take = self.weights, self.layers, self.take
        block = _Block(pieces, self.sessions, self.compute_dtype)
        num_rows, width = len(block), len(weights.expand_weight)
        memory = take("expanded", num_rows, width)
        expanded = block.expand(self.sessions, self.projections, layers.expand, memory)
        # In one piece, where gelu is half as fast again.
        gate = take("gate", num_rows, width // 2)
        if mask is None:
            gate.copy_(expanded[:, width // 2 :])
        else:
            torch.add(expanded[:, width // 2 :], gate.copy_(mask), alpha=DROPPED_GATE, out=gate)
        gelu = _gelu(gate, out=take("gelu", *gate.shape))
        activated = torch.mul(expanded[:, : width // 2], gelu, out=take("activated", *gate.shape))
        contributed = layers.contract(activated)
        refined = block.embedding + contributed
        if self.fused is not None:
            refined = refined.to(self.compute_dtype)
            forecast, film = self.fused.forecast(refined, block.context), None
        else:
            forecast, film, refined = self._film(block.context, refined, keeps_scale)
        return _Passed(block, expanded, gate, gelu, activated, contributed, refined, film, forecast)

    def _film(self, context: Tensor, refined: Tensor, keeps_scale: bool) -> tuple[Tensor, _Film, Tensor]:
        """The forecast, what it came from, and e1 in the dtype of the products."""
        layers, take, (num_rows, width) = self.layers, self.take, refined.shape
        hidden = [context]
        for index, layer in enumerate(layers.hidden):
            hidden.append(layer.relu(hidden[-1], take(f"hidden {index}", num_rows, len(layer.weight))))
        # Side by side for one product, and unit-windows apart by no power of two: in bf16 the product of such
        # unit-windows with few weights takes twice as long.
        film_width = hidden[-1].shape[1]
        together = take("modulated", num_rows, film_width + width + APART)[:, :-APART]
        modulated, cast = together[:, :film_width], together[:, film_width:]
        cast.copy_(refined)
        scale = layers.scale(cast, take("scale", *hidden[-1].shape) if keeps_scale else modulated)
        torch.mul(scale, hidden[-1], out=modulated)
        return layers.out(together), _Film(hidden, scale, modulated), cast


class _Along(NamedTuple):
    """The two factors, for values and for gates, of how far the gradient of a first product lies along it.

    Attributes:
        grad_contributed, contributed: [r, d].
        grad_gate, gate: [r, F / 2].
    """

    grad_contributed: Tensor
    contributed: Tensor
    grad_gate: Tensor
    gate: Tensor

    def of(self, piece: Piece) -> Tensor:
        """[b, n, 1], the sum of the products of a unit-window; overwrites `gate`."""
        grad_contributed, contributed, grad_gate, gate = (piece.rows_of(each) for each in self)
        along = (grad_contributed * contributed).sum(dim=-1, keepdim=True)
        return along + gate.mul_(grad_gate).sum(dim=-1, keepdim=True)


class Backward:
    """Sums gradients over blocks, in the dtype of the parameters; what is frozen costs nothing."""

    def __init__(
        self, forward: Forward, of_sessions: Sequence[SessionGradients], of_weights: DecoderWeights
    ) -> None:
        self._forward, self.of_sessions, self.of_weights = forward, of_sessions, of_weights
        self.sessions, self.weights, self.projections = forward.sessions, forward.weights, forward.projections
        self.of_projected_values = [
            None if projected is None else torch.zeros_like(projected, dtype=forward.units.dtype)
            for projected in self.projections.of_values
        ]
        self._of_projected_units: tuple[Piece, Tensor] | None = None

    @property
    def needs_scale(self) -> bool:
        return any(grad is not None for grad in self.of_weights.hidden)

    def __call__(self, passed: _Passed, grad_out: Tensor) -> None:
        """Adds the gradients of a block, given that of its forecasts [r, H]; overwrites what was passed."""
        layers, of_weights = self._forward.layers, self.of_weights
        grad_refined = self._through_film(passed, grad_out)

        # Feed-forward, from here on over sigma.
        _add_linear(of_weights.contract_weight, None, grad_refined, passed.activated)
        grad_scaled = grad_refined * passed.block.inverse_deviation.to(grad_refined.dtype)
        grad_activated = layers.contract.backward(grad_scaled, passed.activated)
        # Gradients take the place of what they are formed from: less memory stays longer in the cache.
        num_rows, half = passed.gate.shape
        value, gate = passed.expanded[:, :half], passed.expanded[:, half:]
        by_gate = self._forward.take("modulated", num_rows, half)
        _gelu_backward(grad_activated, passed.gate, grad_input=by_gate)
        torch.mul(by_gate, value, out=gate)
        torch.mul(grad_activated, passed.gelu, out=value)
        along = _Along(grad_scaled, passed.contributed, gate, passed.gate)
        self._add_pieces(passed.block, passed.expanded, grad_refined.to(self._forward.units.dtype), along)

    def _through_film(self, passed: _Passed, grad_out: Tensor) -> Tensor:
        """The gradient of e1."""
        weights, of_weights = self.weights, self.of_weights
        film, refined = passed.film, passed.refined
        _add_linear(of_weights.shift_weight, of_weights.shift_bias, grad_out, refined)
        if film is None:
            assert self._forward.fused is not None
            of_film = FilmWeights.of(of_weights)
            return self._forward.fused.backward(grad_out, refined, passed.block.context, of_film)
        _add_linear(of_weights.out_weight, None, grad_out, film.modulated)
        # Of a frozen layer gamma is no longer needed, and its memory is in one piece.
        memory = film.modulated if self.needs_scale else film.scale
        grad_scale = torch.mm(grad_out, weights.out_weight, out=memory)
        if self.needs_scale:
            self._add_hidden(film.scale.mul_(grad_scale), film.hidden)
        grad_scale.mul_(film.hidden[-1])
        _add_linear(of_weights.scale_weight, of_weights.scale_bias, grad_scale, refined)
        return self._forward.layers.scale.backward(grad_scale).addmm_(grad_out, weights.shift_weight)

    def _add_hidden(self, grad_hidden: Tensor, hidden: list[Tensor]) -> None:
        """Passes the gradient of the last hidden layer on to the weights; overwrites it."""
        weights, of_weights = self.weights.hidden, self.of_weights.hidden
        for index in reversed(range(len(hidden) - 1)):
            torch.ops.aten.threshold_backward(grad_hidden, hidden[index + 1], 0, grad_input=grad_hidden)
            _add_linear(of_weights[2 * index], of_weights[2 * index + 1], grad_hidden, hidden[index])
            if index > 0:
                grad_hidden = grad_hidden @ weights[2 * index]

    def _add_pieces(self, block: _Block, grad_projected: Tensor, grad_rows: Tensor, along: _Along) -> None:
        """Passes gradients of W1 e0 [r, F], and of e0 by way of e1 [r, d], on to what e0 is made of."""
        for without in self.projections.rows_without(block.pieces):
            self._pass_rows(block, without, grad_projected, grad_rows)
        for piece in block.pieces:
            rows, of = self.sessions[piece.session], self.of_sessions[piece.session]
            grad, grad_row = piece.rows_of(grad_projected), piece.rows_of(grad_rows)
            attention, values = rows.attention[piece.samples, :, piece.units], rows.values[piece.samples]
            of_attention = None
            if self.projections.of_values[piece.session] is not None:
                of_attention = self._pass_shared(piece, block, grad, grad_row, along)
            if of.values is not None:
                of.values[piece.samples].baddbmm_(attention, grad_row)
            if of.attention is not None:
                by_values = values @ grad_row.transpose(1, 2)
                of.attention[piece.samples, :, piece.units] = (
                    by_values if of_attention is None else by_values.add_(of_attention)
                )
            if of.units is not None:
                of_units = of.units[piece.units]
                grad_units = grad_row[0] if len(grad_row) == 1 else grad_row.sum(dim=0)
                of_units.add_(grad_units) if piece.samples.start else of_units.copy_(grad_units)

    def _pass_rows(self, block: _Block, rows: slice, grad_projected: Tensor, grad_rows: Tensor) -> None:
        """Adds what came by way of the first product to the gradient of e0, and its weights' gradients."""
        of_weights, grad, normal = self.of_weights, grad_projected[rows], block.normal[rows]
        through = self._forward.layers.expand.backward(grad).to(normal.dtype)
        grad_rows = grad_rows[rows].add_(through)
        # Sigma's share lies along the normalised unit-window.
        along = through.mul_(normal).sum(dim=1, keepdim=True)
        grad_rows.addcmul_(along, normal, value=-1 / normal.shape[1])
        if of_weights.expand_weight is not None:
            _add_linear(of_weights.expand_weight, None, grad, block.embedding[rows].to(grad.dtype))
        if of_weights.expand_bias is not None:
            deviation = block.inverse_deviation[rows].reciprocal()
            of_weights.expand_bias.add_((deviation.T.to(grad.dtype) @ grad)[0])

    def _pass_shared(
        self, piece: Piece, block: _Block, grad: Tensor, grad_row: Tensor, along: _Along
    ) -> Tensor:
        """Does the same where the first product is formed from projections, whose gradients are passed on
        later.

        Returns:
            The gradient of the attention by way of it, [b, K, n].
        """
        of, rows = self.of_sessions[piece.session], self.sessions[piece.session]
        of_values, grad_of_values = (
            each[piece.session] for each in (self.projections.of_values, self.of_projected_values)
        )
        assert of_values is not None and grad_of_values is not None
        # The effect of each latent, and of b1.
        raw_scores = (of_values[piece.samples] @ grad.transpose(1, 2)).to(grad_row.dtype)
        normal = piece.rows_of(block.normal)
        through_sigma = (along.of(piece) - raw_scores[:, -1, :, None]) / normal.shape[-1]
        grad_row.addcmul_(through_sigma, normal, value=-1)
        deviation = piece.rows_of(block.inverse_deviation).reciprocal()
        with_deviation = torch.cat([piece.part_of(rows.attention), deviation], dim=-1)
        _add_product(grad_of_values[piece.samples], with_deviation.to(grad.dtype).transpose(1, 2), grad)
        if of.units is not None or self.of_weights.expand_weight is not None:
            self._add_projected_units(piece, grad)
        return raw_scores[:, :-1]

    def _add_projected_units(self, piece: Piece, grad: Tensor) -> None:
        """Sums gradients of W1 u [b, n, F] over the pieces of the same units, then passes the sum on."""
        pending = self._of_projected_units
        if pending is None or not pending[0].same_units(piece):
            self._pass_on_pending()
            dtype = self._forward.units.dtype
            pending = self._of_projected_units = piece, torch.zeros_like(grad[0], dtype=dtype)
        for of_sample in grad:
            pending[1].add_(of_sample)

    def _pass_on_pending(self) -> None:
        if self._of_projected_units is not None:
            self._pass_on(*self._of_projected_units)
            self._of_projected_units = None

    def _pass_on(self, piece: Piece, grad: Tensor) -> None:
        """Passes the gradient of W1 u [n, F] on to W1 and u."""
        grad = grad.to(self._forward.compute_dtype)
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
            if of_projected is None:
                continue
            grad = of_projected[:, :-1].flatten(0, 1).to(self._forward.compute_dtype)
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


def _add_linear(weight: Tensor | None, bias: Tensor | None, grad_out: Tensor, layer_input: Tensor) -> None:
    """Adds a linear layer's gradients over the unit-windows of one block; None for what is frozen."""
    if weight is not None and weight.is_contiguous():
        _add_product(weight, grad_out.T, layer_input)
    elif weight is not None:
        _add_product(weight.T, layer_input.T, grad_out)
    if bias is not None:
        bias.add_(grad_out.sum(0))
