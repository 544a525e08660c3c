from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebrain.sessions.session import Session


def open_saved(path: str) -> list[Session]:
    """Stands for the readers: opens what Session.save wrote."""
    return [Session.load(path)]


@pytest.fixture
def make_session() -> Callable[..., Session]:
    """Makes a session of noise, any field of which can be given."""

    def make(name: str = "s1", num_frames: int = 400, num_units: int = 6, **given: Any) -> Session:
        rng = np.random.default_rng([*name.encode()])
        traces = rng.standard_normal((num_frames, num_units)).astype(np.float32)
        fields = {"rate_hz": 10.0, "species": "mouse", "subject": "m1", "session": name, "dataset": "lab"}
        return Session(**{"traces": traces, **fields, **given})

    return make


@pytest.fixture
def save_session(tmp_path: Path, make_session: Callable[..., Session]) -> Callable[..., str]:
    """Saves a made session as a file and returns its path."""

    def save(file: str = "a.npz", **given: Any) -> str:
        path = tmp_path / "recordings" / file
        path.parent.mkdir(exist_ok=True)
        make_session(**{"name": Path(file).stem, **given}).save(path)
        return str(path)

    return save
