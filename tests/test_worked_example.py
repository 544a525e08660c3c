"""The model that docs/development.md writes out trains, resumes, is published, adapted and streamed."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from forebrain.models import registry

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
