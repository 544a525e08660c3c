"""The shape of the project: what must not be there, and which way imports point."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_folders import CLUSTERS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "platform" / "forebrain"

# What a folder may import of the platform's other folders, besides the modules at the top.
MAY_IMPORT = {
    "sessions": set(),
    "scoring": {"sessions"},
    "shards": {"scoring", "sessions"},
    "models": set(),
    "training": {"models", "shards", "scoring", "sessions"},
    "evaluation": {"training", "models", "shards", "scoring", "sessions"},
    "realtime": {"training", "models", "shards", "scoring", "sessions"},
    "adaptation": {"evaluation", "training", "models", "shards", "scoring", "sessions"},
    "studies": {"evaluation", "training", "models", "shards", "scoring", "sessions"},
    "benchmarking": {"adaptation", "training", "models", "shards", "scoring", "sessions"},
}
# Heavy packages, and the only modules of these folders that may import them.
ONLY_IN = {
    "ray": {
        "shards/prepare.py",
        "training/on_ray.py",
        "training/ray_metrics.py",
        "cluster_runtime.py",
        "chaos.py",
        "studies/tuning.py",
        "doctor.py",
        "many_adaptations.py",
    },
    "deepspeed": {"training/strategies/zero.py"},
    "triton": {"models/film_kernel.py"},
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("root", ["platform", "registry"])
def test_source_roots_hold_no_init(root: str) -> None:
    # platform/__init__.py would shadow the standard library's platform in every process that imports us.
    assert not (ROOT / root / "__init__.py").exists()
    assert not list((ROOT / root).glob("*.py"))


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_imports_point_one_way(folder: str) -> None:
    others = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {folder, "__pycache__"}
    for path in (PACKAGE / folder).rglob("*.py"):
        used = {name.split(".")[1] for name in imports_of(path) if name.startswith("forebrain.")} & others
        assert used <= MAY_IMPORT[folder], f"{path.relative_to(ROOT)} imports {used - MAY_IMPORT[folder]}"


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_heavy_packages_are_imported_where_they_belong(package: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == package for name in imports_of(path))
    }
    assert users <= ONLY_IN[package]


def test_clusters_are_started_where_tests_run_one_after_another() -> None:
    starts = re.compile(r"\b(start_ray|cluster_of|ray\.init)\(")
    tests = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    found = {name for name, text in tests.items() if starts.search(text)}
    assert found and all(name.startswith(CLUSTERS) for name in found), found


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("forebrain.sessions.readers", ["torch", "ray"]),
        ("forebrain.scoring.evaluate", ["torch", "ray"]),
        ("forebrain.training.loop", ["ray", "deepspeed", "tensorboard", "matplotlib", "triton"]),
        ("forebrain.adaptation.artifact", ["ray", "deepspeed", "tensorboard", "matplotlib", "triton"]),
        ("forebrain.cli", ["torch", "ray"]),
        ("forebrain.realtime", ["ray", "deepspeed", "zmq", "pylsl", "matplotlib", "forebrain.adaptation"]),
        ("forebrain.live", ["ray", "deepspeed", "zmq", "pylsl", "matplotlib"]),
        ("forebrain_registry", ["torch", "ray", "forebrain"]),
    ],
)
def test_light_modules_stay_light(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    environment = {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'registry'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
