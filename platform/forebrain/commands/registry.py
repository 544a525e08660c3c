"""Contents of a registry: `forebrain registry` is the light client `forebrain-registry` by another name.

It knows the models that come with the package besides.
"""

from __future__ import annotations

from collections.abc import Sequence

from forebrain.adaptation.shipped import shipped_models
from forebrain_registry import cli


def main(arguments: Sequence[str]) -> int:
    """Hands the command line on."""
    return cli.main(arguments, prog="forebrain registry", shipped=shipped_models())
