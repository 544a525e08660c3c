"""Kills parts of a running pretraining at random, and accounts for what that cost.

A cluster of several nodes is started on this machine. A run trains on it while every few seconds something
is killed: a training worker, a node, the driver, or the whole job by SIGTERM. When the time is up the run is
asked to stop; then the same run is done again, left alone, as far as the first came. The report says where
the time went and compares the two step by step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import psutil
import yaml
from rich.console import Console

from forebrain.console import Table
from forebrain.errors import ConfigError, ForebrainError
from forebrain.ray_runtime import quiet_ray
from forebrain.training.config import PretrainConfig
from forebrain.training.ledger import Ledger, account, read_attempts
from forebrain.training.run_folder import RunFolder
from forebrain_registry.storage import Folder, file_at

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

Kind = Literal["worker", "node", "driver", "stop"]
NODE_BACK_AFTER_S = 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class ChaosConfig:
    """The run, and what is done to it.

    Attributes:
        pretrain: the run; its `out` gets the folders disturbed/ and undisturbed/.
        minutes: how long it trains and things are killed; a run that ends before ends the storm.
        every_s: shortest and longest time between two kills.
        kinds: what may be killed: worker (SIGKILL), node (its raylet and all on it), driver (SIGKILL; the
            same command is then given again), stop (SIGTERM to the driver; again the same command).
        nodes: machines of one CPU, besides the head, which computes nothing.
        seed: of what is killed and when.
        out: JSON file for the report.
    """

    pretrain: PretrainConfig
    minutes: float = 10.0
    every_s: list[float] = field(default_factory=lambda: [20.0, 40.0])
    kinds: list[Kind] = field(default_factory=lambda: ["worker", "node", "driver", "stop"])
    nodes: int = 2
    seed: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        if len(self.every_s) != 2 or not 0 < self.every_s[0] <= self.every_s[1]:
            raise ConfigError(f"every_s is {self.every_s}; expected two numbers, the shorter time first.")
        if not self.kinds:
            raise ConfigError("kinds is empty; expected at least one of worker, node, driver, stop.")
        if self.nodes < self.pretrain.workers:
            raise ConfigError(
                f"nodes is {self.nodes}; expected at least the {self.pretrain.workers} workers."
            )


def chaos(config: ChaosConfig, console: Console) -> dict[str, Any]:
    """Runs both, and returns and prints the report.

    Raises:
        ForebrainError: a run failed by itself.
        SystemExit: SIGTERM or SIGINT came; nothing that was started is left.
    """
    out = file_at(config.out) if config.out else None
    disturbed, undisturbed = _run_config(config, "disturbed"), _run_config(config, "undisturbed")
    for run in (disturbed, undisturbed):
        if RunFolder(run.out).read_config() is not None:
            raise ConfigError(
                f"pretrain.out is {config.pretrain.out}, which holds a run; expected a new folder."
            )
    kills: list[dict[str, Any]] = []
    with cluster_of(config.nodes) as cluster:
        _end_on_signals()
        console.print(f"Disturbed, for {config.minutes:g} minutes ...")
        until = time.monotonic() + 60 * config.minutes
        _drive(cluster, disturbed, console, lambda: time.monotonic() > until, config, kills)
        ledger = account(read_attempts(RunFolder(disturbed.out)))
        _print_ledger(ledger, kills, console)
        console.print(f"Undisturbed, {ledger.steps_done:,} steps ...")
        _drive(cluster, undisturbed, console, lambda: _step_of(undisturbed) >= ledger.steps_done)
    report = {
        "kills": kills,
        **dataclasses.asdict(ledger),
        "undisturbed": dataclasses.asdict(account(read_attempts(RunFolder(undisturbed.out)))),
        **compare(RunFolder(undisturbed.out), RunFolder(disturbed.out), ledger.steps_done),
    }
    _print_comparison(report, console)
    if out is not None:
        folder, name = out
        folder.write(name, json.dumps(report, indent=1).encode())
    return report


def compare(expected: RunFolder, actual: RunFolder, steps: int) -> dict[str, Any]:
    """How the losses of two runs differ over their first steps.

    Returns:
        `steps_missing`, `steps_repeated`, `steps_different` (not bit for bit), `largest_difference`
        (relative), `final_loss` and `final_loss_undisturbed`.
    """
    ours, theirs = (
        [row for row in run.read_metrics() if row["kind"] == "step"] for run in (actual, expected)
    )
    reference = {row["step"]: row["loss"] for row in theirs}
    seen = [row["step"] for row in ours]
    wanted = set(range(1, steps + 1))
    differences = [abs(row["loss"] / reference[row["step"]] - 1) for row in ours if row["step"] in reference]
    return {
        "steps_missing": len(wanted - set(seen)) + len(wanted - set(reference)),
        "steps_repeated": len(seen) - len(set(seen)),
        "steps_different": sum(difference > 0 for difference in differences),
        "largest_difference": max(differences, default=float("nan")),
        "final_loss": {row["step"]: row["loss"] for row in ours}.get(steps),
        "final_loss_undisturbed": reference.get(steps),
    }


@contextlib.contextmanager
def cluster_of(nodes: int) -> Iterator[Cluster]:
    """A cluster on this machine: a head without CPUs and nodes of one CPU each."""
    quiet_ray()
    from ray.cluster_utils import Cluster

    # Short, because Ray puts sockets there and their paths may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="fb-", dir="/tmp", ignore_cleanup_errors=True) as temp_dir:
        # The address of the cluster is written below RAY_TMPDIR, by default for all of this machine to see.
        before = os.environ.get("RAY_TMPDIR")
        os.environ["RAY_TMPDIR"] = temp_dir
        ray_dir = Path(temp_dir) / "ray"
        ray_dir.mkdir()
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "temp_dir": str(ray_dir),
                "include_dashboard": True,
                # Other clusters on this machine may hold the usual ones.
                "dashboard_port": _free_port(),
                "dashboard_agent_listen_port": _free_port(),
            },
        )
        try:
            for _ in range(nodes):
                cluster.add_node(num_cpus=1)
            yield cluster
        finally:
            cluster.shutdown()
            if before is None:
                del os.environ["RAY_TMPDIR"]
            else:
                os.environ["RAY_TMPDIR"] = before


def _end_on_signals() -> None:
    """Makes SIGTERM and SIGINT leave by way of all `finally`, which they cannot interrupt any more."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in SIGNALS:
        signal.signal(each, end)


