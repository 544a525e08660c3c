"""Makes a backbone that is handed out: from public recordings to a published version with its scores.

`--config NAME` takes one that comes with the package: macaque, zebrafish, all-species. Downloads what
it trains on. The same command goes on where it was stopped. Needs no Ray.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

import forebrain.studies
from forebrain.studies.backbone import BackboneConfig as Config
from forebrain.studies.backbone import study

__all__ = ["DEFINITIONS", "Config", "run"]
DEFINITIONS = Path(forebrain.studies.__file__).parent / "backbones"


def run(config: Config, console: Console) -> int:
    """Does what is not done yet, and publishes where --registry is given."""
    study(config, console)
    return 0
