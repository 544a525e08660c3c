"""Every model by its name: what `--model.name` may be."""

from __future__ import annotations

from collections.abc import Mapping

from forebrain.models.constant import CopyConfig, MeanConfig
from forebrain.models.contract import ModelConfig
from forebrain.models.filternet import FilterNetConfig
from forebrain.models.linear import DLinearConfig, LinearConfig, NLinearConfig
from forebrain.models.mlp import MlpConfig
from forebrain.models.modern_tcn import ModernTcnConfig
from forebrain.models.netformer import NetFormerConfig
from forebrain.models.plrnn import PlrnnConfig
from forebrain.models.poco import PocoConfig
from forebrain.models.poco_halves import PoyoConfig, TacoConfig, UicoConfig
from forebrain.models.transformer import TransformerConfig
from forebrain.models.tsmixer import TsMixerConfig

_CONFIGS: tuple[type[ModelConfig], ...] = (
    PocoConfig, PoyoConfig, UicoConfig, TacoConfig, MlpConfig, LinearConfig, NLinearConfig, DLinearConfig,
    TsMixerConfig, FilterNetConfig, ModernTcnConfig, TransformerConfig, PlrnnConfig, NetFormerConfig,
    CopyConfig, MeanConfig,
)  # fmt: skip

SLOTS: Mapping[str, type[ModelConfig]] = {config().name: config for config in _CONFIGS}
