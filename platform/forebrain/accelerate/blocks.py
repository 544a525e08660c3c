"""The loss of models whose units mix once by autograd over blocks of their plain equations.

The population is encoded as a whole, and blocks of unit-windows are decoded one after another. Each passes
backwards at once, so wide temporaries stay in the cache, and memory is that of one block, whatever the batch.

Where units mix in every layer the model passes as it is: blocks of windows took 0.9 to 5 times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from forebrain.accelerate.executor import Executor
from forebrain.accelerate.immediate import immediate_loss
from forebrain.accelerate.unit_blocks import block_unit_windows
from forebrain.models.base import EncoderDecoder, SessionInput, SessionTarget, weighted_squares


class Blockwise(Executor):
    """The loss of a model block by block, where it has blocks; all else is the model's own, in a dtype."""

    def forecast_normalised(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        with self.in_dtype(inputs[0].context.device):
            forecasts = self.model.forecast_normalised(inputs)
        return [forecast.to(entry.context.dtype) for entry, forecast in zip(inputs, forecasts, strict=True)]

    def loss_normalised(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        with self.in_dtype(inputs[0].context.device):
            return self._loss(inputs, targets)

    def _loss(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        model, size = self.model, block_unit_windows(inputs[0].context.device)
        fits = sum(len(entry.context) * entry.num_forecast for entry in inputs) <= size
        if fits or model.mixes_units != "once" or not isinstance(model, EncoderDecoder):
            return model.loss_normalised(inputs, targets)
        losses = []
        for entry, target in zip(inputs, targets, strict=True):
            units = model.embed_units(entry)
            latents = model.encode(entry, units)
            past = entry.of_forecast(entry.context, 2)
            form = partial(_loss_of_unit_windows, model, past, target, size, torch.is_grad_enabled())
            losses.append(immediate_loss(form, entry.of_forecast(units, 0), latents, *model.parameters()))
        return torch.stack(losses).sum()


def _loss_of_unit_windows(
    model: EncoderDecoder,
    past: Tensor,
    target: SessionTarget,
    size: int,
    trains: bool,
    tensors: Sequence[Tensor],
    wanted: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss of one session and the gradients of units [M, d], latents [B, K, d] and the weights."""
    units, latents, *weights = tensors
    total = units.new_zeros(())
    gradients = [
        torch.zeros_like(each) if wants else None for each, wants in zip(tensors, wanted, strict=True)
    ]
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
            total += loss.detach()
            if not loss.requires_grad:
                continue
            used, places = (own_units, own_latents, *weights), (some, windows, *[None] * len(weights))
            parts = [
                (each, gradient if place is None else gradient[place])
                for each, gradient, place in zip(used, gradients, places, strict=True)
                if gradient is not None
            ]
            with torch.autocast(loss.device.type, enabled=False):
                found = torch.autograd.grad(loss, [each for each, _ in parts], allow_unused=True)
            for (_, part), gradient in zip(parts, found, strict=True):
                if gradient is not None:
                    part += gradient
    return total, gradients


def _cuts(length: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, length)) for first in range(0, length, step))
