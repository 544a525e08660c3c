"""The decoder of POCO that every unit-window passes alone: feed-forward, then FiLM forecaster.

    e0 = u + a V                        u [d] the unit, a [K] what it reads of each latent, V [K, d] of these
    e1 = e0 + W2 (v * gelu(g))          [v | g] = (W1 u + a W1 V) / sigma + b1
    y  = Wo (h * gamma) + Wf e1 + bf    h = hidden layers of the context, gamma = Wg e1 + bg

This is nine tenths of the arithmetic, and its temporaries are 1,024 wide. Unit-windows are independent, so
they pass in blocks that stay in the cache. LayerNorm is linear but for its division by sigma, so the first
product need not be one of unit-windows: W1 u is formed once for all windows of a session and W1 V once for
all its units, forwards and backwards. (Training on few windows it is one of unit-windows, which is less work
then.) The caller folds LayerNorm's weights into W1 and b1, the bias of W2 into bg and bf, and FiLM's shift
Wo Wb, which enters linearly, into Wf [H, d].

The loss passes each block backwards at once, while its temporaries lie in the cache: it is a weighted sum of
squares, so its gradient waits for no other block, and autograd's own backward pass only scales what is there.

A dropout mask sets gates far below zero, where gelu and its slope vanish, so that it costs one addition.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from forebrain.accelerate.immediate import immediate_loss
from forebrain.accelerate.unit_decoder_passes import Backward, Forward, SessionGradients, UnitWindows
from forebrain.accelerate.unit_decoder_weights import DecoderLayers, DecoderWeights
from forebrain.models.base import SessionTarget


@dataclass(frozen=True)
class UnitDecoder:
    """Unit-windows that are ready to be decoded, and the weights that do it.

    Attributes:
        sessions: at least one window in each.
        weights: see `DecoderWeights`.
        dropout: probability of dropping a hidden value of the feed-forward; 0 outside training.
        dtype: of the matrix products; sums over unit-windows are kept in the dtype of the units.
        layers: of the weights where these no longer change, to be made once.
        kernels: FiLM by Triton kernels where the device has them.
    """

    sessions: Sequence[UnitWindows]
    weights: DecoderWeights
    dropout: float
    dtype: torch.dtype
    layers: DecoderLayers | None = None
    kernels: bool = False

    def forecast(self) -> list[Tensor]:
        """[B, H, N] for each session, in the dtype of its units; not recorded by autograd."""
        with torch.no_grad(), self._exactly():
            forward = self._forward(self.sessions, self._weights(), trains=False)
            horizon = len(forward.weights.out_weight)
            forecasts = [
                each.units.new_empty(each.shape[0], horizon, each.shape[1]) for each in self.sessions
            ]
            for pieces in forward.blocks():
                passed = forward(pieces, forward.dropout_mask(pieces), keeps_scale=False)
                for piece in pieces:
                    piece.part_of(forecasts[piece.session]).copy_(piece.rows_of(passed.forecast))
        return forecasts

    def loss(self, targets: Sequence[SessionTarget]) -> Tensor:
        """Squared errors, weighted and summed, a scalar whose gradients are formed at once."""
        of_sessions = [(each.units, each.attention, each.values, each.context) for each in self.sessions]
        with self._exactly():
            tensors = [*itertools.chain.from_iterable(of_sessions), *self._weights().flat]
            return immediate_loss(partial(self._loss, targets, torch.is_grad_enabled()), *tensors)

    def _loss(
        self,
        targets: Sequence[SessionTarget],
        trains: bool,
        tensors: Sequence[Tensor],
        wanted: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The loss and, in training, the gradients of all tensors, None where no gradient is wanted."""
        trains = trains and any(wanted)
        sessions, weights = self._unpack(tensors)
        forward = self._forward([UnitWindows(*fields) for fields in sessions], weights, trains)
        if not trains:
            return _loss(forward, targets, None), []
        of_session: list[Callable[[Tensor], Tensor]] = [torch.empty_like, torch.empty_like, torch.zeros_like]
        made = [*of_session, torch.zeros_like] * len(self.sessions)
        made += [_zeros] * (len(tensors) - len(made))
        gradients = [
            make(tensor) if each else None for make, tensor, each in zip(made, tensors, wanted, strict=True)
        ]
        of_sessions, of_weights = self._unpack(gradients)
        backward = Backward(forward, [SessionGradients(*fields[:3]) for fields in of_sessions], of_weights)
        return _loss(forward, targets, backward), gradients

    def _forward(self, sessions: Sequence[UnitWindows], weights: DecoderWeights, trains: bool) -> Forward:
        layers = None if self.dropout else self.layers  # which scales a weight
        return Forward(sessions, weights.to(self.dtype), layers, self.dropout, trains, self.kernels)

    def _weights(self) -> DecoderWeights:
        if self.dropout == 0:
            return self.weights
        return self.weights._replace(contract_weight=self.weights.contract_weight / (1 - self.dropout))

    def _unpack(self, tensors: Sequence[Any]) -> tuple[list[tuple[Any, ...]], DecoderWeights]:
        """The fields of each session, and the weights, from a flat list, as autograd passes them."""
        split = 4 * len(self.sessions)
        sessions = zip(*(tensors[first:split:4] for first in range(4)), strict=True)
        return list(sessions), DecoderWeights.named(tensors[split:])

    def _exactly(self) -> torch.autocast:
        """A context in which `dtype` says what products are in, and autocast nothing."""
        return torch.autocast(self.weights.out_weight.device.type, enabled=False)


def _loss(forward: Forward, targets: Sequence[SessionTarget], backward: Backward | None) -> Tensor:
    """The loss; gradients are summed on the way."""
    total = forward.units.new_zeros(())
    for pieces in forward.blocks():
        passed = forward(pieces, forward.dropout_mask(pieces), backward is not None and backward.needs_scale)
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
    """Zeros to sum a weight's gradient in. Where a layer has more outputs than inputs their transpose is
    contiguous, since products with the wider factor on the right are a fifth faster on a CPU."""
    if weight.ndim == 2 and weight.shape[0] > weight.shape[1]:
        return weight.new_zeros(weight.shape[::-1]).T
    return torch.zeros_like(weight)
