"""Downloads recordings of the catalogue, checks them, and prints where they lie.

Of an address (https, or dandi:000NNN/PATH) only what reading takes is fetched, and kept for the next time.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from forebrain.sessions.catalogue import get
from forebrain.sessions.frames import pieces
from forebrain.sessions.readers import open_recording
from forebrain.sessions.remote import fetched_bytes, is_remote

POSITIONAL = "name"


@dataclass(frozen=True)
class Config:
    """The recordings to download.

    Attributes:
        name: names in the catalogue, see `forebrain data list`, or addresses.
    """

    name: list[str]


def run(config: Config, console: Console) -> int:
    """Prints a path for each name, and of an address what it holds."""
    for name in config.name:
        if not is_remote(name):
            print(get(name))
            continue
        for session in open_recording(name):
            for start, stop in pieces(0, session.num_frames, session.num_units):
                session.frames(start, stop)
            print(f"{session.id}: {session.num_frames} frames x {session.num_units} units")
        print(f"{name}  ({fetched_bytes(name) / 1e6:.1f} MB fetched; prepare and adapt take this address)")
    return 0
