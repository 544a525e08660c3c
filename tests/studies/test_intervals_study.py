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
from forebrain.sessions.session import Session
from forebrain.studies.intervals import IntervalsConfig, study


@pytest.mark.parametrize("protocol", ["chronological", "lu2025"])
def test_intervals_of_every_session_stand_beside_the_baselines(
    walk: Callable[..., Session], tmp_path: Path, protocol: str
) -> None:
    paths = []
    for seed, num_frames in ((0, 900), (1, 800), (2, 20)):
        path = tmp_path / f"{seed}.npz"
        walk(seed, num_frames=num_frames).save(path)
        paths.append(str(path))
    useless = {"useless": (slice(0, 900), np.nan), "at rest": (slice(0, 541), 1.0)}
    for name, (frames, value) in useless.items():
        traces = np.array(walk(3, num_frames=900).traces)
        traces[frames] = value
        paths.append(str(tmp_path / f"{name}.npz"))
        replace(walk(3, num_frames=900), traces=traces, subject=name).save(paths[-1])
    adapted = tmp_path / "adapted"
    adapted.mkdir()
    text = io.StringIO()
    config = IntervalsConfig(paths, str(tmp_path / "out"), protocol, 12, 4)  # type: ignore[arg-type]
    result = study(config, Console(file=text, width=250))
    assert [row["session"] for row in result["sessions"]] == ["lab/animal0/one", "lab/animal1/one"]
    assert "left out: session lab/animal2/one: too short" in text.getvalue()
    for row in result["sessions"]:
        assert abs(row["coverage"]["0.8"] - 0.8) < 0.12 and not row["is_counts"]
        assert set(row["baselines"]) == {"normal", "ar_valql"} and row["window"] == "12 + 4"
        # The windows of the paper do not follow each other frame by frame, as those of a stream do.
        assert ("streamed" in row) == ("live" in row) == (protocol == "chronological")
    out = tmp_path / "out"
    report = (out / "report.md").read_text()
    for name in ("animal2", *useless):
        assert f"- session lab/{name}/one: " in report
    assert json.loads((out / "result.json").read_text()) == result
    assert all((out / name).stat().st_size for name in ("report.md", "coverage.png", "forecasts.png"))
    block = {**result["sessions"][0], "calibrated_on": "here"}
    (adapted / "adaptation.json").write_text("{}")
    (adapted / "result.json").write_text(
        json.dumps({"session": "s", "model": "m", "mode": "none", "uncertainty": block})
    )
    beside = IntervalsConfig(paths[:1], str(tmp_path / "beside"), protocol, 12, 4, adapted=[str(adapted)])  # type: ignore[arg-type]
    study(beside, Console(file=io.StringIO()))
    assert "adapted backbones" in (tmp_path / "beside" / "report.md").read_text()


def test_one_recording_under_two_names_is_said(under_two_names: list[str], tmp_path: Path) -> None:
    text = io.StringIO()
    result = study(
        IntervalsConfig(under_two_names, str(tmp_path / "out"), "chronological", 12, 4),
        Console(file=text, width=400),
    )
    said = "lab/second/one: holds the same numbers as lab/first/one."
    assert said in text.getvalue() and said in (tmp_path / "out" / "report.md").read_text()
    assert len(result["sessions"]) == 2


def test_a_recording_that_changes_at_the_last_reading_leaves_no_table(
    walk: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.npz"
    walk(0, num_frames=600).save(path)

    def drifting(*given: object) -> None:
        walk(9, num_frames=600).save(path)

    monkeypatch.setattr("forebrain.studies.intervals.covered_while_drifting", drifting)
    config = IntervalsConfig([str(path)], str(tmp_path / "out"), "chronological", 12, 4)
    with pytest.raises(ConfigError, match=r"one\.npz changed while it was read"):
        study(config, Console(quiet=True))
    assert not (tmp_path / "out" / "result.json").exists()


def test_recordings_that_are_too_short_and_folders_without_intervals_are_errors(
    walk: Callable[..., Session], tmp_path: Path
) -> None:
    walk(0, num_frames=60).save(tmp_path / "short.npz")
    walk(1, num_frames=600).save(tmp_path / "long.npz")
    with pytest.raises(ConfigError, match=r"no session could be scored.*too short for a window in"):
        study(
            IntervalsConfig([str(tmp_path / "short.npz")], str(tmp_path / "out")), Console(file=io.StringIO())
        )
    (tmp_path / "edited").mkdir()
    for folder in (tmp_path, tmp_path / "edited"):
        for name in ("result.json", "adaptation.json"):
            (folder / name).write_text("{}")
    block = {"coverage": {"0.5": "half"}, "width": 3}
    (tmp_path / "edited" / "result.json").write_text(
        json.dumps({"session": "s", "model": "m", "mode": "none", "uncertainty": block})
    )
    for folder, words in (
        (tmp_path, "holds no block"),
        (tmp_path / "nowhere", "cannot be read"),
        (tmp_path / "edited", r"result\.json: damaged \(.*\); adapt again"),
    ):
        config = IntervalsConfig(
            [str(tmp_path / "long.npz")], str(tmp_path / "out"), context=12, horizon=4, adapted=[str(folder)]
        )
        with pytest.raises(ConfigError, match=words):
            study(config, Console(file=io.StringIO()))
