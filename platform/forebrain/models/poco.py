"""POCO, the population-conditioned forecaster (Duan et al. 2025, "POCO: Scalable Neural Forecasting through
Population Conditioning").

An MLP forecasts each unit from its own past; a Perceiver encoder reads the whole population into a few
latents, and what each unit reads back from them modulates that MLP through FiLM.

The equations, with x [B, C, N] the activity, Z [B, K, d] the latents, R_t the rotation to time t:

1. tok[n, t] = W_in x[n, t:t+L] + b_in + u[n], timestamp t; u = unit + session + dataset embedding.
2. Z: K learned vectors, timestamps evenly spaced over the context; optionally + session + dataset embedding.
3. R_t: see `models.rotary`.
4. Z <- Z + Wo R_-t softmax(R_t Wq LN(Z) . R_t Wk LN'(tok) / sqrt(h)) R_t Wv LN'(tok) + bo; Z <- Z + FFN(Z).
5. Z <- Z + SelfAttention(Z); Z <- Z + FFN(Z); as often as there are layers.
6. E = u + Wo softmax(R_C Wq LN(u) . R_t Wk LN'(Z) / sqrt(h)) Wv LN'(Z) + bo; E <- E + FFN(E).
7. h = ReLU(Wx x + bx); y = Wo (h * (Wg E + bg) + Wb E + bb) + bo.

LayerNorm and GEGLU belong to FFN (`models.perceiver`), equation 7 is `models.film`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from forebrain.config import Size
from forebrain.errors import ConfigError
from forebrain.models.base import EncoderDecoder, Interface, ModelConfig, SessionInput
from forebrain.models.film import FilmForecaster
from forebrain.models.perceiver import DecoderAttention, EncoderAttention, FeedForward, ProcessorLayer
from forebrain.models.rotary import Rotation, inverse_frequencies, repeat, rotation_at


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
    # Scores: `study leave-one-out` on Kato's three worms; ms: a live forecast of 1,000 units, one core.
    SIZES: ClassVar[Mapping[str, Size]] = {
        "tiny": Size({"width": 16, "film_width": 64}, "width 16, FiLM 64, 3.5 ms, scores 0.282"),
        "small": Size({"width": 32, "film_width": 128}, "32, 128, 4.0 ms, 0.284, the smallest that pays"),
        "medium": Size({"width": 64, "film_width": 512}, "64, 512, 7.1 ms, 0.285"),
        "published": Size({}, "128, 1024, 13.6 ms"),
    }
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
        self.require(1, "token_length", "width", "num_latents", "num_heads", "head_width")
        self.require(1, "feed_forward_multiple", "film_width", "film_layers")
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


class Poco(EncoderDecoder):
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
        width, heads, multiple = config.width, config.head_width, config.feed_forward_multiple
        dropout = config.feed_forward_dropout
        self.token = nn.Linear(config.token_length, width)
        self.dataset = nn.Parameter(torch.empty(num_datasets, width))
        self.latent = nn.Parameter(torch.empty(config.num_latents, width))
        self.encoder_attention = EncoderAttention(width, heads)
        self.encoder_feed_forward = FeedForward(width, multiple, dropout)
        self.processor = nn.ModuleList(
            ProcessorLayer(width, config.num_heads, heads, multiple, dropout, config.branch_dropout)
            for _ in range(config.num_layers)
        )
        self.decoder_attention = DecoderAttention(width, heads)
        self.decoder_feed_forward = FeedForward(width, multiple, dropout)
        self.forecaster = FilmForecaster(
            config.context, config.horizon, width, config.film_width, config.film_layers
        )
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

    def rotation(self, name: str) -> Rotation:
        """R_t [times, h] at the times of the `token`s, the `latent`s or the units' `query`."""
        return self.get_buffer(f"{name}_cosine"), self.get_buffer(f"{name}_sine")

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return Interface(num_units, self.config.width, generator)

    def session_embedding(self, entry: SessionInput) -> Tensor:
        """[d]: the session's, and the data set's where the backbone knows it."""
        if entry.dataset is None:
            return entry.interface.session
        return entry.interface.session + self.dataset[entry.dataset]

    def embed_units(self, entry: SessionInput) -> Tensor:
        units = entry.interface.unit
        return units + self.session_embedding(entry) if self.config.session_embedding else units

    def tokens(self, entry: SessionInput, units: Tensor) -> Tensor:
        """Tokens [B, N, S, d] of a session whose units are embedded as [N, d]."""
        past = entry.context.mT[..., self.config.context - self.config.encoder_frames :]
        patches = past.unflatten(-1, (-1, self.config.token_length))
        return self.token(patches) + units[:, None]  # 1

    def encode(self, entry: SessionInput, units: Tensor) -> Tensor:
        tokens = self.tokens(entry, units)
        latents = self.latent.expand(len(tokens), -1, -1)  # 2
        if self.config.latent_session_embedding:
            latents = latents + self.session_embedding(entry)
        at, tokens_at = self.rotation("latent"), repeat(self.rotation("token"), tokens.shape[1])  # 3
        read = self.encoder_attention(latents, tokens.flatten(1, 2), at, tokens_at, entry)  # 4
        latents = latents + read
        latents = latents + self.encoder_feed_forward(latents)
        for layer in self.processor:  # 5
            latents = layer(latents, at)
        return latents

    def refine(self, embedding: Tensor) -> Tensor:
        """The decoder's feed-forward over unit embeddings [..., d]."""
        return embedding + self.decoder_feed_forward(embedding)

    def read_latents(self, units: Tensor, latents: Tensor) -> Tensor:
        """E [B, n, d]: units [n, d] with what each reads of the latents [B, K, d]."""
        at, latents_at = self.rotation("query"), self.rotation("latent")
        return self.refine(units + self.decoder_attention(units, latents, at, latents_at))  # 6

    def decode(self, context: Tensor, units: Tensor, latents: Tensor) -> Tensor:
        return self.forecaster(context.mT, self.read_latents(units, latents)).mT  # 7
