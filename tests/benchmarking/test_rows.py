"""Rows of all kinds in one file, and the tables made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from forebrain.benchmarking import report
from forebrain.benchmarking.rows import RowFile

pytestmark = pytest.mark.usefixtures("fine_pictures")


def large_row(workers: int, units_forecast: int, ms: float) -> dict[str, Any]:
    return {
        "what": "train", "units": 9000, "batch": 1, "workers": workers, "units_forecast": units_forecast,
        "ms": ms, "peak_bytes": 5e8, "bytes_given": 4000, "loss": 0.25,
    }  # fmt: skip


def test_rows_of_a_large_session_stand_beside_those_of_other_steps(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    usual = {
        "what": "train", "units": 9000, "batch": 1, "threads": 1, "device": "cpu", "dtype": "fp32",
        "median_ms": 7.0, "p99_ms": None, "flops_per_s": 1e9, "of_flops_ceiling": 0.5, "bytes_per_s": 1e9,
        "of_bytes_ceiling": 0.1, "peak_bytes": 1e6, "plain_median_ms": None, "plain_ratio": None,
        "published_ms": None, "published_ratio": None, "rows": 9000,
    }  # fmt: skip
    file = RowFile(path)
    for row in (usual, large_row(1, 9000, 80.0), large_row(1, 2048, 30.0), large_row(2, 9000, 50.0)):
        file.add([row])
    again = RowFile(path)
    again.add([large_row(1, 2048, 31.0)])  # measured once more
    assert [row.get("ms") for row in json.loads(path.read_text())] == [None, 80.0, 50.0, 31.0]

    assert report.line([again.rows[1]]) == "train: one session of 9,000 units: 80 ms a step"
    console = Console(width=140, record=True, quiet=False, file=(tmp_path / "shown").open("w"))
    for table in report.tables(again.rows):
        console.print(table)
    text = console.export_text()
    assert text.index("training step") < text.index("one large session")
    assert [line.split()[:4] for line in text.splitlines() if line.split()[:1] == ["train"]] == [
        ["train", "9,000", "1", "9,000"], ["train", "9,000", "2", "9,000"], ["train", "9,000", "1", "2,048"],
    ]  # fmt: skip
    assert report.is_drawn(again.rows) and not report.is_drawn(again.rows[1:])
    assert report.picture(again.rows, tmp_path / "picture.png").stat().st_size > 10_000
