"""The plain formulation of POCO, equation by equation: the oracle of the fast paths, in tests and benchmarks.

Keys and values are formed, nothing is folded, blocked or fused, and every wide temporary is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from forebrain.models.base import SessionInput
from forebrain.models.perceiver import CrossAttention
from forebrain.models.poco import Poco
from forebrain.models.rotary import Rotation, inverse, rotate


def plain_forecast(model: Poco, inputs: Sequence[SessionInput]) -> list[Tensor]:
    """What `model(inputs)` must return, [B_i, H, N_i] for each session."""
    return [_forecast_session(model, entry) for entry in inputs]


def _forecast_session(model: Poco, entry: SessionInput) -> Tensor:
    config = model.config
    rotation = {name: model.rotation(name) for name in ("token", "latent", "query")}
    context = entry.context.transpose(1, 2)  # [B, N, C]
    batch, num_units, _ = context.shape
    session = entry.interface.session + (0 if entry.dataset is None else model.dataset[entry.dataset])
    units = entry.interface.unit + (session if config.session_embedding else 0)

    frames = context[..., context.shape[-1] - config.encoder_frames :]
    tokens = model.token(frames.unflatten(-1, (-1, config.token_length))) + units[:, None]  # [B, N, S, d]
    latents = model.latent + (session if config.latent_session_embedding else 0)
    latents = latents.expand(batch, -1, -1)

    cosine, sine = rotation["token"]
    token_rotation = (cosine.repeat(num_units, 1), sine.repeat(num_units, 1))
    read = _attend(
        model.encoder_attention, latents, tokens.flatten(1, 2),
        rotation["latent"], token_rotation, rotate_values=True,
    )  # fmt: skip
    latents = latents + read
    latents = latents + model.encoder_feed_forward(latents)
    for layer in model.processor_layers():
        latents = layer(latents, rotation["latent"])

    cosine, sine = rotation["query"]
    query_rotation = (cosine.expand(num_units, -1), sine.expand(num_units, -1))
    queries = units.expand(batch, -1, -1)
    read = _attend(
        model.decoder_attention, queries, latents, query_rotation, rotation["latent"], rotate_values=False
    )
    rows = queries + read
    rows = rows + model.decoder_feed_forward(rows)

    hidden = context
    for linear in model.forecaster.hidden:
        hidden = F.relu(linear(hidden))
    modulated = hidden * model.forecaster.scale(rows) + model.forecaster.shift(rows)
    return model.forecaster.out(modulated).transpose(1, 2)


def _attend(
    attention: CrossAttention,
    queries: Tensor,
    context: Tensor,
    query_rotation: Rotation,
    context_rotation: Rotation,
    rotate_values: bool,
) -> Tensor:
    query = rotate(attention.to_query(attention.norm(queries)), query_rotation)
    normed = attention.norm_context(context)
    key = rotate(attention.to_key(normed), context_rotation)
    value = attention.to_value(normed)
    if rotate_values:
        value = rotate(value, context_rotation)
    weights = torch.softmax(query @ key.transpose(-1, -2) * attention.head_width**-0.5, dim=-1)
    read = weights @ value
    if rotate_values:
        read = rotate(read, inverse(query_rotation))
    return attention.to_out(read)
