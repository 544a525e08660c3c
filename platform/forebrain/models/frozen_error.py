"""The error of one session's windows with the backbone fixed: what an interface is fitted by.

The equations are those of `models.poco`. Only the interface is to learn, so what is between it and the rows
goes forwards and at once backwards by hand: some hundred operations where autograd makes a thousand, which
at some hundred units took half as long as the rows' products. What weights decide is folded once, as in
`models.frozen_session`; but units change from step to step, and there is any number of windows.

Weights of products with centred vectors have rows that sum to zero, so gradients come back centred.
"""

from __future__ import annotations

from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.models.contract import SessionInput, SessionTarget
from forebrain.models.frozen_layers import (
    Norm,
    Pass,
    ReadWeights,
    after_norm,
    latent_layers,
    pairs,
    softmax_backward,
    turn,
)
from forebrain.models.layer import Layer
from forebrain.models.perceiver import DecoderAttention, Probes
from forebrain.models.poco import FoldedWeights, Poco
from forebrain.models.rotary import Rotation, inverse, rotate
from forebrain.models.row_head import RowHead, SessionRows


class FrozenError:
    """Errors of sessions that have their units and their latents to themselves, and draw nothing at random.

    Args:
        model: whose weights no longer change.
        folded: from it.
    """

    def __init__(self, model: Poco, folded: FoldedWeights) -> None:
        self._model, self._folded = model, folded
        self._read = _ReadWeights(model, folded.probes)
        self._layers = latent_layers(model)
        self._tell = _TellWeights(model.decoder_attention, model.rotation("latent"), model.rotation("query"))
        self._in_use = Lock()  # the memory of batches of one shape
        self._shape: tuple[int, int] = 0, 0

    def __call__(self, entry: SessionInput, target: SessionTarget) -> tuple[Tensor, dict[Tensor, Tensor]]:
        """What was missed of a target, a scalar, and its gradients by parameter of the interface."""
        interface = entry.interface
        # Of hundreds of small operations even what autograd does to see that it is off counts: 3 %.
        with self._in_use, torch.inference_mode():
            error, grad = self._form(entry, target)
            gradients: dict[Tensor, Tensor] = {interface.unit: grad}
            if self._model.config.session_embedding:
                gradients[interface.session] = grad.sum(dim=0)
        return error, gradients

    def _form(self, entry: SessionInput, target: SessionTarget) -> tuple[Tensor, Tensor]:
        """The error, and its gradient of the unit vectors [N, d]."""
        config, context, batch = self._model.config, entry.context, len(entry.context)
        units = self._model.unit_vectors(entry)
        self._make_room(batch, units)
        frames = context[:, config.context - config.encoder_frames :]
        self._seen.copy_(frames.reshape(self._seen.shape))
        centred = units - units.mean(dim=1, keepdim=True)
        square = torch.linalg.vector_norm(centred, dim=1).square_()
        read = _Read(self._read, centred, square, self._frames, batch)
        tell = _Tell(self._tell, centred, square, batch)

        latents = read()
        for each in self._passes:
            latents = each(latents)
        rows = SessionRows(units, *tell(latents), context)
        folded = self._folded
        head = RowHead([rows], folded.row_head, 0.0, folded.compute_dtype, folded.layers)
        error, ((grad, of_attention, of_values),) = head.error_and_gradients([target])

        grad_latents, along = tell.backward(of_attention, of_values, grad)
        for each in reversed(self._passes):
            grad_latents = each.backward(grad_latents)
        along.add_(read.backward(grad_latents, grad))
        return error, grad.addcmul_(centred, along[:, None])

    def _make_room(self, batch: int, units: Tensor) -> None:
        """Makes what has memory for batches of one shape."""
        if self._shape == (batch, len(units)):
            return
        self._shape, config = (batch, len(units)), self._model.config
        self._passes: list[Pass] = [layer.pass_of(batch) for layer in self._layers]
        num_tokens = config.encoder_frames // config.token_length
        self._frames = units.new_ones(batch * num_tokens, config.token_length + 1, len(units))
        self._seen = self._frames[:, :-1]


def _centred(weight: Tensor) -> Tensor:
    return weight - weight.mean(dim=1, keepdim=True)


class _ReadWeights:
    """What reading a population needs of the weights.

    The bias of tokens is what a frame more would add that is always 1, so the weight of frames is [d, L + 1]
    here, and a token is that and its unit.
    """

    def __init__(self, model: Poco, probes: Probes) -> None:
        self.sums = ReadWeights(model.encoder_attention, model.rotation("latent"), model.rotation("token"))
        bias = model.token.bias - model.token.bias.mean()
        frame_weight = torch.cat([probes.frame_weight, bias[:, None]], dim=1)
        self.width, self.length = frame_weight.shape
        self.before = model.latent + self.sums.out_bias
        self.gram = (frame_weight.T @ frame_weight / self.width)[None]
        self.on_frames = (probes.on_units @ frame_weight).view(*probes.on_all.shape[:2], -1)  # [S, K, L + 1]
        # What |Wc x + ec|^2 / d has besides squares, and what latents ask of ec.
        self.on_units = _centred(torch.cat([frame_weight.T * (2 / self.width), probes.on_units]))
        self.on_all = probes.on_all
        self.frame_values = frame_weight.T @ self.sums.weight  # [L + 1, h]
        # From the gradient of a value to those of what is summed: frames, units and weights.
        self.back = torch.cat([self.frame_values.T, self.sums.weight.T, self.sums.bias[:, None]], dim=1)
        self.turn_back = self.sums.turn.conj().resolve_conj()


