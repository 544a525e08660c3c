"""POCO, the population-conditioned forecaster (Duan et al. 2025, "POCO: Scalable Neural Forecasting through
Population Conditioning").

An MLP forecasts each unit from its own past; a Perceiver encoder reads the whole population into a few
latents, and what each unit reads back from them modulates that MLP through FiLM.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.accelerate.row_head import RowHead
from forebrain.accelerate.row_passes import SessionRows
from forebrain.accelerate.row_weights import RowHeadWeights, RowLayers
from forebrain.errors import ConfigError
from forebrain.models.base import Interface, Model, ModelConfig, SessionInput, SessionTarget
from forebrain.models.perceiver import (
    DecoderAttention,
    EncoderAttention,
    FeedForward,
    Probes,
    ProcessorLayer,
    Tokens,
)
from forebrain.models.rotary import Rotation, inverse_frequencies, rotation_at


@dataclass(frozen=True)
class PocoConfig(ModelConfig):
    """Size of a POCO backbone; the defaults are the published ones.

    Attributes:
        token_length: frames in a token.
        encoder_context: last frames of the context that the population encoder reads; None for all.
        width: width of tokens, latents and embeddings.
        num_latents: latents the population is read into.
        num_layers: layers over the latents.
        num_heads: attention heads of a layer over the latents.
        head_width: width of every attention head.
        feed_forward_multiple: hidden width of a feed-forward over its width.
        film_width: hidden width of the forecaster that FiLM modulates.
        film_layers: hidden layers of that forecaster.
        session_embedding: add session and data set embeddings to each unit's.
        latent_session_embedding: add session and data set embeddings to the latents.
        rotary_t_max: longest period of the rotary time embedding, frames; the shortest is a thousandth.
        feed_forward_dropout: dropout in feed-forwards while training.
        branch_dropout: dropout on the residual branches over the latents while training.
    """

    title = "POCO"
    name: Literal["poco"] = "poco"
    token_length: int = 16
    encoder_context: int | None = None
    width: int = 128
    num_latents: int = 8
    num_layers: int = 1
    num_heads: int = 16
    head_width: int = 64
    feed_forward_multiple: int = 4
    film_width: int = 1024
    film_layers: int = 1
    session_embedding: bool = True
    latent_session_embedding: bool = False
    rotary_t_max: float = 100.0
    feed_forward_dropout: float = 0.2
    branch_dropout: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            1, "token_length", "width", "num_latents", "num_heads", "head_width", "feed_forward_multiple",
            "film_width", "film_layers",
        )  # fmt: skip
        self.require(0, "num_layers")
        if self.encoder_frames > self.context or self.encoder_frames % self.token_length:
            raise ConfigError(
                f"model.token_length is {self.token_length} and the encoder reads {self.encoder_frames} of "
                f"{self.context} frames; expected a multiple of the token length within the context."
            )
        if self.head_width % 4:
            raise ConfigError(f"model.head_width is {self.head_width}; expected a multiple of 4.")
        self.require_dropout("feed_forward_dropout", "branch_dropout")

    @property
    def encoder_frames(self) -> int:
        return self.context if self.encoder_context is None else self.encoder_context

    def build(self, num_datasets: int = 1) -> Poco:
        return Poco(self, num_datasets)


class FilmForecaster(nn.Module):
    """Parameters of the forecaster shared by all units. FiLM starts at zero: the first forecast is a bias."""

    def __init__(self, config: PocoConfig) -> None:
        super().__init__()
        widths = [config.context] + [config.film_width] * config.film_layers
        self.hidden = nn.ModuleList(nn.Linear(inner, outer) for inner, outer in itertools.pairwise(widths))
        self.scale = nn.Linear(config.width, config.film_width)
        self.shift = nn.Linear(config.width, config.film_width)
        self.out = nn.Linear(config.film_width, config.horizon)
        for parameter in (*self.scale.parameters(), *self.shift.parameters()):
            nn.init.zeros_(parameter)


@dataclass(frozen=True)
class FoldedWeights:
    """What follows from a backbone's weights alone.

    Attributes:
        row_head: folded, see `row_weights.RowHeadWeights`.
        compute_dtype: of the products of rows.
        probes: what its latents ask of tokens.
        layers: of the row head where the weights no longer change.
    """

    row_head: RowHeadWeights
    compute_dtype: torch.dtype
    probes: Probes
    layers: RowLayers | None = None


@dataclass(frozen=True)
class SessionTerms:
    """What follows from a session's embeddings and a backbone's weights, whatever the windows are.

    Attributes:
        latents: [K, d], before they read the population.
        tokens: of its N units.
        queries: [M, h], what each unit to forecast asks of the latents.
        units: [M, d], who they are, with the bias of what they read.
    """

    latents: Tensor
    tokens: Tokens
    queries: Tensor
    units: Tensor


class Poco(Model):
    """The backbone of POCO.

    Args:
        config: sizes.
        num_datasets: rows of the data set embedding.
    """

    config: PocoConfig
    splits_units = True

    def __init__(self, config: PocoConfig, num_datasets: int = 1) -> None:
        super().__init__()
        self.config = config
        width, heads = config.width, config.head_width
        self.token = nn.Linear(config.token_length, width)
        self.dataset = nn.Parameter(torch.empty(num_datasets, width))
        self.latent = nn.Parameter(torch.empty(config.num_latents, width))
        self.encoder_attention = EncoderAttention(width, heads)
        self.encoder_feed_forward = FeedForward(
            width, config.feed_forward_multiple, config.feed_forward_dropout
        )
        self.processor = nn.ModuleList(
            ProcessorLayer(
                width, config.num_heads, heads, config.feed_forward_multiple,
                config.feed_forward_dropout, config.branch_dropout,
            )
            for _ in range(config.num_layers)
        )  # fmt: skip
        self.decoder_attention = DecoderAttention(width, heads)
        self.decoder_feed_forward = FeedForward(
            width, config.feed_forward_multiple, config.feed_forward_dropout
        )
        self.forecaster = FilmForecaster(config)
        for embedding in (self.dataset, self.latent):
            nn.init.normal_(embedding, std=0.02)
        frequencies = inverse_frequencies(heads, config.rotary_t_max / 1000, config.rotary_t_max)
        frames = config.encoder_frames
        times = {
            "token": torch.arange(0, frames, config.token_length),
            "latent": torch.arange(config.num_latents) * (frames / config.num_latents),
            "query": torch.tensor([frames]),
        }
        for name, at in times.items():
            cosine, sine = rotation_at(at, frequencies)
            self.register_buffer(f"{name}_cosine", cosine, persistent=False)
            self.register_buffer(f"{name}_sine", sine, persistent=False)

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return Interface(num_units, self.config.width, generator)

    def processor_layers(self) -> list[ProcessorLayer]:
        return [layer for layer in self.processor if isinstance(layer, ProcessorLayer)]

    def forecast_windows(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        return self.row_head(inputs).forecast()

    def error_of_windows(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        return self.row_head(inputs).error(targets)

    def row_head(self, inputs: Sequence[SessionInput]) -> RowHead:
        """Rows that have read their populations, ready to be forecast."""
        folded = self.fold(self._compute_dtype)
        known = zip(inputs, self.session_terms(inputs, folded.probes), strict=True)
        return self.row_head_of_known(list(known), folded)

    def fold(self, compute_dtype: torch.dtype) -> FoldedWeights:
        """What follows from the weights alone; products of rows will be in `compute_dtype`."""
        return FoldedWeights(self._row_head_weights(), compute_dtype, self._probes(self.latent))

    def session_terms(self, inputs: Sequence[SessionInput], probes: Probes) -> list[SessionTerms]:
        """What follows from the weights and the sessions' embeddings, whatever their windows are.

        The units of all sessions pass together, unless each session's latents ask something else of them.
        """
        if self.config.latent_session_embedding and len(inputs) > 1:
            return [terms for entry in inputs for terms in self.session_terms([entry], probes)]
        latents, vectors = self._latents(inputs[0]), [self.unit_vectors(entry) for entry in inputs]
        with self._exactly():
            if self.config.latent_session_embedding:
                probes = self._probes(latents)
            tokens = self.encoder_attention.tokens(probes, _joined(vectors) + self.token.bias)
            told = [entry.of_forecast(units, 0) for entry, units in zip(inputs, vectors, strict=True)]
            sizes, units = [len(each) for each in told], _joined(told)
            queries = self.decoder_attention.queries(units, self.rotation("query"))
            of_sessions = zip(
                tokens.split([len(each) for each in vectors]),
                queries.split(sizes),
                (units + self.decoder_attention.to_out.bias).split(sizes),
                strict=True,
            )
            return [SessionTerms(latents, *each) for each in of_sessions]

    def row_head_of_known(
        self, inputs: Sequence[tuple[SessionInput, SessionTerms]], folded: FoldedWeights
    ) -> RowHead:
        """What `row_head` returns, of sessions whose terms are known."""
        return RowHead(
            self._read(inputs), folded.row_head, self.row_dropout, folded.compute_dtype, folded.layers
        )

    @property
    def row_dropout(self) -> float:
        return self.decoder_feed_forward.dropout if self.training else 0.0

    def _read(self, inputs: Sequence[tuple[SessionInput, SessionTerms]]) -> list[SessionRows]:
        """Reads each population into the latents, and asks for each unit what these say."""
        latents = self._read_populations(inputs)
        latents = latents + self.encoder_feed_forward(latents)
        for layer in self.processor_layers():
            latents = layer(latents, self.rotation("latent"))
        keys, values = self.decoder_attention.project_latents(latents, self.rotation("latent"))
        batch_sizes = [len(entry.context) for entry, _ in inputs]
        with self._exactly():
            dtype = self.dataset.dtype
            of_sessions = zip(
                inputs, keys.to(dtype).split(batch_sizes), values.to(dtype).split(batch_sizes), strict=True
            )
            return [
                SessionRows(
                    terms.units,
                    (key @ terms.queries.T).softmax(dim=1),
                    value,
                    entry.of_forecast(entry.context, 2),
                )
                for (entry, terms), key, value in of_sessions
            ]

    def _read_populations(self, inputs: Sequence[tuple[SessionInput, SessionTerms]]) -> Tensor:
        """Latents [sum B_i, K, d] that have read their sessions."""
        populations = []
        for entry, terms in inputs:
            frames = entry.context[:, self.config.context - self.config.encoder_frames :]
            frames = frames.unflatten(1, (-1, self.config.token_length))
            populations.append((terms.tokens, frames, entry.peers))
        # A hundredth of the arithmetic, and its variances would cancel in bf16.
        with self._exactly():
            read = self.encoder_attention(populations, self.rotation("latent"), self.rotation("token"))
        if not self.config.latent_session_embedding:
            return self.latent + read
        latents = [terms.latents.expand(len(entry.context), -1, -1) for entry, terms in inputs]
        return torch.cat(latents) + read

    def unit_vectors(self, entry: SessionInput) -> Tensor:
        """[N, d]: who each unit is."""
        if not self.config.session_embedding:
            return entry.interface.unit
        return entry.interface.unit + self._session_vector(entry)

    def _latents(self, entry: SessionInput) -> Tensor:
        """[K, d], before they read the population."""
        if not self.config.latent_session_embedding:
            return self.latent
        return self.latent + self._session_vector(entry)

    def _session_vector(self, entry: SessionInput) -> Tensor:
        """[d]: session embedding, and the data set's where the backbone knows it."""
        if entry.dataset is None:
            return entry.interface.session
        return entry.interface.session + self.dataset[entry.dataset]

    def _probes(self, latents: Tensor) -> Probes:
        with self._exactly():
            return self.encoder_attention.probes(
                latents, self.token.weight, self.rotation("latent"), self.rotation("token")
            )

    def _row_head_weights(self) -> RowHeadWeights:
        feed_forward, forecaster = self.decoder_feed_forward, self.forecaster
        out, norm, expand = forecaster.out, feed_forward.norm, feed_forward.expand
        with self._exactly():
            expand_weight = expand.weight * norm.weight
            shift_weight = out.weight @ forecaster.shift.weight
            shift_bias = F.linear(forecaster.shift.bias, out.weight, out.bias)
            added = feed_forward.contract.bias
            return RowHeadWeights(
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

    @property
    def _compute_dtype(self) -> torch.dtype:
        """Of products of rows: autocast's where it is on."""
        device = self.dataset.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        return self.dataset.dtype

    def _exactly(self) -> AbstractContextManager[object]:
        """Where products stay in the weights' dtype under autocast."""
        return torch.autocast(self.dataset.device.type, enabled=False)

    def rotation(self, name: str) -> Rotation:
        return self.get_buffer(f"{name}_cosine"), self.get_buffer(f"{name}_sine")


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One below the other; a single one, which may be large, is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat([*tensors])
