from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebrain.console import make_console
from forebrain.realtime.latency import Latency, latency_histogram


def test_late_and_lost_forecasts_are_misses() -> None:
    latency = Latency.of(np.array([1.0, 2.0, 3.0, np.nan, 10.0]), budget_ms=3.0)
    assert (latency.frames, latency.forecasts, latency.misses) == (5, 4, 2)
    assert latency.miss_rate == pytest.approx(0.4)
    assert (latency.p50_ms, latency.max_ms) == (2.5, 10.0)
    assert latency.jitter_ms == pytest.approx(np.std([1, 2, 3, 10]))


def test_without_a_forecast_everything_is_missed_and_nothing_is_said() -> None:
    plain = Latency.of(np.full(3, np.nan), budget_ms=3.0).to_json()
    assert plain["misses"] == 3 and plain["p99_ms"] is None


def test_the_table_shows_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    latencies = np.arange(1.0, 1001.0)
    make_console().print(Latency.of(latencies, budget_ms=990).as_table("over the wire"))
    out = capsys.readouterr().out
    for shown in ("over the wire", "1,000", "500.50", "950.05", "990.01", "1000.00", "10 (1.00%)"):
        assert shown in out


def test_the_histogram_is_drawn(tmp_path: Path) -> None:
    latencies = np.random.default_rng(0).gamma(20, 0.1, 2000)
    latencies[:3] = np.nan, 9.0, 20.0
    path = latency_histogram(latencies, Latency.of(latencies, 5.0), "1,000 units", tmp_path / "new" / "l.png")
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 10_000
