"""No default path sees the future: a recording whose end is another one's gives the same until then, to the
last bit, from reading to forecasts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebrain.config import from_values
from forebrain.runs.trained import TrainedModel
from forebrain.scoring.evaluate import evaluate, fit_baselines
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.windows import ShardWindows
from forebrain.training.config import PretrainConfig
from forebrain.training.events import Event, Validated
from forebrain.training.run_folder import RunFolder
from forebrain.training.single import train_here
from run_events import losses_of

NUM_FRAMES, CONTEXT, HORIZON = 300, 12, 4
# Within the test part, which begins at frame 240.
FUTURE = 280


def recordings() -> tuple[Session, Session]:
    """One as it was, with a few values missing, and one that turns wild, goes silent and misses others."""
    rng = np.random.default_rng(0)
    rhythms = np.sin(np.arange(NUM_FRAMES)[:, None] * rng.uniform(0.1, 0.4, 3))
    traces = rhythms @ rng.normal(size=(3, 7)) + 0.2 * rng.normal(size=(NUM_FRAMES, 7))
    traces[rng.random(traces.shape) < 0.01] = np.nan
    other = traces.copy()
    other[FUTURE:] = 100 - 30 * other[FUTURE:]
    other[FUTURE:, 2] = 0.0
    other[FUTURE + 5 : FUTURE + 9, 4] = np.nan
    first, second = (
        Session(frames.astype(np.float32), 5.0, "fish", "a", "one", "lab") for frames in (traces, other)
    )
    return first, second


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., list[str]]:
    """Addresses of the two recordings' shards."""

    def go(**options: Any) -> list[str]:
        shards = []
        for name, session in zip(("as-it-was", "other"), recordings(), strict=True):
            session.save(tmp_path / f"{name}.npz")
            shards.append(str(tmp_path / f"shards-{name}"))
            prepare(
                [str(tmp_path / f"{name}.npz")],
                shards[-1],
                PrepareConfig(**options),
                open_recording=lambda path: [Session.load(path)],
                run_each=map_here,
            )
        return shards

    return go


@pytest.mark.parametrize(
    ("options", "frames_kept"),
    [({}, 1.0), ({"pca": 3}, 1.0), ({"resample_hz": 2.5}, 0.5)],
    ids=["default", "components", "resampled"],
)
def test_fits_and_windows_know_nothing_of_what_comes_after(
    prepared: Callable[..., list[str]], options: dict[str, Any], frames_kept: float
) -> None:
    one, other = (
        ShardWindows(ShardSet.open(uri), "chronological", CONTEXT, HORIZON) for uri in prepared(**options)
    )
    future = int(FUTURE * frames_kept) - 1  # resampling ends a frame earlier
    fits = [each.shards.fit(0, "chronological") for each in (one, other)]
    for name, value in vars(fits[0]).items():
        assert np.array_equal(value, vars(fits[1])[name]), name
    for part in ("train", "validation", "test"):
        numbers = np.arange(one.num_windows(0, part))
        assert len(numbers) == other.num_windows(0, part)
        *windows, starts = one.read(0, part, numbers)
        *others, _ = other.read(0, part, numbers)
        before = starts + CONTEXT + HORIZON <= future
        assert before.any()
        assert before.all() == (part != "test")
        for ours, theirs in zip(windows, others, strict=True):
            assert np.array_equal(ours[before], theirs[before])


def test_training_and_forecasts_know_nothing_of_what_comes_after(
    prepared: Callable[..., list[str]], tmp_path: Path
) -> None:
    model = {
        "context": CONTEXT, "horizon": HORIZON, "token_length": 4, "width": 16, "num_heads": 2,
        "head_width": 8, "film_width": 16,
    }  # fmt: skip
    losses, validations, forecasts, baselines = [], [], [], []
    for uri in prepared():
        values = {
            "data": uri,
            "out": str(tmp_path / f"run-{len(losses)}"),
            "model": model,
            "training": {"steps": 4, "batch_size": 8, "validate_every": 2, "threads": 1},
        }
        config = from_values(PretrainConfig, values)
        RunFolder(config.out).claim(config)
        events: list[Event] = []
        train_here(config, events.append)
        losses.append(losses_of(events))
        validations += [event.scores.values.tolist() for event in events if isinstance(event, Validated)]
        windows = ShardWindows(ShardSet.open(uri), "chronological", CONTEXT, HORIZON)
        context, _, starts = windows.read(0, "test", np.arange(windows.num_windows(0, "test")))
        known = starts + CONTEXT <= FUTURE
        assert known.sum() > 5 and not known.all()
        forecaster = TrainedModel.load(RunFolder(config.out)).forecaster(windows.sessions)
        forecasts.append(forecaster(0, context[known]))
        fitted = fit_baselines(windows)
        baselines.append([fitted[name](0, context[known]) for name in ("copy", "mean", "linear")])
        assert evaluate(fitted, windows, "test").summary("linear").num_windows == len(starts)
    assert losses[0] == losses[1]
    assert len(validations) == 4 and validations[:2] == validations[2:]
    assert np.array_equal(*forecasts)
    for ours, theirs in zip(*baselines, strict=True):
        assert np.array_equal(ours, theirs)
