"""The error of one session's windows with the backbone fixed: what an interface is fitted by.

The equations are those of `models.poco`. Only the interface is to learn, so what is between it and the rows
goes forwards and at once backwards by hand: some hundred operations where autograd makes a thousand, which
at some hundred units took half as long as the rows' products. What weights decide is folded once, as in
`models.frozen_session`; but units change from step to step, and there is any number of windows.

Weights of products with centred vectors have rows that sum to zero, so gradients come back centred.
"""

from __future__ import annotations

from threading import Lock
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.accelerate.frozen_layers import (
    Norm,
    Pass,
    ReadWeights,
    after_norm,
    latent_layers,
    pairs,
    softmax_backward,
    turn,
)
from forebrain.accelerate.layer import Layer
from forebrain.accelerate.row_head import RowHead
from forebrain.accelerate.row_passes import SessionGradients, SessionRows
from forebrain.models.base import SessionInput, SessionTarget
from forebrain.models.perceiver import DecoderAttention, Probes
from forebrain.models.poco import FoldedWeights, Poco
from forebrain.models.rotary import Rotation, inverse, rotate


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
        self._in_use = Lock()  # the room
        self._room: _Room | None = None

    def __call__(self, entry: SessionInput, target: SessionTarget) -> tuple[Tensor, dict[Tensor, Tensor]]:
        """What was missed of a target, a scalar, and its gradients by parameter of the interface."""
        interface = entry.interface
        grad = torch.empty_like(interface.unit, requires_grad=False)
        # Of hundreds of small operations even what autograd does to see that it is off counts: 3 %.
        with self._in_use, torch.inference_mode():
            error = self._form(entry, target, grad)
        gradients: dict[Tensor, Tensor] = {interface.unit: grad}
        if self._model.config.session_embedding:
            gradients[interface.session] = grad.sum(dim=0)
        return error.clone(), gradients

    def _form(self, entry: SessionInput, target: SessionTarget, grad: Tensor) -> Tensor:
        """The error; its gradient of the unit vectors [N, d] goes to `grad`."""
        config, context = self._model.config, entry.context
        vectors = self._model.unit_vectors(entry)
        _, read, passes, tell = self._room_for(len(context), vectors)
        units = _Units.of(vectors)

        latents = read(context[:, config.context - config.encoder_frames :], units)
        for each in passes:
            latents = each(latents)
        rows = SessionRows(vectors, *tell(latents, units), context)
        folded = self._folded
        head = RowHead([rows], folded.row_head, 0.0, folded.compute_dtype, folded.layers)
        of_rows = SessionGradients(grad, tell.grad_attention, tell.grad_values.zero_())
        error = head.error_into([target], [of_rows])

        grad_latents, along = tell.backward(units, grad)
        for each in reversed(passes):
            grad_latents = each.backward(grad_latents)
        along.add_(read.backward(grad_latents, units, grad))
        grad.addcmul_(units.centred, along[:, None])
        return error

    def _room_for(self, batch: int, vectors: Tensor) -> _Room:
        if self._room is None or self._room.shape != (batch, len(vectors)):
            self._room = None  # both at once might be too much
            self._room = _Room(
                (batch, len(vectors)),
                _Read(self._read, vectors, batch),
                [layer.pass_of(batch) for layer in self._layers],
                _Tell(self._tell, vectors, batch),
            )
        return self._room


class _Room(NamedTuple):
    """All that latents pass, with memory for batches of one shape: samples and units."""

    shape: tuple[int, int]
    read: _Read
    passes: list[Pass]
    tell: _Tell


