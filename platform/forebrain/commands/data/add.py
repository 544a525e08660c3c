"""Adds a recording of your own to the catalogue of this machine."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.sessions.catalogue import Entry, add
from forebrain.sessions.sidecar import read_sidecar_values
from forebrain_registry.lines import one_line
from forebrain_registry.storage import path_here

POSITIONAL = "name"


@dataclass(frozen=True)
class Config:
    """The recording to add.

    Attributes:
        name: in the catalogue.
        url: http or https; its last part names the file.
        sha256: of the file, 64 hexadecimal digits.
        licence: as the source states it.
        citation: what to cite.
        description: animal, region, number of neurons, duration.
        sidecar: YAML or JSON file: what the recording itself does not say.
    """

    name: str
    url: str
    sha256: str
    licence: str
    citation: str = ""
    description: str = ""
    sidecar: str | None = None


def run(config: Config, console: Console) -> int:
    """Adds it, and says where to."""
    entry = Entry(
        url=config.url,
        sha256=config.sha256.lower(),
        licence=config.licence,
        citation=config.citation,
        description=config.description,
        sidecar=read_sidecar_values(path_here(config.sidecar)) if config.sidecar else {},
    )
    print(one_line(f"{config.name} added to {add(config.name, entry)}"))
    return 0
