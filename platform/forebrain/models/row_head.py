"""The part of POCO that every row (one unit of one sample) passes alone: feed-forward, then FiLM forecaster.

    e0 = u + a V                        u [d] the unit, a [K] what it reads of each latent, V [K, d] of these
    e1 = e0 + W2 (v * gelu(g))          [v | g] = (W1 u + a W1 V) / sigma + b1
    y  = Wo (h * gamma) + Wf e1 + bf    h = hidden layers of the context, gamma = Wg e1 + bg

This is nine tenths of the arithmetic, and its temporaries are 1,024 wide. Rows are independent, so they
pass in blocks that stay in the cache. LayerNorm is linear but for its division by sigma, so the first
product need not be one of rows: W1 u is formed once for all samples of a session and W1 V once for all its
units, forwards and backwards. (Learning from few samples it is one of rows, which is less work then.) The
caller folds LayerNorm's weights into W1 and b1, the bias of W2 into bg and bf, and FiLM's shift Wo Wb, which
enters linearly, into Wf [H, d].

A block that is told what came (`RowHead.error`) passes backwards at once, while its temporaries lie in the
cache: an error is a weighted sum of squares, so its gradient waits for no other block, and autograd's own
backward pass only scales what is there. Whoever asks for forecasts and gradients of them
(`RowHead.forecast`) pays for a second forward pass, in which the temporaries are formed again.

Dropout sets gates far below zero, where gelu and its slope vanish, so that it costs one addition.

On a GPU the FiLM forecaster is a kernel, where models/fused_film.py has one.

It is tested and timed against the plain formulation of the same equations in models/plain.py.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.models.contract import SessionTarget
from forebrain.models.dropout import random_drops
from forebrain.models.formed import formed_error
from forebrain.models.fused_film import FilmWeights, fused_film
from forebrain.models.layer import Layer
from forebrain.models.memory import keep_freed_memory
from forebrain.models.row_blocks import Piece, blocks_of

# Rows in a block: [rows, 1024] temporaries of a block fit in a CPU core's cache; on a GPU one launch
# should fill the device.
CPU_BLOCK_ROWS = 1024
GPU_BLOCK_ROWS = 65_536
# Times -1 or less, what is added to a gate that is dropped.
DROPPED_GATE = 1e4
# Samples of a session from which on rows share the projections of units and values when they learn.
SHARED_FROM = 3
# Values between rows of 1,024, which would else lie in the same places of a cache.
APART = 16
NORM_EPS = 1e-5
# Of memory that is held: as many as some calls of equal shapes take.
MOST_VIEWS = 64
_gelu, _gelu_backward = torch.ops.aten.gelu.out, torch.ops.aten.gelu_backward.grad_input


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

    def no_gradients(self) -> RowHeadWeights:
        """None for each."""
        return _named([None] * len(self.flat))

    @property
    def flat(self) -> tuple[Tensor, ...]:
        """The order in which autograd passes them."""
        *plain, hidden = self
        return (*plain, *hidden)


class RowLayers(NamedTuple):
    """The layers that rows pass; `out` is given the modulated hidden layer and e1 side by side."""

    expand: Layer
    contract: Layer
    scale: Layer
    hidden: tuple[Layer, ...]
    out: Layer

    @classmethod
    def of(cls, weights: RowHeadWeights, num_rows: int | None) -> RowLayers:
        """Layers of weights in the dtype of the products.

        Args:
            weights: theirs.
            num_rows: as `Layer` has it.
        """

        def layer(weight: Tensor, bias: Tensor | None, fuses: bool = False) -> Layer:
            return Layer(weight, bias, num_rows, fuses)

        return cls(
            layer(weights.expand_weight, weights.expand_bias),
            layer(weights.contract_weight, None),
            layer(weights.scale_weight, weights.scale_bias),
            tuple(
                layer(*each, fuses=True)
                for each in zip(weights.hidden[::2], weights.hidden[1::2], strict=True)
            ),
            layer(torch.cat([weights.out_weight, weights.shift_weight], dim=1), weights.shift_bias),
        )


@dataclass(frozen=True)
class SessionRows:
    """The rows of one session: its units times its samples.

    Attributes:
        units: [N, d] float32, u.
        attention: [B, K, N] float32, a, how much each unit reads of each latent.
        values: [B, K, d] float32, V.
        context: [B, C, N], each row's own past.
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
    """Of a session's rows, None for what wants none.

    Blocks fill those of units and attention, and add to those of values.
    """

    units: Tensor | None
    attention: Tensor | None
    values: Tensor | None


