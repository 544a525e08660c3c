"""Downloads recordings of the catalogue, checks them, and prints where they lie."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.sessions.catalogue import get

POSITIONAL = "name"


@dataclass(frozen=True)
class Config:
    """What to download.

    Attributes:
        name: names in the catalogue, see `forebrain data list`.
    """

    name: list[str]


def run(config: Config, console: Console) -> int:
    """Prints a path for each name."""
    for name in config.name:
        print(get(name))
    return 0
