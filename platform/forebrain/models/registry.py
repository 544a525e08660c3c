"""Every model by its name: what `--model.name` may be."""

from __future__ import annotations

from collections.abc import Mapping

from forebrain.models.ablations import PoyoConfig, TacoConfig, UicoConfig
from forebrain.models.base import ModelConfig
from forebrain.models.baselines.constant import CopyConfig, MeanConfig
from forebrain.models.baselines.filternet import FilterNetConfig
from forebrain.models.baselines.linear import DLinearConfig, LinearConfig, NLinearConfig
from forebrain.models.baselines.mlp import MlpConfig
from forebrain.models.baselines.modern_tcn import ModernTcnConfig
from forebrain.models.baselines.netformer import NetFormerConfig
from forebrain.models.baselines.plrnn import PlrnnConfig
from forebrain.models.baselines.transformer import TransformerConfig
from forebrain.models.baselines.tsmixer import TsMixerConfig
from forebrain.models.poco import PocoConfig

# Of each model one line.
_CONFIGS: tuple[type[ModelConfig], ...] = (
    PocoConfig,
    PoyoConfig,
    UicoConfig,
    TacoConfig,
    MlpConfig,
    LinearConfig,
    NLinearConfig,
    DLinearConfig,
    TsMixerConfig,
    FilterNetConfig,
    ModernTcnConfig,
    TransformerConfig,
    PlrnnConfig,
    NetFormerConfig,
    CopyConfig,
    MeanConfig,
)

MODELS: Mapping[str, type[ModelConfig]] = {config().name: config for config in _CONFIGS}