def _add_node(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=1)
    # Ray has put a handler of its own in place, which ends the new node and leaves the others.
    _end_on_signals()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def training_workers(cluster: Cluster) -> list[psutil.Process]:
    """The processes that train on a cluster of this machine."""
    found = []
    for node in cluster.worker_nodes:
        for info in node.all_processes.get("raylet", []):
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(info.process.pid).children(recursive=True)
                found += [child for child in children if is_training(child)]
    return found


def is_training(process: psutil.Process) -> bool:
    try:
        return "TrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _run_config(config: ChaosConfig, name: str) -> PretrainConfig:
    out = Folder(config.pretrain.out)
    return dataclasses.replace(config.pretrain, out=out.uri_of(name))


class _Driver:
    """`forebrain pretrain` as a process of its own, started again after each death."""

    def __init__(self, cluster: Cluster, config: PretrainConfig, folder: str) -> None:
        values = Path(folder) / "config.yaml"
        values.write_text(yaml.safe_dump(dataclasses.asdict(config)), encoding="utf-8")
        self._command = [sys.executable, "-m", "forebrain", "pretrain", "--config", str(values)]
        self._environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        self._log = Path(folder) / "driver.log"
        self.process = self._start()

    def ensure(self) -> bool:
        """Starts it again if it died; False once it has ended well.

        Raises:
            ForebrainError: it failed by itself.
        """
        status = self.process.poll()
        if status == 0:
            return False
        if status is not None:
            if status not in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
                raise ForebrainError(f"the run failed with status {status}:", *self._last_lines())
            self.process = self._start()
        return True

    def stop(self) -> None:
        """Asks it to stop, and waits until it has; it may have ended already.

        Raises:
            ForebrainError: it failed by itself, or did not stop.
        """
        # A signal in the first moments of a process ends it before it has anything to save.
        while self.ensure():
            self.process.send_signal(signal.SIGTERM)
            try:
                if self.process.wait(timeout=120) == 128 + signal.SIGTERM:
                    return
            except subprocess.TimeoutExpired:
                raise ForebrainError("the run did not stop:", *self._last_lines()) from None

    def _last_lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:].splitlines()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)


