"""`ray job submit` against a real head: the job runs, shows its progress, and fails with its cause."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
ENVIRONMENT = {
    **os.environ,
    # `python` in a submitted job is the first on the path of the head.
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}
TINY = [
    "--model.width", "16", "--model.num_heads", "2", "--model.head_width", "16", "--model.film_width", "32",
    "--training.batch_size", "8", "--training.steps", "2", "--training.validate_every", "2",
    "--evaluation.windows_per_session", "4",
]  # fmt: skip


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """Address of a head of our own, ended by its process id."""
    gcs, dashboard, agent, client = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="fb-", dir="/tmp") as temp_dir:
        head = subprocess.Popen(
            [
                RAY, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=true",
                f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
                f"--ray-client-server-port={client}", f"--temp-dir={temp_dir}",
            ],
            env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(dashboard, head)
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(timeout=60)


def wait_for(port: int, head: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert head.poll() is None, "the head ended before it was ready"
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("the head was not ready after 60 s")


def submit(dashboard: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            RAY, "job", "submit", "--address", dashboard, "--working-dir", str(ROOT), "--",
            "python", "jobs/pretrain.py", *arguments,
        ],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_doctor_finds_where_jobs_are_submitted(dashboard: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forebrain.cli", "doctor", "--cluster", dashboard],
        env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and f"{dashboard}: takes jobs" in done.stdout, done.stdout + done.stderr


def test_a_submitted_job_trains_on_the_cluster_and_leaves_its_run(dashboard: str, tmp_path: Path) -> None:
    done = submit(dashboard, "--data", "sim://default", "--out", str(tmp_path / "run"), *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
    assert "validation score" in done.stdout


def test_a_failed_job_exits_non_zero_with_its_cause(dashboard: str, tmp_path: Path) -> None:
    done = submit(dashboard, "--data", str(tmp_path / "nothing-here"), "--out", str(tmp_path / "run"), *TINY)
    assert done.returncode != 0
    assert "nothing-here" in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
