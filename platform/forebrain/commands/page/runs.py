"""Makes a page of runs side by side: configs, learning curves, scores by horizon, session and unit, pictures.

The page is one file that opens from a disk, a mail or a web host, and asks nothing of any network.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.errors import ConfigError
from forebrain.pages.side_by_side import write_side_by_side

POSITIONAL = "run"


@dataclass(frozen=True)
class Config:
    """The runs and where their page goes.

    Attributes:
        run: run folders, each the --out of `forebrain pretrain`.
        out: a folder or s3://bucket/folder, which gets index.html.
        overwrite: replace the page that is there.
    """

    run: list[str]
    out: str
    overwrite: bool = False

    def __post_init__(self) -> None:
        if len(set(self.run)) < len(self.run):
            raise ConfigError("run names a folder twice; expected each once.")


def run(config: Config, console: Console) -> int:
    """Writes the page, and says where it is."""
    console.print(f"Page: {write_side_by_side(config.run, config.out, config.overwrite)}")
    return 0
