"""Registries, run folders and adaptations to make pages of, as training would leave them but without it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import yaml

from adaptation.conftest import description, make_adapted, publish_backbone, registry
from forebrain.config import from_values
from forebrain.evaluation.examples import make_example
from forebrain.evaluation.report import write_report
from forebrain.scoring.evaluate import Evaluation, evaluate, fit_baselines
from forebrain.scoring.window_source import ArrayWindows
from forebrain.sessions.session import Session
from forebrain.training.config import PretrainConfig
from forebrain_registry import Metadata, Metric, Registry, SeenSession, publish

__all__ = ["description", "make_adapted", "publish_backbone", "registry"]

WEIGHTS = safetensors.numpy.save({"w": np.zeros(8, np.float32)})
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}"


@pytest.fixture
def publish_many(registry: Registry) -> Callable[[int], Registry]:
    """Publishes so many small models, with scores, many animals and cards as they come."""

    def make(count: int, **given: object) -> Registry:
        rng = np.random.default_rng(0)
        for number in range(count):
            species = ("celegans", "zebrafish", "mouse", "macaque")[number % 4]
            score = float(rng.uniform(0.05, 0.45))
            metrics = [Metric("score", score, score - 0.05, score + 0.06, "95 %, bootstrap over sessions")]
            metrics += [Metric("R2", 0.31)]
            metrics += [
                Metric(f"score of {name}", value)
                for name, value in (("copy", 0.0), ("mean", -0.4), ("linear", score * 0.8))
            ]
            metrics += [Metric("score", score, dataset=f"lab{k}") for k in range(3)]
            sessions = tuple(
                SeenSession(f"lab{animal % 3}", f"{species}-{animal}", f"day{day}", species, 2.5 + number % 3)
                for animal in range(40)
                for day in range(3)
            )
            values = {
                "licence": "CC-BY-4.0",
                "config": {"model": {"name": "poco"}},
                "preprocessing": {},
                "sessions": sessions,
                "metrics": tuple(metrics),
                "summary": f"{species}: {len(sessions)} sessions, test score {score:.3f}",
                "parent": f"model{number - 1}@1" if number % 5 else None,
                **given,
            }
            publish(registry, f"model{number}", {"model.safetensors": WEIGHTS}, Metadata(**values))
        return registry

    return make


@pytest.fixture(scope="session")
def evaluation(walk: Callable[..., Session]) -> tuple[Evaluation, ArrayWindows]:
    source = ArrayWindows([walk(0), walk(1), walk(2, species="mouse")], "chronological", 12, 4)
    forecasters = {"POCO": lambda _, context: 0.8 * context[:, -4:], **fit_baselines(source)}
    return evaluate(forecasters, source, "test", windows_per_session=32), source


@pytest.fixture(scope="session")
def shown(evaluation: tuple[Evaluation, ArrayWindows], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables and pictures of the evaluation."""
    scored, source = evaluation
    forecasters = {"POCO": lambda _, context: 0.8 * context[:, -4:], **fit_baselines(source)}
    folder = tmp_path_factory.mktemp("shown")
    write_report(folder, scored, make_example(forecasters, source, 0, "test"), "POCO")
    return folder


@pytest.fixture
def make_run(tmp_path: Path, evaluation: tuple[Evaluation, ArrayWindows], shown: Path) -> Callable[..., str]:
    """A run folder as a finished run leaves it, or one that goes on."""
    scored, _ = evaluation

    def make(name: str, finished: bool = True, steps: int = 200, **config: object) -> str:
        folder = tmp_path / "runs" / name
        (folder / "evaluation").mkdir(parents=True)
        values = {"data": "sim://default", "out": str(folder), **config}
        whole = dataclasses.asdict(from_values(PretrainConfig, values))
        (folder / "config.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
        rows = [{"kind": "step", "step": step, "loss": 1 / (1 + step / 50)} for step in range(1, steps + 1)]
        rows += [
            {"kind": "validation", "step": step, "score": 0.3 - 1 / (4 + step)}
            for step in range(0, steps + 1, 20)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if finished:
            block = scored.result("POCO")
            result = {"steps": steps, "seconds": 61.2, "best_step": steps, "test": block}
            (folder / "result.json").write_text(json.dumps(result))
            (folder / "evaluation" / "test").symlink_to(shown, target_is_directory=True)
        return str(folder)

    return make
