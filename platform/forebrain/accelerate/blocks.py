"""Any model's loss by autograd over blocks: the plain equations, whose wide temporaries stay in the cache.

Where units mix once, the population is encoded as a whole, and blocks of unit-windows are decoded one after
another. Where they mix in every layer, blocks are of windows. Each block passes backwards at once, so memory
is that of one block, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from forebrain.accelerate.executor import Executor
from forebrain.accelerate.immediate import immediate_loss
from forebrain.accelerate.unit_blocks import block_unit_windows
from forebrain.models.base import EncoderDecoder, SessionInput, SessionTarget, weighted_squares


class Blockwise(Executor):
    """The loss of a model block by block; its forecasts are the model's own."""

    def forecast_normalised(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        with self.in_dtype(inputs[0].context.device):
            forecasts = self.model.forecast_normalised(inputs)
        return [forecast.to(entry.context.dtype) for entry, forecast in zip(inputs, forecasts, strict=True)]

    def loss_normalised(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        with self.in_dtype(inputs[0].context.device):
            return self._loss(inputs, targets)

    def _loss(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        size = block_unit_windows(inputs[0].context.device)
        if sum(len(entry.context) * entry.num_forecast for entry in inputs) <= size:
            return self.model.loss_normalised(inputs, targets)
        losses = [
            self._session_loss(entry, target, size) for entry, target in zip(inputs, targets, strict=True)
        ]
        return torch.stack(losses).sum()

    def _session_loss(self, entry: SessionInput, target: SessionTarget, size: int) -> Tensor:
        model, weights = self.model, list(self.model.parameters())
        if model.mixes_units == "every_layer" or not isinstance(model, EncoderDecoder):
            step = max(1, size // max(1, entry.context.shape[2]))
            inner = partial(_loss_of_windows, self, entry, target, step, torch.is_grad_enabled())
            return immediate_loss(inner, *entry.interface.parameters(), *weights)
        units = model.embed_units(entry)
        latents = model.encode(entry, units)
        past = entry.of_forecast(entry.context, 2)
        inner = partial(_loss_of_unit_windows, model, past, target, size, torch.is_grad_enabled())
        return immediate_loss(inner, entry.of_forecast(units, 0), latents, *weights)


def _loss_of_windows(
    executor: Blockwise,
    entry: SessionInput,
    target: SessionTarget,
    step: int,
    trains: bool,
    tensors: Sequence[Tensor],
    wanted: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    sums = _Sums(tensors, wanted)
    for windows in _cuts(len(entry.context), step):
        with torch.set_grad_enabled(trains):
            forecast = executor.model.forecast_session(replace(entry, context=entry.context[windows]))
            aim = SessionTarget(target.frames[windows], target.weight[windows])
            loss = weighted_squares([forecast], [aim])
        sums.add(loss, dict(enumerate(tensors)))
    return sums.loss, sums.gradients


def _loss_of_unit_windows(
    model: EncoderDecoder,
    past: Tensor,
    target: SessionTarget,
    size: int,
    trains: bool,
    tensors: Sequence[Tensor],
    wanted: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Of tensors units [M, d], latents [B, K, d] and the weights."""
    units, latents, *weights = tensors
    sums = _Sums(tensors, wanted)
    num_windows, _, num_units = past.shape
    step = max(1, min(num_units, size))
    for some in _cuts(num_units, step):
        for windows in _cuts(num_windows, max(1, size // step)):
            own_units = units[some].detach().requires_grad_(wanted[0])
            own_latents = latents[windows].detach().requires_grad_(wanted[1])
            with torch.set_grad_enabled(trains):
                forecast = model.decode(past[windows, :, some], own_units, own_latents)
                aim = SessionTarget(target.frames[windows, :, some], target.weight[windows, :, some])
                loss = weighted_squares([forecast], [aim])
            of = {0: own_units, 1: own_latents} | dict(enumerate(weights, start=2))
            sums.add(loss, of, {0: some, 1: windows})
    return sums.loss, sums.gradients


class _Sums:
    """The loss and the gradients of tensors, summed over blocks."""

    def __init__(self, tensors: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        self.loss = tensors[0].new_zeros(())
        self.gradients = [
            torch.zeros_like(each) if wants else None for each, wants in zip(tensors, wanted, strict=True)
        ]

    def add(self, loss: Tensor, of: dict[int, Tensor], places: dict[int, slice] | None = None) -> None:
        """Adds a block's loss and its gradients.

        Args:
            loss: with its graph.
            of: by position the tensor that the block used in the place of each.
            places: which part of a tensor that was, where not all.
        """
        self.loss += loss.detach()
        asked = [index for index in of if self.gradients[index] is not None]
        if not loss.requires_grad or not asked:
            return
        with torch.autocast(loss.device.type, enabled=False):
            found = torch.autograd.grad(loss, [of[index] for index in asked], allow_unused=True)
        for index, gradient in zip(asked, found, strict=True):
            total = self.gradients[index]
            if gradient is not None and total is not None:
                part = total if places is None or index not in places else total[places[index]]
                part += gradient


def _cuts(length: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, length)) for first in range(0, length, step))
