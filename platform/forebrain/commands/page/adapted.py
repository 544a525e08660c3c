"""Makes a page of one adaptation, to mail: how good it is, for which neurons, and what it forecasts.

The page is one file that opens from a disk, a mail or a web host, and asks nothing of any network.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.pages.adaptation import write_adaptation

POSITIONAL = "adapted"


@dataclass(frozen=True)
class Config:
    """The adaptation and where its page goes.

    Attributes:
        adapted: the folder of an adaptation, the --out of `forebrain adapt`.
        out: a folder or s3://bucket/folder, which gets a page named after the recording.
        overwrite: replace the page that is there.
    """

    adapted: str
    out: str
    overwrite: bool = False


def run(config: Config, console: Console) -> int:
    """Writes the page, and says where it is."""
    console.print(f"Page: {write_adaptation(config.adapted, config.out, config.overwrite)}")
    return 0