class _Units(NamedTuple):
    """The units of one session.

    Attributes:
        centred: [N, d], their vectors less their means.
        square: [N], their squared norms.
    """

    centred: Tensor
    square: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> _Units:
        centred = vectors - vectors.mean(dim=1, keepdim=True)
        return cls(centred, torch.linalg.vector_norm(centred, dim=1).square_())


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
        # What is added to variances comes from the last frame too.
        self.gram = (frame_weight.T @ frame_weight / self.width)[None]
        self.gram[:, -1, -1] += self.sums.eps
        self.on_frames = (probes.on_units @ frame_weight).view(*probes.on_all.shape[:2], -1)  # [S, K, L + 1]
        # What |Wc x + ec|^2 / d has besides squares, and what latents ask of ec.
        self.on_units = _centred(torch.cat([frame_weight.T * (2 / self.width), probes.on_units]))
        # The first, of variances, with the factor that comes from their square root.
        self.on_units_back = self.on_units.clone()
        self.on_units_back[: self.length] *= -0.5
        self.on_all = probes.on_all
        # From sums over tokens, of frames, units and weights, to values: [L + 1 + d + 1, h].
        self.values = torch.cat([frame_weight.T @ self.sums.weight, self.sums.weight, self.sums.bias[None]])
        self.values_back = self.values.T.contiguous()
        self.out_back = self.sums.out.T
        self.turn_back = self.sums.turn.conj().resolve_conj()


