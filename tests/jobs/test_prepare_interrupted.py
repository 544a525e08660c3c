"""Ctrl-C while Ray prepares: one line, the right status, no other Ray, nothing that passes for complete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forebrain.errors import ShardError
from forebrain.shards.reader import ShardSet

pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]
LIMIT_S = 60


@pytest.mark.slow
def test_ctrl_c_while_ray_prepares_ends_with_one_line(
    tmp_path: Path, save_session: Callable[..., str]
) -> None:
    folder = Path(save_session("0.npz")).parent
    for number in range(1, 60):
        save_session(f"{number}.npz")
    sessions_of_ray = set(Path("/tmp/ray").glob("session_2*"))
    words = ["prepare", "--recording", str(folder), "--out", str(tmp_path / "set")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{ROOT / 'platform'}:{ROOT / 'registry'}"
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "forebrain", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert any(line.startswith("[3/") for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert errors.strip() == "stopped" and time.monotonic() - began < LIMIT_S
    assert set(Path("/tmp/ray").glob("session_2*")) <= sessions_of_ray
    with pytest.raises(ShardError, match=r"no index\.json"):
        ShardSet.open(str(tmp_path / "set"))
