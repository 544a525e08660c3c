"""Many processes at once, killed at random: nothing lost, nothing half, nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_storm import MODELS, old_orphans, weights

from forebrain_registry import NotFoundError, Registry, collect_garbage, pull, verify

ROOT = Path(__file__).parents[2]


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: flushing to a disk would take most of the time."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="forebrain-") as folder:
        yield Path(folder)


def test_a_storm_on_a_folder_loses_nothing(memory_folder: Path) -> None:
    _storm(str(memory_folder / "registry"), memory_folder, workers=8, operations=1000, kills=40)


def test_a_storm_on_s3_loses_nothing(s3_bucket: str, tmp_path: Path) -> None:
    _storm(f"{s3_bucket}/storm", tmp_path, workers=4, operations=120, kills=6)


def _storm(uri: str, folder: Path, workers: int, operations: int, kills: int) -> None:
    registry = Registry(uri)
    old_orphans(registry, folder)
    script = [sys.executable, str(Path(__file__).with_name("registry_storm.py"))]
    given = [uri, str(workers), str(operations), str(kills), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "registry"), "TMPDIR": str(folder)}
    done = subprocess.run([*script, *given], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= kills / 2

    begun: set[str] = set()
    ended: dict[str, dict] = {}
    for ledger in folder.glob("*.jsonl"):
        for line in ledger.read_text().splitlines():
            entry = json.loads(line)
            begun.add(entry["op"])
            if entry.get("done"):
                ended[entry["op"]] = entry
    assert len(begun) == operations // workers * workers

    assert verify(registry).problems == []
    published: Counter[str] = Counter()
    for name in MODELS:
        numbers = {}
        for version in registry.versions(name):
            published[version.metadata.run_id] += 1
            numbers[version.metadata.run_id] = version.number
        history = registry.alias_history(name, "champion")
        of_model = [entry for entry in ended.values() if entry["name"] == name and "refused" not in entry]
        for entry in of_model:
            if entry["kind"] == "publish":
                assert numbers[entry["op"]] == entry["version"]
        moves = {entry["move"]: entry["version"] for entry in of_model if entry["kind"] == "alias"}
        assert len(moves) == sum(entry["kind"] == "alias" for entry in of_model), "two moves in one place"
        assert all(history[move - 1].version == version for move, version in moves.items())
    assert max(published.values()) == 1
    assert set(published) <= begun

    collect_garbage(Registry(uri, grace_s=-60.0))
    findings = verify(registry)
    assert findings.problems == [] and findings.unnamed == 0
    for name in MODELS:
        try:
            pulled = pull(registry, name, cache=folder / "cache")
        except NotFoundError as error:
            assert "every version" in str(error)
            continue
        payload = pulled.version.metadata.config["payload"]
        assert (pulled.folder / "model.safetensors").read_bytes() == weights(payload)
