"""Publishes a run's best checkpoint in a registry, or any with `--step`.

A version is weights, what a lab needs to use them, scores and what it was trained on; it never changes.
"""

from __future__ import annotations

from rich.console import Console

from forebrain.adaptation.publish import PublishConfig as Config
from forebrain.adaptation.publish import publish_run, say_published

__all__ = ["Config", "run"]


def run(config: Config, console: Console) -> int:
    """Publishes, and says as what."""
    say_published(*publish_run(config), console)
    return 0