def _drive(
    cluster: Cluster,
    run: PretrainConfig,
    console: Console,
    is_enough: Callable[[], bool],
    config: ChaosConfig | None = None,
    kills: list[dict[str, Any]] | None = None,
) -> None:
    """Lets a run train until it is enough, then asks it to stop; with a config, kills what it says."""
    rng = random.Random(config.seed if config else 0)
    began = last_line = time.monotonic()
    next_kill = began + rng.uniform(*config.every_s) if config else float("inf")
    node_back: list[float] = []
    with tempfile.TemporaryDirectory(prefix="forebrain-chaos-") as folder:
        driver = _Driver(cluster, run, folder)
        try:
            while driver.ensure() and not is_enough():
                time.sleep(0.5)
                now = time.monotonic()
                if node_back and now >= node_back[0]:
                    node_back.pop(0)
                    _add_node(cluster)
                if config and kills is not None and now >= next_kill:
                    kind = rng.choice(config.kinds)
                    if _kill(kind, cluster, driver, rng):
                        kills.append({"at_s": round(now - began, 1), "kind": kind})
                        console.print(f"  {now - began:6.0f} s  step {_step_of(run):>7,}  {kind} killed")
                        if kind == "node":
                            node_back.append(now + NODE_BACK_AFTER_S)
                    next_kill = now + rng.uniform(*config.every_s)
                if now - last_line > 30:
                    last_line = now
                    console.print(f"  {now - began:6.0f} s  step {_step_of(run):>7,}")
            for _ in node_back:
                _add_node(cluster)
            driver.stop()
        finally:
            if driver.process.poll() is None:
                driver.process.kill()
                driver.process.wait()


def _kill(kind: Kind, cluster: Cluster, driver: _Driver, rng: random.Random) -> bool:
    """Kills one; False if there is none at this moment."""
    if kind == "worker":
        workers = training_workers(cluster)
        if not workers:
            return False
        with contextlib.suppress(psutil.Error):
            rng.choice(workers).kill()
        return True
    if kind == "node":
        nodes = cluster.worker_nodes
        if not nodes:
            return False
        cluster.remove_node(rng.choice(sorted(nodes, key=lambda node: node.unique_id)), allow_graceful=False)
        return True
    driver.process.send_signal(signal.SIGKILL if kind == "driver" else signal.SIGTERM)
    driver.process.wait()
    return True


def _step_of(run: PretrainConfig) -> int:
    attempts = read_attempts(RunFolder(run.out))
    return attempts[-1].step if attempts else 0


def _print_ledger(ledger: Ledger, kills: list[dict[str, Any]], console: Console) -> None:
    table = Table("where the time went", "seconds", "share")
    for category, seconds in ledger.seconds.items():
        table.add_row(category, f"{seconds:.1f}", f"{seconds / ledger.wall_s:.1%}")
    total = sum(ledger.seconds.values())
    table.add_row("sum", f"{total:.1f}", f"{total / ledger.wall_s:.2%}")
    table.add_row("wall", f"{ledger.wall_s:.1f}", "")
    console.print(table)
    by_kind = ", ".join(
        f"{kind} {count}" for kind, count in sorted(Counter(kill["kind"] for kill in kills).items())
    )
    console.print(
        f"goodput {ledger.goodput:.1%}, {len(kills)} kills ({by_kind}), {ledger.attempts} attempts, "
        f"{ledger.steps_lost / max(1, len(kills)):.1f} of {ledger.steps_done:,} steps done again a kill"
    )


def _print_comparison(report: dict[str, Any], console: Console) -> None:
    console.print(
        f"steps missing {report['steps_missing']}, repeated {report['steps_repeated']}, "
        f"different {report['steps_different']} (largest relative difference "
        f"{report['largest_difference']:.1e}); final loss {report['final_loss']}, "
        f"undisturbed {report['final_loss_undisturbed']}; goodput undisturbed "
        f"{report['undisturbed']['goodput']:.1%}"
    )
