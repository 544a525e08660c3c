"""The model that docs/development.md writes out trains, resumes, is published, adapted and streamed."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import forebrain as fb
from forebrain.adaptation.publish import PublishConfig, publish_run
from forebrain.config import from_values
from forebrain.models import registry
from forebrain.runs.pretrain import pretrain
from forebrain.sessions.session import Session
from forebrain.training.config import PretrainConfig
from forebrain.training.run_folder import RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "development.md"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The code of the page as a module whose config is registered."""
    (code,) = re.findall(r"```python\n(\"\"\"A mean-field model.*?)```", PAGE.read_text(), flags=re.S)
    assert len(code.splitlines()) <= 60
    (tmp_path / "mean_field.py").write_text(code)
    spec = importlib.util.spec_from_file_location("mean_field", tmp_path / "mean_field.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mean_field", module)
    spec.loader.exec_module(module)
    models = registry.MODELS
    assert isinstance(models, dict)
    monkeypatch.setitem(models, "meanfield", module.MeanFieldConfig)
    yield module


def test_it_trains_resumes_is_published_adapted_and_streamed(
    example: ModuleType,
    small_shards: str,
    walk: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    training = {"batch_size": 16, "steps": 6, "validate_every": 3, "checkpoint_every": 3, "threads": 1}

    def train(out: str, **changes: Any) -> RunFolder:
        values = {
            "data": small_shards,
            "out": str(tmp_path / out),
            "workers": 0,
            "model": {"name": "meanfield", "context": 12, "horizon": 4, "width": 8},
            "training": training | changes,
            "evaluation": {"windows_per_session": 8},
        }
        return RunFolder(pretrain(from_values(PretrainConfig, values), Console(quiet=True)))

    whole, stopped = train("whole"), train("stopped")
    stopped.checkpoints().folder.remove("00000006.json")  # as a kill after step 3 would have left it
    stopped.folder.remove("result.json")
    resumed = train("stopped")
    losses = [
        {row["step"]: row["loss"] for row in run.read_metrics() if row["kind"] == "step"}
        for run in (whole, resumed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6

    models = str(tmp_path / "models")
    publish_run(PublishConfig(resumed.uri, "field", models, licence="MIT"))
    backbone = fb.load("field", registry=models)
    session = replace(walk(5, num_frames=300), rate_hz=5.0)
    adapted = backbone.adapt(session, rivals=False, progress=False)
    adapted.save(tmp_path / "mine")
    again = fb.open(tmp_path / "mine", registry=models)
    window = np.asarray(session.traces)[-12:]
    forecast = again.forecast(window)
    assert forecast.shape == (4, adapted.num_units) and np.isfinite(forecast).all()
    live = again.stream()
    for frame in window:
        streamed = live.step(frame)
    np.testing.assert_array_equal(streamed, forecast)
