"""What docs/development.md writes out: a model, from training to streaming, and a reader."""

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
from forebrain.errors import RecordingError
from forebrain.models import registry
from forebrain.runs.pretrain import pretrain
from forebrain.sessions import readers
from forebrain.sessions.session import Session
from forebrain.training.config import PretrainConfig
from forebrain.training.run_folder import RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "development.md"


def module_of_page(first: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The code of the page that begins with these words, as a module."""
    (code,) = re.findall(rf"```python\n(\"\"\"{first}.*?)```", PAGE.read_text(), flags=re.S)
    assert len(code.splitlines()) <= 60
    (folder / "example.py").write_text(code)
    spec = importlib.util.spec_from_file_location(name, folder / "example.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The model of the page, registered."""
    module = module_of_page("A mean-field model", "mean_field", tmp_path, monkeypatch)
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


def test_the_reader_of_the_page_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_of_page("Lab traces", "forebrain.sessions.readers.labtraces", tmp_path, monkeypatch)
    monkeypatch.setattr(readers, "READERS", ("labtraces", *readers.READERS))
    traces = np.random.default_rng(0).normal(size=(50, 4))
    path = tmp_path / "recording.txt"
    np.savetxt(path, traces, header="labtraces rate_hz=5", comments="#")
    (session,) = readers.open_recording(path)
    np.testing.assert_allclose(session.frames(0, 50), traces, rtol=1e-6)
    assert session.rate_hz == 5.0 and session.metadata["rate_from"] == "the first line"
    path.write_bytes(path.read_bytes()[:-30] + b" x\n")
    with pytest.raises(RecordingError, match="not readable as lab traces"):
        readers.open_recording(path)
