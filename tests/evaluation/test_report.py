from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from forebrain import plotting
from forebrain.errors import ConfigError
from forebrain.evaluation import figures, tables
from forebrain.evaluation.examples import make_example, typical_session
from forebrain.evaluation.report import write_report
from forebrain.scoring.evaluate import evaluate, fit_baselines
from forebrain.scoring.noise import noise_variance
from forebrain.scoring.window_source import ArrayWindows

pytestmark = pytest.mark.usefixtures("fine_pictures")

C, H = 12, 4


def _last_frames(session: int, context: np.ndarray) -> np.ndarray:
    return 0.8 * context[:, -H:]


def _report(source: ArrayWindows, folder: Path) -> Path:
    forecasters = {"model": _last_frames, **fit_baselines(source)}
    evaluation = evaluate(forecasters, source, "test")
    ids = [info.id for info in source.sessions]
    session = ids.index(typical_session(evaluation, "model"))
    return write_report(folder, evaluation, make_example(forecasters, source, session, "test"), "model")


def _assert_pictures(folder: Path) -> None:
    pictures = sorted(folder.glob("*.png"))
    assert [picture.stem for picture in pictures] == [
        "forecast_traces",
        "population_raster",
        "score_by_horizon",
        "score_by_session",
    ]
    for picture in pictures:
        pixels = matplotlib.image.imread(picture)
        assert pixels.shape[0] > 300 and pixels[..., :3].std() > 0.01


@pytest.mark.usefixtures("ascii_locale")
def test_a_report_holds_tables_and_pictures_and_names_what_it_leaves_out(walk, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    source = ArrayWindows([walk(0), walk(1), walk(2, num_frames=60)], "chronological", C, H)
    report = _report(source, tmp_path / "report")
    text = report.read_text(encoding="utf-8")
    assert "# model on test" in text and "lab/animal2/one" in text
    for name in ("overview", "by_session", "by_species", "by_dataset", "by_horizon", "by_unit_quantile"):
        assert (report.parent / f"{name}.csv").exists()
    _assert_pictures(report.parent)
    assert dict(mpl.rcParams) == before


def test_trials_with_room_for_one_window_each_can_be_shown(walk, tmp_path: Path) -> None:
    session = walk(0)
    session = dataclasses.replace(session, segment_ids=np.arange(400) // (C + H), rate_hz=None)
    _report(ArrayWindows([session], "chronological", C, H), tmp_path)
    _assert_pictures(tmp_path)


def test_units_that_never_move_can_be_shown(walk, tmp_path: Path) -> None:
    session = walk(0, num_units=3)
    session.traces[:, 1:] = 0.5
    _report(ArrayWindows([session], "chronological", C, H), tmp_path)
    _assert_pictures(tmp_path)


def test_rounding_paints_no_unit_that_stands_still(walk, tmp_path: Path, monkeypatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: drawn.append(figure))
    source = ArrayWindows([walk(0, num_units=3)], "chronological", C, H)
    example = make_example({"model": _last_frames}, source, 0, "test")
    example.activity[:, 1:] = np.float32(0.1)
    assert example.activity.std(axis=0)[1] > 0  # of one number, by rounding
    figures.population_raster(example, "model", H, tmp_path / "a.png")
    for axes in drawn[0].axes[:2]:
        values = np.abs(axes.images[0].get_array())
        assert np.sort(values.max(axis=1))[1] < 1.5


def test_a_unit_of_next_to_no_activity_is_drawn(walk, tmp_path: Path) -> None:
    traces = walk(0).frames(0, walk(0).num_frames)
    traces[:, 0] *= 1e-30
    source = ArrayWindows([dataclasses.replace(walk(0), traces=traces)], "chronological", C, H)
    _report(source, tmp_path)
    example = make_example({"model": _last_frames, **fit_baselines(source)}, source, 0, "test")
    figures.forecast_traces(example, "model", tmp_path / "forecast_traces.png")
    _assert_pictures(tmp_path)


def test_names_may_hold_dollars(walk, tmp_path: Path) -> None:
    session = dataclasses.replace(walk(0), session=r"$\frac{1}{2$")
    source = ArrayWindows([session], "chronological", C, H)
    _report(source, tmp_path)
    example = make_example({"model": _last_frames, **fit_baselines(source)}, source, 0, "test")
    names = [rf"$\bad_{unit}$" for unit in range(session.num_units)]
    figures.forecast_traces(example, "model", tmp_path / "forecast_traces.png", names)
    _assert_pictures(tmp_path)


def test_more_sessions_than_fit_by_name_can_be_shown(walk, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(figures, "_MAX_NAMED_SESSIONS", 3)
    source = ArrayWindows([walk(seed) for seed in range(5)], "chronological", C, H)
    _report(source, tmp_path)
    _assert_pictures(tmp_path)


def test_single_units_are_ordered_by_explained_variance_and_the_report_says_why(walk, tmp_path: Path) -> None:
    session = walk(0)
    noise = np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32)
    session = dataclasses.replace(session, traces=np.concatenate([noise, session.traces], axis=1))
    source = ArrayWindows([session], "chronological", C, H)
    forecasters = {
        "model": lambda _, context: 0.8 * context[:, -1:] + 0 * context[:, -H:],
        **fit_baselines(source),
    }
    evaluation = evaluate(forecasters, source, "test", windows_per_session=None)
    scores = evaluation.scores["model"][session.id].units
    assert scores is not None
    names = ["noise", *"abcde"]
    table = tables.by_unit(scores, noise_variance(source), 2.5, names, regions=["left"] * 6)
    example = make_example(forecasters, source, 0, "test")
    report = write_report(tmp_path, evaluation, example, "model", names, table).read_text()
    assert "it favours the noisy ones" in report
    shown = report[report.index("single units") :]
    assert max(shown.index(f"| {name} ") for name in "abcde") < shown.index("| noise ")
    rows = {row["unit"]: row for row in csv.DictReader((tmp_path / "by_unit.csv").open())}
    assert float(rows["noise"]["noise_ceiling"]) < 0.2 < float(rows["a"]["noise_ceiling"])
    assert float(rows["a"]["trusted_seconds"]) in (0.4, 0.8, 1.2, 1.6) and rows["a"]["region"] == "left"
    assert float(rows["noise"]["trusted_seconds"]) == 0


def test_a_report_without_baselines_writes_nothing(walk, tmp_path: Path) -> None:
    source = ArrayWindows([walk(0)], "chronological", C, H)
    evaluation = evaluate({"model": _last_frames}, source, "test")
    example = make_example({"model": _last_frames}, source, 0, "test")
    with pytest.raises(ConfigError, match="baselines copy, mean, linear are missing"):
        write_report(tmp_path / "report", evaluation, example, "model")
    assert not (tmp_path / "report").exists()
