from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from forebrain.adaptation.windows import SessionWindows
from forebrain.config import parse
from forebrain.errors import ConfigError, RecordingError
from forebrain.scoring.protocols import PARTS
from forebrain.scoring.response import OtherPlan
from forebrain.sealed import sealed, unsealed
from forebrain.sessions.session import Session, session_key
from forebrain.studies import inputs
from forebrain.studies.inputs import INFORMED, RIVALS, InputsConfig, study

DEFINITION = Path(__file__).parents[2] / "jobs" / "studies" / "inputs.yaml"


def answering(seed: int, num_frames: int = 700, num_units: int = 3) -> Session:
    """Units that answer marks, slowly."""
    rng = np.random.default_rng(seed)
    marks = (rng.random(num_frames) < 0.05).astype(np.float32)
    kernel = np.exp(-np.arange(40) / 6) - np.exp(-np.arange(40) / 2)
    answer = np.convolve(marks, kernel)[:num_frames, None] * rng.normal(1, 0.3, num_units)
    traces = answer + 0.1 * rng.normal(size=(num_frames, num_units))
    return Session(
        traces.astype(np.float32), 5.0, "fish", f"animal{seed}", "one", "lab",
        stimulus=marks[:, None], stimulus_names=("mark",),
    )  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> InputsConfig:
    for seed in range(2):
        answering(seed).save(tmp_path / f"{seed}.npz")
    row = {"recordings": "*.npz", "context": 12, "horizon": 6, "arx_memory": 12, "arx_differences": 4}
    return InputsConfig(
        str(tmp_path / "out"), {"marks": {**row, "subsets": {"first": ["*animal0*"]}}}, str(tmp_path)
    )


