"""jobs/pretrain.py as people run it by default: with Ray, from nothing to a finished run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from job_runs import TINY, pretrain, run_job


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The embedded default at a small size: simulated species, Ray started in the process, two workers.

    The run folder is given as people give it: relative to where they stand.
    """
    folder = tmp_path_factory.mktemp("run")
    arguments = ["--data", "sim://default", "--out", "out", "--workers", "2", *TINY]
    return folder / "out", run_job("pretrain.py", *arguments, cwd=folder)


def test_the_default_runs_from_nothing_to_scores_beside_the_baselines(finished) -> None:
    out, done = finished
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    for part in ("validation", "test"):
        block = result[part]
        assert set(block["by_species"]) == {"sim-celegans", "sim-mouse", "sim-zebrafish"}
        assert len(block["by_session"]) == 8
        assert block["baselines"]["copy"]["score"] == 0
        for scores in (block, *block["baselines"].values()):
            assert {"score", "mse", "mae", "correlation"} <= set(scores)
    assert result["steps"] == 6 and result["num_workers"] == 2
    for name in ("seconds", "units_x_frames_per_s", "peak_rss_bytes"):
        assert result[name] > 0
    assert {"torch", "ray", "python"} <= set(result["versions"])


def test_the_run_folder_holds_what_the_documentation_says(finished) -> None:
    out, _ = finished
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if row["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert (out / "config.yaml").exists()
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
    report = out / "evaluation" / "test"
    assert (report / "report.md").exists() and len(list(report.glob("*.png"))) == 4


def test_the_last_line_names_the_run_and_nothing_noisy_is_printed(finished) -> None:
    out, done = finished
    assert str(out) in done.stdout.splitlines()[-1]
    for noise in ("usage stat", "INFO", "DeepSpeed", "deprecat"):
        assert noise not in done.stdout + done.stderr


def test_the_same_command_again_finds_the_run_finished(finished) -> None:
    out, _ = finished
    before = (out / "result.json").read_bytes()
    again = pretrain("sim://default", out, "--workers", "2")
    assert again.returncode == 0 and "finished" in again.stdout
    assert (out / "result.json").read_bytes() == before


def test_another_config_there_is_refused_and_nothing_changes(finished) -> None:
    out, _ = finished
    before = sorted(path.stat().st_mtime_ns for path in out.rglob("*"))
    other = pretrain("sim://default", out, "--seed", "1")
    assert other.returncode != 0
    assert "seed was 0 and is now 1" in other.stderr
    assert sorted(path.stat().st_mtime_ns for path in out.rglob("*")) == before
