"""The way of the data: from shards to batches, beside reading the same bytes plainly."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forebrain.benchmarking.timing import peak_bytes
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.stream import MixtureConfig, Stream, build_order
from forebrain.shards.windows import ShardWindows

SESSIONS, FRAMES, BATCH = 4, 2000, 64
CONTEXT, HORIZON = 48, 16


@contextmanager
def noise_shards(units: int, sessions: int = SESSIONS, frames: int = FRAMES) -> Iterator[Path]:
    """A folder with shards of slow noise in `shards`, for as long as the block lasts."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(sessions):
            traces = rng.standard_normal((frames, units), dtype=np.float32).cumsum(axis=0)
            session = Session(traces, 5.0, "zebrafish", f"fish{number}", "one", "noise")
            session.save(folder / f"{number}.npz")
        prepare(
            [str(folder / f"{number}.npz") for number in range(sessions)],
            str(folder / "shards"),
            PrepareConfig(),
            open_recording=lambda path: [Session.load(path)],
            run_each=map_here,
        )
        yield folder


def time_loading(units: int, batches: int) -> dict[str, Any]:
    """Batches a training step would be given, with no step between them; the files are in memory already.

    Plain is to read as many bytes as a batch has from the same files, from first to last.
    """
    with noise_shards(units) as folder:
        plain_s, num_bytes = _read_plainly(folder / "shards")
        windows = ShardWindows(ShardSet.open(str(folder / "shards")), "chronological", CONTEXT, HORIZON)
        stream = Stream(windows, build_order(windows, BATCH, 0, MixtureConfig()))
        peak = peak_bytes(lambda: stream.batch(0), torch.device("cpu"))
        seconds, given = [], 0
        for step in range(1, 1 + batches):
            began = time.perf_counter()
            batch = stream.batch(step)
            seconds.append(time.perf_counter() - began)
            given += sum(group.context.nbytes + group.target.nbytes for group in batch.groups)
    median_s, batch_bytes = float(np.median(seconds)), given / batches
    plain_bytes_per_s = num_bytes / plain_s
    return {
        "what": "load",
        "units": units,
        "batch": BATCH,
        "threads": 1,
        "device": "cpu",
        "dtype": "fp32",
        "median_ms": 1e3 * median_s,
        "p99_ms": 1e3 * float(np.quantile(seconds, 0.99)) if len(seconds) >= 100 else None,
        "plain_median_ms": 1e3 * batch_bytes / plain_bytes_per_s,
        "peak_bytes": peak,
        "windows_per_s": BATCH / median_s,
        "bytes_per_s": batch_bytes / median_s,
        "plain_bytes_per_s": plain_bytes_per_s,
    }


def _read_plainly(folder: Path) -> tuple[float, int]:
    """The best of three readings of all shards from their first byte to the last: seconds, bytes."""
    paths = sorted(folder.rglob("*.tar"))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        num_bytes = sum(len(path.read_bytes()) for path in paths)
        times.append(time.perf_counter() - began)
    return min(times), num_bytes