class _Read:
    """One session's population read into its latents and back, see `perceiver.EncoderAttention`.

    Args:
        weights: of the backbone.
        centred: [N, d], unit vectors less their means.
        square: [N], their squared norms.
        frames: [B S, L + 1, N], the last of each always 1.
        batch: B.
    """

    def __init__(
        self, weights: _ReadWeights, centred: Tensor, square: Tensor, frames: Tensor, batch: int
    ) -> None:
        self.weights, self.centred, self.frames, self.batch = weights, centred, frames, batch
        self.square = square

    def __call__(self) -> Tensor:
        """Latents [B K, d]."""
        weights, frames, centred, batch = self.weights, self.frames, self.centred, self.batch
        (length, num_units), (num_tokens, num_latents, _) = frames.shape[1:], weights.on_all.shape
        of_units = weights.on_units @ centred.T
        cross, asked_of_units = of_units[:length], of_units[length:].view(num_tokens, num_latents, -1)

        squares = torch.baddbmm(
            cross.expand(len(frames), -1, -1), weights.gram.expand(len(frames), -1, -1), frames
        ).mul_(frames)
        variance = squares.sum(dim=1, keepdim=True).add_(self.square, alpha=1 / weights.width)
        self.inverse_deviation = variance.add_(weights.sums.eps).rsqrt_()  # [B S, 1, N]
        frames_by_sample = frames.view(batch, num_tokens, length, num_units)
        self.asked = torch.matmul(weights.on_frames, frames_by_sample).add_(asked_of_units)  # [B, S, K, N]
        scores = torch.addcmul(
            weights.on_all, self.asked, self.inverse_deviation.view(batch, num_tokens, 1, num_units)
        )
        scores.sub_(scores.amax((1, 3), keepdim=True)).exp_()
        token_weights = scores.sum(dim=3, keepdim=True)  # [B, S, K, 1]
        self.total = token_weights.sum(dim=1)  # [B, K, 1]
        # Weights over the deviations of tokens: softmax but for the total.
        self.weighted = scores.flatten(0, 1).mul_(self.inverse_deviation)  # [B S, K, N]

        of_frames = torch.bmm(self.weighted, frames.mT).flatten(0, 1)
        of_units = self.weighted.flatten(0, 1) @ centred
        values = torch.addmm(token_weights.view(-1, 1) * weights.sums.bias, of_frames, weights.frame_values)
        values.addmm_(of_units, weights.sums.weight)
        turned = pairs(values.view(batch, num_tokens, num_latents, -1)) * weights.sums.turn
        self.read = torch.view_as_real(turned.sum(dim=1)).flatten(2).div_(self.total)  # [B, K, h]
        latents = weights.before.repeat(batch, 1) if batch > 1 else weights.before
        return torch.addmm(latents, self.read.flatten(0, 1), weights.sums.out)

    def backward(self, grad_latents: Tensor, grad_units: Tensor) -> Tensor:
        """Adds the gradient of the units, given that of the latents [B K, d].

        Returns:
            [N], how much of each centred unit is still to be added.
        """
        weights, frames, centred, batch = self.weights, self.frames, self.centred, self.batch
        (num_samples, length, num_units), (num_tokens, num_latents, _) = frames.shape, weights.on_all.shape
        grad_read = (grad_latents @ weights.sums.out.T).view(self.read.shape).div_(self.total)
        # Softmax's: the same for all tokens of a sample.
        along = (grad_read * self.read).sum(dim=-1)[:, None, :, None]
        grad_values = torch.view_as_real(pairs(grad_read)[:, None] * weights.turn_back)
        grad_sums = grad_values.view(-1, grad_read.shape[-1]) @ weights.back
        of_frames, of_units, of_weights = grad_sums[:, :length], grad_sums[:, length:-1], grad_sums[:, -1]

        grad_weighted = (of_units @ centred.T).view(num_samples, num_latents, num_units)
        grad_weighted.baddbmm_(of_frames.view(num_samples, num_latents, length), frames)
        of_weights = of_weights.view(batch, num_tokens, num_latents, 1) - along
        grad_asked = torch.addcmul(
            of_weights.view(num_samples, num_latents, 1), grad_weighted, self.inverse_deviation
        ).mul_(self.weighted)  # over the deviations
        grad_weighted.mul_(self.weighted).addcmul_(grad_asked, self.asked.flatten(0, 1))
        grad_variance = grad_weighted.sum(dim=1, keepdim=True).mul_(self.inverse_deviation)
        grad_variance.mul_(self.inverse_deviation).mul_(-0.5)  # [B S, 1, N]

        grad_asked_of_units = grad_asked.view(batch, -1, num_units)
        grad_terms = centred.new_empty(len(weights.on_units), num_units)
        torch.sum(frames * grad_variance, dim=0, out=grad_terms[:length])
        torch.sum(grad_asked_of_units, dim=0, out=grad_terms[length:])
        grad_units.addmm_(grad_terms.T, weights.on_units).addmm_(self.weighted.flatten(0, 1).T, of_units)
        return grad_variance.sum(dim=(0, 1)).mul_(2 / weights.width)


