from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from forebrain.errors import ConfigError
from forebrain.scoring.protocols import part_ranges
from forebrain.sessions.session import Session
from forebrain.studies.rivals import FORECASTERS, RivalsConfig, score_session, study, with_rolled


def test_units_are_rolled_within_each_part_and_none_reaches_another(
    make_session: Callable[..., Session],
) -> None:
    session = make_session(num_frames=500, num_units=3, segment_ids=np.repeat([0, 1], [140, 360]))
    doubled = with_rolled(session, "chronological")
    frames, both = session.frames(0, 500), doubled.frames(0, 500)
    assert doubled.num_units == 6 and (both[:, :3] == frames).all()
    for part in ("train", "validation", "test"):
        ranges = part_ranges("chronological", part, 500, session.segments)
        places = np.concatenate([np.arange(*each) for each in ranges])
        assert (both[places, 3:] == frames[np.roll(places, len(places) // 2)]).all()
        assert not (both[places, 3:] == frames[places]).any()


def test_the_table_has_every_rival_of_every_session_that_is_long_enough(
    walk: Callable[..., Session], tmp_path: Path
) -> None:
    paths = []
    for seed, num_frames in ((0, 600), (1, 700), (2, 60)):
        path = tmp_path / f"{seed}.npz"
        walk(seed, num_frames=num_frames).save(path)
        paths.append(str(path))
    useless = {
        "useless": (slice(0, 600), np.nan, "nothing usable remains"),
        "at rest": (slice(0, 361), 1.0, "nothing moves in its training part"),
        "gone": (slice(480, 600), 1.0, "nothing moves in its test part"),
    }
    for name, (frames, value, _) in useless.items():
        traces = np.array(walk(3, num_frames=600).traces)
        traces[frames] = value
        paths.append(str(tmp_path / f"{name}.npz"))
        replace(walk(3, num_frames=600), traces=traces, subject=name).save(paths[-1])
    text = io.StringIO()
    config = RivalsConfig(paths, str(tmp_path / "out"), context=12, horizon=4)
    result = study(config, Console(file=text, width=200))
    assert [row["session"] for row in result["sessions"]] == ["lab/animal0/one", "lab/animal1/one"]
    assert "left out: session lab/animal2/one: too short" in text.getvalue()
    for row in result["sessions"]:
        assert row["copy"] == 0 and np.isfinite([row[name] for name in FORECASTERS]).all()
        assert row["ridge"] > row["linear"] - 0.02 and row["ceiling"] <= 1
    saved = json.loads((tmp_path / "out" / "result.json").read_text())
    assert saved["sessions"] == result["sessions"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "rolled - own" in report and "noise ceiling" in report
    assert "- session lab/animal2/one: too short for a window in" in report
    for name, (_, _, why) in useless.items():
        assert f"- session lab/{name}/one: {why}" in report
    with pytest.raises(ConfigError, match="windows_per_session is 0; expected 1 or more"):
        replace(config, windows_per_session=0)


def test_one_recording_under_two_names_is_said(under_two_names: list[str], tmp_path: Path) -> None:
    text = io.StringIO()
    result = study(
        RivalsConfig(under_two_names, str(tmp_path / "out"), context=12, horizon=4),
        Console(file=text, width=400),
    )
    said = "lab/second/one: holds the same numbers as lab/first/one."
    assert said in text.getvalue() and said in (tmp_path / "out" / "report.md").read_text()
    assert len(result["sessions"]) == 2


def test_recordings_none_of_which_is_long_enough_are_an_error(
    walk: Callable[..., Session], tmp_path: Path
) -> None:
    path = tmp_path / "short.npz"
    walk(0, num_frames=60).save(path)
    with pytest.raises(ConfigError, match=r"no session could be scored.*too short for a window in"):
        study(RivalsConfig([str(path)], str(tmp_path / "out")), Console(file=io.StringIO()))


def test_results_of_other_recordings_are_not_written_over(
    walk: Callable[..., Session], tmp_path: Path
) -> None:
    paths = [str(tmp_path / f"{seed}.npz") for seed in range(2)]
    for seed, path in enumerate(paths):
        walk(seed, num_frames=300).save(path)
    config = RivalsConfig(paths[:1], str(tmp_path / "out"), context=12, horizon=4)
    study(config, Console(file=io.StringIO()))
    before = (tmp_path / "out" / "result.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a study of other recordings"):
        study(replace(config, recording=paths), Console(file=io.StringIO()))
    assert (tmp_path / "out" / "result.json").read_bytes() == before


def test_a_recording_that_changes_under_the_study_leaves_no_table(
    walk: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.npz"
    walk(0, num_frames=600).save(path)

    def scored(session: Session, config: RivalsConfig) -> object:
        walk(9, num_frames=600).save(path)
        return score_session(session, config)

    monkeypatch.setattr("forebrain.studies.rivals.score_session", scored)
    with pytest.raises(ConfigError, match=r"one\.npz changed while it was read"):
        study(RivalsConfig([str(path)], str(tmp_path / "out"), context=12, horizon=4), Console(quiet=True))
    assert not (tmp_path / "out" / "result.json").exists()
