"""POCO with its small products folded and its decoder in blocks: what trains, and what adapts.

The equations are those of `models.poco`. What follows from the weights alone is multiplied out once a call,
what follows from a session's embeddings once a session; the population is read without keys and values
(`population`), and unit-windows pass the decoder in blocks that go backwards at once (`unit_decoder`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.accelerate.executor import Executor
from forebrain.accelerate.folded_layers import FrozenLatents
from forebrain.accelerate.population import (
    FoldedQueries,
    FoldedRead,
    PopulationRead,
    Tokens,
    joined,
    parted,
)
from forebrain.accelerate.unit_blocks import CPU_BLOCK
from forebrain.accelerate.unit_decoder import UnitDecoder
from forebrain.accelerate.unit_decoder_passes import UnitWindows
from forebrain.accelerate.unit_decoder_weights import DecoderLayers, DecoderWeights
from forebrain.models.base import SessionInput, SessionTarget
from forebrain.models.poco import Poco, PocoConfig
from forebrain.models.rotary import rotate


@dataclass(frozen=True)
class FoldedWeights:
    """Products of a backbone's weights with one another.

    Attributes:
        decoder: folded, see `DecoderWeights`.
        queries: of its latents, for tokens.
        read: what latents read of tokens.
        unit_query: [h, d], a normalised unit's scaled query to the latents: rotated, since all units ask at
            one time.
        values: [d, d], what units read of a normalised latent, carried through Wo. Whatever a unit attends
            to, it attends once, so values bring Wo's bias.
        layers: of the decoder, packed, where the weights no longer change.
    """

    decoder: DecoderWeights
    queries: FoldedQueries
    read: FoldedRead
    unit_query: Tensor
    values: Tensor
    layers: DecoderLayers | None = None


@dataclass(frozen=True)
class FoldedSession:
    """Products of a session's embeddings with a backbone's weights, whatever the windows are.

    Attributes:
        latents: [K, d], before they read the population, with the bias of what they read.
        tokens: of its N units.
        queries: [M, h], of each unit to forecast, for the latents.
        units: [M, d], their embeddings.
    """

    latents: Tensor
    tokens: Tokens
    queries: Tensor
    units: Tensor


class FoldedPoco(Executor):
    """POCO whose weights may change from call to call.

    Args:
        model: its parameters are read anew in each call.
        dtype: of the products of the decoder and of layers over latents; those of the encoder's attention
            stay in the weights' dtype.
        kernels: FiLM by Triton kernels where the device has them.
    """

    config: PocoConfig
    model: Poco
    splits_units = True

    def __init__(self, model: Poco, dtype: torch.dtype, kernels: bool = False) -> None:
        super().__init__(model, dtype)
        self.kernels = kernels

    def forecast_normalised(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        if torch.is_grad_enabled():  # gradients of forecasts are autograd's affair
            return self.model.forecast_normalised(inputs)
        return self._decoder(inputs).forecast()

    def loss_normalised(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        return self._decoder(inputs).loss(targets)

    def _decoder(self, inputs: Sequence[SessionInput]) -> UnitDecoder:
        """Unit-windows whose populations have been read, ready to be decoded."""
        folded = self.fold()
        sessions = self.fold_sessions(inputs, folded)
        windows = self._read_out(inputs, sessions, folded)
        dropout = self.model.decoder_feed_forward.dropout if self.training else 0.0
        return UnitDecoder(windows, folded.decoder, dropout, self.dtype, folded.layers, self.kernels)

    def fold(self) -> FoldedWeights:
        """Products of the weights, as these are now."""
        model, attention = self.model, self.model.decoder_attention
        with self.exactly(model.dataset.device):
            unit_query = rotate(attention.to_query.weight.T.contiguous(), model.rotation("query")).T
            queries = self._fold_queries(model.latent)
            read = PopulationRead(model.encoder_attention)
            return FoldedWeights(
                self._fold_decoder(),
                queries,
                read.read(queries, model.rotation("latent"), model.rotation("token")),
                unit_query * attention.head_width**-0.5,
                attention.to_out.weight @ attention.to_value.weight,
            )

    def fold_sessions(self, inputs: Sequence[SessionInput], weights: FoldedWeights) -> list[FoldedSession]:
        """Products of the sessions' embeddings with the weights, whatever their windows are.

        The units of all sessions pass together, unless each session's latents have queries of their own.
        """
        model = self.model
        if self.config.latent_session_embedding and len(inputs) > 1:
            return [folded for entry in inputs for folded in self.fold_sessions([entry], weights)]
        latents: Tensor = model.latent
        queries = weights.queries
        vectors = [model.embed_units(entry) for entry in inputs]
        with self.exactly(self.model.dataset.device):
            if self.config.latent_session_embedding:
                latents = latents + model.session_embedding(inputs[0])
                queries = self._fold_queries(latents)
            tokens = PopulationRead(model.encoder_attention).tokens(
                queries, joined(vectors) + model.token.bias
            )
            decoded = [entry.of_forecast(units, 0) for entry, units in zip(inputs, vectors, strict=True)]
            sizes, units = [len(each) for each in decoded], joined(decoded)
            latents = latents + model.encoder_attention.to_out.bias
            of_sessions = zip(
                tokens.split([len(each) for each in vectors]),
                parted(F.linear(model.decoder_attention.norm(units), weights.unit_query), sizes),
                parted(units, sizes),
                strict=True,
            )
            return [FoldedSession(latents, *each) for each in of_sessions]

    def _read_out(
        self, inputs: Sequence[SessionInput], sessions: Sequence[FoldedSession], weights: FoldedWeights
    ) -> list[UnitWindows]:
        """Reads each population into the latents, and for each unit the latents."""
        keys, values = self._keys_values(self._read_populations(inputs, sessions, weights), weights)
        batch_sizes = [len(entry.context) for entry in inputs]
        with self.exactly(self.model.dataset.device):
            of_sessions = zip(
                inputs, sessions, parted(keys, batch_sizes), parted(values, batch_sizes), strict=True
            )
            return [
                UnitWindows(
                    session.units,
                    (key @ session.queries.T).softmax(dim=1),
                    value,
                    entry.of_forecast(entry.context, 2),
                )
                for entry, session, key, value in of_sessions
            ]

    def _keys_values(self, latents: Tensor, weights: FoldedWeights) -> tuple[Tensor, Tensor]:
        """The keys [sum B_i, K, h] of latents [sum B_i, K, d] that have read their sessions, and their
        values [sum B_i, K, d]."""
        model, attention, dtype = self.model, self.model.decoder_attention, self.model.dataset.dtype
        with self.in_dtype(latents.device):
            latents = latents + model.encoder_feed_forward(latents)
            for layer in model.processor:
                latents = layer(latents, model.rotation("latent"))
            normed = attention.norm_context(latents)
            keys = rotate(attention.to_key(normed), model.rotation("latent"))
            values = F.linear(normed, weights.values, attention.to_out.bias)
        return keys.to(dtype), values.to(dtype)

    def _read_populations(
        self, inputs: Sequence[SessionInput], sessions: Sequence[FoldedSession], weights: FoldedWeights
    ) -> Tensor:
        """Latents [sum B_i, K, d] that have read their sessions."""
        config = self.config
        populations = []
        for entry, session in zip(inputs, sessions, strict=True):
            frames = entry.context[:, config.context - config.encoder_frames :]
            frames = frames.unflatten(1, (-1, config.token_length))
            populations.append((session.tokens, frames, entry.group))
        # A hundredth of the arithmetic, and its variances would cancel in bf16.
        with self.exactly(self.model.dataset.device):
            read = PopulationRead(self.model.encoder_attention)(populations, weights.read)
            if not config.latent_session_embedding:
                return sessions[0].latents + read
            pairs = zip(inputs, sessions, strict=True)
            latents = [session.latents.expand(len(entry.context), -1, -1) for entry, session in pairs]
            return torch.cat(latents) + read

    def _fold_queries(self, latents: Tensor) -> FoldedQueries:
        model = self.model
        return PopulationRead(model.encoder_attention).queries(
            latents, model.token.weight, model.rotation("latent"), model.rotation("token")
        )

    def _fold_decoder(self) -> DecoderWeights:
        feed_forward, forecaster = self.model.decoder_feed_forward, self.model.forecaster
        out, norm, expand = forecaster.out, feed_forward.norm, feed_forward.expand
        expand_weight = expand.weight * norm.weight
        shift_weight = out.weight @ forecaster.shift.weight
        shift_bias = F.linear(forecaster.shift.bias, out.weight, out.bias)
        added = feed_forward.contract.bias
        return DecoderWeights(
            expand_weight=expand_weight - expand_weight.mean(dim=1, keepdim=True),
            expand_bias=F.linear(norm.bias, expand.weight, expand.bias),
            contract_weight=feed_forward.contract.weight,
            scale_weight=forecaster.scale.weight,
            scale_bias=F.linear(added, forecaster.scale.weight, forecaster.scale.bias),
            shift_weight=shift_weight,
            shift_bias=shift_bias + shift_weight @ added,
            out_weight=out.weight,
            hidden=tuple(parameter for layer in forecaster.hidden for parameter in layer.parameters()),
        )


class FrozenPoco(FoldedPoco):
    """A copy of POCO whose weights stay as they are now: folded, cast and packed once; gradients reach
    interfaces alone. Autocast changes nothing."""

    def __init__(self, model: Poco, dtype: torch.dtype) -> None:
        super().__init__(copy.deepcopy(model).requires_grad_(False), dtype)
        with torch.no_grad():
            self.exact = super().fold()
            decoder = self.exact.decoder.to(dtype)
            self._folded = replace(self.exact, decoder=decoder, layers=DecoderLayers.of(decoder, CPU_BLOCK))
            self._latents = FrozenLatents(self.model)

    def fold(self) -> FoldedWeights:
        return self._folded

    def in_dtype(self, device: torch.device) -> AbstractContextManager[object]:
        # Latents are few, and an interface that is fitted is the better for exact ones.
        return self.exactly(device)

    def _keys_values(self, latents: Tensor, weights: FoldedWeights) -> tuple[Tensor, Tensor]:
        if self.training:  # with dropout
            return super()._keys_values(latents, weights)
        with self.exactly(latents.device):
            return self._latents(latents)
