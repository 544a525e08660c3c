"""Small studies, and outcomes as if they had been run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from adaptation.conftest import description, publish_backbone, registry
from forebrain.config import from_values
from forebrain.sessions.session import Session
from forebrain.studies.study import Outcome
from forebrain.studies.trials import Trial
from forebrain.training.config import PretrainConfig

__all__ = ["description", "publish_backbone", "registry"]
MODEL = {
    "context": 12, "horizon": 4, "token_length": 4, "width": 16, "num_latents": 2, "num_heads": 2,
    "head_width": 8, "film_width": 32,
}  # fmt: skip
TRAINING = {"steps": 4, "batch_size": 8, "validate_every": 2, "checkpoint_every": 4, "threads": 1}


@pytest.fixture
def small_run(small_shards: str, tmp_path: Path) -> dict[str, Any]:
    """Plain values of the run that a small study's trials share."""
    return {
        "data": small_shards,
        "out": str(tmp_path / "study"),
        "workers": 0,
        "model": dict(MODEL),
        "training": dict(TRAINING),
        "evaluation": {"windows_per_session": 8},
    }


@pytest.fixture
def base(small_run: dict[str, Any]) -> PretrainConfig:
    return from_values(PretrainConfig, small_run)


@pytest.fixture
def finished(base: PretrainConfig) -> Callable[..., Outcome]:
    """An outcome with scores by session, with the linear baseline 0.1 below and mean 1 below."""

    def make(variant: str, seed: int, scores: Mapping[str, float | None], **more: Any) -> Outcome:
        def block(shift: float) -> dict[str, Any]:
            by_session = {
                session: {"score": None if score is None else score - shift}
                for session, score in scores.items()
            }
            defined = [score - shift for score in scores.values() if score is not None]
            mean = sum(defined) / len(defined) if defined else None
            return {"score": mean, "by_session": by_session}

        part = {
            **block(0.0),
            "baselines": {"copy": block(0.5), "mean": block(1.0), "linear": block(0.1)},
            "sessions_without_score": [session for session, score in scores.items() if score is None],
        }
        result = {
            "validation": part, "test": part, "backbone_parameters": 1000, "seconds": 2.0, "best_step": 4,
            "sessions_not_trained": [], **more,
        }  # fmt: skip
        out = f"{base.out}/trials/{variant}/seed-{seed}"
        config = dataclasses.replace(base, seed=seed, out=out)
        return Outcome(Trial(variant, config), "finished", "", result)

    return make


@pytest.fixture
def under_two_names(walk: Callable[..., Session], tmp_path: Path) -> list[str]:
    """Paths of one recording, which stands under two names."""
    paths = [str(tmp_path / f"{name}.npz") for name in ("first", "second")]
    for path in paths:
        dataclasses.replace(walk(0, num_frames=600), subject=Path(path).stem).save(path)
    return paths