class _Read:
    """One session's population read into its latents and back, see `perceiver.EncoderAttention`.

    Most results have memory of their own, whose views are made once.

    Args:
        weights: of the backbone.
        vectors: [N, d], the like of the units that will be read.
        batch: B.
    """

    def __init__(self, weights: _ReadWeights, vectors: Tensor, batch: int) -> None:
        (num_tokens, num_latents, _), num_units = weights.on_all.shape, len(vectors)
        length, width, head_width = weights.length, weights.width, weights.values.shape[1]
        self.weights, self.before = weights, weights.before.repeat(batch, 1)
        new, num_samples = vectors.new_empty, batch * num_tokens
        # The last of each is always 1.
        self.frames = vectors.new_ones(num_samples, length, num_units)
        self.seen, self.frames_by_unit = self.frames[:, :-1], self.frames.mT
        self.frames_by_sample = self.frames.view(batch, num_tokens, length, num_units)
        self.gram = weights.gram.expand(num_samples, -1, -1)
        # What is asked of units whatever the frames are.
        self.of_units = new(length + num_tokens * num_latents, num_units)
        self.cross, self.asked_of_units = self.of_units[:length], self.of_units[length:]
        self.cross_by_sample = self.cross.expand(num_samples, -1, -1)
        self.asked_by_token = self.asked_of_units.view(num_tokens, num_latents, num_units)

        self.inverse_deviation = new(num_samples, 1, num_units)
        self.inverse_by_sample = self.inverse_deviation.view(batch, num_tokens, 1, num_units)
        self.asked = new(batch, num_tokens, num_latents, num_units)
        # Weights of tokens over their deviations: softmax but for the total.
        self.weighted = new(num_samples, num_latents, num_units)
        self.weighted_by_sample = self.weighted.view(self.asked.shape)
        self.weighted_rows = self.weighted.flatten(0, 1)
        self.sums = new(num_samples * num_latents, length + width + 1)
        self.sum_of_frames = self.sums.view(num_samples, num_latents, -1)[..., :length]
        self.sum_of_units = self.sums[:, length:-1]
        self.sum_of_weights = self.sums.view(batch, num_tokens, num_latents, -1)[..., -1:]
        self.values = new(num_samples * num_latents, head_width)
        self.value_pairs = pairs(self.values.view(batch, num_tokens, num_latents, head_width))
        self.read = new(batch * num_latents, head_width)
        self.read_by_sample = self.read.view(batch, num_latents, head_width)
        self.read_pairs = pairs(self.read_by_sample)

        self.grad_read = torch.empty_like(self.read)
        self.grad_read_by_sample = self.grad_read.view(batch, num_latents, head_width)
        self.grad_read_pairs = pairs(self.grad_read_by_sample).unsqueeze(1)
        self.of_weights = new(batch, num_tokens, num_latents, 1)
        self.of_weights_by_token = self.of_weights.view(num_samples, num_latents, 1)
        self.grad_weighted, self.grad_asked = new(self.weighted.shape), new(self.weighted.shape)
        self.grad_weighted_rows = self.grad_weighted.flatten(0, 1)
        self.grad_asked_by_batch = self.grad_asked.view(batch, -1, num_units)
        self.asked_by_sample = self.asked.flatten(0, 1)
        self.grad_variance = new(num_samples, 1, num_units)

    def __call__(self, frames: Tensor, units: _Units) -> Tensor:
        """Frames [B, S L, N] to latents [B K, d]."""
        weights = self.weights
        self.seen.copy_(frames.reshape(self.seen.shape))
        torch.mm(weights.on_units, units.centred.T, out=self.of_units)
        squares = torch.baddbmm(self.cross_by_sample, self.gram, self.frames).mul_(self.frames)
        variance = torch.sum(squares, 1, keepdim=True, out=self.inverse_deviation)
        variance.add_(units.square, alpha=1 / weights.width).rsqrt_()
        torch.matmul(weights.on_frames, self.frames_by_sample, out=self.asked).add_(self.asked_by_token)
        scores = torch.addcmul(
            weights.on_all, self.asked, self.inverse_by_sample, out=self.weighted_by_sample
        )
        scores.sub_(scores.amax((1, 3), keepdim=True)).exp_()
        torch.sum(scores, 3, keepdim=True, out=self.sum_of_weights)
        self.total = self.sum_of_weights.sum(dim=1)  # [B, K, 1]
        self.weighted.mul_(self.inverse_deviation)

        torch.bmm(self.weighted, self.frames_by_unit, out=self.sum_of_frames)
        torch.mm(self.weighted_rows, units.centred, out=self.sum_of_units)
        torch.mm(self.sums, weights.values, out=self.values)
        torch.sum(self.value_pairs * weights.sums.turn, 1, out=self.read_pairs)
        self.read_by_sample.div_(self.total)
        return torch.addmm(self.before, self.read, weights.sums.out)

    def backward(self, grad_latents: Tensor, units: _Units, grad_units: Tensor) -> Tensor:
        """Adds the gradient of the units, given that of the latents [B K, d]; overwrites what was read.

        Returns:
            [N], how much of each centred unit is still to be added.
        """
        weights = self.weights
        # From here on values, sums and what was asked of units are their gradients.
        torch.mm(grad_latents, weights.out_back, out=self.grad_read)
        self.grad_read_by_sample.div_(self.total)
        # Softmax's: the same for all tokens of a sample.
        along = self.read.mul_(self.grad_read).sum(dim=1).view(len(self.total), 1, -1, 1)
        torch.mul(self.grad_read_pairs, weights.turn_back, out=self.value_pairs)
        torch.mm(self.values, weights.values_back, out=self.sums)

        torch.mm(self.sum_of_units, units.centred.T, out=self.grad_weighted_rows)
        grad_weighted = self.grad_weighted.baddbmm_(self.sum_of_frames, self.frames)
        torch.sub(self.sum_of_weights, along, out=self.of_weights)
        grad_asked = torch.addcmul(
            self.of_weights_by_token, grad_weighted, self.inverse_deviation, out=self.grad_asked
        ).mul_(self.weighted)  # over the deviations
        grad_weighted.mul_(self.weighted).addcmul_(grad_asked, self.asked_by_sample)
        # Of variances but for a factor.
        grad_variance = torch.sum(grad_weighted, 1, keepdim=True, out=self.grad_variance)
        grad_variance.mul_(self.inverse_deviation).mul_(self.inverse_deviation)

        torch.sum(self.frames * grad_variance, 0, out=self.cross)
        torch.sum(self.grad_asked_by_batch, 0, out=self.asked_of_units)
        grad_units.addmm_(self.of_units.T, weights.on_units_back)
        grad_units.addmm_(self.weighted_rows.T, self.sum_of_units)
        return grad_variance.sum(dim=(0, 1)).mul_(-1 / weights.width)