@dataclass(frozen=True)
class RowHead:
    """Rows that are ready to be forecast, and the weights that do it.

    Attributes:
        sessions: at least one sample in each.
        weights: see `RowHeadWeights`.
        dropout: probability of dropping a hidden value of the feed-forward; 0 outside training.
        compute_dtype: dtype of the matrix products; sums over rows are kept in float32.
        layers: of the weights where these no longer change, to be made once.
    """

    sessions: Sequence[SessionRows]
    weights: RowHeadWeights
    dropout: float
    compute_dtype: torch.dtype
    layers: RowLayers | None = None

    def forecast(self) -> list[Tensor]:
        """[B, H, N] for each session, in the dtype of its units."""
        with self._exactly():
            return list(_Forecast.apply(self._call(()), *self._tensors()))

    def error(self, targets: Sequence[SessionTarget]) -> Tensor:
        """What was missed of the targets, a scalar; see `contract.Model.error_of_windows`."""
        with self._exactly():
            return formed_error(partial(_formed_error, self._call(targets)), *self._tensors())

    def error_into(self, targets: Sequence[SessionTarget], gradients: Sequence[SessionGradients]) -> Tensor:
        """The error, whose gradients of each session's rows go where the caller says, without autograd."""
        forward = _Forward(self._call(targets), self.sessions, self._weights(), learns=True)
        return _error(forward, _Backward(forward, gradients, self.weights.no_gradients()))

    def _exactly(self) -> torch.autocast:
        """`compute_dtype` says what products are in, and autocast nothing."""
        return torch.autocast(self.weights.out_weight.device.type, enabled=False)

    def _call(self, targets: Sequence[SessionTarget]) -> _Call:
        learns = torch.is_grad_enabled()
        layers = None if self.dropout else self.layers  # which scales a weight
        return _Call(len(self.sessions), self.dropout, self.compute_dtype, layers, targets, learns)

    def _weights(self) -> RowHeadWeights:
        if self.dropout == 0:
            return self.weights
        return self.weights._replace(contract_weight=self.weights.contract_weight / (1 - self.dropout))

    def _tensors(self) -> list[Tensor]:
        of_sessions = [(each.units, each.attention, each.values, each.context) for each in self.sessions]
        return [*itertools.chain.from_iterable(of_sessions), *self._weights().flat]


class _Call(NamedTuple):
    """What a call is besides tensors that may have gradients."""

    num_sessions: int
    dropout: float
    compute_dtype: torch.dtype
    layers: RowLayers | None
    targets: Sequence[SessionTarget]
    learns: bool

    def forward(self, tensors: Sequence[Tensor], learns: bool = False) -> _Forward:
        """Of tensors in the flat order in which autograd passes them."""
        sessions, weights = self._unpack(tensors)
        return _Forward(self, [SessionRows(*fields) for fields in sessions], weights, learns)

    def backward(
        self, forward: _Forward, tensors: Sequence[Tensor], wanted: Sequence[bool]
    ) -> tuple[_Backward, list[Tensor | None]]:
        """With the gradients that it sums, in that order, None for a tensor that wants none."""
        of_session: list[Callable[[Tensor], Tensor]] = [torch.empty_like, torch.empty_like, torch.zeros_like]
        made = [*of_session, torch.zeros_like] * self.num_sessions
        made += [_zeros] * (len(tensors) - len(made))
        gradients = [
            make(tensor) if each else None for make, tensor, each in zip(made, tensors, wanted, strict=True)
        ]
        sessions, weights = self._unpack(gradients)
        return _Backward(forward, [SessionGradients(*fields[:3]) for fields in sessions], weights), gradients

    def _unpack(self, tensors: Sequence[Any]) -> tuple[list[tuple[Any, ...]], RowHeadWeights]:
        split = 4 * self.num_sessions
        sessions = zip(*(tensors[first:split:4] for first in range(4)), strict=True)
        return list(sessions), _named(tensors[split:])


