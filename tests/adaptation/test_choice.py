"""A lab that names no backbone gets the nearest, wherever it is published, and is told why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import forebrain as fb
from forebrain.adaptation.choice import choose_model
from forebrain.errors import AdaptationError
from forebrain_registry import Registry, SeenSession


def seen(species: str, rate_hz: float) -> SeenSession:
    return SeenSession("lab", "animal1", "one", species, rate_hz)


@pytest.fixture
def session(walk: Callable[..., fb.Session]) -> fb.Session:
    return walk(9, num_frames=300)  # a worm at 2.5 Hz


@pytest.fixture
def shipped(
    registry: Registry,
    publish_backbone: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Registry:
    """What comes with the package, here: `worms`, `fast-worms`, and `any`, of worms and mice."""
    monkeypatch.delenv("FOREBRAIN_REGISTRY", raising=False)
    monkeypatch.setattr("forebrain.adaptation.origin.shipped_models", lambda: registry.uri)
    publish_backbone("any", sessions=(seen("celegans", 2.5), seen("mouse", 10)))
    publish_backbone("fast-worms", sessions=(seen("celegans", 20.0),))
    publish_backbone("worms", sessions=(seen("celegans", 2.4),))
    return registry


def test_species_counts_first_then_the_rate(shipped: Registry, session: fb.Session) -> None:
    assert choose_model(session).reference == "worms@1"
    assert choose_model(session).why == (
        "worms@1 was chosen: it was trained on celegans at 2.4 Hz, the recording is at 2.5 Hz."
    )
    assert choose_model(replace(session, rate_hz=18.0)).reference == "fast-worms@1"
    assert choose_model(replace(session, species="mouse", rate_hz=18.0)).reference == "any@1"
    assert "of unknown rate" in choose_model(replace(session, rate_hz=None)).why


def test_another_species_is_said(shipped: Registry, session: fb.Session) -> None:
    choice = choose_model(replace(session, species="honeybee"))
    assert "no backbone of honeybee" in choice.why and choice.reference == "any@1"  # the widest


def test_what_a_lab_publishes_comes_before_what_is_shipped(
    shipped: Registry, session: fb.Session, tmp_path: Path
) -> None:
    own = Registry(tmp_path / "own")
    assert choose_model(session, own.uri).reference == "worms@1"  # its registry is empty, or not there yet
    names = list(fb.models(own.uri)["name"])
    assert sorted(names) == ["any@1", "fast-worms@1", "worms@1"]
    assert set(fb.models(own.uri)["where"]) == {"forebrain"}


def test_a_shipped_backbone_is_loaded_adapted_saved_and_opened_without_a_registry(
    shipped: Registry, session: fb.Session, tmp_path: Path
) -> None:
    backbone = fb.load("worms")
    assert backbone.origin.registry == "package://forebrain"
    adapted = backbone.adapt(session, "none", progress=False)
    folder = adapted.save(tmp_path / "adapted")
    assert not (folder / "backbone.safetensors").exists()
    assert (fb.open(folder).forecast(session) == adapted.forecast(session)).all(axis=None)
    with pytest.raises(AdaptationError, match=r"no model 'worm'.*worms.*--registry URI"):
        fb.load("worm")


def test_nothing_to_choose_from_is_said(
    session: fb.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOREBRAIN_REGISTRY", raising=False)
    monkeypatch.setattr("forebrain.adaptation.origin.shipped_models", lambda: str(tmp_path / "empty"))
    with pytest.raises(AdaptationError, match="no backbone is known"):
        choose_model(session)
