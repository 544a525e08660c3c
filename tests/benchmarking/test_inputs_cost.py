from __future__ import annotations

import io

import pytest
from rich.console import Console

from forebrain.benchmarking import report
from forebrain.benchmarking.measure import BenchmarkConfig, measure


@pytest.mark.usefixtures("one_thread")
def test_what_inputs_and_a_plan_cost_is_measured_beside_frames_without() -> None:
    (rows,) = measure(BenchmarkConfig(what=["inputs"], units=[20], quick=True), Console(file=io.StringIO()))
    (row,) = rows
    assert row["frames"] == 120 and row["features"] == 64
    assert 0 < row["median_ms"] <= row["p99_ms"] and 0 < row["p99_low"] <= row["p99_high"]
    assert row["ratio"] > 1  # of so few units inputs are much of the work
    assert "with a plan" in report.line(rows) and len(report.tables(rows)) == 1
