from __future__ import annotations

from pathlib import Path

import pytest

from forebrain_registry import Registry


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry in a folder, and a cache of its own."""
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path / "cache"))
    return Registry(tmp_path / "registry")
