"""The README's Python examples run as they stand there, one after the other."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from forebrain.sessions.session import Session
from forebrain_registry import Registry

README = Path(__file__).parents[2] / "README.md"


def _example(heading: str) -> str:
    section = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return example


def test_the_examples_of_adapting_and_of_streaming_run(
    registry: Registry,
    publish_backbone: Callable[..., str],
    walk: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_backbone("worms")
    shutil.copytree(registry.uri, tmp_path / "runs" / "models")
    session = walk(3, num_frames=300)
    session.save(tmp_path / "worm3.npz")
    monkeypatch.chdir(tmp_path)
    values: dict[str, object] = {}
    exec(_example("Adapt a backbone to your animal"), values)
    window, forecast = values["window"], values["forecast"]
    assert (window.shape, forecast.shape) == ((12, 5), (4, 5))  # of the small backbone here
    values["frame"] = session.frames(0, 1)[0]
    exec(_example("Forecast while you record"), values)
    assert values["forecast"].shape == (4, 5) and values["live"].source == "warm-up"
