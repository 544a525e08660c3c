"""How much of the machine may be used: what is allowed, not what is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forebrain import machine

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups as they are laid out here, of which this process is in none."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return tmp_path


def test_the_cores_that_a_process_is_bound_to_count_and_not_those_there_are() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.cpu_count = lambda: 64\n"
    code += "from forebrain.machine import num_cores; print(num_cores())"
    path = f"{ROOT / 'platform'}:{ROOT / 'registry'}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "6400000 100000"}, 8),
        ({"cpu.max": "damaged"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_a_container_s_share_counts(no_groups: Path, files: dict[str, str], cores: int) -> None:
    for name, text in files.items():
        (no_groups / name).parent.mkdir(exist_ok=True)
        (no_groups / name).write_text(text)
    assert machine.num_cores() == cores


@pytest.mark.parametrize(
    ("given", "threads"), [("3", 3), ("4,2", 4), ("", 8), ("0", 8), ("many", 8), ("-1", 8), (" 2 ", 2)]
)
def test_threads_are_as_many_as_omp_num_threads_says(
    monkeypatch: pytest.MonkeyPatch, given: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert machine.num_threads() == threads
