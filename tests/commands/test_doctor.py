"""What `forebrain doctor` finds, and that it finds it also where hardly anything is installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from forebrain.commands import doctor, main
from forebrain.commands.doctor import Finding, examine, is_well

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def of(area: str, findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.area == area]


class Forgetful(MemoryFileSystem):
    """A store that ignores conditional writes, as some do."""

    protocol = "forgetful"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode="overwrite", **kwargs)


def test_storage_that_does_all_it_must_is_well_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("stays")
    findings = of("storage", list(examine([str(tmp_path), str(tmp_path / "new")])))
    assert [finding.verdict for finding in findings] == ["ok"] * 4
    assert "honours conditional writes" in findings[1].text
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_s3_is_examined_like_a_folder(s3_bucket: str) -> None:
    findings = of("storage", list(examine([f"{s3_bucket}/doctor"])))
    assert [finding.verdict for finding in findings] == ["ok", "ok"]


def test_a_store_that_ignores_conditional_writes_is_found() -> None:
    fsspec.register_implementation("forgetful", Forgetful, clobber=True)
    findings = list(examine(["forgetful://bucket/runs"]))
    assert not is_well(findings)
    fine, wrong = of("storage", findings)
    assert fine.verdict == "ok" and wrong.verdict == "wrong"
    assert "ignores conditional writes" in wrong.text and wrong.mend
    assert Forgetful.store == {}


def test_storage_that_cannot_be_used_is_wrong_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_gpus", lambda: iter(()))
    (tmp_path / "file").write_text("in the way")
    assert main(["doctor", "--storage", str(tmp_path / "file"), "--storage", "nowhere://x"]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  wrong")]
    assert len(wrong) == 2 and str(tmp_path / "file") in wrong[0] and "nowhere" in wrong[1]


def test_it_prints_json_and_its_status_says_whether_all_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["works"] is True
    assert {"machine", "packages", "cluster", "jobs"} <= set(found)
    assert f"Python {sys.version.split()[0]}" in found["machine"][0]["text"]


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "http://127.0.0.1:{port}"])
def test_a_cluster_that_is_not_there_is_wrong_and_said_at_once(address: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        given = address.format(port=unused.getsockname()[1])
        (finding,) = of("cluster", list(examine(cluster=given)))
    assert finding.verdict == "wrong" and given in finding.text and "nobody answers" in finding.text


@pytest.mark.parametrize("address", ["head", "head:many", "auto"])
def test_what_is_no_address_of_a_cluster_is_said(address: str) -> None:
    (finding,) = of("cluster", list(examine(cluster=address)))
    assert finding.verdict == "wrong" and "expected host:port" in finding.text


def test_with_the_core_alone_it_says_what_to_install_and_ray_is_never_imported(tmp_path: Path) -> None:
    """A process in which only the core's packages can be found."""
    code = f"""
import importlib.metadata, sys
import jsonargparse  # which looks for packages of its own
CORE = {sorted(core_packages())!r}
real = importlib.metadata.version
def version(name):
    if name.lower().replace("_", "-") not in CORE:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
for name in ("ray", "s3fs", "h5py", "deepspeed", "matplotlib", "boto3", "botocore"):
    sys.modules[name] = None
from forebrain.commands import main
status = main(["doctor", "--storage", {str(tmp_path)!r}])
assert "ray._raylet" not in sys.modules
sys.exit(status)
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'registry'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray is not installed" in done.stdout
    assert "missing forebrain prepare: without ray" in done.stdout
    assert "ok      forebrain pretrain --workers 0" in done.stdout
    assert "s3fs is missing" in done.stdout and "pip install '.[lab]'" in done.stdout


def core_packages() -> set[str]:
    """What the core requires, by name."""
    declared = map(Requirement, importlib.metadata.requires("forebrain") or [])
    return {"forebrain"} | {
        canonicalize_name(requirement.name)
        for requirement in declared
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }


@pytest.mark.parametrize(
    ("installed", "expected"), [("1.9", "numpy is 1.9, expected >=2.0"), (None, "numpy is missing")]
)
def test_a_core_package_that_is_missing_or_too_old_is_wrong(
    installed: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[[str], str | None] = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: installed if name == "numpy" else real(name))
    monkeypatch.setattr(doctor, "_gpus", lambda: iter(()))
    findings = list(examine())
    assert not is_well(findings)
    assert f"forebrain: {expected}" in [finding.text for finding in of("packages", findings)]


def test_what_belongs_to_an_extra_is_asked_for_with_it_alone() -> None:
    ours = Requirement('no-such-package>=1; extra == "lab"')
    assert doctor._unmet(ours, "") is None and doctor._unmet(ours, "cluster") is None
    assert doctor._unmet(ours, "lab") == "no-such-package is missing"
    assert doctor._unmet(Requirement("no-such-package>=1"), "lab") is None
