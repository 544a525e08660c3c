"""Sessions with a coupling that is known, for heads and stacks."""

from __future__ import annotations

import numpy as np

from forebrain.scoring.window_source import ArrayWindows
from forebrain.sessions.session import Session

CONTEXT, HORIZON = 12, 4


def session_of(traces: np.ndarray, name: str = "one") -> Session:
    return Session(traces.astype(np.float32), 5.0, "fish", "animal", name, "lab")


def windows_of(traces: np.ndarray) -> ArrayWindows:
    return ArrayWindows([session_of(traces)], "chronological", CONTEXT, HORIZON)


def led_by_one(num_frames: int = 900, num_units: int = 6, lag: int = 3, seed: int = 0) -> np.ndarray:
    """White noise of one loud unit, which all others follow `lag` frames later, with noise of their own."""
    rng = np.random.default_rng(seed)
    leader = rng.normal(size=num_frames + lag)
    followers = 0.8 * leader[:num_frames, None] + 0.3 * rng.normal(size=(num_frames, num_units - 1))
    return np.concatenate([3 * leader[lag:, None], followers], axis=1)


def walks(num_frames: int = 900, num_units: int = 7, seed: int = 0) -> np.ndarray:
    """Units that each come back to their mean at a pace of their own."""
    rng = np.random.default_rng(seed)
    pace = np.linspace(0.7, 0.98, num_units)
    traces = np.zeros((num_frames, num_units))
    for frame in range(1, num_frames):
        traces[frame] = pace * traces[frame - 1] + rng.normal(size=num_units)
    return traces
