"""`forebrain adapt --model none`, `forecast --plan` and `effect`, as a lab with a stimulus uses them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from forebrain.commands import main

NAMES = ("flash", "air")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of 600 frames of three units that answer to `flash`; every tenth second one comes."""
    rng = np.random.default_rng(0)
    flash = np.zeros(600, np.float32)
    flash[rng.choice(600, 40, replace=False)] = 1
    answer = np.convolve(flash, np.exp(-np.arange(12) / 4))[:600]
    traces = answer[:, None] * np.array([2.0, -1.0, 0.5]) + rng.normal(scale=0.2, size=(600, 3))
    path = tmp_path_factory.mktemp("lab") / "fish.npz"
    np.savez(
        path, traces=traces.astype(np.float32), fs=2.0, species="zebrafish", subject="f1", session="s1",
        source="lab", stimulus=np.stack([flash, np.arange(600) % 40 < 20], axis=1).astype(np.float32),
        stimulus_names=np.array(NAMES), split=np.repeat([0, 1, 2], [360, 120, 120]).astype(np.int8),
    )  # fmt: skip
    return str(path)


@pytest.fixture(scope="module")
def adapted(recording: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out") / "fish"
    command = ["adapt", "--model", "none", "--recording", recording, "--out", str(out), "--context", "12"]
    assert main([*command, "--horizon", "4", "--protocol", "given"]) == 0
    return str(out)


def plan(folder: Path, text: str) -> str:
    path = folder / "plan.csv"
    path.write_text(text)
    return str(path)


def table(text: str) -> np.ndarray:
    return np.array([row[2:] for row in csv.reader(io.StringIO(text))][1:], float)


def test_the_result_has_the_scores_by_what_is_known(adapted: str) -> None:
    result = json.loads((Path(adapted) / "result.json").read_text())
    assert result["inputs"]["plan"] > result["inputs"]["none"] == result["score"]
    assert result["test"]["windows"]["per_session"] is None
    record = json.loads((Path(adapted) / "adaptation.json").read_text())
    assert record["preprocessing"]["protocol"] == "given" and record["model"]["reference"] == "none"


def test_a_plan_and_its_effect(
    adapted: str, recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = plan(tmp_path, "seconds_ahead,flash,air\n0.5,1,0\n1,0,0\n1.5,0,0\n2,0,0\n")
    where = ["--adapted", adapted, "--recording", recording]
    found = []
    for more in (["--plan", given], ["--plan", "hold"], ["--inputs"], []):
        assert main(["forecast", *where, *more]) == 0
        found.append(table(capsys.readouterr().out))
    assert (found[0] != found[1]).any() and found[3].shape == (4, 3)
    assert main(["effect", *where, "--plan", given]) == 0
    effect = table(capsys.readouterr().out)
    np.testing.assert_allclose(effect, found[0] - found[1], atol=1e-3)
    assert effect[0, 0] > 1 and effect[0, 1] < -0.4
    assert main(["effect", *where, "--plan", given, "--quantiles", "0.1", "0.9"]) == 0
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["frames_ahead", "seconds_ahead", "unit", "effect", "0.1", "0.9"] and len(rows) == 12
    assert all(float(low) < float(point) < float(high) for *_, point, low, high in rows)
    out = tmp_path / "effect.csv"
    assert main(["effect", *where, "--plan", given, "--against", given, "--out", str(out)]) == 0
    assert not table(out.read_text()).any() and "3 units over 4 frames" in capsys.readouterr().out


def test_a_plan_out_of_range_is_told_beside_the_table(
    adapted: str, recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [
        "--adapted",
        adapted,
        "--recording",
        recording,
        "--plan",
        plan(tmp_path, "flash,air\n" + "9,0\n" * 4),
    ]
    for command in ("forecast", "effect"):
        assert main([command, *where]) == 0
        told = capsys.readouterr()
        assert told.out.startswith("frames_ahead,") and "flash out of the range" in told.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a plan"),
        ("flash,flash\n1,1\n", "each once"),
        ("flash,air\n1,0\n1\n", "line 3: has 1 values; expected 2"),
        ("flash,air\n1,yes\n", "line 2: air is 'yes'; expected a number"),
        ("flash,air\n1,0\n", "has 1 frames; expected 4"),
        ("flash,odor\n" + "1,0\n" * 4, "expected exactly flash, air"),
        ("flash,air\n" + "nan,0\n" * 4, "flash that are not finite"),
        ("frames_ahead,flash,air\n4,1,0\n3,0,0\n2,0,0\n1,0,0\n", "has 4 where 1 is expected"),
        ("frames_ahead,flash,air\n3,1,0\n4,0,0\n5,0,0\n6,0,0\n", "has 3 where 1 is expected"),
        ("seconds_ahead,flash,air\n0.1,1,0\n0.2,0,0\n0.3,0,0\n0.4,0,0\n", "has 0.1 where 0.5 is expected"),
        ("time_s,flash,air\n60,1,0\n60.1,0,0\n60.2,0,0\n60.3,0,0\n", "has 60.1 where 60.5 is expected"),
        ("time_s,flash,air\n60,1,0\nlater,0,0\n", "time_s is 'later'; expected a number"),
    ],
)
def test_a_plan_that_is_none_is_one_line(
    text: str, words: str, adapted: str, recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["forecast", "--adapted", adapted, "--recording", recording, "--plan", plan(tmp_path, text)]
    assert main(command) == 1
    assert words in " ".join(capsys.readouterr().err.split())


def test_values_are_held_out_and_what_does_not_go_together_is_said(
    recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["adapt", "--model", "none", "--recording", recording, "--context", "12", "--horizon", "4"]
    for more, words in (
        (["--protocol", "values"], "--hold_out NAME=VALUE"),
        (["--hold_out", "air=1"], "takes no values to hold out"),
        (["--protocol", "values", "--hold_out", "air"], "expected NAME=VALUE,VALUE"),
        (["--protocol", "values", "--hold_out", "air=7"], "never takes the value 7"),
        (["--protocol", "repetition"], "repetition needs conditions or repetitions"),
        (["--inputs", "odor"], "has no input odor; it has flash, air"),
    ):
        assert main([*command, "--out", str(tmp_path / "out"), *more]) in (1, 2)
        assert words in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "out").exists()
