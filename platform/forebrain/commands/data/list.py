"""Names every recording of the catalogue, with its licence and what to cite."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.console import Table
from forebrain.sessions.catalogue import catalogue


@dataclass(frozen=True)
class Config:
    """No options."""


def run(config: Config, console: Console) -> int:
    """Shows the table."""
    table = Table("name", "description", "licence", "citation", left=[1, 2, 3])
    for name, entry in catalogue().items():
        table.add_row(name, entry.description, entry.licence, entry.citation)
    console.print(table)
    return 0
