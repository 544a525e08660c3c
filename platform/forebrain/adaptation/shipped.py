"""The models that come with the package: a registry in its own folder. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from forebrain_registry.registry import SHIPPED as SHIPPED  # its address, wherever the package is installed


def shipped_models() -> str:
    """The folder of the registry."""
    return str(Path(__file__).parents[1] / "backbones")
