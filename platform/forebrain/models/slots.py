"""Every model by its name: what `--model.name` may be."""

from __future__ import annotations

from collections.abc import Mapping

from forebrain.models.contract import ModelConfig
from forebrain.models.poco import PocoConfig

_CONFIGS: tuple[type[ModelConfig], ...] = (PocoConfig,)

SLOTS: Mapping[str, type[ModelConfig]] = {config().name: config for config in _CONFIGS}
