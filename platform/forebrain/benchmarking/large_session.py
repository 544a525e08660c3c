"""Peak memory and time of training on one very large session.

Makes a session of noise, prepares it, and takes training steps on all its units, on a random part of them,
and on either with the session split over two workers; then steps that fit an interface for all its units to a
frozen backbone. Each runs in processes of its own.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from forebrain.adaptation.fit import FitConfig, fit_interface, training_batches
from forebrain.adaptation.windows import SessionWindows
from forebrain.models.poco import PocoConfig
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.loop import Trainer

FRAMES = 160


@dataclass(frozen=True)
class LargeSessionConfig:
    """How a large session is trained on.

    Attributes:
        units_per_window: forecast where it is not all units.
        batch_size: windows in a batch.
        steps: steps timed, after one to warm up.
    """

    units_per_window: int = 2048
    batch_size: int = 1
    steps: int = 1


def measure_large_session(num_units: int, config: LargeSessionConfig) -> Iterator[list[dict[str, Any]]]:
    """A row for each way of training and one for fitting an interface, as they are measured.

    `peak_bytes` is resident memory above that after the imports; `units_forecast` is of a window.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(num_units, folder)
        for num_workers in (1, 2):
            for limit in (None, config.units_per_window):
                training = TrainingConfig(
                    batch_size=config.batch_size, units_per_window=limit, split_above=0, steps=100
                )
                asked = PretrainConfig(str(folder / "shards"), str(folder / "run"), training=training)
                results = folder / f"{num_workers}-{limit}"
                results.mkdir()
                multiprocessing.spawn(
                    _train, (num_workers, asked, 1 + config.steps, str(results)), nprocs=num_workers
                )
                found = [json.loads((results / f"{rank}.json").read_bytes()) for rank in range(num_workers)]
                row = {
                    "what": "train",
                    "units": num_units,
                    "batch": config.batch_size,
                    "workers": num_workers,
                    "units_forecast": min(num_units, limit or num_units),
                }
                yield [row | {key: max(each[key] for each in found) for key in found[0]}]
    with tempfile.TemporaryDirectory() as name:
        multiprocessing.spawn(_fit, (num_units, config, name), nprocs=1)
        yield [json.loads((Path(name) / "0.json").read_bytes())]


def make_session(num_units: int) -> Session:
    """A session of slow noise."""
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((FRAMES, num_units), dtype=np.float32)
    return Session(steps.cumsum(axis=0), 1.0, "zebrafish", "one", "large", "noise")


def make_shards(num_units: int, folder: Path) -> None:
    """Prepares the session into folder/shards."""
    make_session(num_units).save(folder / "large.npz")
    prepare(
        [str(folder / "large.npz")],
        str(folder / "shards"),
        PrepareConfig(),
        open_recording=lambda path: [Session.load(path)],
        run_each=map_here,
    )


def _train(rank: int, num_workers: int, config: PretrainConfig, steps: int, results: str) -> None:
    torch.set_num_threads(1)
    if num_workers > 1:
        store = dist.FileStore(f"{results}/store", num_workers)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=num_workers)
    before = _resident("VmRSS")
    config = dataclasses.replace(config, out=f"{results}/run")
    trainer = Trainer(config, WorkerGroup(), torch.device("cpu"), lambda event: None)
    for step in range(steps):
        began = time.perf_counter()
        result = trainer.step(trainer.stream.batch(step))
    row = {
        "ms": 1e3 * (time.perf_counter() - began),
        "peak_bytes": _resident("VmHWM") - before,
        "bytes_given": result.bytes_given,
        "loss": result.loss,
    }
    Path(f"{results}/{rank}.json").write_text(json.dumps(row), encoding="utf-8")
    if num_workers > 1:
        dist.barrier()
        dist.destroy_process_group()


def _fit(rank: int, num_units: int, config: LargeSessionConfig, results: str) -> None:
    torch.set_num_threads(1)
    session = make_session(num_units)
    before = _resident("VmRSS")
    size = PocoConfig(relative=True)
    windows = SessionWindows(session, "chronological", size.context, size.horizon)
    backbone = size.build().eval().requires_grad_(False)
    interface = backbone.new_interface(num_units)
    batches = training_batches(windows, config.batch_size, seed=0)
    times = [time.perf_counter()]
    asked = FitConfig(steps=1 + config.steps)
    fit_interface(
        backbone, interface, batches, asked, after_step=lambda step: times.append(time.perf_counter())
    )
    row = {
        "what": "fit",
        "units": num_units,
        "batch": config.batch_size,
        "workers": 1,
        "units_forecast": num_units,
        "ms": 1e3 * (times[-1] - times[1]) / config.steps,
        "peak_bytes": _resident("VmHWM") - before,
    }
    Path(f"{results}/{rank}.json").write_text(json.dumps(row), encoding="utf-8")


def _resident(name: str) -> int:
    """Resident memory of this process, bytes: VmRSS now, VmHWM at most."""
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(kilobytes) * 1024
