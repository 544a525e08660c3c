"""Ten thousand small sessions, for real: prepared, opened, trained on by two workers, stopped and resumed.

Each phase is a command of its own, as a lab would give it.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from forebrain.errors import ForebrainError

SESSIONS, UNITS, FRAMES = 10_000, 100, 400
STEPS, STOP_AFTER = 50, 20
WORKERS = 2
OPENERS = 4  # processes of one machine that have the set open at a time
POLL_S = 0.5
BARRIER_S = 600.0
_together: Barrier  # where the processes of `_opened` wait for one another


def time_many_sessions(sessions: int = SESSIONS, workers: int = WORKERS) -> Iterator[dict[str, Any]]:
    """A row for each phase: prepare, open, train until it is asked to stop, resume to the end.

    Args:
        sessions: that are made, of UNITS units and FRAMES frames.
        workers: that train; with 0 all is done without Ray, in one process.

    Raises:
        ForebrainError: a command ended otherwise than it should.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_recordings(folder / "recordings", sessions)
        began = time.perf_counter()
        place = ["--recording", str(folder / "recordings"), "--out", str(folder / "set")]
        _command("prepare", *place, *(["--workers", "0"] if workers == 0 else []))
        yield _row("prepare", sessions, time.perf_counter() - began)
        for name, processes in (("open", 1), (f"open, {OPENERS} processes at once", OPENERS)):
            seconds, num_bytes = _opened(str(folder / "set"), processes)
            yield {**_row(name, sessions, seconds), "bytes": num_bytes}
        train = [
            "pretrain",
            "--data",
            str(folder / "set"),
            "--out",
            str(folder / "run"),
            "--workers",
            str(workers),
            "--training.steps",
            str(STEPS),
            "--training.checkpoint_every",
            "10",
            "--training.validate_every",
            str(STEPS),
            "--training.threads",
            "1",
            "--evaluation.windows_per_session",
            "1",
        ]
        began = time.perf_counter()
        _command(*train, stop_at=folder / "run" / "checkpoints" / f"{STOP_AFTER:08d}.json")
        yield _row("train and stop", sessions, time.perf_counter() - began)
        began = time.perf_counter()
        _command(*train)
        result = json.loads((folder / "run" / "result.json").read_bytes())
        if result["steps"] != STEPS or result["ledger"]["attempts"] != 2:
            raise ForebrainError(f"the run did not go on where it stopped: {result['ledger']}")
        yield {
            **_row("resume and end", sessions, time.perf_counter() - began),
            "bytes": result["peak_rss_bytes"],
            "resume_s": result["ledger"]["seconds"]["resume"],
        }


def _row(phase: str, sessions: int, seconds: float) -> dict[str, Any]:
    return {"what": "many-sessions", "phase": phase, "sessions": sessions, "units": UNITS, "seconds": seconds}


def _save_recordings(folder: Path, sessions: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    traces = rng.standard_normal((FRAMES, UNITS), dtype=np.float32).cumsum(axis=0)
    for number in range(sessions):
        noise = rng.standard_normal(traces.shape, dtype=np.float32)
        np.savez(
            folder / f"{number:05d}.npz",
            traces=traces + noise,
            fs=5.0,
            species="zebrafish",
            subject=f"fish{number // 10:04d}",
            session=f"{number % 10}",
            source=f"lab{number % 7}",
        )


def _command(*words: str, stop_at: Path | None = None) -> None:
    """Runs `forebrain`; with a file, asks it to stop once that is there."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-m", "forebrain", *words], stdout=log, stderr=log)
        while stop_at is not None and process.poll() is None:
            if stop_at.exists():
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(POLL_S)
        status = process.wait()
        if status != (0 if stop_at is None else 128 + signal.SIGTERM):
            log.seek(0)
            told = log.read()[-2000:].decode(errors="replace")
            raise ForebrainError(f"forebrain {words[0]} ended with status {status}:", *told.splitlines())


def _opened(uri: str, processes: int) -> tuple[float, int]:
    """Seconds until the last of some processes has a set and its windows open, and memory that each has of
    its own for it while all have it open: bytes, the median."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(processes, timeout=BARRIER_S)
    with ProcessPoolExecutor(processes, context, _meet, (together,)) as pool:
        found = list(pool.map(_open, [uri] * processes))
    return max(seconds for seconds, _ in found), int(median(num_bytes for _, num_bytes in found))


def _meet(together: Barrier) -> None:
    global _together
    _together = together


def _open(uri: str) -> tuple[float, int]:
    from forebrain.shards.reader import ShardSet
    from forebrain.shards.windows import ShardWindows

    _together.wait()
    before, began = _private_bytes(), time.perf_counter()
    windows = ShardWindows(ShardSet.open(uri), "chronological", 48, 16)
    seconds = time.perf_counter() - began
    _together.wait()
    num_bytes = _private_bytes() - before
    _together.wait()
    del windows
    return seconds, num_bytes


def _private_bytes() -> int:
    """Memory of this process that no other shares."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    return 1024 * sum(int(kilobytes) for kilobytes in re.findall(r"Private_\w+: +(\d+)", text))