def test_a_plan_is_ahead_of_all_that_do_not_know_it(config: InputsConfig, tmp_path: Path) -> None:
    text = io.StringIO()
    result = study(config, Console(file=text, width=250))
    rows = result["rows"]["marks"]
    assert [row["session"] for row in rows] == ["lab/animal0/one", "lab/animal1/one"]
    for row in rows:
        scores = row["scores"]
        assert set(scores) == {*INFORMED, *RIVALS} and np.isfinite(list(scores.values())).all()
        assert scores["plan"] > scores["past"] + 0.1 and scores["plan"] > scores["evoked mean"]
        assert scores["shuffled"] < scores["past"] + 0.03 and scores["wrong"] < scores["past"]
        assert scores["arx"] > scores["past"] and row["uses"] == "plan"
        assert (
            row["evoked"]["plan"] > row["evoked"]["none"] and 0 < row["num_evoked"] < row["windows"]["test"]
        )
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| first" in report and "plan - arx" in report
    assert (tmp_path / "out" / "inputs.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_scored_is_not_scored_again(config: InputsConfig, tmp_path: Path) -> None:
    first = study(config, Console(file=io.StringIO()))
    place = tmp_path / "out" / "sessions" / session_key("marks") / f"{session_key('0.npz')}.json"
    kept = unsealed(place.read_bytes())
    kept["scores"]["plan"] = 0.123
    place.write_bytes(sealed(kept))
    again = study(config, Console(file=io.StringIO()))
    assert again["rows"]["marks"][0]["scores"]["plan"] == 0.123
    assert again["rows"]["marks"][1] == first["rows"]["marks"][1]

    # Another recording of the same name, and a file that is damaged, are scored.
    answering(0, num_frames=650).save(tmp_path / "0.npz")
    (place.with_name(f"{session_key('1.npz')}.json")).write_text(json.dumps(kept)[:-1])
    changed, whole = study(config, Console(file=io.StringIO()))["rows"]["marks"]
    assert changed["frames"] == 650 and changed["scores"]["plan"] not in (0.123, kept["scores"]["plan"])
    assert whole["scores"] == first["rows"]["marks"][1]["scores"]


def test_a_recording_that_changes_under_the_study_keeps_no_score(
    config: InputsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(*given: object) -> object:
        answering(1, num_frames=650).save(tmp_path / "1.npz")
        return {}

    monkeypatch.setattr(inputs, "score_session", scored)
    rows = {"marks": {**config.rows["marks"], "recordings": "1.npz"}}
    with pytest.raises(ConfigError, match=r"1\.npz changed while it was read"):
        study(replace(config, rows=rows), Console(quiet=True))
    assert not (tmp_path / "out" / "sessions").exists()


def test_kernels_that_change_under_the_study_keep_no_score(
    config: InputsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = tmp_path / "kernels.npz"
    kernels.write_bytes(b"one")
    monkeypatch.setattr(inputs.Kernels, "read", lambda path: path.write_bytes(b"other"))
    row = {**config.rows["marks"], "simulated": {"kernels": kernels.name}}
    del row["recordings"]
    with pytest.raises(ConfigError, match=r"kernels\.npz changed while it was read"):
        study(replace(config, rows={"marks": row}), Console(quiet=True))
    assert not (tmp_path / "out" / "sessions").exists()


def test_sessions_that_cannot_be_scored_are_named_and_count_in_no_mean(
    config: InputsConfig, tmp_path: Path
) -> None:
    still = np.array(answering(0).traces)
    still[550:] = 1.0
    for name, given in (
        ("useless", {"traces": np.full_like(still, np.nan)}),
        ("gone", {"traces": still}),
        ("unasked", {"stimulus": None, "stimulus_names": None}),
    ):
        replace(answering(0), subject=name, **given).save(tmp_path / f"{name}.npz")
    replace(answering(0, num_frames=40), subject="short").save(tmp_path / "short.npz")
    for _ in range(2):  # the second time from what is kept
        result = study(config, Console(file=io.StringIO()))
        assert [row["session"] for row in result["rows"]["marks"]] == ["lab/animal0/one", "lab/animal1/one"]
        report = (tmp_path / "out" / "report.md").read_text()
        assert "| marks |        2 |" in report and "nan" not in report
        for name, why in (
            ("useless", "nothing usable"), ("gone", "no score"), ("unasked", "has no input"),
            ("short", "no score"),
        ):  # fmt: skip
            assert f"- marks: session lab/{name}/one: {why}" in report
    more = {**config.rows, "later": {**config.rows["marks"], "recordings": "*.nwb"}}
    with pytest.raises(ConfigError, match=r"no file is called .*\*.nwb"):
        study(replace(config, rows=more, out=str(tmp_path / "other")), Console(file=io.StringIO()))
    assert not (tmp_path / "other" / "sessions").exists()  # before any row is scored


def test_one_recording_under_two_names_is_said(config: InputsConfig, tmp_path: Path) -> None:
    replace(answering(0), subject="other").save(tmp_path / "2.npz")
    for _ in range(2):  # the second time from what is kept
        text = io.StringIO()
        study(config, Console(file=text, width=400))
        said = "marks, 2.npz: holds the same numbers as marks, 0.npz."
        assert said in text.getvalue() and said in (tmp_path / "out" / "report.md").read_text()


def test_each_session_of_a_recording_is_scored(
    config: InputsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def several(address: str) -> list[Session]:
        if address.endswith("1.npz"):
            raise RecordingError("1.npz cannot be read.")
        return [answering(0), answering(1)]

    monkeypatch.setattr(inputs, "open_any", several)
    result = study(config, Console(file=io.StringIO()))
    assert [row["session"] for row in result["rows"]["marks"]] == ["lab/animal0/one", "lab/animal1/one"]
    assert result["left_out"] == ["marks: 1.npz cannot be read."]
    assert len(list((tmp_path / "out" / "sessions").rglob("*.json"))) == 2


@pytest.mark.parametrize("pattern", ["/data/*.npz", "", "a**/*.npz"])
def test_a_pattern_that_is_none_below_the_data_is_an_error(config: InputsConfig, pattern: str) -> None:
    rows = {"marks": {**config.rows["marks"], "recordings": pattern}}
    with pytest.raises(ConfigError, match=r"recordings is .*; expected a pattern of files below"):
        study(replace(config, rows=rows), Console(file=io.StringIO()))


def test_another_plan_is_that_of_a_window_of_the_same_part() -> None:
    source = SessionWindows(answering(0), "chronological", 12, 6)
    other = OtherPlan(source, [source.starts(part) for part in PARTS], 0)
    for part in PARTS:
        starts = source.starts(part)
        own, given = (each.inputs(0, starts, 8, 6, ["mark"]) for each in (source, other))
        assert (own[:, :8] == given[:, :8]).all() and (own[:, 8:] != given[:, 8:]).any()
        # The same plans, in another order.
        assert sorted(map(bytes, own[:, 8:])) == sorted(map(bytes, given[:, 8:]))
        alone = np.concatenate([other.inputs(0, starts[[place]], 8, 6, ["mark"]) for place in range(9)])
        assert (alone == given[:9]).all()


def test_the_committed_definition_is_whole() -> None:
    config = parse(InputsConfig, ["--config", str(DEFINITION), "--out", "o"])
    rows = config.chosen()
    assert len(rows) == 7 and sum(row.simulated is not None for row in rows.values()) == 1
    with pytest.raises(ConfigError, match="rows nothing are unknown"):
        InputsConfig("o", config.rows, only=["nothing"]).chosen()
    with pytest.raises(ConfigError, match=r"row a: .*horizons"):
        InputsConfig("o", {"a": {"recordings": "x", "horizons": 3}}).chosen()


def test_recordings_that_are_not_there_are_an_error(tmp_path: Path, walk: Callable[..., Session]) -> None:
    config = InputsConfig(str(tmp_path / "out"), {"a": {"recordings": "*.npz"}}, str(tmp_path))
    with pytest.raises(ConfigError, match=r"no file is called .*\*.npz"):
        study(config, Console(file=io.StringIO()))
