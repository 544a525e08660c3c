from __future__ import annotations

from forebrain.sessions.session import Session


def open_saved(path: str) -> list[Session]:
    """Stands for the readers: opens what Session.save wrote."""
    return [Session.load(path)]
