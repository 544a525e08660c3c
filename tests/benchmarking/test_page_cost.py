from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from forebrain.benchmarking import page, report, timing
from forebrain.benchmarking.measure import BenchmarkConfig, measure


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_what_the_page_costs_is_measured_beside_frames_that_are_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page, "RATE_HZ", 200.0)
    (rows,) = measure(BenchmarkConfig(what=["page"], units=[20], quick=True), Console(file=io.StringIO()))
    (row,) = rows
    assert row["frames"] == 2 * page.BLOCK  # of eight blocks four fill the context
    assert row["core_share"] > 0 and 0 < row["median_ms"] <= row["p99_ms"]
    assert 0 < row["p99_low"] <= row["p99_high"]
    assert "of a core" in report.line(rows) and len(report.tables(rows)) == 1


def test_a_page_that_slows_every_reply_by_a_tenth_would_be_seen() -> None:
    rng = np.random.default_rng(0)
    without, slowed = 8 + rng.random((2, 100, page.BLOCK))
    low, high = timing.p99_ratio(without, 1.1 * slowed, rng)
    assert 1.05 < low < 1.1 < high < 1.15
    low, high = timing.p99_ratio(without, slowed, rng)
    assert low < 1 < high < 1.05
