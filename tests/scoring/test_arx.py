from __future__ import annotations

import numpy as np
import pytest

from forebrain.adaptation.windows import SessionWindows
from forebrain.scoring.arx import ArxConfig, fit_arx, fit_evoked
from forebrain.sessions.session import Session

CONTEXT, HORIZON = 8, 4


def driven(num_frames: int = 900, num_units: int = 3, split: np.ndarray | None = None) -> Session:
    """z[t] = 0.8 z[t - 1] + u[t], with a little noise."""
    rng = np.random.default_rng(0)
    drive = (rng.random(num_frames) < 0.1).astype(np.float32)
    traces = np.zeros((num_frames, num_units))
    gains = np.linspace(-1, 2, num_units)
    for frame in range(1, num_frames):
        traces[frame] = 0.8 * traces[frame - 1] + gains * drive[frame]
    traces += 0.02 * rng.normal(size=traces.shape)
    return Session(
        traces.astype(np.float32), 5.0, "fish", "one", "s", "lab",
        stimulus=drive[:, None], stimulus_names=("drive",), split=split,
    )  # fmt: skip


def score(source: SessionWindows, forecaster) -> float:
    context, target, starts = source.read(0, "test", np.arange(source.num_windows(0, "test")))
    forecast = forecaster(context, starts, source)
    return float(1 - np.square(forecast - target).sum() / np.square(target - context[:, -1:]).sum())


@pytest.mark.parametrize("rank", [None, 1])
def test_arx_finds_a_linear_system_and_needs_the_plan_for_it(rank: int | None) -> None:
    source = SessionWindows(driven(), "chronological", CONTEXT, HORIZON)
    scores = [
        score(source, fit_arx(source, ["drive"], ArxConfig(4, memory, plan), rank=rank))
        for memory, plan in ((0, False), (6, False), (6, True))
    ]
    assert scores[2] > 0.9 > max(scores[:2]) + 0.1


def test_arx_chooses_by_blocks_of_time_where_nothing_validates() -> None:
    split = np.where(np.arange(900) < 600, 0, 2)
    source = SessionWindows(driven(split=split), "given", CONTEXT, HORIZON)
    assert source.num_windows(0, "validation") == 0
    assert score(source, fit_arx(source, ["drive"], ArxConfig(4, 6, True))) > 0.9


def test_the_mean_evoked_response_is_the_mean_after_a_mark() -> None:
    marks = np.zeros(600, np.float32)
    marks[::30] = 1
    shape = np.r_[0, 3, 5, 4, 2, 1, np.zeros(24)]
    traces = np.tile(shape, 20)[:, None]
    session = Session(
        traces.astype(np.float32), 5.0, "fish", "one", "s", "lab",
        stimulus=marks[:, None], stimulus_names=("mark",),
    )  # fmt: skip
    source = SessionWindows(session, "chronological", CONTEXT, HORIZON)
    assert score(source, fit_evoked(source, ["mark"], 12)) > 0.999
