"""A study's steps are done once, and its means and differences follow from its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.fit import FitConfig
from forebrain.errors import ConfigError, ForebrainError
from forebrain.scoring.baselines import BASELINES
from forebrain.sessions.session import Session
from forebrain.studies.leave_one_out import (
    WAYS,
    StudyConfig,
    _place,
    adapted,
    as_table,
    draw,
    study,
    summarise,
)
from forebrain_registry import Registry

QUIET = Console(quiet=True)


@pytest.fixture
def config(tmp_path: Path, walk: Callable[..., Session]) -> StudyConfig:
    recordings = [str(tmp_path / f"{seed}.npz") for seed in range(3)]
    for seed, path in enumerate(recordings):
        walk(seed, num_frames=250).save(path)
    return StudyConfig(recordings, str(tmp_path / "study"), fit=FitConfig(steps=2, batch_size=4))


def test_each_way_is_done_once_and_other_settings_are_refused(
    config: StudyConfig,
    registry: Registry,
    publish_backbone: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = Backbone.from_registry(publish_backbone(), registry.uri)
    monkeypatch.setattr(Backbone, "from_run", lambda run: backbone)
    rows = list(adapted(config, config.recording[0], 0, "run", QUIET))
    assert [row["way"] for row in rows] == [way.name for way in WAYS]
    assert {name for row in rows for name in row["test"]} == {way.name for way in WAYS} | {*BASELINES}
    # The start is the backbone's, which has none; scratch begins with other weights.
    assert len({row["test"][row["way"]] for row in rows}) > 2

    monkeypatch.setattr(
        "forebrain.studies.leave_one_out.train", None
    )  # would fail if anything were done again
    assert list(adapted(config, config.recording[0], 0, "run", QUIET)) == rows
    with pytest.raises(ConfigError, match="another --fit"):
        list(adapted(replace(config, fit=FitConfig(steps=3)), config.recording[0], 0, "run", QUIET))
    with pytest.raises(ConfigError, match="expected 3 or more"):
        study(replace(config, recording=config.recording[:2]), QUIET)


def test_recordings_of_one_file_name_do_not_share_a_folder_and_other_recordings_are_refused(
    config: StudyConfig, tmp_path: Path, walk: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = [str(tmp_path / f"mouse{seed}" / "Fall.npz") for seed in range(3)]
    for seed, path in enumerate(recordings):
        Path(path).parent.mkdir()
        walk(seed, num_frames=250).save(path)
    config = replace(config, recording=recordings, seeds=1)
    assert len({_place(config, left_out).uri for left_out in recordings}) == 3

    def stopped(*_: Any) -> str:
        raise ForebrainError("stopped")

    monkeypatch.setattr("forebrain.studies.leave_one_out.pretrained", stopped)
    for _ in range(2):
        with pytest.raises(ForebrainError, match="stopped"):
            study(config, QUIET)
    walk(7, num_frames=250).save(recordings[1])
    with pytest.raises(ConfigError, match="of other recordings"):
        study(config, QUIET)
    with pytest.raises(ConfigError, match="same to the byte"):
        study(replace(config, recording=[*recordings, recordings[0]]), QUIET)


def made_row(way: str, animal: str, seed: int, score: float) -> dict[str, Any]:
    baselines = {"copy": 0.0, "mean": -1.0, "linear": 0.1}
    return {
        "way": way, "left_out": animal, "seed": seed, "seconds": 2.0, "best_step": 1,
        "score_by_step": [[0, 0.0], [1, score]], "validation": baselines, "test": {way: score, **baselines},
    }  # fmt: skip


def test_means_are_over_animals_and_differences_within_them(tmp_path: Path) -> None:
    better = {"embeddings": 0.05, "full": 0.02}
    rows = [
        made_row(way.name, animal, seed, level + noise + better.get(way.name, 0.0))
        for way in WAYS
        for animal, level in (("a", 0.1), ("b", 0.5))
        for seed, noise in ((0, 0.01), (1, -0.01))
    ]
    result = summarise(rows)
    assert result["test"]["embeddings"][0] == pytest.approx(0.35)
    # Animals differ by 0.4 and ways by 0.03, always: the difference is known far better than the scores.
    assert result["embeddings_less"]["full"] == pytest.approx([0.03] * 3)
    low, high = result["test"]["full"][1:]
    assert low == pytest.approx(0.12) and high == pytest.approx(0.52)
    assert result["validation_by_step"]["full"] == [(0, 0.0), (1, pytest.approx(0.32))]
    table = as_table(result).to_markdown()
    assert "+0.030 (+0.030 to +0.030)" in table and "linear" in table
    assert draw(result, tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