class _TellWeights:
    """What units reading latents need of the weights."""

    def __init__(self, layer: DecoderAttention, latent: Rotation, query: Rotation) -> None:
        # Values are carried through Wo; whatever a unit attends to, it attends once, so they bring its bias.
        told = torch.cat([layer.to_key.weight, layer.to_out.weight @ layer.to_value.weight])
        bias = F.pad(layer.to_out.bias, (layer.head_width, 0))
        self.layer = Layer(*after_norm(layer.norm_context, told, bias), len(latent[0]))
        self.turn, self.turn_back, self.key_width = turn(latent), turn(inverse(latent)), layer.head_width
        self.context_eps = layer.norm_context.eps
        # All units ask at one time, so their turn and the scale of scores are Wq's, and keys pass it instead
        # of queries, which are many. Units are divided by their norm, not by their deviation.
        weight, bias = after_norm(layer.norm, layer.to_query.weight)
        width = weight.shape[1]
        asked = torch.cat([_centred(weight).T * width**0.5, bias[None]]) * layer.head_width**-0.5
        self.asked = rotate(asked, query).T.contiguous()  # [h, d + 1]
        self.eps_of_square = layer.norm.eps * width


class _Tell:
    """What latents tell one session's units, see `perceiver.DecoderAttention`.

    Args:
        weights: of the backbone.
        centred: [N, d], unit vectors less their means.
        square: [N], their squared norms.
        batch: B.
    """

    def __init__(self, weights: _TellWeights, centred: Tensor, square: Tensor, batch: int) -> None:
        self.weights, self.centred, self.square, self.batch = weights, centred, square, batch
        self.context_norm = Norm(weights.context_eps)

    def __call__(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B K, d] to how much units attend to them, [B, K, N], and to what they tell, [B, K, d]."""
        weights, width = self.weights, latents.shape[1]
        told = weights.layer(self.context_norm(latents))
        keys, values = told[:, : weights.key_width], told[:, weights.key_width :]
        turned = pairs(keys.view(self.batch, -1, weights.key_width)) * weights.turn
        asked = torch.view_as_real(turned).view(-1, weights.key_width) @ weights.asked
        self.asked = asked[:, :width]
        self.products = self.asked @ self.centred.T  # [B K, N]
        self.inverse_norm = (self.square + weights.eps_of_square).rsqrt_()  # [N]
        scores = torch.addcmul(asked[:, width:], self.products, self.inverse_norm)
        self.attention = scores.view(self.batch, -1, scores.shape[1]).softmax(dim=1)
        return self.attention, values.view(self.batch, -1, width)

    def backward(
        self, grad_attention: Tensor, grad_values: Tensor, grad_units: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Adds the gradient of the units, given those of what was told.

        Returns:
            That of the latents [B K, d], and [N], how much of each centred unit is still to be added.
        """
        weights, width = self.weights, self.centred.shape[1]
        grad_scores = softmax_backward(grad_attention, self.attention).flatten(0, 1)  # [B K, N]
        grad_asked = grad_scores.new_empty(len(grad_scores), width + 1)
        torch.sum(grad_scores, dim=1, out=grad_asked[:, width])
        grad_products = grad_scores.mul_(self.inverse_norm)
        torch.mm(grad_products, self.centred, out=grad_asked[:, :width])
        grad_units.addmm_(grad_products.T, self.asked)
        # A norm's share lies along the unit.
        along = self.products.mul_(grad_products).sum(dim=0).mul_(self.inverse_norm.square_()).neg_()

        grad_keys = (grad_asked @ weights.asked.T).view(self.batch, -1, weights.key_width)
        grad_told = grad_asked.new_empty(len(grad_scores), weights.key_width + width)
        grad_told[:, weights.key_width :] = grad_values.flatten(0, 1)
        by_pairs = pairs(grad_told[:, : weights.key_width].view(self.batch, -1, weights.key_width))
        torch.mul(pairs(grad_keys), weights.turn_back, out=by_pairs)
        return self.context_norm.backward(weights.layer.backward(grad_told)), along