class _Projections:
    """W1 u of the units that pieces ask for one after another, and W1 V with b1 below it of all samples.

    Args:
        sessions: whose they are.
        weights: in the dtype of the products.
        learns: a session of fewer than SHARED_FROM samples has none, since hardly anything would share them.

    Attributes:
        of_values: [B, K + 1, F] for each session; None for one that has none.
    """

    def __init__(self, sessions: Sequence[SessionRows], weights: RowHeadWeights, learns: bool) -> None:
        self.sessions, self.weight, self._bias = sessions, weights.expand_weight, weights.expand_bias
        self.of_values = [
            None if learns and len(rows.context) < SHARED_FROM else self._of_values(rows) for rows in sessions
        ]
        self._last: tuple[Piece, Tensor] | None = None

    def rows_without(self, pieces: Sequence[Piece]) -> list[slice]:
        """Rows of pieces that have none, adjacent ones together."""
        found: list[slice] = []
        for piece in pieces:
            if self.of_values[piece.session] is None:
                follows = found and found[-1].stop == piece.rows.start
                start = found.pop().start if follows else piece.rows.start
                found.append(slice(start, piece.rows.stop))
        return found

    def _of_values(self, rows: SessionRows) -> Tensor:
        """[B, K + 1, F]."""
        projected = rows.values.to(self.weight.dtype) @ self.weight.T
        return torch.cat([projected, self._bias.expand(len(projected), 1, -1)], dim=1)

    def of_units(self, piece: Piece) -> Tensor:
        """[n, F]."""
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
        """[num_rows, width], not initialised."""
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
    """On a CPU each thread has its own from call to call: 30 MB, which would else be new pages each time."""

    def __init__(self) -> None:
        self.buffers = _Buffers()
        keep_freed_memory()


_OF_THREAD = _OfThread()


