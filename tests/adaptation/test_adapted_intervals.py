"""An adaptation says how sure it is: quantiles beside points, saved to the bit, scored on the test part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import forebrain as fb
from forebrain.adaptation.artifact import INTERVALS
from forebrain.adaptation.calibrating import Remembered
from forebrain.adaptation.fit import FitConfig
from forebrain.commands import main
from forebrain.errors import AdaptationError, ConfigError
from forebrain.scoring.uncertainty import OUT_OF_BLOCK, VALIDATION
from forebrain_registry import Registry

QUICK = FitConfig(steps=4, batch_size=4)
LEVELS = [0.1, 0.5, 0.9]


@pytest.fixture(scope="module")
def session(walk: Callable[..., fb.Session]) -> fb.Session:
    return walk(9, num_frames=400)


@pytest.fixture
def backbone(registry: Registry, publish_backbone: Callable[..., str]) -> fb.Backbone:
    return fb.load(publish_backbone(), registry=registry.uri)


@pytest.fixture
def adapted(backbone: fb.Backbone, session: fb.Session) -> fb.Adapted:
    return backbone.adapt(session, config=QUICK, rivals=False, progress=False)


def test_quantiles_lie_around_points_that_stay_what_they_are(
    adapted: fb.Adapted, session: fb.Session, tmp_path: Path
) -> None:
    window = adapted.latest_window(session)
    points, quantiles = adapted.forecast(window), adapted.forecast(window, quantiles=LEVELS)
    without = replace(adapted, calibration=None)
    np.testing.assert_array_equal(without.forecast(window), points)
    assert quantiles.shape == (*points.shape, 3) and quantiles.dtype == np.float32
    assert (np.diff(quantiles, axis=-1) > 0).all()
    inside = (quantiles[..., 0] <= points) & (points <= quantiles[..., 2])
    assert inside.mean() > 0.95
    assert adapted.forecast(window, quantiles=[0.5], horizon=2).shape == (2, adapted.num_units, 1)
    # Saved and loaded they have the same bits, and a stream begins with the same.
    adapted.save(tmp_path / "saved")
    loaded = fb.open(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.forecast(window, quantiles=LEVELS), quantiles)
    assert loaded.calibration is not None and adapted.calibration is not None
    assert loaded.calibration.record == adapted.calibration.record
    live = loaded.stream()
    for frame in window:
        live.step(frame)
    np.testing.assert_allclose(live.quantiles(LEVELS), quantiles, rtol=1e-4, atol=1e-4)


def test_of_a_session_quantiles_are_columns_beside_the_unit(adapted: fb.Adapted, session: fb.Session) -> None:
    table = adapted.forecast(session, quantiles=LEVELS)
    assert table.columns.names == ["unit", "quantile"]
    assert table.shape == (adapted.horizon, 3 * adapted.num_units)
    unit = adapted.preprocessing.name(1)
    expected = adapted.forecast(adapted.latest_window(session), quantiles=LEVELS)
    np.testing.assert_array_equal(table[unit].to_numpy(), expected[:, 1])


def test_quantiles_that_cannot_be_given_are_one_clear_error(adapted: fb.Adapted, session: fb.Session) -> None:
    window = adapted.latest_window(session)
    for levels in ([0.0], [1.2], [], [0.5, 0.5]):
        with pytest.raises(ConfigError, match="expected"):
            adapted.forecast(window, quantiles=levels)
    with pytest.raises(AdaptationError, match="no calibrated intervals"):
        replace(adapted, calibration=None).forecast(window, quantiles=LEVELS)


def test_result_json_says_how_right_intervals_are_and_on_what_they_were_calibrated(
    adapted: fb.Adapted, tmp_path: Path
) -> None:
    folder = adapted.report(tmp_path / "report")
    block = json.loads((folder / "result.json").read_text())["uncertainty"]
    assert set(block["coverage"]) == set(block["width"]) == {"0.5", "0.8", "0.9"}
    assert abs(block["coverage"]["0.8"] - 0.8) < 0.12
    assert set(block["baselines"]) == {"normal", "ar_valql"}
    assert block["calibrated_on"] in (OUT_OF_BLOCK, VALIDATION)
    record = json.loads((folder / "adaptation.json").read_text())
    assert record["intervals"]["calibrated_on"] == block["calibrated_on"] and INTERVALS in record["files"]
    assert "intervals on the test part" in (folder / "report.md").read_text()
    assert adapted.plot()._repr_png_()  # type: ignore[attr-defined]


def test_the_record_says_that_a_model_alone_was_calibrated_on_the_validation_part(
    backbone: fb.Backbone, session: fb.Session
) -> None:
    alone = backbone.adapt(session, config=replace(QUICK, stack=False), score=False, progress=False)
    assert alone.stack is None and alone.calibration is not None
    assert alone.calibration.record["calibrated_on"] == VALIDATION


def test_a_damaged_file_of_intervals_is_one_clear_error(adapted: fb.Adapted, tmp_path: Path) -> None:
    adapted.save(tmp_path / "saved")
    (tmp_path / "saved" / INTERVALS).write_bytes(b"damage")
    with pytest.raises(AdaptationError, match=INTERVALS):
        fb.open(tmp_path / "saved")


def test_the_command_writes_a_column_for_each_quantile(
    adapted: fb.Adapted, session: fb.Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted.save(tmp_path / "saved")
    session.save(tmp_path / "worm.npz")
    words = ["forecast", "--adapted", str(tmp_path / "saved"), "--recording", str(tmp_path / "worm.npz")]
    assert main([*words, "--quantiles", "0.1", "0.5", "0.9"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "frames_ahead,seconds_ahead,unit,forecast,0.1,0.5,0.9"
    assert len(rows) == adapted.horizon * adapted.num_units
    low, middle, high = map(float, rows[0].split(",")[-3:])
    assert low < middle < high
    assert main([*words, "--quantiles", "1.5"]) != 0
    assert "between 0 and 1" in capsys.readouterr().err


def test_a_batch_of_windows_is_forecast_once() -> None:
    calls = []

    def forecaster(session: int, context: np.ndarray) -> np.ndarray:
        calls.append(session)
        return context[:, :2]

    remembered = Remembered(forecaster)
    context = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    first = remembered(0, context)
    np.testing.assert_array_equal(remembered(0, context.copy()), first)
    remembered(0, context + 1)
    assert len(calls) == 2
