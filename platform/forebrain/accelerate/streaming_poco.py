"""POCO with backbone and interface fixed, one window of a session at a time: what a live forecaster calls.

The equations are those of `models.poco`; nothing is left of them but the frames' share. What weights and
embeddings decide is folded into the layers once, most results have memory of their own, and the views of that
memory are made once too: a window takes some ninety operations and hardly another call. At a thousand units
it is their number that costs, next to the arithmetic.

The latents are read by one thread. Unit-windows are shared out by units, so that threads meet twice a window
and each finds its wide results in its own cache; operations that two threads share meet after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.accelerate.folded_layers import after_norm, latent_layers, normal, pairs, turn
from forebrain.accelerate.folded_poco import FoldedSession, FoldedWeights, FrozenPoco
from forebrain.accelerate.packed_linear import PackedLinear
from forebrain.accelerate.unit_decoder_passes import NORM_EPS
from forebrain.accelerate.worker_threads import WorkerThreads
from forebrain.models.base import Interface, SessionInput
from forebrain.models.normalisation import MAX_SPREAD, MIN_SPREAD
from forebrain.models.perceiver import DecoderAttention
from forebrain.models.poco import Poco
from forebrain.models.rotary import Rotation

# Unit-windows that pass together. Fewer stay nearer to a core, more are fewer calls: 256 to 1,024 differ by
# 5 %.
BLOCK_ROWS = 512


class StreamingPoco(FrozenPoco):
    """POCO whose weights no longer change, and whose sessions are each prepared at their first window.

    A session is prepared anew when its interface was changed. What is no single window of all units of a
    session passes as in `FrozenPoco`.

    Args:
        model: as it is now.
        dtype: of the products of the decoder.
        threads: that share the units of a large session.
    """

    def __init__(self, model: Poco, dtype: torch.dtype, threads: int = 1) -> None:
        super().__init__(model.eval(), dtype)
        with torch.no_grad():
            self._weights = FrameWeights(self.model, self.exact, self.fold())
        self._workers = WorkerThreads(threads - 1)
        self._sessions: WeakKeyDictionary[Interface, tuple[Any, SessionStream]] = WeakKeyDictionary()

    def forecast(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        if (
            len(inputs) != 1
            or len(inputs[0].context) != 1
            or inputs[0].context.shape[1] != self.config.context
        ):
            return super().forecast(inputs)
        (entry,) = inputs
        if entry.forecast_units is not None or entry.group is not None or torch.is_grad_enabled():
            return super().forecast(inputs)
        return [self._session(entry).forecast(entry.context[0])[None]]

    def _session(self, entry: SessionInput) -> SessionStream:
        interface = entry.interface
        state = entry.dataset, interface.is_smooth, interface.unit._version, interface.session._version
        known = self._sessions.get(interface)
        if known is None or known[0] != state:
            frameless = SessionInput(entry.context[:0], interface, entry.dataset)
            with torch.no_grad():
                (folded,) = self.fold_sessions([frameless], self.fold())
                is_relative = bool(self.config.relative) and interface.is_smooth
                known = state, SessionStream(self._weights, folded, is_relative, self._workers)
            self._sessions[interface] = known
        return known[1]


class SessionStream:
    """Forecasts windows of one session; made by `StreamingPoco`.

    At the default sizes it holds 8 kB a unit in fp32 and 6 kB in bf16, and some megabytes. Results are made
    in that memory and in the backbone's, so calls of all sessions of a backbone wait for one another.

    Args:
        weights: of the backbone.
        folded: of the session.
        is_relative: windows are seen relative to their last frame and spread.
        workers: that share the blocks of units with the caller.
    """

    def __init__(
        self, weights: FrameWeights, folded: FoldedSession, is_relative: bool, workers: WorkerThreads
    ) -> None:
        config, (num_units, _) = weights.config, folded.units.shape
        self._weights, self._is_relative = weights, is_relative
        new = folded.units.new_empty
        self._centred, self._squares = new(config.context, num_units), new(config.context, num_units)
        self._frames = new(config.context, num_units)
        self._spread, self._trusted = new(num_units), new(num_units)
        self._least_square = torch.full_like(self._spread, MIN_SPREAD**2)
        encoder_frames = self._frames[config.context - config.encoder_frames :]
        self._read = _Read(weights, folded, encoder_frames.unflatten(0, (-1, config.token_length)))
        self._forecast = new(config.horizon, num_units)
        cuts = _cuts(num_units)
        num_threads = min(1 + len(workers.threads), len(cuts))
        scratch = [
            _Scratch(weights, folded.units, cuts[-1].stop - cuts[-1].start) for _ in range(num_threads)
        ]
        self._blocks: list[list[_Block]] = [[] for _ in range(num_threads)]
        for number, units in enumerate(cuts):
            thread = number % num_threads
            self._blocks[thread].append(
                _Block(weights, folded, self._frames, self._forecast, units, scratch[thread])
            )
        self._workers = workers

    @torch.inference_mode()
    def forecast(self, window: Tensor) -> Tensor:
        """A window [C, N] to its forecast [H, N]."""
        with self._weights.in_use, self._workers.on_other_cores():
            return self._forecast_window(window)

    def _forecast_window(self, window: Tensor) -> Tensor:
        if not self._is_relative:
            self._frames.copy_(window)
            return self._forecast_frames().clone()
        # As `models.normalisation` has it.
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
        shared_out = list(zip(self._workers.threads, others, strict=False))
        first = [blocks[0] for blocks in self._blocks]
        seen = shared_out[0][0].submit(_see, first) if shared_out else None
        latents = self._read()
        for layer in weights.latents:
            latents = layer(latents)
        keys_values = weights.readout(latents)
        if seen is None:
            _see(first)
        else:
            seen.result()
        finished = [worker.submit(_finish, blocks, keys_values) for worker, blocks in shared_out]
        _finish(own, keys_values)
        for each in finished:
            each.result()
        return self._forecast


def _cuts(num_units: int) -> list[slice]:
    """Blocks of units, as large as one another but for one; where there are several, an even number."""
    number = -(-num_units // BLOCK_ROWS)
    number += number % 2 if number > 1 else 0
    return [slice(at * num_units // number, (at + 1) * num_units // number) for at in range(number)]


class FrameWeights:
    """The folded weights that every frame needs, and the memory of all results that are as small as latents.

    Args:
        model: whose weights no longer change.
        exact, folded: its folded weights in its own dtype, and in that of the products of the decoder.

    Attributes:
        in_use: held by the one forecast at a time that may write to this memory.
    """

    def __init__(self, model: Poco, exact: FoldedWeights, folded: FoldedWeights) -> None:
        config, rotation, rows = model.config, model.rotation("latent"), folded.decoder
        self.in_use = Lock()
        self.config, self.dtype, self.projected_width = config, rows.out_weight.dtype, len(rows.expand_bias)
        self.read, self.read_eps = exact.read, model.encoder_attention.norm_context.eps
        self.unit_bias = model.decoder_attention.to_out.bias  # of what units read
        self.latents = latent_layers(model)
        expand_weight = exact.decoder.expand_weight
        self.readout = _Readout(model.decoder_attention, rotation, expand_weight, rows.expand_bias)
        self.expand_weight = rows.expand_weight
        self.contract = PackedLinear(rows.contract_weight, None, BLOCK_ROWS)
        # FiLM's shift passes as H more hidden values, which are 1 and go to one output each.
        hidden = [*zip(rows.hidden[::2], rows.hidden[1::2], strict=True)]
        weight, bias = hidden[-1]
        hidden[-1] = F.pad(weight, (0, 0, 0, config.horizon)), F.pad(bias, (0, config.horizon), value=1.0)
        self.hidden = [PackedLinear(weight, bias, BLOCK_ROWS) for weight, bias in hidden]
        scale = (
            torch.cat([rows.scale_weight, rows.shift_weight]),
            torch.cat([rows.scale_bias, rows.shift_bias]),
        )
        self.scale = PackedLinear(*scale, BLOCK_ROWS)
        self.out = torch.cat([rows.out_weight, torch.eye(config.horizon).to(rows.out_weight)], dim=1).T


class _KeysValues(NamedTuple):
    """The keys and values of the latents, which units read.

    Attributes:
        keys: [K, h], turned to the latents' times.
        values: [K, d], carried through Wo.
        projected: [2, K + 1, F / 2], W1 of these and b1, value and gate.
    """

    keys: Tensor
    values: Tensor
    projected: Tensor


class _Readout:
    def __init__(
        self, layer: DecoderAttention, rotation: Rotation, expand: Tensor, expand_bias: Tensor
    ) -> None:
        value = layer.to_out.weight @ layer.to_value.weight
        keys_values = torch.cat([layer.to_key.weight, value, expand @ value])
        num_latents = len(rotation[0])
        self.layer = PackedLinear(*after_norm(layer.norm_context, keys_values), num_latents)
        self.eps, self.turn = layer.norm_context.eps, turn(rotation)
        self.widths = [layer.head_width, len(value), len(expand)]
        self.keys = self.turn.real.new_empty(rotation[0].shape)
        self.turned_pairs = pairs(self.keys)
        self.projected = expand_bias.view(2, 1, -1).repeat(1, num_latents + 1, 1)
        self.of_latents = self.projected[:, :-1].transpose(0, 1)

    def __call__(self, latents: Tensor) -> _KeysValues:
        keys, values, projected = self.layer(normal(latents, self.eps)).split(self.widths, dim=1)
        torch.mul(pairs(keys), self.turn, out=self.turned_pairs)
        self.of_latents.copy_(projected.unflatten(1, (2, -1)))
        return _KeysValues(self.keys, values, self.projected)


class _Read:
    """Reads a session's population into its latents, as `perceiver.EncoderAttention` does.

    Args:
        weights: of the backbone.
        folded: of the session.
        frames: [S, L, N], where each window's frames will be.
    """

    def __init__(self, weights: FrameWeights, folded: FoldedSession, frames: Tensor) -> None:
        tokens, queries = folded.tokens, folded.tokens.queries
        (num_tokens, length, num_units), (num_latents, width) = frames.shape, folded.latents.shape
        self.frames, self.frames_by_unit, self.before = frames, frames.mT, folded.latents
        self.on_frames, self.on_all = queries.on_frames, queries.on_all
        of_variance, of_scores = tokens.frame_terms()
        self.frame_terms = torch.cat([of_variance.expand(num_tokens, -1, -1), of_scores], dim=1)
        self.units, self.square = tokens.units, tokens.square + weights.read_eps
        values, self.turns, self.out = weights.read.values, weights.read.turns, weights.read.out
        self.frame_values, self.unit_values, self.bias = values[:length], values[length:-1], values[-1]

        new = frames.new_empty
        self.products = torch.empty_like(self.frame_terms)
        self.of_variance, self.raw_scores = self.products[:, :length], self.products[:, length:]
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
        self.values = new(num_tokens * num_latents, len(self.bias))
        self.value_pairs = pairs(self.values.unflatten(0, (num_tokens, num_latents)))
        self.summed = new(num_latents, len(self.bias))
        self.summed_pairs = pairs(self.summed)
        self.latents = new(num_latents, width)

    def __call__(self) -> Tensor:
        torch.baddbmm(self.frame_terms, self.on_frames, self.frames, out=self.products)
        torch.mul(self.of_variance, self.frames, out=self.squares)
        torch.sum(self.squares, 1, out=self.variance).add_(self.square).rsqrt_()
        scores = torch.addcmul(self.on_all, self.raw_scores, self.inverse_deviation, out=self.scores)
        scores.sub_(scores.amax((0, 2), keepdim=True)).exp_()
        torch.sum(scores, 2, out=self.token_weights)
        torch.sum(self.token_weights, 0, out=self.total_flat)
        scores.mul_(self.inverse_deviation)
        torch.bmm(scores, self.frames_by_unit, out=self.of_frames)
        torch.mm(self.flat_scores, self.units, out=self.of_units)
        torch.mul(self.flat_token_weights, self.bias, out=self.values)
        self.values.addmm_(self.flat_of_frames, self.frame_values).addmm_(self.of_units, self.unit_values)
        torch.sum(self.value_pairs * self.turns, 0, out=self.summed_pairs)
        return torch.addmm(self.before, self.summed.div_(self.total), self.out, out=self.latents)


class _Block:
    """Forecasts some units from their past and from the latents, as `accelerate.unit_decoder` does.

    Args:
        weights: of the backbone.
        folded: of the session.
        frames: [C, N], where each window's frames will be.
        forecast: [H, N], where their forecast goes.
        units: which.
        scratch: of the thread that it passes in.
    """

    def __init__(
        self,
        weights: FrameWeights,
        folded: FoldedSession,
        frames: Tensor,
        forecast: Tensor,
        units: slice,
        scratch: _Scratch,
    ) -> None:
        self.weights, self.units = weights, folded.units[units] + weights.unit_bias
        self.queries = folded.queries[units].T.contiguous()
        self.frames_by_unit, self.of_result = frames[:, units].T, forecast[:, units]
        (num_units, _), num_latents, dtype = self.units.shape, len(folded.latents), weights.dtype
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
        """Passes each unit's own past through the hidden layers, which needs no latents."""
        hidden = self.context.copy_(self.frames_by_unit)
        for layer in self.weights.hidden:
            hidden = layer.relu(hidden)
        self.hidden = hidden

    def finish(self, keys_values: _KeysValues) -> None:
        weights = self.weights
        attention = torch.mm(keys_values.keys, self.queries).softmax(dim=0)  # [K, n]
        torch.addmm(self.units, attention.T, keys_values.values, out=self.embedding)
        torch.sub(self.embedding, self.embedding.mean(dim=1, keepdim=True), out=self.centred)
        torch.linalg.vector_norm(self.centred, dim=1, keepdim=True, out=self.norm)
        self.norm.square_().div_(self.centred.shape[1]).add_(NORM_EPS).rsqrt_()
        torch.mul(attention, self.norm.T, out=self.scaled_attention)
        torch.mul(self.projected, self.inverse_deviation.copy_(self.norm), out=self.expanded)
        self.expanded.baddbmm_(self.attention_by_unit, keys_values.projected)
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
def _finish(blocks: Sequence[_Block], keys_values: _KeysValues) -> None:
    """Forecasts the units of blocks, the first of which has seen its frames."""
    for number, block in enumerate(blocks):
        if number:
            block.see()
        block.finish(keys_values)


@torch.inference_mode()
def _see(blocks: Sequence[_Block]) -> None:
    for block in blocks:
        block.see()
