"""A lab that names no backbone gets the nearest, wherever it is published, and is told why."""

from __future__ import annotations

import shutil
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


def begun(place: Path) -> str:
    """A registry without a version."""
    blob = place / f"blobs/sha256/ab/{'ab' * 32}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"")
    return str(place)


def chosen_of(session: fb.Session, registry: str | None = None) -> str:
    return str(choose_model(session, registry).version)


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
    assert chosen_of(session) == "worms@1"
    assert choose_model(session).why == (
        "worms@1 of package://forebrain was chosen: it was trained on celegans at 2.4 Hz, the recording is "
        "at 2.5 Hz."
    )
    assert chosen_of(replace(session, rate_hz=18.0)) == "fast-worms@1"
    assert chosen_of(replace(session, species="mouse", rate_hz=18.0)) == "any@1"
    assert "of unknown rate" in choose_model(replace(session, rate_hz=None)).why


def test_another_species_is_said(shipped: Registry, session: fb.Session) -> None:
    choice = choose_model(replace(session, species="honeybee"))
    assert "no backbone of honeybee" in choice.why and str(choice.version) == "any@1"  # the widest


def test_an_empty_registry_leaves_what_is_shipped_and_a_mistyped_one_is_an_error(
    shipped: Registry, session: fb.Session, tmp_path: Path
) -> None:
    own = begun(tmp_path / "own")
    assert chosen_of(session, own) == "worms@1"
    assert sorted(fb.models(own)["name"]) == ["any@1", "fast-worms@1", "worms@1"]
    assert set(fb.models(own)["where"]) == {"package://forebrain"}
    away = str(tmp_path / "not-mounted")
    for ask in (
        lambda: choose_model(session, away),
        lambda: fb.models(away),
        lambda: fb.load("worms", registry=away),
    ):
        with pytest.raises(AdaptationError, match=r"not-mounted: there is no registry.*package://forebrain"):
            ask()


def test_what_is_chosen_is_what_is_opened_though_the_lab_has_another_of_that_name(
    shipped: Registry, session: fb.Session, tmp_path: Path, publish_backbone: Callable[..., str]
) -> None:
    own = str(tmp_path / "own")
    publish_backbone("worms", seed=7, registry=own, sessions=(seen("celegans", 30.0),))
    Registry(own).deprecate("worms", 1, "trained on shuffled frames")
    publish_backbone("worms", seed=8, registry=own, sessions=(seen("celegans", 30.0),))
    choice = choose_model(session, own)
    assert (str(choice.version), choice.registry) == ("worms@1", "package://forebrain")
    opened = fb.load(choice.reference, registry=choice.registry)
    assert opened.rates_hz == [2.4] and opened.origin.registry == "package://forebrain"
    assert fb.load(choice.reference, registry=own).origin == opened.origin
    table = fb.models(own)
    assert list(table.loc[table["name"].str.startswith("worms"), "name"]) == ["worms@2", "worms@1"]
    for name, where, rates in table[["name", "where", "rates"]].itertuples(index=False):
        assert ", ".join(f"{rate:.4g}" for rate in fb.load(name, where).rates_hz) == rates


def test_a_name_is_the_lab_s_while_its_registry_holds_anything_of_it(
    shipped: Registry, tmp_path: Path, publish_backbone: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    own = str(tmp_path / "own")
    publish_backbone("worms", seed=7, registry=own)
    publish_backbone("worms", seed=8, registry=own)
    records = tmp_path / "own/models/worms/versions"
    (records / "00000001.json").unlink()
    with pytest.raises(AdaptationError, match="worms has no version 1"):
        fb.load("worms@1", registry=own)
    Registry(own).deprecate("worms", 2, "fitted on its test part")
    with pytest.raises(AdaptationError, match="every version of worms is deprecated"):
        fb.load("worms", registry=own)
    (records / "00000002.json").unlink()
    with pytest.raises(AdaptationError, match="every version of worms is lost"):
        fb.load("worms", registry=own)
    assert not caplog.records
    assert fb.load("any", registry=own).origin.registry == "package://forebrain"
    assert [each.getMessage() for each in caplog.records] == [
        f"{own}: holds nothing of the name any; the one in {shipped.uri} is taken."
    ]


def test_what_is_deprecated_says_so_when_it_is_taken_and_in_what_is_made_of_it(
    registry: Registry,
    publish_backbone: Callable[..., str],
    session: fb.Session,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish_backbone("worms")
    registry.deprecate("worms", 1, "fitted on its test part")
    registry.set_alias("worms", "champion", 1)
    backbone = fb.load("worms@champion", registry=registry.uri)
    assert [each.getMessage() for each in caplog.records] == [
        "worms@1 is deprecated: fitted on its test part"
    ]
    assert repr(backbone).endswith("; deprecated: fitted on its test part")
    adapted = backbone.adapt(session, "none", progress=False, rivals=False)
    folder = adapted.report(tmp_path / "made")
    assert "**worms@1 is deprecated: fitted on its test part**" in (folder / "report.md").read_text()
    assert adapted.result["model_deprecated"] == "fitted on its test part"


def test_a_shipped_backbone_is_loaded_adapted_saved_and_opened_whatever_is_shipped_later(
    shipped: Registry, session: fb.Session, tmp_path: Path
) -> None:
    backbone = fb.load("worms")
    assert backbone.origin.registry == "package://forebrain"
    adapted = backbone.adapt(session, "none", progress=False)
    folder = adapted.save(tmp_path / "adapted")
    # Another version of the package, on a machine that never saw this one.
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(shipped.uri)
    assert (fb.open(folder).forecast(session) == adapted.forecast(session)).all(axis=None)


def test_an_adaptation_of_before_to_a_shipped_backbone_goes_on_with_what_the_cache_has(
    shipped: Registry, session: fb.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = fb.load("worms").adapt(session, "none", progress=False, score=False)
    with monkeypatch.context() as patch:
        patch.setattr("forebrain.adaptation.artifact.SHIPPED", "")
        folder = adapted.save(tmp_path / "adapted")
    assert not (folder / "backbone.safetensors").exists()
    later = begun(tmp_path / "later")
    monkeypatch.setattr("forebrain.adaptation.origin.shipped_models", lambda: later)
    assert (fb.open(folder).forecast(session) == adapted.forecast(session)).all(axis=None)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(AdaptationError, match=r"worms@1 came with another version of forebrain.*adapt again"):
        fb.open(folder)


def test_a_name_that_nobody_has_is_said(shipped: Registry) -> None:
    with pytest.raises(AdaptationError, match=r"no model 'worm'.*worms.*--registry URI"):
        fb.load("worm")


def test_nothing_to_choose_from_is_said(
    session: fb.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOREBRAIN_REGISTRY", raising=False)
    monkeypatch.setattr("forebrain.adaptation.origin.shipped_models", lambda: begun(tmp_path / "empty"))
    with pytest.raises(AdaptationError, match="no backbone is known"):
        choose_model(session)
