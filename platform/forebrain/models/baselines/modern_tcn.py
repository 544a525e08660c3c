"""ModernTCN (Luo & Wang 2024, "ModernTCN: A Modern Pure Convolution Structure for General Time Series
Analysis"): long convolutions over time, then perceptrons over features and over units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forebrain.errors import ConfigError
from forebrain.models.base import Interface, Model, ModelConfig, SessionInput
from forebrain.models.baselines.tsmixer import mix_units, new_unit_mixers


@dataclass(frozen=True)
class ModernTcnConfig(ModelConfig):
    """Sizes of a ModernTCN.

    Attributes:
        patch: frames of a patch.
        stride: frames from one patch to the next.
        width: features of a patch.
        num_blocks: blocks.
        kernel, small_kernel: patches that the long convolution of a block spans, and the short one beside
            it; odd numbers.
        feed_forward_multiple: hidden width of the perceptron over features, over the width.
        unit_width: hidden width of the perceptron over units.
        dropout: dropout behind each perceptron and before the forecast while training.
    """

    title = "ModernTCN"
    name: Literal["moderntcn"] = "moderntcn"
    patch: int = 8
    stride: int = 4
    width: int = 64
    num_blocks: int = 1
    kernel: int = 11
    small_kernel: int = 5
    feed_forward_multiple: int = 2
    unit_width: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            1, "patch", "stride", "width", "num_blocks", "kernel", "small_kernel", "feed_forward_multiple",
            "unit_width",
        )  # fmt: skip
        self.require_dropout("dropout")
        for name in ("kernel", "small_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; expected an odd number.")
        if not self.stride <= self.patch <= self.context:
            raise ConfigError(
                f"model.patch is {self.patch} and model.stride {self.stride}; expected a stride of at most "
                f"the patch, and a patch within the {self.context} frames of the context."
            )

    @property
    def num_patches(self) -> int:
        return -(-(self.context - self.patch) // self.stride) + 1

    def build(self, num_datasets: int = 1) -> ModernTcn:
        return ModernTcn(self)


class ModernTcn(Model):
    """Convolutions and perceptrons over features are shared by all units; the perceptrons over units belong
    to the session.

    The paper's have weights for each of a fixed list of variables, and normalise over the batch; here any
    number of units is served, and windows do not see one another.
    """

    config: ModernTcnConfig

    def __init__(self, config: ModernTcnConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.patch, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))
        self.out = nn.Linear(config.num_patches * config.width, config.horizon)

    def new_interface(self, num_units: int, generator: torch.Generator | None = None) -> Interface:
        return new_unit_mixers(num_units, self.config.num_blocks, self.config.unit_width, generator)

    def forecast_session(self, entry: SessionInput) -> Tensor:
        config = self.config
        # Patches end with the context; the first one begins before it, where its first frame is repeated.
        missing = (config.num_patches - 1) * config.stride + config.patch - config.context
        rows = F.pad(entry.context.mT, (missing, 0), mode="replicate")
        features = self.embed(rows.unfold(2, config.patch, config.stride)).mT  # [B, N, d, P]
        for number, block in enumerate(self.blocks):
            features = block(features, entry.interface, number)
        features = F.dropout(entry.of_forecast(features, 1).flatten(2), config.dropout, self.training)
        return self.out(features).mT


class _Block(nn.Module):
    def __init__(self, config: ModernTcnConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.width, config.feed_forward_multiple * config.width
        self.long = nn.Conv1d(width, width, config.kernel, padding="same", groups=width)
        self.short = nn.Conv1d(width, width, config.small_kernel, padding="same", groups=width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, features: Tensor, interface: Interface, number: int) -> Tensor:
        """Features [B, N, d, P] of each patch to the same shape."""
        config = self.config
        rows = features.flatten(0, 1)
        mixed = self.norm((self.long(rows) + self.short(rows)).mT)  # [B N, P, d]
        mixed = self.contract(F.gelu(self.expand(mixed)))
        mixed = F.dropout(mixed, config.dropout, self.training).mT.unflatten(0, features.shape[:2])
        across = mix_units(mixed.flatten(2), interface, number, config.num_blocks)
        across = F.dropout(across, config.dropout, self.training)
        return features + mixed + across.unflatten(2, features.shape[2:])
