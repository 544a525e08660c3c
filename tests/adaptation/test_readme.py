"""The README's Python example runs as it stands there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from forebrain.sessions.session import Session
from forebrain_registry import Registry

README = Path(__file__).parents[2] / "README.md"


def test_the_example_of_adapting_runs(
    registry: Registry,
    publish_backbone: Callable[..., str],
    walk: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    section = README.read_text().split("## Adapt a backbone to your animal")[1].split("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    publish_backbone("worms")
    shutil.copytree(registry.uri, tmp_path / "runs" / "models")
    walk(3, num_frames=300).save(tmp_path / "worm3.npz")
    monkeypatch.chdir(tmp_path)
    values: dict[str, object] = {}
    exec(example, values)
    assert values["window"].shape == (12, 5) and values["forecast"].shape == (
        4,
        5,
    )  # of the small backbone here
