"""What the tests publish, and a storm of processes that do so; imports nothing heavy, to be forked often."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import struct
import sys
import time
import traceback
from pathlib import Path

from forebrain_registry import (
    ConflictError,
    Metadata,
    NotFoundError,
    Registry,
    collect_garbage,
    collector,
    publish,
    pull,
)
from forebrain_registry.layout import blob_name

MODELS = ("fish", "mouse", "worm")
POOL = 24


def weights(seed: int, size_bytes: int = 4096) -> bytes:
    """A safetensors file of noise, made without numpy."""
    data = random.Random(seed).randbytes(size_bytes)
    tensor = {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}
    header = json.dumps({"w": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + data


def metadata(**given: object) -> Metadata:
    fields = {
        "licence": "Apache-2.0",
        "config": {"width": 32},
        "preprocessing": {"zscore": {"fit": [0, 0.6]}},
    }
    return Metadata(**{**fields, **given})  # type: ignore[arg-type]


def work(uri: str, worker: int, operations: range, seed: int, ledger: Path, cache: Path) -> None:
    """Does random operations and writes before each that it begins, and after it what came of it."""
    registry = Registry(uri)
    with ledger.open("a", buffering=1) as stream:
        for index in operations:
            rng = random.Random(f"{seed}/{worker}/{index}")
            kind = rng.choices(["publish", "alias", "deprecate", "pull", "gc"], [40, 25, 10, 20, 5])[0]
            entry = {"op": f"{worker}/{index}", "kind": kind, "name": rng.choice(MODELS)}
            stream.write(json.dumps(entry) + "\n")
            try:
                entry |= operate(registry, kind, entry["name"], entry["op"], rng, cache)
            except (NotFoundError, ConflictError) as error:
                entry["refused"] = type(error).__name__
            stream.write(json.dumps(entry | {"done": True}) + "\n")


def operate(registry: Registry, kind: str, name: str, op: str, rng: random.Random, cache: Path) -> dict:
    if kind == "publish":
        payload = rng.randrange(POOL)
        files = {"model.safetensors": weights(payload)}
        given = {"run_id": op, "config": {"payload": payload}, "summary": "x" * rng.randrange(1000)}
        version = publish(registry, name, files, metadata(**given))
        return {"version": version.number}
    if kind == "alias":
        target = rng.choice(registry.listing(name).versions)
        return {"version": target, "move": registry.set_alias(name, "champion", target)}
    if kind == "deprecate":
        target = rng.choice(registry.listing(name).versions)
        registry.deprecate(name, target, rng.choice([None, "worse than the next"]))
        return {"version": target}
    if kind == "pull":
        pulled = pull(registry, rng.choice([name, f"{name}@champion"]), cache=cache)
        data = (pulled.folder / "model.safetensors").read_bytes()
        assert data == weights(pulled.version.metadata.config["payload"])
        return {"version": pulled.version.number}
    return {"removed": len(collect_garbage(registry).removed)}


def storm(uri: str, workers: int, operations: int, kills: int, seed: int, folder: Path) -> int:
    """Runs all operations in processes, kills that many of them on the way; returns how many it did.

    A worker that was killed is followed by one that goes on after the operation it died in.
    """
    rng = random.Random(seed)
    share = operations // workers
    ledgers = [folder / f"{worker}.jsonl" for worker in range(workers)]
    running: dict[int, int] = {}
    killed = 0
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        begun = [_begun(ledger) for ledger in ledgers]
        for worker in set(range(workers)) - set(running.values()):
            if begun[worker] < share:
                pid = os.fork()
                if pid == 0:
                    _work_and_exit(uri, worker, range(begun[worker], share), seed, folder)
                running[pid] = worker
        if not running:
            return killed
        # Kills are spread over the work, not over time, which depends on the machine.
        if sum(begun) > (killed + 1) * operations / (kills + 1):
            time.sleep(rng.uniform(0, 0.02))
            os.kill(rng.choice(list(running)), signal.SIGKILL)
        time.sleep(0.01)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                killed += os.WIFSIGNALED(status)
                assert os.WIFSIGNALED(status) or status == 0, "a worker failed; its traceback is above"
                del running[pid]
    raise AssertionError("the storm does not end")


def _work_and_exit(uri: str, worker: int, operations: range, seed: int, folder: Path) -> None:
    try:
        work(uri, worker, operations, seed, folder / f"{worker}.jsonl", folder / "cache")
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _begun(ledger: Path) -> int:
    if not ledger.exists():
        return 0
    return len({json.loads(line)["op"] for line in ledger.read_text().splitlines() if line.endswith("}")})


def old_orphans(registry: Registry, folder: Path) -> None:
    """Blobs of half of the pool as a publisher killed two days ago would have left them."""
    for payload in range(0, POOL, 2):
        data = weights(payload)
        source = folder / "blob"
        source.write_bytes(data)
        name = blob_name(hashlib.sha256(data).hexdigest())
        registry.store.upload(name, source)
        if "://" not in registry.uri:
            two_days_ago = time.time() - 2 * 24 * 3600
            os.utime(Path(registry.uri) / name, (two_days_ago, two_days_ago))


if __name__ == "__main__":
    uri, workers, operations, kills, folder = sys.argv[1:]
    # Sooner over a killed collector; batches in the storm take milliseconds.
    collector.BATCH_S, collector.LEASE_S = 0.5, 3.0
    if "://" in uri:
        import s3fs  # noqa: F401  (once, for all who are forked)
    print(storm(uri, int(workers), int(operations), int(kills), 7, Path(folder)))
