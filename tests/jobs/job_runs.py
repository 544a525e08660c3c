"""jobs/ as people run them, in processes of their own or in this one, and small runs."""

from __future__ import annotations

import io
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from forebrain.sessions.session import Session

ROOT = Path(__file__).parents[2]
TINY = [
    "--model.width", "16", "--model.num_heads", "2", "--model.head_width", "16", "--model.film_width", "32",
    "--training.batch_size", "16", "--training.steps", "6", "--training.validate_every", "3",
    "--training.threads", "1", "--evaluation.windows_per_session", "8",
]  # fmt: skip


def run_job(job: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'registry'}",
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / job), *arguments],
        capture_output=True, text=True, env=environment, timeout=300, check=False, cwd=cwd,
    )  # fmt: skip


def run_here(job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, where all is imported; for what does not start Ray."""
    command = [str(ROOT / "jobs" / job), *arguments]
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(command[0], run_name="__main__")
    return subprocess.CompletedProcess(command, ended.value.code, stdout.getvalue(), stderr.getvalue())


def pretrain(data: str | Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_here("pretrain.py", "--data", str(data), "--out", str(out), *TINY, *more)


def recording(folder: Path, name: str, num_frames: int, num_units: int = 6) -> Path:
    rng = np.random.default_rng(0)
    traces = np.sin(np.arange(num_frames)[:, None] * rng.uniform(0.1, 0.4, num_units))
    traces = (traces + 0.1 * rng.normal(size=traces.shape)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    Session(traces, 5.0, "fish", name, name, "lab").save(folder / f"{name}.npz")
    return folder / f"{name}.npz"
