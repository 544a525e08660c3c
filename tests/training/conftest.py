"""A small prepared data set, and runs on it in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forebrain.config import from_values
from forebrain.training.config import PretrainConfig
from forebrain.training.events import Event
from forebrain.training.single import train_here

MODEL = {
    "context": 12, "horizon": 4, "token_length": 4, "width": 16, "num_latents": 2, "num_heads": 2,
    "head_width": 8, "film_width": 32, "feed_forward_dropout": 0.1,
}  # fmt: skip
TRAINING = {"steps": 6, "batch_size": 8, "validate_every": 3, "checkpoint_every": 2, "threads": 1}


@pytest.fixture
def make_config(small_shards: str, tmp_path: Path) -> Callable[..., PretrainConfig]:
    """A small run's config; keywords replace fields, `training` and `model` field by field."""

    def make(out: str = "run", **changes: Any) -> PretrainConfig:
        values: dict[str, Any] = {
            "data": small_shards,
            "out": str(tmp_path / out),
            "model": {**MODEL, **changes.pop("model", {})},
            "training": {**TRAINING, **changes.pop("training", {})},
            **changes,
        }
        return from_values(PretrainConfig, values)

    return make


@pytest.fixture
def train() -> Callable[[PretrainConfig], list[Event]]:
    """Trains in this process; returns the run's events."""

    def run(config: PretrainConfig) -> list[Event]:
        events: list[Event] = []
        train_here(config, events.append)
        return events

    return run
