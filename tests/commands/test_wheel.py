"""Whoever installs by pip, without a checkout, has all of it: to train, publish, adapt and forecast."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forebrain.commands import SUMMARIES
from forebrain.sessions.session import Session

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TINY = [
    "--workers", "0", "--model.width", "16", "--model.num_heads", "2", "--model.head_width", "16",
    "--model.film_width", "32", "--training.batch_size", "16", "--training.steps", "4",
    "--training.validate_every", "4", "--training.threads", "1", "--evaluation.windows_per_session", "8",
]  # fmt: skip
# One command after the other in one process, so that all is imported once.
STORY = """
import json, sys
from forebrain.commands import main
for words in json.load(sys.stdin):
    print("forebrain", *words)
    if status := main(words):
        sys.exit(status)
"""
# Stands where Ray would be found: a machine without it.
NO_RAY = "raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, built from what git has, is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source, built, site = folder / "source", folder / "built", folder / "site"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "platform", "registry", "*.toml"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in [*listed.stdout.splitlines(), "README.md", "LICENSE"]:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    alone = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *alone, "-w", str(built), str(source)], check=True)
    (wheel,) = built.glob("forebrain-*.whl")
    subprocess.run([*pip, "install", *alone, "--no-index", "--target", str(site), str(wheel)], check=True)
    (site / "ray.py").write_text(NO_RAY)
    return site


@pytest.fixture
def call(site: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs something in an empty folder, where only what is installed is found; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOREBRAIN_")}
    environment |= {
        "PYTHONPATH": str(site),
        "FOREBRAIN_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }

    def run(*command: str, given: str = "") -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


def test_it_trains_publishes_adapts_and_forecasts_without_ray(
    call: Callable[..., str], walk: Callable[..., Session], tmp_path: Path
) -> None:
    (tmp_path / "lab").mkdir()
    for seed in (1, 2):
        walk(seed, num_frames=400).save(tmp_path / "lab" / f"{seed}.npz")
    walk(3, num_frames=400).save(tmp_path / "mine.npz")
    registry = ["--registry", "models"]
    adapt = ["adapt", "--model", "worms", *registry, "--steps", "2"]
    commands = [
        ["inspect", "lab"],
        ["prepare", "--recording", "lab", "--out", "shards", "--workers", "0"],
        ["pretrain", "--data", "shards", "--out", "run", *TINY, "--publish", "worms", *registry],
        ["publish", "--run", "run", "--name", "others", *registry],
        ["registry", "list", *registry],
        ["evaluate", "--run", "run", "--full"],
        [*adapt, "--recording", "mine.npz", "--out", "mine"],
        ["forecast", "--adapted", "mine", "--recording", "mine.npz", "--out", "ahead.csv"],
        [*adapt, "--recording", "lab", "--out", "each", "--workers", "0"],
    ]
    printed = call(sys.executable, "-c", STORY, given=json.dumps(commands))
    assert "2 sessions can be used" in printed
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 4
    (listed,) = re.findall(r"^forebrain registry list.*?(?=^forebrain )", printed, re.DOTALL | re.MULTILINE)
    assert {"worms", "others"} <= set(listed.replace("│", " ").split())
    assert len((tmp_path / "ahead.csv").read_text().splitlines()) == 17
    assert (tmp_path / "each" / "table.csv").exists()


def test_every_command_and_study_is_in_it(call: Callable[..., str], site: Path) -> None:
    # Completion reads the options of every command.
    script = call(str(site / "bin" / "forebrain"), "completion", "bash")
    assert [name for name in SUMMARIES if f'"{name}") words=' not in script] == []
    definitions = ROOT / "platform" / "forebrain" / "studies" / "definitions"
    for path in definitions.glob("*.yaml"):
        assert (site / path.relative_to(ROOT / "platform")).read_bytes() == path.read_bytes()
        assert path.stem in script


def test_every_backbone_that_is_handed_out_is_in_it(site: Path) -> None:
    files = [path for path in (ROOT / "platform" / "forebrain" / "backbones").rglob("*") if path.is_file()]
    assert len(files) > 9
    for path in files:
        assert (site / path.relative_to(ROOT / "platform")).read_bytes() == path.read_bytes()


def test_it_runs_from_where_it_is_installed(site: Path, tmp_path: Path) -> None:
    code = "import forebrain, forebrain_registry as other; print(forebrain.__file__, other.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert all(Path(name).is_relative_to(site) for name in done.stdout.split())
