from __future__ import annotations

import io

import pytest
from rich.console import Console

from forebrain.benchmarking import report
from forebrain.benchmarking.measure import BenchmarkConfig, measure


@pytest.mark.usefixtures("one_thread")
def test_what_intervals_cost_is_measured_beside_the_forecast() -> None:
    config = BenchmarkConfig(what=["intervals"], units=[20], quick=True)
    (rows,) = measure(config, Console(file=io.StringIO()))
    (row,) = rows
    assert row["units"] == 20 and row["learn_ms"] > 0 and row["quantiles_ms"] > 0
    assert row["share"] == pytest.approx(row["learn_ms"] / row["forecast_ms"])
    assert "of a forecast" in report.line(rows) and len(report.tables(rows)) == 1