class _Block:
    """The rows of one block: what is made of their pieces before they pass as one.

    Attributes:
        embedding: [r, d] e0.
        normal: [r, d], centred and over sigma.
        inverse_deviation: [r, 1], 1 / sigma.
        context: [r, C].
    """

    def __init__(self, pieces: list[Piece], sessions: Sequence[SessionRows], dtype: torch.dtype) -> None:
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
            piece.rows_of(self.context).copy_(piece.part_of(rows.context.to(dtype)))
        # Half of what PyTorch's own LayerNorm takes.
        centred = self.embedding - self.embedding.mean(dim=1, keepdim=True)
        square = torch.linalg.vector_norm(centred, dim=1, keepdim=True).square_()
        self.inverse_deviation = square.div_(centred.shape[1]).add_(NORM_EPS).rsqrt_()
        self.normal = centred.mul_(self.inverse_deviation)

    def __len__(self) -> int:
        return len(self.embedding)

    def expand(
        self,
        sessions: Sequence[SessionRows],
        projections: _Projections,
        layer: Layer,
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
    """What is wide in the FiLM forecaster of a block.

    Attributes:
        hidden: the context [r, C], then [r, M] after each hidden layer.
        scale: [r, M], gamma; overwritten by the next where the hidden layers are frozen.
        modulated: [r, M], times the last hidden layer.
    """

    hidden: list[Tensor]
    scale: Tensor
    modulated: Tensor


class _Passed(NamedTuple):
    """What the backward pass of a block needs of its forward pass, most of it in memory that the next takes.

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


class _Forward:
    """Passes blocks of one call forwards."""

    def __init__(
        self, call: _Call, sessions: Sequence[SessionRows], weights: RowHeadWeights, learns: bool
    ) -> None:
        self.call, self.sessions, self.weights = call, sessions, weights.to(call.compute_dtype)
        self.layers = call.layers or RowLayers.of(self.weights, None)
        self.projections = _Projections(sessions, self.weights, learns)
        self.fused = fused_film(self.weights, self.units.device)
        self._buffers = _Buffers() if self.units.is_cuda else _OF_THREAD.buffers

    @property
    def units(self) -> Tensor:
        """Of the first session: the dtype and device of all."""
        return self.sessions[0].units

    def blocks(self) -> Iterator[list[Piece]]:
        size = GPU_BLOCK_ROWS if self.units.is_cuda else CPU_BLOCK_ROWS
        return blocks_of([rows.shape for rows in self.sessions], size)

    def take(self, name: str, num_rows: int, width: int) -> Tensor:
        """Memory [num_rows, width] in the dtype of the products, until it is taken again."""
        return self._buffers.take(name, num_rows, width, self.call.compute_dtype, self.units.device)

    def drops(self, pieces: list[Piece]) -> Tensor | None:
        """Draws what a block drops."""
        if self.call.dropout == 0:
            return None
        size = pieces[-1].rows.stop, self.weights.contract_weight.shape[1]
        return random_drops(size, self.call.dropout, self.units.device)

    def __call__(self, pieces: list[Piece], dropped: Tensor | None, keeps_scale: bool) -> _Passed:
        weights, layers, take = self.weights, self.layers, self.take
        block = _Block(pieces, self.sessions, self.call.compute_dtype)
        num_rows, width = len(block), len(weights.expand_weight)
        memory = take("expanded", num_rows, width)
        expanded = block.expand(self.sessions, self.projections, layers.expand, memory)
        # In one piece, where gelu is half as fast again.
        gate = take("gate", num_rows, width // 2)
        if dropped is None:
            gate.copy_(expanded[:, width // 2 :])
        else:
            torch.add(expanded[:, width // 2 :], gate.copy_(dropped), alpha=DROPPED_GATE, out=gate)
        gelu = _gelu(gate, out=take("gelu", *gate.shape))
        activated = torch.mul(expanded[:, : width // 2], gelu, out=take("activated", *gate.shape))
        contributed = layers.contract(activated)
        refined = block.embedding + contributed
        if self.fused is not None:
            refined = refined.to(self.call.compute_dtype)
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
        # Side by side for one product, and rows apart by no power of two: in bf16 the product of such rows
        # with few weights takes twice as long.
        film_width = hidden[-1].shape[1]
        together = take("modulated", num_rows, film_width + width + APART)[:, :-APART]
        modulated, cast = together[:, :film_width], together[:, film_width:]
        cast.copy_(refined)
        scale = layers.scale(cast, take("scale", *hidden[-1].shape) if keeps_scale else modulated)
        torch.mul(scale, hidden[-1], out=modulated)
        return layers.out(together), _Film(hidden, scale, modulated), cast


class _Forecast(torch.autograd.Function):
    """Forecasts; the backward pass begins with another forward pass."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        forward = call.forward(tensors)
        horizon = len(forward.weights.out_weight)
        forecasts = tuple(
            rows.units.new_empty(rows.shape[0], horizon, rows.shape[1]) for rows in forward.sessions
        )
        drops = []
        for pieces in forward.blocks():
            drops.append(forward.drops(pieces))
            passed = forward(pieces, drops[-1], keeps_scale=False)
            for piece in pieces:
                piece.part_of(forecasts[piece.session]).copy_(piece.rows_of(passed.forecast))
        if call.learns:
            ctx.save_for_backward(*tensors)
            ctx.call, ctx.drops = call, drops
        return forecasts

    @staticmethod
    def backward(ctx: Any, *grad_forecasts: Tensor) -> tuple[Any, ...]:
        forward = ctx.call.forward(ctx.saved_tensors)
        backward, gradients = ctx.call.backward(forward, ctx.saved_tensors, ctx.needs_input_grad[1:])
        for pieces, dropped in zip(forward.blocks(), ctx.drops, strict=True):
            passed = forward(pieces, dropped, backward.needs_scale)
            grad_out = torch.empty_like(passed.forecast)
            for piece in pieces:
                piece.rows_of(grad_out).copy_(piece.part_of(grad_forecasts[piece.session]))
            backward(passed, grad_out)
        backward.finish()
        return None, *gradients


def _formed_error(
    call: _Call, tensors: Sequence[Tensor], wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """The error and, where the call learns, the gradients of all tensors, None for one that wants none."""
    learns = call.learns and any(wanted)
    forward = call.forward(tensors, learns)
    if not learns:
        return _error(forward, None), []
    backward, gradients = call.backward(forward, tensors, wanted)
    return _error(forward, backward), gradients


def _error(forward: _Forward, backward: _Backward | None) -> Tensor:
    """The error; gradients are summed on the way."""
    targets = forward.call.targets
    total = forward.units.new_zeros(())
    for pieces in forward.blocks():
        passed = forward(pieces, forward.drops(pieces), backward is not None and backward.needs_scale)
        missed = passed.forecast.to(forward.units.dtype, copy=True)
        grad_out = torch.empty_like(missed)
        for piece in pieces:
            target = targets[piece.session]
            of_piece = piece.rows_of(missed).sub_(piece.part_of(target.frames))
            torch.mul(of_piece, piece.part_of(target.weight), out=piece.rows_of(grad_out))
        total += missed.flatten().dot(grad_out.flatten())
        if backward is not None:
            backward(passed, grad_out.mul_(2).to(forward.call.compute_dtype))
    if backward is not None:
        backward.finish()
    return total


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
        """[b, n, 1], the sum of the products of a row; overwrites `gate`."""
        grad_contributed, contributed, grad_gate, gate = (piece.rows_of(each) for each in self)
        along = (grad_contributed * contributed).sum(dim=-1, keepdim=True)
        return along + gate.mul_(grad_gate).sum(dim=-1, keepdim=True)


class _Backward:
    """Sums gradients over blocks, in the dtype of the parameters; what is frozen costs nothing."""

    def __init__(
        self, forward: _Forward, of_sessions: Sequence[SessionGradients], of_weights: RowHeadWeights
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
        grad_scale = torch.mm(grad_out, weights.out_weight, out=film.modulated)
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
        # Sigma's share lies along the normalised row.
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
        """The same where the first product is formed from projections, whose gradients are passed on later.

        Returns:
            The gradient of the attention by way of it, [b, K, n].
        """
        of, rows = self.of_sessions[piece.session], self.sessions[piece.session]
        of_values, grad_of_values = (
            each[piece.session] for each in (self.projections.of_values, self.of_projected_values)
        )
        assert of_values is not None and grad_of_values is not None
        # What each latent, and b1, would change.
        asked = (of_values[piece.samples] @ grad.transpose(1, 2)).to(grad_row.dtype)
        normal = piece.rows_of(block.normal)
        through_sigma = (along.of(piece) - asked[:, -1, :, None]) / normal.shape[-1]
        grad_row.addcmul_(through_sigma, normal, value=-1)
        deviation = piece.rows_of(block.inverse_deviation).reciprocal()
        with_deviation = torch.cat([piece.part_of(rows.attention), deviation], dim=-1)
        _add_product(grad_of_values[piece.samples], with_deviation.to(grad.dtype).transpose(1, 2), grad)
        if of.units is not None or self.of_weights.expand_weight is not None:
            self._add_projected_units(piece, grad)
        return asked[:, :-1]

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
        """The gradient of W1 u [n, F], to W1 and u."""
        grad = grad.to(self._forward.call.compute_dtype)
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
            grad = of_projected[:, :-1].flatten(0, 1).to(self._forward.call.compute_dtype)
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
