"""Training over several workers: what of their number comes out as speed, how long steps wait for data.

The global batch is the same for any number of workers, so this is strong scaling.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from forebrain.benchmarking.loading import noise_shards
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.loop import Trainer

UNITS, SESSIONS = 120, 16
WARM_UP = 3


def time_scaling(steps: int, workers: tuple[int, ...] = (1, 2)) -> list[dict[str, Any]]:
    """A row for each number of workers, one thread and one process each, with its efficiency over one."""
    rows: list[dict[str, Any]] = []
    with noise_shards(UNITS, SESSIONS, frames=400) as folder:
        for size in workers:
            with tempfile.TemporaryDirectory() as results:
                training = TrainingConfig(steps=WARM_UP + steps, threads=1, validate_every=10**6)
                config = PretrainConfig(str(folder / "shards"), f"{results}/run", training=training)
                multiprocessing.spawn(_train, (size, config, results), nprocs=size)
                found = [json.loads(Path(f"{results}/{rank}.json").read_bytes()) for rank in range(size)]
            step_ms = max(each["step_ms"] for each in found)
            rows.append(
                {
                    "what": "scale",
                    "units": UNITS,
                    "batch": training.batch_size,
                    "workers": size,
                    "threads": 1,
                    "device": "cpu",
                    "dtype": "fp32",
                    "median_ms": step_ms,
                    "wait_share": max(each["wait_s"] / each["total_s"] for each in found),
                    "efficiency": (rows[0]["median_ms"] / step_ms / size) if rows else 1.0,
                }
            )
    return rows


def _train(rank: int, size: int, config: PretrainConfig, results: str) -> None:
    torch.set_num_threads(1)
    if size > 1:
        store = dist.FileStore(f"{results}/store", size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    trainer = Trainer(config, WorkerGroup(), torch.device("cpu"), lambda event: None)
    step_s, wait_s = [], []
    for batch in trainer.stream.batches(0, config.training.steps):
        began = time.perf_counter()
        trainer.step(batch)
        step_s.append(time.perf_counter() - began)
        wait_s.append(batch.wait_s)
    counted = slice(WARM_UP, None)
    row = {
        "step_ms": 1e3 * median(step_s[counted]),
        "wait_s": sum(wait_s[counted]),
        "total_s": sum(step_s[counted]) + sum(wait_s[counted]),
    }
    Path(f"{results}/{rank}.json").write_text(json.dumps(row), encoding="utf-8")
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()
