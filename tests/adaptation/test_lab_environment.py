"""Publishing, adapting and forecasting need the core and the extra `lab`, and nothing of a cluster."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain_registry.storage import Folder
from linked_environment import environment_of

ROOT = Path(__file__).parents[2]
TINY = {
    "model": {"width": 16, "num_heads": 2, "head_width": 16, "film_width": 32},
    "training": {"batch_size": 16, "steps": 4, "validate_every": 4, "checkpoint_every": 4, "threads": 1},
    "evaluation": {"windows_per_session": 8},
    "workers": 0,
}
# What a lab does, in one process: python SCRIPT RUN-CONFIG RECORDING FOLDER REGISTRY ANOTHER-REGISTRY
STORY = """
import runpy, sys
from pathlib import Path

for absent in ("ray", "deepspeed", "webdataset", "tensorboard"):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{absent} is here")

from forebrain.commands import main as forebrain
from forebrain_registry.cli import main as registry

jobs, config, recording, folder, *registries = sys.argv[1:]

def job(name, *arguments):
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(f"{jobs}/{name}.py", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, ended.code

run = f"{folder}/run"
job("pretrain", "--config", config, "--out", run, "--publish", "worms", "--registry", registries[0])
job("publish", "--run", run, "--name", "worms", "--registry", registries[1])
for number, address in enumerate(registries):
    out = f"{folder}/adapted-{number}"
    assert registry(["pull", "worms", "--registry", address]) == 0
    fitted = ["--model", "worms@1", "--recording", recording, "--out", out, "--registry", address]
    assert forebrain(["adapt", *fitted, "--steps", "3"]) == 0
    ahead = ["--adapted", out, "--recording", recording, "--out", f"{folder}/ahead-{number}.csv"]
    assert forebrain(["forecast", *ahead]) == 0
job("adapt", "--model", "worms@1", "--registry", registries[0], "--recordings", recording, "--serial",
    "--out", f"{registries[1]}-many", "--steps", "2")
print("done without", "ray" in sys.modules)
"""


@pytest.fixture(scope="module")
def lab_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has the project, its core and its extra `lab`, linked and not copied."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    folder = tmp_path_factory.mktemp("lab") / "env"
    site = environment_of(wanted, folder)
    (site / "forebrain.pth").write_text(f"{ROOT / 'platform'}\n{ROOT / 'registry'}\n")
    # The project's version, as `pip install` would leave it.
    own = site / "forebrain-0.1.0.dist-info"
    own.mkdir()
    version = importlib.metadata.version("forebrain")
    (own / "METADATA").write_text(f"Metadata-Version: 2.1\nName: forebrain\nVersion: {version}\n")
    return str(folder / "bin" / "python")


@pytest.mark.slow
def test_a_lab_publishes_adapts_and_forecasts_without_ray(
    lab_python: str, s3_bucket: str, walk: Callable[..., Session], tmp_path: Path
) -> None:
    recordings = []
    for seed in (1, 2):
        recordings.append(str(tmp_path / f"{seed}.npz"))
        walk(seed, num_frames=400).save(recordings[-1])
    shards = str(tmp_path / "shards")
    prepare(recordings, shards, PrepareConfig(), lambda path: [Session.load(path)], map_here)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**TINY, "data": shards}))
    (tmp_path / "story.py").write_text(STORY)
    np.save(tmp_path / "mine.npy", walk(3, num_frames=400).frames(0, 400))
    (tmp_path / "mine.npy.session.yaml").write_text("{rate_hz: 2.5, species: celegans, subject: mine}")
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    done = subprocess.run(
        [
            lab_python, "story.py", str(ROOT / "jobs"), "run.yaml", "mine.npy", str(tmp_path),
            str(tmp_path / "registry"), f"{s3_bucket}/lab",
        ],
        capture_output=True, text=True, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **aws},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "done without False"
    for number in (0, 1):
        assert (tmp_path / f"adapted-{number}" / "report.md").exists()
        assert len((tmp_path / f"ahead-{number}.csv").read_text().splitlines()) == 17
    many = Folder(f"{s3_bucket}/lab-many")
    assert "mine" in many.read("table.csv").decode()
    assert [name for name in many.names() if "mine" in name and many.exists(f"{name}/result.json")]
