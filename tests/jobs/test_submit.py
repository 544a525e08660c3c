"""`ray job submit` against a real head: the job runs, shows its progress, and fails with its cause."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from ray.job_submission import JobSubmissionClient

from forebrain.config import from_values
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig
from forebrain.training.events import Event
from forebrain.training.loop import Trainer
from forebrain.training.run_folder import RunFolder
from forebrain.training.stopping import StopRequests
from run_events import steps_of

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "cluster" / "grafana" / "forebrain.json"
RAY = str(Path(sys.executable).with_name("ray"))
ENVIRONMENT = {
    **os.environ,
    # `python` in a submitted job is the first on the path of the head.
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_metrics_report_interval_ms": "1000",
    # When it is ended, the head has nothing that it should wait 30 s for.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}
TINY = [
    "--model.context", "12", "--model.horizon", "4", "--model.token_length", "4", "--model.width", "16",
    "--model.num_heads", "2", "--model.head_width", "16", "--model.film_width", "32",
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


@dataclass(frozen=True)
class Head:
    """Addresses of a head: its dashboard's, and where it keeps its files."""

    dashboard: str
    folder: Path


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head of our own, ended by its process id."""
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
            yield Head(f"http://127.0.0.1:{dashboard}", Path(temp_dir))
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


def submit(head: Head, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            RAY, "job", "submit", "--address", head.dashboard, "--working-dir", str(ROOT), "--",
            "python", "jobs/pretrain.py", *arguments,
        ],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_doctor_finds_where_jobs_are_submitted(head: Head) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forebrain", "doctor", "--cluster", head.dashboard],
        env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and f"{head.dashboard}: takes jobs" in done.stdout, done.stdout + done.stderr


def test_a_submitted_job_prepares_and_trains_on_the_cluster_and_leaves_its_run(
    head: Head, save_session: Callable[..., str], tmp_path: Path
) -> None:
    recordings = {Path(save_session(name)).parent for name in ("a.npz", "b.npz")}
    done = submit(head, "--data", str(recordings.pop()), "--out", str(tmp_path / "run"), *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
    assert "validation score" in done.stdout


class StopAfter(StopRequests):
    def __init__(self, steps: int) -> None:
        self._left = steps

    def asked(self) -> str | None:
        self._left -= 1
        return "enough" if self._left <= 0 else None


def metrics_for_prometheus(ray_dir: Path, run: str) -> set[str]:
    """Names of a run's metrics, at the addresses that Ray writes down for Prometheus to find."""
    found: set[str] = set()
    with contextlib.suppress(FileNotFoundError, OSError):
        for group in json.loads((ray_dir / "prom_metrics_service_discovery.json").read_text()):
            for target in group["targets"]:
                with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
                found.update(
                    re.findall(rf'^(\w+){{[^}}]*run="{re.escape(run)}"[^}}]*}} [\d.e+-]+$', text, re.M)
                )
    return found


def test_a_stopped_job_has_saved_and_the_same_command_goes_on_bit_for_bit(
    head: Head, small_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = set(re.findall(r"ray_forebrain_\w+", DASHBOARD.read_text()))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    values = {
        "data": small_shards,
        "out": str(tmp_path / "run"),
        "model": {
            "context": 12, "horizon": 4, "token_length": 4, "width": 16, "num_heads": 2, "head_width": 16,
            "film_width": 32, "branch_dropout": 0.1,
        },
        "training": {
            "batch_size": 8, "steps": 100_000, "validate_every": 20, "checkpoint_every": 10, "threads": 1,
        },
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    store = RunFolder(values["out"]).checkpoints()
    client = JobSubmissionClient(head.dashboard)
    for step in (10, 40):
        job = client.submit_job(
            entrypoint=f"python jobs/pretrain.py --config {tmp_path / 'config.yaml'}",
            # As guarantees.md has it: what else runs beside the test must not make the stop a kill.
            runtime_env={"working_dir": str(ROOT), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}},
        )
        deadline = time.monotonic() + 120
        while store.newest_step() < step:
            assert time.monotonic() < deadline, client.get_job_logs(job)
            time.sleep(0.1)
        while step == 40 and metrics_for_prometheus(head.folder, values["out"]) != shown:
            assert time.monotonic() < deadline, metrics_for_prometheus(head.folder, values["out"])
            time.sleep(0.2)
        command = [RAY, "job", "stop", "--address", head.dashboard, job]
        subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=60, check=True)
        assert client.get_job_status(job) == "STOPPED"
        log = client.get_job_logs(job)
        assert f"stopped by SIGTERM after step {store.newest_step()};" in log, log

    events: list[Event] = []
    config = from_values(PretrainConfig, {**values, "out": str(tmp_path / "alone")})
    Trainer(config, WorkerGroup(), torch.device("cpu"), events.append, StopAfter(store.newest_step())).run()
    rows = RunFolder(values["out"]).read_metrics()
    found = [(row["step"], row["loss"]) for row in rows if row["kind"] == "step"]
    expected = [(event.step, event.loss) for event in steps_of(events)]
    assert found == expected and len(found) >= 40


def test_a_failed_job_exits_non_zero_with_its_cause(head: Head, tmp_path: Path) -> None:
    done = submit(head, "--data", str(tmp_path / "nothing-here"), "--out", str(tmp_path / "run"), *TINY)
    assert done.returncode != 0
    assert "nothing-here" in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
