"""The command that kills parts of a run leaves nothing of its own behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def is_driver(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "-m forebrain pretrain" in " ".join(process.cmdline())
    return False


def test_a_chaos_run_that_is_asked_to_stop_ends_all_that_it_started(
    small_shards: str, tmp_path: Path
) -> None:
    command = [
        sys.executable, str(ROOT / "jobs" / "chaos.py"), "--nodes", "1", "--every_s", "1000", "2000",
        "--pretrain.data", small_shards, "--pretrain.out", str(tmp_path / "run"), "--pretrain.workers", "1",
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT / "registry")])
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = psutil.Popen(
            command, env={**os.environ, "PYTHONPATH": paths}, stdout=stream, stderr=subprocess.STDOUT
        )
    started: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    while not any(is_driver(child) for child in started):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
        started = process.children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM, log.read_text()
    assert len(started) > 5  # what a cluster consists of, and the driver
    _, left = psutil.wait_procs(started, timeout=10)
    assert not left
