"""Makes a page of all models in a registry: scores, origin, cards, the commands that use them.

It filters by species, rate and score, and says which models were trained on an animal. The page is one file
that opens from a disk, a mail or a web host, and asks nothing of any network.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.adaptation.origin import registry_address
from forebrain.pages.catalogue import write_catalogue

POSITIONAL = "registry"


@dataclass(frozen=True)
class Config:
    """The registry and where its page goes.

    Attributes:
        out: a folder or s3://bucket/folder, which gets index.html.
        registry: its address, a folder, s3://bucket/prefix or https://host/path. None: FOREBRAIN_REGISTRY.
        overwrite: replace the page that is there.
    """

    out: str
    registry: str | None = None
    overwrite: bool = False


def run(config: Config, console: Console) -> int:
    """Writes the page, and says where it is."""
    address = registry_address(config.registry)
    console.print(f"Page: {write_catalogue(address, config.out, config.overwrite)}")
    return 0
