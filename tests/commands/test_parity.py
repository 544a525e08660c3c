"""Parity with the published implementation, and that the check itself can fail."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from forebrain.accelerate import unit_blocks
from forebrain.commands import main, parity
from forebrain.commands.parity import ParityError, check_folder

FIXTURE = "b_multi_n80_n130"


@pytest.fixture(scope="module")
def parity_dir() -> Path:
    data = Path(os.environ.get("FOREBRAIN_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    folder = data.parent / "parity"
    if not folder.is_dir():
        pytest.skip(f"parity fixtures not found at {folder}; set FOREBRAIN_TEST_DATA")
    return folder


@pytest.fixture
def change(parity_dir: Path, tmp_path: Path):
    """Copies one fixture with some arrays changed."""

    def copy(**arrays: np.ndarray) -> Path:
        shutil.copy(parity_dir / f"{FIXTURE}.json", tmp_path)
        with np.load(parity_dir / f"{FIXTURE}.npz") as archive:
            np.savez(tmp_path / f"{FIXTURE}.npz", **{**archive, **arrays})
        return tmp_path

    return copy


def test_every_fixture_of_the_published_model_is_reproduced(parity_dir: Path, capsys) -> None:
    assert main(["parity", str(parity_dir)]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(results) == 3 and all(result["passed"] for result in results)
    assert max(result["output_error"] for result in results) <= 1e-5
    assert max(result.get("gradient_error", 0) for result in results) <= 2e-5
    assert max(result.get("after_steps_error", 0) for result in results) <= 1e-4


@pytest.mark.parametrize("name", ["output/y1", "grad/out_proj.weight", "after5/y0"])
@pytest.mark.parametrize("value", [np.nan, 1e-3])
def test_a_wrong_value_anywhere_fails(change, parity_dir: Path, name: str, value: float, capsys) -> None:
    with np.load(parity_dir / f"{FIXTURE}.npz") as archive:
        wrong = archive[name].copy()
    wrong.flat[-1] += value
    assert main(["parity", str(change(**{name: wrong}))]) == 1
    assert not json.loads(capsys.readouterr().out)["passed"]


def test_an_empty_folder_and_a_broken_fixture_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="no fixture"):
        list(check_folder(tmp_path))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ParityError, match=r"x\.npz"):
        list(check_folder(tmp_path))
    np.savez(tmp_path / "x.npz", a=np.zeros(1))
    with pytest.raises(ParityError, match=r"x\.json.*hyper"):
        list(check_folder(tmp_path))


def test_every_form_of_the_model_is_exact_in_blocks_too(
    parity_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_blocks, "CPU_BLOCK", 100)
    result = parity.check_fixture(parity_dir / f"{FIXTURE}.json")
    assert result["passed"] and result["gradient_error"] <= 2e-5
    assert set(result["output_error_by_form"]) == {"plain", "train", "adapt", "stream"}
