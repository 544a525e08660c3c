"""POCO, the population-conditioned forecaster (Duan et al. 2025, "POCO: Scalable Neural Forecasting through
Population Conditioning").

An MLP forecasts each unit from its own past; a Perceiver encoder reads the whole population into a few
latents, and what each unit reads back from them modulates that MLP through FiLM.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.errors import ConfigError
from forebrain.models.contract import Interface, Model, ModelConfig, SessionInput
from forebrain.models.perceiver import (
    DecoderAttention,
    EncoderAttention,
    FeedForward,
    Population,
    ProcessorLayer,
)
from forebrain.models.rotary import Rotation, inverse_frequencies, rotation_at
from forebrain.models.row_head import RowHeadWeights, row_head


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
        units = [self._unit_vectors(entry) for entry in inputs]
        contexts = [entry.context.transpose(1, 2).contiguous() for entry in inputs]  # [B, N, C]
        latents = self._read_populations(inputs, contexts, units)
        latents = latents + self.encoder_feed_forward(latents)
        for layer in self.processor_layers():
            latents = layer(latents, self.rotation("latent"))
        keys, values = self.decoder_attention.project_latents(latents, self.rotation("latent"))
        batch_sizes = [context.shape[0] for context in contexts]
        units = [entry.of_forecast(unit, 0) for entry, unit in zip(inputs, units, strict=True)]
        contexts = [entry.of_forecast(context, 1) for entry, context in zip(inputs, contexts, strict=True)]
        rows = torch.cat(
            [
                (unit + self._read_latents(unit, key, value)).flatten(0, 1)
                for unit, key, value in zip(
                    units, keys.split(batch_sizes), values.split(batch_sizes), strict=True
                )
            ]
        )
        forecast = self._forecast_rows(rows, torch.cat([context.flatten(0, 1) for context in contexts]))
        sizes = [context.shape[0] * context.shape[1] for context in contexts]
        return [
            part.unflatten(0, context.shape[:2]).transpose(1, 2)
            for part, context in zip(forecast.split(sizes), contexts, strict=True)
        ]

    def _unit_vectors(self, entry: SessionInput) -> Tensor:
        """[N, d]: who each unit is."""
        if not self.config.session_embedding:
            return entry.interface.unit
        return entry.interface.unit + self._session_vector(entry)

    def _session_vector(self, entry: SessionInput) -> Tensor:
        """[d]: session embedding, and the data set's where the backbone knows it."""
        if entry.dataset is None:
            return entry.interface.session
        return entry.interface.session + self.dataset[entry.dataset]

    def _read_populations(
        self, inputs: Sequence[SessionInput], contexts: Sequence[Tensor], units: Sequence[Tensor]
    ) -> Tensor:
        """Contexts [B_i, N_i, C] and unit vectors [N_i, d] to latents [sum B_i, K, d]."""
        populations = []
        for entry, context, unit in zip(inputs, contexts, units, strict=True):
            frames = context[..., context.shape[-1] - self.config.encoder_frames :]
            latents: Tensor = self.latent
            if self.config.latent_session_embedding:
                latents = latents + self._session_vector(entry)
            tokens = frames.unflatten(-1, (-1, self.config.token_length))
            populations.append(Population(latents, tokens, self.token.bias + unit, entry.peers))
        # A hundredth of the arithmetic, and its variances would cancel in bf16.
        with torch.autocast(contexts[0].device.type, enabled=False):
            read = self.encoder_attention(
                populations, self.token.weight, self.rotation("latent"), self.rotation("token")
            )
        return torch.cat([each.latents + seen for each, seen in zip(populations, read, strict=True)])

    def _read_latents(self, units: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries = self.decoder_attention.project_queries(units, self.rotation("query"))
        return self.decoder_attention.read(queries, keys, values)

    def _forecast_rows(self, rows: Tensor, context: Tensor) -> Tensor:
        """Unit vectors [R, d] and their own past [R, C] to forecasts [R, H]."""
        device = rows.device.type
        compute_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
        dropout = self.decoder_feed_forward.dropout if self.training else 0.0
        with torch.autocast(device, enabled=False):
            dtype = self.forecaster.out.weight.dtype
            return row_head(rows.to(dtype), context, self._row_head_weights(), dropout, compute_dtype)

    def _row_head_weights(self) -> RowHeadWeights:
        feed_forward, forecaster = self.decoder_feed_forward, self.forecaster
        out = forecaster.out
        return RowHeadWeights(
            norm_weight=feed_forward.norm.weight,
            norm_bias=feed_forward.norm.bias,
            expand_weight=feed_forward.expand.weight,
            expand_bias=feed_forward.expand.bias,
            contract_weight=feed_forward.contract.weight,
            contract_bias=feed_forward.contract.bias,
            scale_weight=forecaster.scale.weight,
            scale_bias=forecaster.scale.bias,
            shift_weight=out.weight @ forecaster.shift.weight,
            shift_bias=F.linear(forecaster.shift.bias, out.weight, out.bias),
            out_weight=out.weight,
            hidden=tuple(parameter for layer in forecaster.hidden for parameter in layer.parameters()),
        )

    def rotation(self, name: str) -> Rotation:
        return self.get_buffer(f"{name}_cosine"), self.get_buffer(f"{name}_sine")
