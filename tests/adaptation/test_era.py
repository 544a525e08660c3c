from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from forebrain.adaptation.era import Era, fit_era
from forebrain.adaptation.windows import SessionWindows
from forebrain.scoring.evaluate import evaluate, fit_baselines
from forebrain.sessions.session import Session


def windows_of(session: Session) -> SessionWindows:
    return SessionWindows(session, "chronological", 12, 4)


def test_it_learns_what_copy_does_not_know(walk: Callable[..., Session], one_thread: None) -> None:
    windows = windows_of(walk(0, num_frames=1000))
    era = fit_era(windows, steps=200)
    test = evaluate({**fit_baselines(windows), "era": era}, windows, "test")
    assert test.summary("era").value("score") > 0.3
    steps = [step for step, _ in era.score_by_step]
    assert steps == [0, 50, 100, 150, 200]


def test_the_same_seed_gives_the_same_forecasts(walk: Callable[..., Session], one_thread: None) -> None:
    windows = windows_of(walk(0))
    context, _, _ = windows.read(0, "test", np.arange(5))
    before = torch.random.get_rng_state()
    first, second, other = (fit_era(windows, steps=5, seed=seed)(0, context) for seed in (0, 0, 1))
    assert first.tobytes() == second.tobytes() != other.tobytes()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_test_part_is_never_seen(make_session: Callable[..., Session], one_thread: None) -> None:
    traces = np.cumsum(np.random.default_rng(0).normal(size=(400, 4)), axis=0).astype(np.float32)
    changed = traces.copy()
    changed[320:] = 1e4
    first, second = (fit_era(windows_of(make_session(traces=each)), steps=20) for each in (traces, changed))
    assert first.score_by_step == second.score_by_step
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_every_unit_reads_the_population_through_one_state() -> None:
    torch.manual_seed(0)
    model = Era(12, 4, torch.eye(6)[:, :3])
    context = torch.randn(2, 12, 6)
    other = context.clone()
    other[..., 5] += torch.randn(2, 12)
    changed = (model(context) - model(other)).abs().amax(dim=(0, 1))
    assert (changed > 0).all()
    assert model(context[..., :1].expand(-1, -1, 6)).shape == (2, 4, 6)