class _TellWeights:
    """What units reading latents need of the weights."""

    def __init__(self, layer: DecoderAttention, latent: Rotation, query: Rotation) -> None:
        # Values are carried through Wo; whatever a unit attends to, it attends once, so they bring its bias.
        told = torch.cat([layer.to_key.weight, layer.to_out.weight @ layer.to_value.weight])
        bias = F.pad(layer.to_out.bias, (layer.head_width, 0))
        self.num_latents = len(latent[0])
        self.layer = Layer(*after_norm(layer.norm_context, told, bias), self.num_latents)
        self.turn, self.turn_back, self.key_width = turn(latent), turn(inverse(latent)), layer.head_width
        self.context_eps = layer.norm_context.eps
        # All units ask at one time, so their turn and the scale of scores are Wq's, and keys pass it instead
        # of queries, which are many. Units are divided by their norm, not by their deviation.
        weight, bias = after_norm(layer.norm, layer.to_query.weight)
        width = weight.shape[1]
        asked = torch.cat([_centred(weight).T * width**0.5, bias[None]]) * layer.head_width**-0.5
        self.asked_back = rotate(asked, query)  # [d + 1, h]
        self.asked = self.asked_back.T.contiguous()
        self.eps_of_square = layer.norm.eps * width


class _Tell:
    """What latents tell one session's units, see `perceiver.DecoderAttention`.

    Args:
        weights: of the backbone.
        vectors: [N, d], the like of the units that will be told.
        batch: B.
    """

    def __init__(self, weights: _TellWeights, vectors: Tensor, batch: int) -> None:
        self.weights, self.context_norm = weights, Norm(weights.context_eps)
        (num_units, width), key_width = vectors.shape, weights.key_width
        new, self.by_sample = vectors.new_empty, (batch, weights.num_latents, -1)
        num_keys = batch * weights.num_latents
        self.keys = new(num_keys, key_width)
        self.key_pairs = pairs(self.keys.view(self.by_sample))
        self.asked = new(num_keys, width + 1)
        self.of_units, self.of_all = self.asked[:, :-1], self.asked[:, -1:]
        self.products, self.scores = new(num_keys, num_units), new(num_keys, num_units)
        self.scores_by_sample = self.scores.view(self.by_sample)
        self.grad_asked = torch.empty_like(self.asked)
        self.grad_of_units, self.grad_of_all = self.grad_asked[:, :-1], self.grad_asked[:, -1]
        self.grad_attention = torch.empty_like(self.scores_by_sample)
        self.grad_told = new(num_keys, key_width + width)
        self.grad_key_pairs = pairs(self.grad_told.view(self.by_sample)[..., :key_width])
        self.grad_values = self.grad_told.view(self.by_sample)[..., key_width:]

    def __call__(self, latents: Tensor, units: _Units) -> tuple[Tensor, Tensor]:
        """Latents [B K, d] to how much units attend to them, [B, K, N], and to what they tell, [B, K, d]."""
        weights = self.weights
        told = weights.layer(self.context_norm(latents)).view(self.by_sample)
        keys, values = told[..., : weights.key_width], told[..., weights.key_width :]
        torch.mul(pairs(keys), weights.turn, out=self.key_pairs)
        torch.mm(self.keys, weights.asked, out=self.asked)
        torch.mm(self.of_units, units.centred.T, out=self.products)  # [B K, N]
        self.inverse_norm = (units.square + weights.eps_of_square).rsqrt_()  # [N]
        torch.addcmul(self.of_all, self.products, self.inverse_norm, out=self.scores)
        self.attention = self.scores_by_sample.softmax(dim=1)
        return self.attention, values

    def backward(self, units: _Units, grad_units: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the gradient of the units, given those of what was told in `grad_attention` and `grad_values`.

        Returns:
            That of the latents [B K, d], and [N], how much of each centred unit is still to be added.
        """
        weights = self.weights
        grad_scores = softmax_backward(self.grad_attention, self.attention).flatten(0, 1)  # [B K, N]
        torch.sum(grad_scores, dim=1, out=self.grad_of_all)
        grad_products = grad_scores.mul_(self.inverse_norm)
        torch.mm(grad_products, units.centred, out=self.grad_of_units)
        grad_units.addmm_(grad_products.T, self.of_units)
        # A norm's share lies along the unit.
        along = self.products.mul_(grad_products).sum(dim=0).mul_(self.inverse_norm.square_()).neg_()

        torch.mm(self.grad_asked, weights.asked_back, out=self.keys)
        torch.mul(self.key_pairs, weights.turn_back, out=self.grad_key_pairs)
        return self.context_norm.backward(weights.layer.backward(self.grad_told)), along
