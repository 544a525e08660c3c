from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebrain.sessions.session import Session


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real recordings; tests that need it are skipped where it is absent."""
    default = Path(__file__).parents[2] / ".." / "shared" / "data"
    folder = Path(os.environ.get("FOREBRAIN_TEST_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder} (FOREBRAIN_TEST_DATA)")
    return folder


@pytest.fixture
def make_session() -> Callable[..., Session]:
    """Makes a session of noise, any field of which can be given."""

    def make(num_frames: int = 400, num_units: int = 6, **given: Any) -> Session:
        traces = np.random.default_rng(0).standard_normal((num_frames, num_units)).astype(np.float32)
        fields = {"rate_hz": 10.0, "species": "mouse", "subject": "m1", "session": "s1", "dataset": "lab"}
        return Session(**{"traces": traces, **fields, **given})

    return make
