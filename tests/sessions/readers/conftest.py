from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from forebrain.sessions.readers import npz
from forebrain.sessions.session import Session
from forebrain.sessions.sidecar import Sidecar


def _real_recordings(folder: str) -> Path:
    default = Path(__file__).parents[3] / ".." / "shared" / "data"
    path = Path(os.environ.get("FOREBRAIN_TEST_DATA", default)).resolve() / folder
    if not path.is_dir():
        pytest.skip(f"no real recordings at {path} (FOREBRAIN_TEST_DATA)")
    return path


@pytest.fixture(scope="session")
def original_dir() -> Path:
    """Recordings as the labs shipped them."""
    return _real_recordings("original")


@pytest.fixture(scope="session")
def normalized_dir() -> Path:
    """The same recordings, and more, in one .npz layout."""
    return _real_recordings("normalized")


@pytest.fixture(scope="session")
def twin(normalized_dir: Path) -> Callable[[str], Session]:
    """Reads the normalized file of a recording, by its name."""
    return lambda name: npz.read(normalized_dir / f"{name}.npz", Sidecar())[0]


@pytest.fixture
def traces() -> np.ndarray:
    """[50, 4] values that tell frames from units."""
    return np.random.default_rng(0).standard_normal((50, 4))


@pytest.fixture
def calcium() -> np.ndarray:
    """[200, 6] values as a microscope gives them: slow decays over noise, none of them even."""
    rng = np.random.default_rng(0)
    values = np.zeros((200, 6))
    for frame in range(1, 200):
        values[frame] = 0.9 * values[frame - 1] + (rng.random(6) < 0.1) * rng.gamma(2, 1, 6)
    return np.round(values + 0.05 * rng.standard_normal(values.shape) + 1, 4)
