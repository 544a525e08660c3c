"""The benchmark writes a row for each case, with what readers of its JSON rely on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from forebrain.benchmarking import measure
from forebrain.commands import main

PROMISED = {
    "what", "units", "batch", "threads", "device", "dtype", "median_ms", "p99_ms", "plain_median_ms",
    "peak_bytes", "flops_per_s", "of_flops_ceiling", "bytes_per_s", "of_bytes_ceiling", "rows_per_s",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path):
    """Measures in this process and returns the rows."""

    def job(*arguments: str) -> list[dict]:
        threads = torch.get_num_threads()
        try:
            assert main(["benchmark", *arguments, "--json", str(tmp_path / "rows.json")]) == 0
        finally:
            torch.set_num_threads(threads)
        return json.loads((tmp_path / "rows.json").read_text())

    return job


def test_a_quick_run_has_every_kind_of_row_and_a_picture(run, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    kinds = ["forecast", "train", "adapt", "fit", "load"]
    rows = run("--quick", "--units", "40", "--threads", "1", "--what", *kinds, "--picture", str(picture))
    assert [(row["what"], row["dtype"]) for row in rows if row["what"] in kinds[:3]] == [
        (what, dtype) for what in kinds[:3] for dtype in ("fp32", "bf16")
    ]
    for row in rows:
        if row["what"] in kinds[:3]:
            assert row.keys() >= PROMISED
            assert row["units"] == 40 and row["batch"] == 1 and row["threads"] == 1
            assert row["device"] == "cpu" and row["p99_ms"] is None
            assert row["median_ms"] > 0 and row["plain_median_ms"] > 0
            assert row["flops_per_s"] > 0
    assert {"fit", "load"} <= {row["what"] for row in rows}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_runs_into_one_file_make_one_table(run, capsys) -> None:
    quick = ("--quick", "--threads", "1", "--what", "forecast", "--units")
    assert [row["units"] for row in run(*quick, "30", "20")] == [20, 20, 30, 30]
    capsys.readouterr()
    assert [row["units"] for row in run(*quick, "20")] == [30, 30, 20, 20]
    table = capsys.readouterr().out.split("ceiling")[1]
    lines = [line.split()[:4] for line in table.splitlines() if line.split()[:1] in (["20"], ["30"])]
    named = [[units, "1", "1", dtype] for units in ("20", "30") for dtype in ("fp32", "bf16")]
    assert lines == 2 * named  # columns without room stand below, beside the names of the rows
    assert max(map(len, table.splitlines())) <= 100


def test_a_run_that_is_cut_short_keeps_its_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def cut(case, *_):
        if case.units == 20:
            raise KeyboardInterrupt
        return [{"what": "forecast", "units": case.units, "batch": 1, "dtype": "fp32", "median_ms": 1.0}]

    path = tmp_path / "rows.json"
    monkeypatch.setattr(measure, "time_case", cut)
    given = ["--what", "forecast", "--units", "10", "20", "--threads", "1", "--out", str(path)]
    assert main(["benchmark", *given]) == 130
    assert [row["units"] for row in json.loads(path.read_text())] == [10]


def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path, capsys) -> None:
    path = tmp_path / "notes.json"
    for text in ('{"a": 1}', "no json", "[3]"):
        path.write_text(text)
        assert main(["benchmark", "--quick", "--json", str(path)]) == 2
        assert "notes.json" in capsys.readouterr().err and path.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--units", "0"], "units"), (["--what", "speed"], "what"), (["--threads", "0"], "threads")],
)
def test_impossible_options_are_named(arguments: list[str], word: str, capsys) -> None:
    assert main(["benchmark", *arguments]) == 2
    assert word in capsys.readouterr().err
