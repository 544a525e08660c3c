"""Measures on your recordings what looking into the future would seem to gain."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.commands._out import require_free, write_out
from forebrain.errors import ConfigError
from forebrain.evaluation.leaks import leak_table, measure_leaks
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import clean
from forebrain.shards.recordings import find_all, open_any

ALIASES = {"--recordings": "--recording", "--csv": "--out"}  # as scripts have it


@dataclass(frozen=True)
class Config:
    """The recordings to measure on.

    Attributes:
        recording: files and folders of recordings, or sim://default.
        context: frames a forecast is made from.
        horizon: frames forecast.
        out: CSV file for the table.
        overwrite: replace the file that is there.
    """

    recording: list[str]
    context: int = 48
    horizon: int = 16
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("context", "horizon"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more.")


def run(config: Config, console: Console) -> int:
    """Shows the table."""
    require_free(config.out, config.overwrite)
    options = PrepareConfig()
    sessions = [
        clean(session, options)[0] for address in find_all(config.recording) for session in open_any(address)
    ]
    table = leak_table(measure_leaks(sessions, config.context, config.horizon, progress=console.print))
    if config.out is not None:
        write_out(config.out, table.to_csv().encode(), config.overwrite)
    console.print(table.to_rich())
    return 0
