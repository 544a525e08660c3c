"""The backbones that come with forebrain: whole, small, allowed to be handed on, and of use at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.shipped import SHIPPED, shipped_models
from forebrain.sessions.catalogue import catalogue
from forebrain.sessions.session import Session
from forebrain_registry import Registry
from forebrain_registry.cli import main

FOLDER = Path(shipped_models())
NAMES = ("all-species", "macaque", "zebrafish")
PERMISSIVE = {"MIT", "CC-BY-4.0", "CC-BY-3.0-US"}


def test_they_are_whole_and_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--registry", str(FOLDER)]) == 0
    assert tuple(Registry(FOLDER).names()) == NAMES
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 5e6


@pytest.mark.parametrize("name", NAMES)
def test_a_version_says_what_it_was_made_from_and_how_it_does_on_animals_left_out(name: str) -> None:
    metadata = Registry(FOLDER).resolve(name).metadata
    allowed = {entry.sidecar["dataset"] for entry in catalogue().values() if entry.licence in PERMISSIVE}
    assert metadata.licence == "CC-BY-4.0" and set(metadata.datasets) <= allowed
    left_out = {metric.name for metric in metadata.metrics if metric.split == "animals left out"}
    assert {"score", "score of linear", "score of ridge", "score of self"} <= left_out
    assert metadata.code_version and metadata.run_id and metadata.summary


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_is_adapted_to_and_forecast(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREBRAIN_CACHE", str(tmp_path))
    backbone = Backbone.from_registry(name, SHIPPED)
    rng = np.random.default_rng(0)
    traces = np.cumsum(rng.normal(size=(500, 6)), axis=0) * 0.1 + rng.normal(size=(500, 6))
    session = Session.from_array(traces, rate_hz=backbone.rates_hz[0], species="mouse")
    adapted = backbone.adapt(session, config=FitConfig(steps=2), score=False, progress=False)
    forecast = adapted.forecast(traces)
    assert forecast.shape == (16, 6) and np.isfinite(forecast).all()
