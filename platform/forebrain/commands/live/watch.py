"""Shows the page of a server that was started with --pictures, from this machine.

The page is the one that `forebrain live serve --page` shows; here it costs the server's machine nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

FIRST = ("pictures", "page")
POSITIONAL = "pictures"


@dataclass(frozen=True)
class Config:
    """The server to watch, and where to show it.

    Attributes:
        pictures: address that the server was given as --pictures, as this machine reaches it.
        page: port of the page, on this machine; ADDRESS:PORT, such as 0.0.0.0:8600, for all that reach it.
    """

    pictures: str = "tcp://127.0.0.1:5602"
    page: str = "8600"


def run(config: Config, console: Console) -> int:
    """Serves the page until Ctrl-C."""
    from forebrain.realtime import page

    listening = page.listen(config.page)
    console.print(f"watch it at {page.url_of(listening)}; Ctrl-C ends the page, not the server")
    page.show(listening, config.pictures, lambda: False)
    return 0
