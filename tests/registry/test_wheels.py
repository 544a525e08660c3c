"""The two wheels that hold the registry's client: forebrain's, and its own, which needs no torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from registry_storm import metadata, weights

from forebrain_registry import Registry, __version__, publish
from linked_environment import environment_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def build(source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--no-index", "--wheel-dir", str(out), str(source)], check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("platform", "registry"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def light(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout / "registry", tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def whole(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with what the light client asks for, and nothing else."""
    project = tomllib.loads((ROOT / "registry" / "pyproject.toml").read_text())["project"]
    environment_of(project["dependencies"], tmp_path / "env")
    return tmp_path / "env"


def pip(environment: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--python", str(environment / "bin" / "python")]
    subprocess.run([*command, *arguments], check=True)


def run(environment: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {"HOME": str(environment), "FOREBRAIN_CACHE": str(environment / "cache")}
    command = [str(environment / "bin" / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=environment, env=variables)


def check_client(environment: Path, registry: Registry) -> None:
    for command in (["list"], ["show", "worm"], ["pull", "worm"], ["verify"]):
        done = run(environment, "forebrain-registry", *command, "--registry", registry.uri, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
    assert len(list(environment.glob("cache/registry/versions/*/model/model.safetensors"))) == 1


@pytest.fixture
def published(registry: Registry) -> Registry:
    publish(registry, "worm", {"model.safetensors": weights(0)}, metadata())
    return registry


def test_the_light_client_lists_shows_pulls_and_verifies_without_torch(
    light: Path, environment: Path, published: Registry
) -> None:
    pip(environment, "install", "--no-deps", "--no-index", str(light))
    for absent in ("torch", "ray", "numpy", "forebrain"):
        assert run(environment, "python", "-c", f"import {absent}").returncode == 1
    check_client(environment, published)
    away = run(environment, "forebrain-registry", "list", "--registry", "s3://bucket/models")
    assert (away.returncode, away.stdout) == (1, "") and "pip install s3fs" in away.stderr


def test_both_wheels_hold_the_same_client_of_the_same_version(light: Path, whole: Path) -> None:
    assert light.name.startswith(f"forebrain_registry-{__version__}-py3-")
    assert whole.name.startswith(f"forebrain-{__version__}-py3-")
    files = []
    for wheel in (light, whole):
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith("forebrain_registry/")]
            files.append({name: archive.read(name) for name in names})
    assert files[0] == files[1] and "forebrain_registry/storage/folder.py" in files[0]


def test_both_wheels_in_one_environment_do_no_harm(
    light: Path, whole: Path, environment: Path, published: Registry
) -> None:
    for order in ((light, whole), (whole, light)):
        for wheel in order:
            pip(environment, "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
        shutil.rmtree(environment / "cache", ignore_errors=True)
        check_client(environment, published)
        assert run(environment, "python", "-c", "import forebrain.errors").returncode == 0


def test_a_client_of_another_version_over_forebrain_s_own_is_refused(
    checkout: Path, whole: Path, environment: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkout / "registry", other)
    init = other / "forebrain_registry" / "__init__.py"
    init.write_text(init.read_text().replace(f'__version__ = "{__version__}"', '__version__ = "99.0"'))
    for wheel in (whole, build(other, tmp_path / "wheel")):
        pip(environment, "install", "--no-deps", "--no-index", str(wheel))
    done = run(environment, "python", "-c", "import forebrain.errors")
    assert done.returncode == 1
    assert f"forebrain {__version__} found forebrain_registry 99.0" in done.stderr.splitlines()[-1]
    pip(environment, "uninstall", "--yes", "forebrain-registry")
    pip(environment, "install", "--no-deps", "--no-index", "--force-reinstall", str(whole))
    assert run(environment, "python", "-c", "import forebrain.errors").returncode == 0
