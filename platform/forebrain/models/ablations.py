"""Ablations of POCO: without one of its halves, or with another in its place. What is each half worth?

- POYO: no forecaster of a unit's own past; the forecast is read straight from what the unit reads back.
- UICO: no population; FiLM is told who the unit is, and nothing else.
- TACO: a plain Transformer over all tokens of the population in place of the Perceiver.

The perceptron alone, without population and identity, is `models.mlp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from torch import Tensor, nn

from forebrain.config import Size
from forebrain.errors import ConfigError
from forebrain.models.base import SessionInput
from forebrain.models.poco import Poco, PocoConfig
from forebrain.models.rotary import repeat


@dataclass(frozen=True)
class _AblationConfig(PocoConfig):
    """Options of POCO, some of which have no meaning without the missing half."""

    UNUSED: ClassVar[tuple[str, ...]] = ()
    SIZES: ClassVar[Mapping[str, Size]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        for item in fields(self):
            if item.name in self.UNUSED and getattr(self, item.name) != item.default:
                raise ConfigError(
                    f"model.{item.name} is {getattr(self, item.name)}; model {self.name} has no such part, "
                    "so expected nothing."
                )


@dataclass(frozen=True)
class PoyoConfig(_AblationConfig):
    """POCO without its forecaster of a unit's own past; options are POCO's."""

    UNUSED = ("film_width", "film_layers")
    title = "POYO"
    name: Literal["poyo"] = "poyo"  # type: ignore[assignment]

    def build(self, num_datasets: int = 1) -> Poyo:
        return Poyo(self, num_datasets)


@dataclass(frozen=True)
class UicoConfig(_AblationConfig):
    """POCO without its population encoder; options are POCO's."""

    UNUSED = (
        "token_length",
        "encoder_context",
        "num_latents",
        "num_layers",
        "num_heads",
        "head_width",
        "latent_session_embedding",
        "rotary_t_max",
        "branch_dropout",
    )
    title = "UICO"
    name: Literal["uico"] = "uico"  # type: ignore[assignment]

    @property
    def encoder_frames(self) -> int:
        return 0

    def build(self, num_datasets: int = 1) -> Uico:
        return Uico(self, num_datasets)


@dataclass(frozen=True)
class TacoConfig(_AblationConfig):
    """POCO with a Transformer in place of its Perceiver; options are POCO's.

    Time and memory of the attention grow with the square of units x tokens of a unit.
    """

    UNUSED = ("num_latents", "latent_session_embedding")
    title = "TACO"
    name: Literal["taco"] = "taco"  # type: ignore[assignment]

    def build(self, num_datasets: int = 1) -> Taco:
        return Taco(self, num_datasets)


class Poyo(Poco):
    """The forecast is read straight from what the unit reads of the latents."""

    def __init__(self, config: PoyoConfig, num_datasets: int = 1) -> None:
        super().__init__(config, num_datasets)
        del self.forecaster
        self.out = nn.Linear(config.width, config.horizon)

    def decode(self, context: Tensor, units: Tensor, latents: Tensor) -> Tensor:
        return self.out(self.read_latents(units, latents)).mT


class Uico(Poco):
    """FiLM is told who the unit is, and nothing of the population."""

    def __init__(self, config: UicoConfig, num_datasets: int = 1) -> None:
        super().__init__(config, num_datasets)
        del self.token, self.latent, self.encoder_attention, self.encoder_feed_forward, self.processor
        del self.decoder_attention

    def encode(self, entry: SessionInput, units: Tensor) -> Tensor:
        return units.new_zeros(len(entry.context), 0, units.shape[1])

    def read_latents(self, units: Tensor, latents: Tensor) -> Tensor:
        return self.refine(units.expand(len(latents), -1, -1))


class Taco(Poco):
    """Tokens attend to all tokens of the population, layer by layer; a unit's mean token modulates."""

    mixes_units = "every_layer"
    splits_units = False

    def __init__(self, config: TacoConfig, num_datasets: int = 1) -> None:
        super().__init__(config, num_datasets)
        del self.latent, self.encoder_attention, self.encoder_feed_forward, self.decoder_attention

    def forecast_session(self, entry: SessionInput) -> Tensor:
        tokens = self.tokens(entry, self.embed_units(entry))  # [B, N, S, d]
        num_units = tokens.shape[1]
        mixed, at = tokens.flatten(1, 2), repeat(self.rotation("token"), num_units)
        for layer in self.processor:
            mixed = layer(mixed, at)
        embedding = entry.of_forecast(mixed.unflatten(1, (num_units, -1)).mean(dim=2), 1)
        return self.forecaster(entry.of_forecast(entry.context, 2).mT, self.refine(embedding)).mT
