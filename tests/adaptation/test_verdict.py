"""Verdicts in practical words: first what makes them doubtful, last a backbone no better than linear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import forebrain as fb
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.verdict import beside_linear, how_far
from forebrain_registry import Registry, SeenSession

QUICK = FitConfig(steps=4, batch_size=4)


@pytest.mark.parametrize(
    ("species", "rate_hz", "words"),
    [
        ("celegans", 2.6, ""),
        ("unknown", None, ""),
        (
            "mouse",
            2.5,
            "Another species: the backbone was trained on celegans, fly, this recording is of mouse.",
        ),
        ("fly", 30.0, "Another rate: the backbone was trained at 2.5 to 5 Hz, this recording has 30 Hz."),
    ],
)
def test_another_species_or_rate_is_said(species: str, rate_hz: float | None, words: str) -> None:
    assert how_far(species, rate_hz, ["fly", "celegans"], [2.5, 5.0]) == words


def test_a_backbone_that_is_no_better_than_linear_is_named_as_such() -> None:
    assert beside_linear(0.3, 0.2) == ""
    assert "hardly beats linear, which needs none (0.203 and 0.200)" in beside_linear(0.203, 0.2)
    assert "does worse than linear" in beside_linear(0.1, 0.2)


@pytest.fixture
def adapted(
    registry: Registry, publish_backbone: Callable[..., str], walk: Callable[..., fb.Session]
) -> fb.Adapted:
    fish = (SeenSession("lab", "fish1", "one", "zebrafish", 2.5),)
    backbone = fb.load(publish_backbone(sessions=fish), registry=registry.uri)
    session = walk(9, num_frames=300)
    noise = np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32)
    session = replace(
        session,
        traces=np.concatenate([noise, session.traces], axis=1),
        unit_names=("noise", *"abcde"),
        brain_regions=("left",) * 6,
        unit_positions=np.arange(18, dtype=np.float32).reshape(6, 3),
    )
    return backbone.adapt(session, config=QUICK, progress=False)


def test_units_say_how_well_each_is_forecast_and_come_back_from_a_folder(
    adapted: fb.Adapted, tmp_path: Path
) -> None:
    units = adapted.units
    names = ["region", "x", "y", "z", "explained", "noise_ceiling", "r2", "correlation", "score"]
    assert list(units.columns) == [*names, "trusted_seconds", "column", "mean", "scale"]
    assert list(units.index) == ["noise", *"abcde"] and (units["region"] == "left").all()
    assert units["explained"].idxmin() == "noise" and units.loc["noise", "trusted_seconds"] == 0
    assert units.loc["noise", "noise_ceiling"] < 0.4 < units.loc["a", "noise_ceiling"]
    adapted.save(tmp_path / "kept")
    assert fb.open(tmp_path / "kept").units.equals(units)
    adapted.report(tmp_path / "told")
    assert (tmp_path / "told" / "units.csv").read_text().startswith("unit,region,x,y,z,explained,")
    report = (tmp_path / "told" / "report.md").read_text()
    assert "it favours the noisy ones" in report
    assert report.rindex("| a ") < report.rindex("| noise ")


def test_the_verdict_begins_with_another_species_and_a_notebook_shows_it(adapted: fb.Adapted) -> None:
    assert adapted.score is not None
    assert adapted.score.verdict.startswith("Another species: the backbone was trained on zebrafish, ")
    shown = adapted._repr_html_()
    assert "Another species" in shown and "linear" in shown and "lab/animal9/one" in shown
    assert adapted.comparison is not None
    assert "zebrafish" in adapted.comparison.backbone._repr_html_()  # type: ignore[attr-defined]


def test_events_that_were_binned_to_a_trained_rate_are_of_no_other_rate(adapted: fb.Adapted) -> None:
    comparison = adapted.comparison
    assert comparison is not None and "Another rate" not in comparison.far()

    def far(event_rate_hz: float | None) -> str:
        made = replace(comparison.prepared.preprocessing, recorded_rate_hz=25.0, event_rate_hz=event_rate_hz)
        return replace(comparison, prepared=replace(comparison.prepared, preprocessing=made)).far()

    assert "Another rate" not in far(2.5) and "this recording has 25 Hz" in far(None)
