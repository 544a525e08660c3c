"""One session with backbone and interface fixed, forecast a window at a time: what a live forecaster calls.

The equations are those of `models.poco`; nothing is left of them but the frames' share. What weights and
embeddings decide is folded into the layers once, most results have memory of their own, and the views of that
memory are made once too: a window takes some ninety operations and hardly another call. At a thousand units
it is their number that costs, next to the arithmetic.

The latents are read by one thread. The rows are shared out by units, so that threads meet twice a window and
each finds its wide results in its own cache; operations that two threads share meet after each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.accelerate.frozen_layers import Norm, ReadWeights, after_norm, latent_layers, pairs, turn
from forebrain.accelerate.layer import Layer
from forebrain.accelerate.row_passes import NORM_EPS
from forebrain.models.normalisation import MAX_SPREAD, MIN_SPREAD
from forebrain.models.perceiver import DecoderAttention
from forebrain.models.poco import FoldedWeights, Poco, SessionTerms
from forebrain.models.rotary import Rotation

# Of rows that pass together. Fewer stay nearer to a core, more are fewer calls: 256 to 1,024 differ by 5 %.
BLOCK_ROWS = 512


class FrozenSession:
    """Forecasts windows of one session; made by `FrozenPoco.session`.

    At the default sizes it holds 8 kB a unit in fp32 and 6 kB in bf16, and some megabytes. Results are made
    in that memory and in the backbone's, so calls of all sessions of a backbone wait for one another.

    Args:
        weights: of the backbone.
        terms: of the session.
        is_relative: windows are seen relative to their last frame and spread.
        helpers: that share the blocks of units with the caller.
    """

    def __init__(
        self, weights: FrameWeights, terms: SessionTerms, is_relative: bool, helpers: Helpers
    ) -> None:
        config, (num_units, _) = weights.config, terms.units.shape
        self._weights, self._is_relative = weights, is_relative
        new = terms.units.new_empty
        self._centred, self._squares = new(config.context, num_units), new(config.context, num_units)
        self._frames = new(config.context, num_units)
        self._spread, self._trusted = new(num_units), new(num_units)
        self._least_square = torch.full_like(self._spread, MIN_SPREAD**2)
        encoder_frames = self._frames[config.context - config.encoder_frames :]
        self._read = _Read(weights.read, terms, encoder_frames.unflatten(0, (-1, config.token_length)))
        self._forecast = new(config.horizon, num_units)
        cuts = _cuts(num_units)
        num_threads = min(1 + len(helpers.threads), len(cuts))
        scratch = [_Scratch(weights, terms.units, cuts[-1].stop - cuts[-1].start) for _ in range(num_threads)]
        self._blocks: list[list[_Block]] = [[] for _ in range(num_threads)]
        for number, units in enumerate(cuts):
            thread = number % num_threads
            self._blocks[thread].append(
                _Block(weights, terms, self._frames, self._forecast, units, scratch[thread])
            )
        self._helpers = helpers

    @torch.inference_mode()
    def forecast(self, window: Tensor) -> Tensor:
        """A window [C, N] to its forecast [H, N]."""
        with self._weights.in_use, self._helpers.at_work():
            return self._forecast_window(window)

    def _forecast_window(self, window: Tensor) -> Tensor:
        if not self._is_relative:
            self._frames.copy_(window)
            return self._forecast_frames().clone()
        # As `models.relative` has it.
        last = window[-1]
        torch.sub(window, last, out=self._centred)
        torch.mul(self._centred, self._centred, out=self._squares)
        torch.sum(self._squares, 0, out=self._spread)
        torch.add(self._least_square, self._spread, alpha=1 / len(window), out=self._spread).sqrt_()
        torch.div(self._centred, self._spread, out=self._frames)
        torch.clamp(self._spread, max=MAX_SPREAD, out=self._trusted)
        return torch.addcmul(last, self._forecast_frames(), self._trusted)

    def _forecast_frames(self) -> Tensor:
        """[H, N], in memory that the next call overwrites."""
        weights, (own, *others) = self._weights, self._blocks
        helped = list(zip(self._helpers.threads, others, strict=False))
        first = [blocks[0] for blocks in self._blocks]
        seen = helped[0][0].submit(_see, first) if helped else None
        latents = self._read()
        for layer in weights.latents:
            latents = layer(latents)
        told = weights.tell(latents)
        if seen is None:
            _see(first)
        else:
            seen.result()
        finished = [helper.submit(_finish, blocks, told) for helper, blocks in helped]
        _finish(own, told)
        for each in finished:
            each.result()
        return self._forecast


class Helpers:
    """Threads that help others to forecast, each bound to a core of its own where there are enough: the last.

    A thread that is woken is put on the core of the one that wakes it and shares it for milliseconds before
    it is moved, in which a forecast of 1,000 units is made. So whoever is helped keeps off these cores.

    Args:
        number: of threads.
    """

    def __init__(self, number: int) -> None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._others = cores[: len(cores) - number]
        own = cores[len(self._others) :] if self._others else [None] * number
        self.threads = [ThreadPoolExecutor(1, "forecast", _bind, (core,)) for core in own]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """In here the calling thread keeps off their cores."""
        if not (self.threads and self._others):
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._others)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def _bind(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, [core])


def _cuts(num_units: int) -> list[slice]:
    """Blocks of units, as large as one another but for one; where there are several, an even number."""
    number = -(-num_units // BLOCK_ROWS)
    number += number % 2 if number > 1 else 0
    return [slice(at * num_units // number, (at + 1) * num_units // number) for at in range(number)]


class FrameWeights:
    """What a frame needs of a backbone's weights alone, with the memory of all that is as small as latents.

    Args:
        model: whose weights no longer change.
        folded: from it; the dtype of its row head is that of the products of rows.

    Attributes:
        in_use: held by the one forecast at a time that may write to this memory.
    """

    def __init__(self, model: Poco, folded: FoldedWeights) -> None:
        config, rotation, rows = model.config, model.rotation("latent"), folded.row_head
        self.in_use = Lock()
        self.config, self.dtype, self.projected_width = config, rows.out_weight.dtype, len(rows.expand_bias)
        self.read = ReadWeights(model.encoder_attention, rotation, model.rotation("token"))
        self.latents = [layer.pass_of(batch=1) for layer in latent_layers(model)]
        exact = model.fold(model.dataset.dtype).row_head
        self.tell = _Tell(model.decoder_attention, rotation, exact.expand_weight, rows.expand_bias)
        self.expand_weight = rows.expand_weight
        self.contract = Layer(rows.contract_weight, None, BLOCK_ROWS)
        # FiLM's shift passes as H more hidden values, which are 1 and go to one output each.
        hidden = [*zip(rows.hidden[::2], rows.hidden[1::2], strict=True)]
        weight, bias = hidden[-1]
        hidden[-1] = F.pad(weight, (0, 0, 0, config.horizon)), F.pad(bias, (0, config.horizon), value=1.0)
        self.hidden = [Layer(weight, bias, BLOCK_ROWS) for weight, bias in hidden]
        scale = (
            torch.cat([rows.scale_weight, rows.shift_weight]),
            torch.cat([rows.scale_bias, rows.shift_bias]),
        )
        self.scale = Layer(*scale, BLOCK_ROWS)
        self.out = torch.cat([rows.out_weight, torch.eye(config.horizon).to(rows.out_weight)], dim=1).T


class _Told(NamedTuple):
    """What latents tell units.

    Attributes:
        keys: [K, h], turned to the latents' times.
        values: [K, d], carried through Wo.
        projected: [2, K + 1, F / 2], W1 of these and b1, value and gate.
    """

    keys: Tensor
    values: Tensor
    projected: Tensor


class _Tell:
    def __init__(
        self, layer: DecoderAttention, rotation: Rotation, expand: Tensor, expand_bias: Tensor
    ) -> None:
        value = layer.to_out.weight @ layer.to_value.weight
        told = torch.cat([layer.to_key.weight, value, expand @ value])
        num_latents = len(rotation[0])
        self.layer = Layer(*after_norm(layer.norm_context, told), num_latents)
        self.norm, self.turn = Norm(layer.norm_context.eps), turn(rotation)
        self.widths = [layer.head_width, len(value), len(expand)]
        self.keys = self.turn.real.new_empty(rotation[0].shape)
        self.turned_pairs = pairs(self.keys)
        self.projected = expand_bias.view(2, 1, -1).repeat(1, num_latents + 1, 1)
        self.of_latents = self.projected[:, :-1].transpose(0, 1)

    def __call__(self, latents: Tensor) -> _Told:
        keys, values, projected = self.layer(self.norm(latents)).split(self.widths, dim=1)
        torch.mul(pairs(keys), self.turn, out=self.turned_pairs)
        self.of_latents.copy_(projected.unflatten(1, (2, -1)))
        return _Told(self.keys, values, self.projected)


class _Read:
    """Reads a session's population into its latents, as `perceiver.EncoderAttention` does.

    Args:
        weights: of the backbone.
        terms: of the session.
        frames: [S, L, N], where each window's frames will be.
    """

    def __init__(self, weights: ReadWeights, terms: SessionTerms, frames: Tensor) -> None:
        tokens, probes = terms.tokens, terms.tokens.probes
        (num_tokens, length, num_units), (num_latents, width) = frames.shape, terms.latents.shape
        self.weights, self.frames, self.frames_by_unit = weights, frames, frames.mT
        self.on_frames, self.on_all, self.frame_terms = probes.on_frames, probes.on_all, tokens.frame_terms
        self.units, self.square = tokens.units, tokens.square + weights.eps
        self.frame_values = probes.frame_weight.T @ weights.weight  # [L, h]
        self.before = terms.latents + weights.out_bias

        new = frames.new_empty
        self.products = torch.empty_like(self.frame_terms)
        self.of_variance, self.asked = self.products[:, :length], self.products[:, length:]
        self.squares, self.variance = new(frames.shape), new(num_tokens, num_units)
        self.inverse_deviation = self.variance.unsqueeze(1)
        self.scores = new(num_tokens, num_latents, num_units)
        self.flat_scores = self.scores.flatten(0, 1)
        self.token_weights = new(num_tokens, num_latents)
        self.flat_token_weights, self.total = self.token_weights.view(-1, 1), new(num_latents, 1)
        self.total_flat = self.total[:, 0]
        self.of_frames = new(num_tokens, num_latents, length)
        self.flat_of_frames = self.of_frames.flatten(0, 1)
        self.of_units = new(num_tokens * num_latents, width)
        self.values = new(num_tokens * num_latents, len(weights.bias))
        self.value_pairs = pairs(self.values.unflatten(0, (num_tokens, num_latents)))
        self.summed = new(num_latents, len(weights.bias))
        self.summed_pairs = pairs(self.summed)
        self.latents = new(num_latents, width)

    def __call__(self) -> Tensor:
        weights = self.weights
        torch.baddbmm(self.frame_terms, self.on_frames, self.frames, out=self.products)
        torch.mul(self.of_variance, self.frames, out=self.squares)
        torch.sum(self.squares, 1, out=self.variance).add_(self.square).rsqrt_()
        scores = torch.addcmul(self.on_all, self.asked, self.inverse_deviation, out=self.scores)
        scores.sub_(scores.amax((0, 2), keepdim=True)).exp_()
        torch.sum(scores, 2, out=self.token_weights)
        torch.sum(self.token_weights, 0, out=self.total_flat)
        scores.mul_(self.inverse_deviation)
        torch.bmm(scores, self.frames_by_unit, out=self.of_frames)
        torch.mm(self.flat_scores, self.units, out=self.of_units)
        torch.mul(self.flat_token_weights, weights.bias, out=self.values)
        self.values.addmm_(self.flat_of_frames, self.frame_values).addmm_(self.of_units, weights.weight)
        torch.sum(self.value_pairs * weights.turn, 0, out=self.summed_pairs)
        return torch.addmm(self.before, self.summed.div_(self.total), weights.out, out=self.latents)


class _Block:
    """Forecasts some units from their past and from what the latents tell them, as `models.row_head` does.

    Args:
        weights: of the backbone.
        terms: of the session.
        frames: [C, N], where each window's frames will be.
        forecast: [H, N], where their forecast goes.
        units: which.
        scratch: of the thread that it passes in.
    """

    def __init__(
        self,
        weights: FrameWeights,
        terms: SessionTerms,
        frames: Tensor,
        forecast: Tensor,
        units: slice,
        scratch: _Scratch,
    ) -> None:
        self.weights, self.units = weights, terms.units[units]
        self.queries = terms.queries[units].T.contiguous()
        self.frames_by_unit, self.of_result = frames[:, units].T, forecast[:, units]
        (num_units, _), num_latents, dtype = self.units.shape, len(terms.latents), weights.dtype
        projected = (self.units.to(dtype) @ weights.expand_weight.T).unflatten(1, (2, -1))
        self.projected = projected.transpose(0, 1).contiguous()  # [2, n, F / 2], value and gate
        self.context = self.projected.new_empty(num_units, len(frames))
        self.embedding, self.centred = scratch.embedding[:num_units], scratch.centred[:num_units]
        self.norm, self.inverse_deviation = scratch.norm[:num_units], scratch.inverse_deviation[:num_units]
        # The last one is for the bias: each unit reads it, undivided.
        attention = self.projected.new_ones(num_latents + 1, num_units)
        self.scaled_attention = attention[:-1]
        self.attention_by_unit = attention.T.expand(2, -1, -1)
        self.expanded, self.gelu = scratch.expanded[:, :num_units], scratch.gelu[:num_units]
        self.value, self.gate = self.expanded
        self.activated, self.forecast = scratch.activated[:num_units], scratch.forecast[:num_units]
        self.forecast_by_step = self.forecast.T
        self.hidden: Tensor | None = None

    def see(self) -> None:
        """What needs no latents: the hidden layers of each unit's own past."""
        hidden = self.context.copy_(self.frames_by_unit)
        for layer in self.weights.hidden:
            hidden = layer.relu(hidden)
        self.hidden = hidden

    def finish(self, told: _Told) -> None:
        weights = self.weights
        attention = torch.mm(told.keys, self.queries).softmax(dim=0)  # [K, n]
        torch.addmm(self.units, attention.T, told.values, out=self.embedding)
        torch.sub(self.embedding, self.embedding.mean(dim=1, keepdim=True), out=self.centred)
        torch.linalg.vector_norm(self.centred, dim=1, keepdim=True, out=self.norm)
        self.norm.square_().div_(self.centred.shape[1]).add_(NORM_EPS).rsqrt_()
        torch.mul(attention, self.norm.T, out=self.scaled_attention)
        torch.mul(self.projected, self.inverse_deviation.copy_(self.norm), out=self.expanded)
        self.expanded.baddbmm_(self.attention_by_unit, told.projected)
        torch.ops.aten.gelu.out(self.gate, out=self.gelu)
        torch.mul(self.value, self.gelu, out=self.activated)
        refined = weights.contract.plus(self.activated, self.embedding.to(weights.dtype))
        hidden, self.hidden = self.hidden, None
        assert hidden is not None
        torch.mm(weights.scale.times(refined, hidden), weights.out, out=self.forecast)
        self.of_result.copy_(self.forecast_by_step)


class _Scratch:
    """Memory of a block's results, the same for all blocks of a thread, so that it stays in the cache."""

    def __init__(self, weights: FrameWeights, like: Tensor, num_rows: int) -> None:
        half, horizon = weights.projected_width // 2, weights.config.horizon

        def new(*shape: int) -> Tensor:
            return like.new_empty(shape, dtype=weights.dtype)

        self.embedding, self.centred = like.new_empty(2, num_rows, like.shape[1])
        self.norm, self.inverse_deviation = like.new_empty(num_rows, 1), new(num_rows, 1)
        self.expanded, self.forecast = new(2, num_rows, half), new(num_rows, horizon)
        self.gelu, self.activated = new(2, num_rows, half)


@torch.inference_mode()
def _finish(blocks: Sequence[_Block], told: _Told) -> None:
    """The first has seen its frames."""
    for number, block in enumerate(blocks):
        if number:
            block.see()
        block.finish(told)


@torch.inference_mode()
def _see(blocks: Sequence[_Block]) -> None:
    for block in blocks:
        block.see()
