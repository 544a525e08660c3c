"""The page of public names and the tutorial run as they stand, and no name is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import forebrain as fb
from adaptation.conftest import description, publish_backbone, registry
from forebrain.sessions.session import Session
from forebrain_registry import Registry

__all__ = ["description", "publish_backbone", "registry"]
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def laboratory(
    registry: Registry,
    publish_backbone: Callable[..., str],
    walk: Callable[..., Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with a recording, and a registry with a small model for it."""
    publish_backbone("worms")
    walk(3, num_frames=300).save(tmp_path / "worm3.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOREBRAIN_REGISTRY", registry.uri)
    return tmp_path


def test_every_public_name_has_an_example_and_its_docstring_on_the_page() -> None:
    page = (DOCS / "api.md").read_text()
    for name in fb.__all__:
        heading = f"### fb.{name}".replace("__", r"\_\_")
        assert heading in page, name
        section = page.split(heading)[1].split("\n### ")[0]
        assert "```python\n" in section, name
        assert "\n::: forebrain" in section or name == "__version__", name


@pytest.mark.slow
def test_the_examples_of_the_page_run(laboratory: Path) -> None:
    values: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", (DOCS / "api.md").read_text(), re.DOTALL):
        exec(compile(example, "docs/api.md", "exec"), values)
    assert values["forecast"].shape == (4, 5) and values["short"].shape == (2, 5)
    assert (laboratory / "runs" / "worm3" / "report.md").exists()
    assert isinstance(values["figure"], Figure)


@pytest.mark.slow
def test_the_tutorial_runs_from_an_array_to_a_figure(laboratory: Path) -> None:
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text())
    values: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "docs/tutorial.ipynb", "exec"), values)
    assert isinstance(values["figure"], Figure)
    assert np.isfinite(values["ahead"].to_numpy()).all() and values["ahead"].shape == (16, 24)
    assert values["adapted"].units["explained"].max() > 0.3
