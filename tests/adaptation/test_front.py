"""The front door in Python does what it says, and costs nothing until it is used."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import forebrain as fb
from forebrain.adaptation.artifact import EVALUATION, RESULT
from forebrain.adaptation.fit import FitConfig
from forebrain.errors import AdaptationError, StorageError
from forebrain.sealed import unsealed
from forebrain_registry import Metric, Registry

QUICK = FitConfig(steps=6, batch_size=4)


@pytest.fixture
def session(walk: Callable[..., fb.Session]) -> fb.Session:
    return walk(9, num_frames=300)


@pytest.fixture
def backbone(registry: Registry, publish_backbone: Callable[..., str]) -> fb.Backbone:
    return fb.load(publish_backbone(), registry=registry.uri)


@pytest.fixture
def adapted(backbone: fb.Backbone, session: fb.Session) -> fb.Adapted:
    return backbone.adapt(session, config=QUICK, progress=False)


def test_importing_it_imports_nothing_heavy_and_every_name_is_there() -> None:
    code = (
        "import sys, forebrain as fb\n"
        "heavy = [name for name in ('torch', 'numpy', 'pandas', 'rich', 'ray') if name in sys.modules]\n"
        "assert heavy == [], heavy\n"
        "assert all(getattr(fb, name) is not None for name in fb.__all__)\n"
        "assert set(fb.__all__) <= set(dir(fb))\n"
        "later = [name for name in ('ray', 'pandas', 'matplotlib', 'triton') if name in sys.modules]\n"
        "assert later == [], later"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'forecasts'"):
        fb.forecasts  # noqa: B018


def test_models_is_a_table_and_a_room_of_the_package(
    registry: Registry, publish_backbone: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = (Metric("score", 0.21, split="test"), Metric("score", 0.5, split="validation"))
    publish_backbone("worms", metrics=scores)
    publish_backbone("worms", seed=1)
    publish_backbone("fish")
    registry.deprecate("worms", 2, "trained on the test part")
    table = fb.models(registry.uri)
    assert list(table.columns) == ["name", "species", "rates", "size", "score", "where"]
    assert {"worms@1", "fish@1"} <= set(table["name"])
    assert set(table.loc[table["where"] == registry.uri, "name"]) == {"worms@1", "fish@1"}
    worms = table.set_index("name").loc["worms@1"]
    assert (worms["species"], worms["rates"], worms["score"]) == ("celegans", "2.5", 0.21)
    assert worms["where"] == registry.uri and 0 < worms["size"] < 1
    assert math.isnan(table.set_index("name").loc["fish@1", "score"])

    monkeypatch.setenv("FOREBRAIN_REGISTRY", registry.uri)
    assert fb.models().equals(table)
    import forebrain.models.poco  # which names the room on the package

    assert forebrain.models.poco.Poco is not None and fb.models().equals(table)


def test_a_backbone_says_what_it_is(backbone: fb.Backbone) -> None:
    assert repr(backbone) == (
        "worms@1: POCO, 12 frames to the next 4, trained on 1 sessions of celegans at 2.5 Hz"
    )


def test_an_array_gives_an_array_and_a_session_a_table(adapted: fb.Adapted, session: fb.Session) -> None:
    window = session.frames(280, 300)
    forecast = adapted.forecast(window)
    assert forecast.shape == (4, 5) and forecast.dtype == np.float32
    table = adapted.forecast(session)
    np.testing.assert_array_equal(table.to_numpy(), forecast)
    assert table.index.name == "seconds ahead" and list(table.index) == pytest.approx([0.4, 0.8, 1.2, 1.6])
    assert list(table.columns) == [f"unit {number}" for number in range(5)]
    np.testing.assert_array_equal(adapted.forecast(pd.DataFrame(window)), forecast)

    np.testing.assert_array_equal(adapted.forecast(window, horizon=2), forecast[:2])
    assert len(adapted.forecast(session, horizon=1)) == 1
    for horizon in (0, 5):
        with pytest.raises(AdaptationError, match="forecasts 1 to 4"):
            adapted.forecast(window, horizon=horizon)


def test_without_a_rate_a_table_counts_frames(backbone: fb.Backbone, session: fb.Session) -> None:
    adapted = backbone.adapt(replace(session, rate_hz=None), "none", QUICK, progress=False)
    table = adapted.forecast(replace(session, rate_hz=None))
    assert table.index.name == "frames ahead" and list(table.index) == [1, 2, 3, 4]


def test_the_score_and_the_verdict_come_back_from_a_folder(adapted: fb.Adapted, tmp_path: Path) -> None:
    score = adapted.score
    assert score is not None and adapted.comparison is not None
    assert set(score.baselines) == {"copy", "mean", "linear", "ridge", "era", "self"}
    assert set(score.others) == {"backbone alone", "from scratch", "not adapted"}
    assert score.low < float(score) < score.high and score.leak is None
    assert score.verdict == adapted.comparison.verdict() and score.verdict in repr(adapted)
    assert repr(adapted).startswith("worms@1 adapted to lab/animal9/one (embeddings): 5 units at 2.5 Hz")

    opened = fb.open(adapted.save(tmp_path / "saved"))
    assert opened.score == score and opened.comparison is None
    again = fb.open(opened.save(tmp_path / "again"))
    assert again.score == score
    for name in (RESULT, EVALUATION):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "saved" / name).read_text()


def test_a_damaged_score_is_one_clear_error(adapted: fb.Adapted, tmp_path: Path) -> None:
    path = adapted.save(tmp_path / "saved") / RESULT
    path.write_text(path.read_text()[:-9])
    with pytest.raises(AdaptationError, match=r"result.json: damaged .* Delete it"):
        fb.open(tmp_path / "saved")
    path.write_text(json.dumps({"score": 0.5}))
    damaged = fb.open(tmp_path / "saved")
    with pytest.raises(AdaptationError, match="result of this adaptation is damaged"):
        print(damaged.score)
    assert "result of this adaptation is damaged" in repr(damaged)
    path.unlink()
    assert fb.open(tmp_path / "saved").score is None


def test_a_score_from_before_leads_were_kept_is_read(adapted: fb.Adapted, tmp_path: Path) -> None:
    path = adapted.save(tmp_path / "saved") / RESULT
    result = unsealed(path.read_bytes())
    del result["lead"]
    path.write_text(json.dumps(result))
    score = fb.open(tmp_path / "saved").score
    assert score is not None and adapted.score is not None
    assert score.lead is None and replace(score, lead=adapted.score.lead) == adapted.score


def test_adapting_without_a_score_takes_no_other_steps(backbone: fb.Backbone, session: fb.Session) -> None:
    told: set[str] = set()
    adapted = backbone.adapt(
        session, config=QUICK, score=False, progress=lambda what, done, total: told.add(what)
    )
    assert told == {"adapting: step", "adapting: head and weights, window"}
    assert adapted.score is None and "not scored" in repr(adapted)
    for action in (lambda: adapted.report("nowhere"), adapted.plot):
        with pytest.raises(AdaptationError, match="not scored"):
            action()
    scored = backbone.adapt(session, config=QUICK, rivals=False, progress=False)
    assert scored.score is not None and set(scored.score.others) == {"backbone alone", "not adapted"}
    np.testing.assert_array_equal(scored.forecast(session), adapted.forecast(session))


def test_units_and_embeddings_are_tables_by_name(adapted: fb.Adapted) -> None:
    assert list(adapted.units.index) == list(adapted.embeddings.index) == [f"unit {n}" for n in range(5)]
    assert list(adapted.units.columns)[-4:] == ["trusted_seconds", "column", "mean", "scale"]
    np.testing.assert_array_equal(adapted.embeddings, adapted.interface.unit.detach())


def test_a_report_is_the_folder_and_more(adapted: fb.Adapted, session: fb.Session, tmp_path: Path) -> None:
    folder = adapted.report(tmp_path / "report")
    assert "fb.open" in (folder / "report.md").read_text()
    opened = fb.open(folder)
    np.testing.assert_array_equal(opened.forecast(session), adapted.forecast(session))
    with pytest.raises(StorageError, match="exists already"):
        adapted.report(folder)
    with pytest.raises(AdaptationError, match="opened from a folder"):
        opened.report(tmp_path / "other")


def test_a_plot_shows_units_by_name_also_from_a_folder(
    adapted: fb.Adapted, session: fb.Session, tmp_path: Path
) -> None:
    figure = adapted.plot()
    labels = {label.get_text().splitlines()[0] for label in figure.axes[0].get_yticklabels()}
    assert labels == {f"unit {number}" for number in range(5)}
    assert figure._repr_png_().startswith(b"\x89PNG")
    opened = fb.open(adapted.save(tmp_path / "saved"))
    assert opened.plot(session)._repr_png_() == figure._repr_png_()
    with pytest.raises(AdaptationError, match="give a session"):
        opened.plot()
    with pytest.raises(AdaptationError, match=r"has 15 frames; a picture takes 12 \+ 4"):
        opened.plot(replace(session, traces=session.frames(0, 15)))


def test_one_session_of_a_folder_is_read_by_its_id(session: fb.Session, tmp_path: Path) -> None:
    session.save(tmp_path / "one.npz")
    replace(session, session="two").save(tmp_path / "two.npz")
    assert fb.read(tmp_path / "one.npz").id == session.id
    assert fb.read(tmp_path, session="lab/animal9/two").session == "two"
    with pytest.raises(AdaptationError, match="holds 2 sessions"):
        fb.read(tmp_path)


def test_an_array_in_memory_is_adapted_to(backbone: fb.Backbone, session: fb.Session) -> None:
    given = fb.Session.from_array(session.frames(0, 300), rate_hz=2.5)
    adapted = backbone.adapt(given, "none", QUICK, progress=False)
    assert adapted.comparison is not None
    assert any("cannot be told" in finding for finding in adapted.comparison.findings())
