"""POCO with a half missing or another in its place, made of its own parts: what each half is worth.

- POYO: no forecaster of a unit's own past; the forecast is read straight from what the unit reads back.
- UICO: no population; FiLM is told who the unit is, and nothing else.
- TACO: a plain Transformer over all tokens of the population in place of the Perceiver.

The perceptron alone, without population and identity, is `models.mlp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from forebrain.accelerate.row_head import RowHead
from forebrain.accelerate.row_passes import SessionRows
from forebrain.errors import ConfigError
from forebrain.models.base import Model, SessionInput, SessionTarget, rows_of, windows_of
from forebrain.models.poco import Poco, PocoConfig


@dataclass(frozen=True)
class _HalfConfig(PocoConfig):
    """Options of POCO, some of which have no meaning without the missing half."""

    UNUSED: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for item in fields(self):
            if item.name in self.UNUSED and getattr(self, item.name) != item.default:
                raise ConfigError(
                    f"model.{item.name} is {getattr(self, item.name)}; model {self.name} has no such part, "
                    "so expected nothing."
                )


@dataclass(frozen=True)
class PoyoConfig(_HalfConfig):
    """POCO without its forecaster of a unit's own past; options are POCO's."""

    UNUSED = ("film_width", "film_layers")
    title = "POYO"
    name: Literal["poyo"] = "poyo"  # type: ignore[assignment]

    def build(self, num_datasets: int = 1) -> Poyo:
        return Poyo(self, num_datasets)


@dataclass(frozen=True)
class UicoConfig(_HalfConfig):
    """POCO without its population encoder; options are POCO's."""

    UNUSED = (
        "token_length", "encoder_context", "num_latents", "num_layers", "num_heads", "head_width",
        "latent_session_embedding", "rotary_t_max", "branch_dropout",
    )  # fmt: skip
    title = "UICO"
    name: Literal["uico"] = "uico"  # type: ignore[assignment]

    @property
    def encoder_frames(self) -> int:
        return 0

    def build(self, num_datasets: int = 1) -> Uico:
        return Uico(self, num_datasets)


@dataclass(frozen=True)
class TacoConfig(_HalfConfig):
    """POCO with a Transformer in place of its Perceiver; options are POCO's.

    Time and memory of the attention grow with the square of units x tokens of a unit.
    """

    UNUSED = ("num_latents", "latent_session_embedding")
    title = "TACO"
    name: Literal["taco"] = "taco"  # type: ignore[assignment]

    def build(self, num_datasets: int = 1) -> Taco:
        return Taco(self, num_datasets)


class Poyo(Poco):
    """See the module."""

    def __init__(self, config: PoyoConfig, num_datasets: int = 1) -> None:
        super().__init__(config, num_datasets)
        del self.forecaster
        self.out = nn.Linear(config.width, config.horizon)

    def forecast_windows(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        probes = self._probes(self.latent)
        known = zip(inputs, self.session_terms(inputs, probes), strict=True)
        embeddings = [rows.units + rows.attention.mT @ rows.values for rows in self._read(list(known))]
        return [self.out(each + self.decoder_feed_forward(each)).mT for each in embeddings]

    # There is no row head to form gradients on the way.
    error_of_windows = Model.error_of_windows


class Uico(Poco):
    """See the module."""

    def __init__(self, config: UicoConfig, num_datasets: int = 1) -> None:
        super().__init__(config, num_datasets)
        del self.token, self.latent, self.encoder_attention, self.encoder_feed_forward, self.processor
        del self.decoder_attention

    def row_head(self, inputs: Sequence[SessionInput]) -> RowHead:
        rows = []
        for entry in inputs:
            units = entry.of_forecast(self.unit_vectors(entry), 0)
            nothing = units.new_zeros(len(entry.context), 0, len(units))
            values = units.new_zeros(len(entry.context), 0, units.shape[1])
            rows.append(SessionRows(units, nothing, values, entry.of_forecast(entry.context, 2)))
        return RowHead(rows, self._row_head_weights(), self.row_dropout, self._compute_dtype)


class Taco(Poco):
    """See the module."""

    splits_units = False

    def __init__(self, config: TacoConfig, num_datasets: int = 1) -> None:
        super().__init__(config, num_datasets)
        del self.latent, self.encoder_attention, self.encoder_feed_forward, self.decoder_attention

    def forecast_windows(self, inputs: Sequence[SessionInput]) -> list[Tensor]:
        (forecast,) = super().forecast_windows(inputs)
        return windows_of(forecast[0].T, inputs)

    def error_of_windows(self, inputs: Sequence[SessionInput], targets: Sequence[SessionTarget]) -> Tensor:
        frames, weight = (
            torch.cat([part.transpose(0, 1).flatten(1) for part in parts], dim=1)[None]
            for parts in zip(*((each.frames, each.weight) for each in targets), strict=True)
        )
        return super().error_of_windows(inputs, [SessionTarget(frames, weight)])

    def row_head(self, inputs: Sequence[SessionInput]) -> RowHead:
        """Its one session has a sample of all rows, since to the row head each is a unit of its own."""
        rows = torch.cat([entry.of_forecast(self._mix(entry), 1).flatten(0, 1) for entry in inputs])
        nothing = rows.new_zeros(1, 0, len(rows))
        values = rows.new_zeros(1, 0, rows.shape[1])
        return RowHead(
            [SessionRows(rows, nothing, values, rows_of(inputs).T[None])],
            self._row_head_weights(),
            self.row_dropout,
            self._compute_dtype,
        )

    def _mix(self, entry: SessionInput) -> Tensor:
        """[B, N, d]: the mean of a unit's tokens, after they have attended to all others."""
        frames = entry.context.mT[..., self.config.context - self.config.encoder_frames :]
        tokens = self.token(frames.unflatten(-1, (-1, self.config.token_length)))  # [B, N, S, d]
        tokens = tokens + self.unit_vectors(entry)[:, None]
        num_units = tokens.shape[1]
        cosine, sine = self.rotation("token")
        rotation = cosine.repeat(num_units, 1), sine.repeat(num_units, 1)
        mixed = tokens.flatten(1, 2)
        for layer in self.processor_layers():
            mixed = layer(mixed, rotation)
        return mixed.unflatten(1, (num_units, -1)).mean(dim=2)
