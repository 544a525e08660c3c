"""Training from a store that is far away: how long steps wait for their windows, over requests in flight.

The store is a real one, by its address; a proxy before it delays the first byte of each answer. Of what was
read only an eighth of the set is kept, since a set is larger than memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch

from forebrain.benchmarking.loading import noise_shards
from forebrain.errors import ConfigError
from forebrain.shards.stream import Stream
from forebrain.training.collectives import WorkerGroup
from forebrain.training.config import PretrainConfig, TrainingConfig
from forebrain.training.loop import Trainer
from forebrain_registry.storage import Folder

UNITS, BATCH = 300, 64
SESSIONS, FRAMES = 8, 10_000
DELAYS_S = (0.03, 0.1)
KEPT_SHARE = 8  # one in so many bytes
# 0 is one request after another, by the reader itself; None as many as it finds that it needs.
IN_FLIGHT: tuple[int | None, ...] = (0, 1, 2, 4, 8, 16, None)
# Steps that are not counted: until what was read ahead of the first is used up; until as many requests are in
# flight as are needed.
WARM_UP = Stream.READ_AHEAD + 1
WARM_UP_TO_NEED = 6 * Stream.READ_AHEAD


def time_store(store: str | None, steps: int = 20, quick: bool = False) -> Iterator[dict[str, Any]]:
    """A row for each delay and each number of requests in flight, of steps on one thread.

    Args:
        store: an address in an object store that is reached by http (AWS_ENDPOINT_URL); a set of shards is
            put there, and removed in the end. None: rows of a local disk alone.
        steps: that are counted.
        quick: few cases, to see that it works.

    Raises:
        ConfigError: the store cannot be reached through a proxy.
    """
    sessions, frames = (2, 1000) if quick else (SESSIONS, FRAMES)
    with noise_shards(UNITS, sessions, frames) as folder:
        local = str(folder / "shards")
        yield _row(_train(local, None, steps), "local disk", 0.0, None)
        if store is None:
            return
        upstream = _upstream()
        name = f"benchmark-{uuid.uuid4().hex[:8]}"
        place = Folder(store).child(name)
        try:
            for path in sorted((folder / "shards").rglob("*.*")):
                with place.file_to_fill(path.relative_to(local).as_posix()) as copy:
                    copy.write_bytes(path.read_bytes())
            for delay_s in DELAYS_S[:1] if quick else DELAYS_S:
                for in_flight in (0, None) if quick else IN_FLIGHT:
                    with _delayed(upstream, delay_s):
                        found = _train(place.uri, in_flight, steps)
                    yield _row(found, "store", delay_s, in_flight)
        finally:
            Folder(store).remove(name)


def _train(data: str, in_flight: int | None, steps: int) -> dict[str, float]:
    warm_up = WARM_UP_TO_NEED if in_flight is None else WARM_UP
    with tempfile.TemporaryDirectory() as out:
        training = TrainingConfig(
            steps=warm_up + steps, batch_size=BATCH, threads=1, validate_every=10**6, warmup_steps=1
        )
        config = PretrainConfig(data, f"{out}/run", training=training)
        trainer = Trainer(config, WorkerGroup(), torch.device("cpu"), lambda event: None)
        fetcher = trainer.windows.shards.fetcher
        if fetcher is not None:
            frames = sum(session.num_frames for session in trainer.windows.shards.sessions)
            fetcher.kept_bytes = 4 * UNITS * frames // KEPT_SHARE
            fetcher.in_flight = fetcher.in_flight if in_flight is None else in_flight
        step_s, wait_s = [], []
        for batch in trainer.stream.batches(0, training.steps):
            if fetcher is not None and in_flight is not None:
                fetcher.in_flight = in_flight
            began = time.perf_counter()
            trainer.step(batch)
            step_s.append(time.perf_counter() - began)
            wait_s.append(batch.wait_s)
    step_s, wait_s = step_s[warm_up:], wait_s[warm_up:]
    return {
        "median_ms": 1e3 * median(step_s),
        "wait_share": sum(wait_s) / (sum(step_s) + sum(wait_s)),
        "reached": 0 if fetcher is None else fetcher.in_flight,
    }


def _row(found: dict[str, float], source: str, delay_s: float, in_flight: int | None) -> dict[str, Any]:
    return {
        "what": "store",
        "source": source,
        "units": UNITS,
        "batch": BATCH,
        "threads": 1,
        "device": "cpu",
        "dtype": "fp32",
        "delay_ms": 1e3 * delay_s,
        "in_flight": in_flight,
        **found,
    }


def _upstream() -> tuple[str, int]:
    """Host and port of the store."""
    address = os.environ.get("AWS_ENDPOINT_URL", "")
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(
            f"AWS_ENDPOINT_URL is {address!r}; expected the http:// address of a store, before which answers "
            "can be delayed."
        )
    return parts.hostname, parts.port or 80


@contextlib.contextmanager
def _delayed(upstream: tuple[str, int], delay_s: float) -> Iterator[None]:
    """The store of the environment with a delay, by a proxy in a process of its own."""
    import s3fs

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    proxy = context.Process(target=_serve, args=(upstream, delay_s, theirs), daemon=True)
    before = os.environ["AWS_ENDPOINT_URL"]
    proxy.start()
    try:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{ours.recv()}"
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    finally:
        os.environ["AWS_ENDPOINT_URL"] = before
        s3fs.S3FileSystem.clear_instance_cache()
        proxy.kill()
        proxy.join()


def _serve(upstream: tuple[str, int], delay_s: float, pipe: Connection) -> None:
    """Passes connections on; the first byte after a request comes `delay_s` after it at the earliest."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store_reader, store_writer = await asyncio.open_connection(*upstream)
        now = asyncio.get_running_loop().time
        due = 0.0

        async def requests() -> None:
            nonlocal due
            while data := await reader.read(1 << 16):
                due = now() + delay_s
                store_writer.write(data)
                await store_writer.drain()
            store_writer.close()

        async def answers() -> None:
            while data := await store_reader.read(1 << 18):
                await asyncio.sleep(due - now())
                writer.write(data)
                await writer.drain()
            writer.close()

        await asyncio.gather(requests(), answers(), return_exceptions=True)

    async def serve() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 20)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())
