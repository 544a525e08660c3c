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

On a GPU the FiLM forecaster is a kernel, where accelerate/fused_film.py has one.

It is tested and timed against the plain formulation of the same equations in models/plain.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forebrain.accelerate.formed import formed_error
from forebrain.accelerate.row_passes import Backward, Forward, SessionGradients, SessionRows
from forebrain.accelerate.row_weights import RowHeadWeights, RowLayers
from forebrain.models.base import SessionTarget


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
        """The error, whose gradients of each session's rows go where the caller says, without autograd.

        Where autocast is off.
        """
        call = self._call(targets)
        forward = call.forward_of(self.sessions, self._weights(), learns=True)
        return _error(forward, targets, Backward(forward, gradients, self.weights.no_gradients()))

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

    def forward(self, tensors: Sequence[Tensor], learns: bool = False) -> Forward:
        """Of tensors in the flat order in which autograd passes them."""
        sessions, weights = self._unpack(tensors)
        return self.forward_of([SessionRows(*fields) for fields in sessions], weights, learns)

    def forward_of(self, sessions: Sequence[SessionRows], weights: RowHeadWeights, learns: bool) -> Forward:
        return Forward(sessions, weights.to(self.compute_dtype), self.layers, self.dropout, learns)

    def backward(
        self, forward: Forward, tensors: Sequence[Tensor], wanted: Sequence[bool]
    ) -> tuple[Backward, list[Tensor | None]]:
        """With the gradients that it sums, in that order, None for a tensor that wants none."""
        of_session: list[Callable[[Tensor], Tensor]] = [torch.empty_like, torch.empty_like, torch.zeros_like]
        made = [*of_session, torch.zeros_like] * self.num_sessions
        made += [_zeros] * (len(tensors) - len(made))
        gradients = [
            make(tensor) if each else None for make, tensor, each in zip(made, tensors, wanted, strict=True)
        ]
        sessions, weights = self._unpack(gradients)
        return Backward(forward, [SessionGradients(*fields[:3]) for fields in sessions], weights), gradients

    def _unpack(self, tensors: Sequence[Any]) -> tuple[list[tuple[Any, ...]], RowHeadWeights]:
        split = 4 * self.num_sessions
        sessions = zip(*(tensors[first:split:4] for first in range(4)), strict=True)
        return list(sessions), RowHeadWeights.named(tensors[split:])


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
        return _error(forward, call.targets, None), []
    backward, gradients = call.backward(forward, tensors, wanted)
    return _error(forward, call.targets, backward), gradients


def _error(forward: Forward, targets: Sequence[SessionTarget], backward: Backward | None) -> Tensor:
    """The error; gradients are summed on the way."""
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
            backward(passed, grad_out.mul_(2).to(forward.compute_dtype))
    if backward is not None:
        backward.finish()
    return total


def _zeros(weight: Tensor) -> Tensor:
    """Where a weight's gradient is summed. Where a layer has more outputs than inputs its transpose is
    contiguous, since products with the wider factor on the right are a fifth faster on a CPU."""
    if weight.ndim == 2 and weight.shape[0] > weight.shape[1]:
        return weight.new_zeros(weight.shape[::-1]).T
    return torch.zeros_like(weight)
