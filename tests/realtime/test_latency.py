from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from forebrain import plotting
from forebrain.console import make_console
from forebrain.realtime.latency import Latency, latency_histogram

pytestmark = pytest.mark.usefixtures("fine_pictures")


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


@pytest.mark.parametrize("frame_ms", [16.7, None])
def test_the_histogram_shows_what_came_after_the_rigs_next_frame(
    frame_ms: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latencies = np.random.default_rng(0).gamma(20, 0.1, 2000)
    latencies[:3] = np.nan, 9.0, 20.0
    drawn: list[Figure] = []
    save = plotting.save
    monkeypatch.setattr(plotting, "save", lambda figure, path: save(drawn.append(figure) or figure, path))
    picture = tmp_path / "new" / "l.png"
    latency = Latency.of(latencies, 5.0)
    path = latency_histogram(latencies, latency, "1,000 units", picture, frame_ms)
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 10_000
    (axes,) = drawn[0].axes
    canvas = FigureCanvasAgg(drawn[0])
    canvas.draw()
    lines = [line.get_window_extent() for line in axes.lines]
    for text in axes.texts:
        box = text.get_window_extent()
        assert not any(box.x0 < line.x1 < box.x1 and line.y0 < box.y1 and box.y0 < line.y1 for line in lines)
        assert box.x1 < drawn[0].bbox.x1, text.get_text()
    shown = axes.get_title(loc="left")
    names = {text.get_text().strip() for text in axes.texts}
    assert "slowest 20 ms" in shown
    if frame_ms:
        assert "2 later than the next frame or never, 3 later than the goal (0.1%)" in shown
        assert {"the next frame 16.7 ms", "goal 5 ms"} <= names
    else:
        assert "3 later than the budget or never" in shown and "budget 5 ms" in names


def test_seconds_are_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latencies = np.geomspace(1.0, 5436.7, 500)
    drawn: list[Figure] = []
    save = plotting.save
    monkeypatch.setattr(plotting, "save", lambda figure, path: save(drawn.append(figure) or figure, path))
    latency_histogram(latencies, Latency.of(latencies, 3.5), "1,000 units", tmp_path / "l.png", 16.7)
    (axes,) = drawn[0].axes
    assert "slowest 5,440 ms" in axes.get_title(loc="left")
    FigureCanvasAgg(drawn[0]).draw()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels(which="both") if label.get_text()]
    boxes = sorted((box for box in boxes if box.width > 0), key=lambda box: box.x0)
    assert len(boxes) >= 4 and all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
