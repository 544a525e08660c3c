"""The calculation on paper, beside what the code does and what chance does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebrain.benchmarking import plan
from forebrain.commands import main
from forebrain.config import from_values
from forebrain.shards.reader import ShardSet
from forebrain.training.checkpoints import CheckpointStore
from forebrain.training.config import PretrainConfig
from forebrain.training.single import train_here
from forebrain_registry.storage import Folder


def test_goodput_is_what_a_simulation_of_failures_gives() -> None:
    every_s, stall_s, recovery_s, between_s = 600.0, 30.0, 200.0, 3000.0
    rng = np.random.default_rng(0)
    now, useful, fails_at = 0.0, 0.0, rng.exponential(between_s)
    while now < 4e6:
        if fails_at >= now + every_s + stall_s:
            now, useful = now + every_s + stall_s, useful + every_s
            continue
        # What was done since the checkpoint is lost; recovery itself may be disturbed and starts over.
        now = fails_at
        while (fails_at := now + rng.exponential(between_s)) < now + recovery_s:
            now = fails_at
        now += recovery_s
    assert plan.goodput(every_s, stall_s, recovery_s, between_s) == pytest.approx(useful / now, abs=0.01)


def test_sizes_are_those_of_a_real_set_and_a_real_checkpoint(small_shards: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "data": small_shards, "out": str(tmp_path / "run"), "workers": 0,
        "training": {"steps": 1, "batch_size": 4, "threads": 1},
        "evaluation": {"windows_per_session": 1},
    }  # fmt: skip
    train_here(from_values(PretrainConfig, values), lambda event: None)
    (saved,) = CheckpointStore(Folder(values["out"]).child("checkpoints")).committed()
    entries = ShardSet.open(small_shards).sessions
    asked = plan.PlanConfig(
        sessions=len(entries),
        units=sum(entry.num_units for entry in entries),
        data_bytes=4 * sum(entry.num_units * entry.num_frames for entry in entries),
        workers=1,
        batch_size=4,
    )
    found = plan.calculate(asked)
    # Besides the tensors a file has their names and each parameter's count of steps.
    assert found["checkpoint_bytes"] == pytest.approx(sum(file.size_bytes for file in saved.files), rel=0.01)
    assert found["entry_bytes"] == pytest.approx(sum(len(entry.to_bytes()) for entry in entries), rel=0.2)
    assert found["shards"] == sum(len(entry.shards) for entry in entries)


def test_more_of_anything_costs_more() -> None:
    small = plan.calculate(
        plan.PlanConfig(sessions=100, units=10**5, data_bytes=1e10, workers=4, batch_size=64)
    )
    large = plan.calculate(
        plan.PlanConfig(sessions=100, units=10**6, data_bytes=1e11, workers=4, batch_size=64)
    )
    for name in (
        "stored_bytes",
        "entry_bytes",
        "checkpoint_bytes",
        "read_bytes_a_window",
        "compute_s",
        "open_s",
    ):
        assert large[name] > small[name]
    assert large["gradient_bytes"] == small["gradient_bytes"]
    assert large["goodput"] < small["goodput"]
    assert [row["load"] for row in large["limits"]] == sorted(
        (row["load"] for row in large["limits"]), reverse=True
    )


def test_it_prints_its_numbers_and_refuses_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "--sessions",
        "10",
        "--units",
        "1000",
        "--data_bytes",
        "1e9",
        "--workers",
        "2",
        "--batch_size",
        "8",
    ]
    assert main(["plan", *given, "--json", str(tmp_path / "plan.json")]) == 0
    assert json.loads((tmp_path / "plan.json").read_text())["units_a_session"] == 100
    assert "what gives way first" in capsys.readouterr().out
    assert main(["plan", *given, "--workers", "0"]) == 2
    assert main(["plan", *given, "--data_bytes", "1000"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
