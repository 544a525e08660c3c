"""A whole run with data and --out in an object store that misbehaves, beside the same run on a disk."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from faulty_proxy import FAULTS, FaultyProxy
from forebrain.config import from_values
from forebrain.runs.pretrain import pretrain
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.training.config import PretrainConfig
from forebrain_registry.storage import Folder

EVALUATE = Path(__file__).parents[2] / "jobs" / "evaluate.py"
TINY: dict[str, Any] = {
    "model": {"width": 16, "num_heads": 2, "head_width": 16, "film_width": 32},
    "training": {"batch_size": 16, "steps": 6, "validate_every": 3, "checkpoint_every": 2, "threads": 1},
    "evaluation": {"windows_per_session": 8},
    "workers": 0,
}


def whole_run(where: str, recordings: list[str]) -> Folder:
    prepare(recordings, f"{where}/data", PrepareConfig(), lambda path: [Session.load(path)], map_here)
    config = from_values(PretrainConfig, {"data": f"{where}/data", "out": f"{where}/run", **TINY})
    return Folder(pretrain(config, Console(file=sys.stdout)))


def losses(run: Folder) -> list[float]:
    rows = map(json.loads, run.read("metrics.jsonl").splitlines())
    return [row["loss"] for row in rows if row["kind"] == "step"]


def test_a_run_on_s3_through_faults_equals_the_local_one(
    s3_bucket: str,
    faults: FaultyProxy,
    tmp_path: Path,
    walk: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recordings = []
    for seed in (1, 2):
        recordings.append(str(tmp_path / f"{seed}.npz"))
        walk(seed, num_frames=600).save(recordings[-1])
    local = whole_run(str(tmp_path), recordings)
    faults.every = 8
    remote = whole_run(f"{s3_bucket}/whole", recordings)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--run", remote.uri, "--full"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(EVALUATE), run_name="__main__")
    faults.every = 0
    met = faults.met()
    assert {*met} == {*FAULTS} and len(met) > 15

    assert losses(remote) == losses(local) and len(losses(local)) == 6
    here, there = (json.loads(run.read("result.json")) for run in (local, remote))
    assert there["data_fingerprint"] == here["data_fingerprint"]
    assert there["best_step"] == here["best_step"]
    assert there["steps"] == here["steps"] == 6
    scored = there["test"]["windows"]
    assert scored["scored"] == scored["available"]
    for folder in ("", "evaluation/test", "evaluation/validation"):
        found = [name for name in remote.names(folder) if not name.startswith("held-")]
        assert found == local.names(folder) != []
    records = [name for name in local.names("checkpoints") if name.endswith(".json")]
    assert [name for name in remote.names("checkpoints") if name.endswith(".json")] == records != []
    assert "Tables and pictures: s3://" in capsys.readouterr().out

    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    copied = tmp_path / "tensorboard"
    copied.mkdir()
    for name in remote.names("tensorboard"):
        if "tfevents" in name:
            (copied / name).write_bytes(remote.read(f"tensorboard/{name}"))
    board = EventAccumulator(str(copied)).Reload()
    shown = [item.value for item in board.Scalars("train/loss")]
    assert shown == pytest.approx(losses(local), rel=1e-6)
    assert board.Tags()["images"]
    assert remote.exists("tensorboard/00006/default/tensors.tsv")
