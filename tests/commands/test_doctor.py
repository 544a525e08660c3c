"""What `forebrain doctor` finds, and that it finds it also where hardly anything is installed."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
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
from forebrain.errors import StorageError

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
    assert [finding.verdict for finding in findings if "GiB free" not in finding.text] == ["ok"] * 4
    assert "honours conditional writes" in findings[1].text and "GiB free" in findings[2].text
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


def notes(findings: Sequence[Finding]) -> str:
    """What is worth knowing or missing, with what to do."""
    return "\n".join(f"{each.text} -> {each.mend}" for each in findings if each.verdict != "ok")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ((1024, 524_288), "a process may open 1024 files (at most 524288)"),
        ((256, resource.RLIM_INFINITY), "a process may open 256 files (as many as are asked for)"),
        ((65_536, 65_536), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_too_few_open_files_are_said(
    limits: tuple[int, int], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    found = notes(list(doctor._limits()))
    assert ("ulimit -n 65536" in found and said in found) if said else "may open" not in found


def test_without_ray_fewer_open_files_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_has", lambda package: package != "ray")
    for files, is_said in ((1024, False), (128, True)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, files=files: (files, files))
        found = notes(list(doctor._limits()))
        assert ("opened again and again" in found) == is_said and "/dev/shm" not in found


def test_little_shared_memory_and_little_room_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(total=64 << 20, free=1 << 20))
    found = notes(list(examine([str(tmp_path)])))
    for words in ("/dev/shm holds 0.06 GiB", "for temporary files", "FOREBRAIN_CACHE", f"{tmp_path}: 0 of 0"):
        assert words in found


def test_the_cores_that_may_be_used_are_told_from_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(doctor, "num_cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor._cores() == "2 of 64 cores may be used, OMP_NUM_THREADS=1"
    monkeypatch.setattr(doctor, "num_cores", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert doctor._cores() == "64 cores"


def test_a_cache_that_cannot_be_kept_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise StorageError("this user has no home folder")

    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "nothing downloaded can be kept" in notes([doctor._cache()])
    monkeypatch.setattr(doctor, "default_cache", no_home)
    found = notes([doctor._cache()])
    assert "no home folder" in found and "FOREBRAIN_CACHE" in found


def test_a_tmpdir_that_is_too_long_for_sockets_or_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(long))
    assert "too many for a socket" in notes(list(doctor._scratch()))

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert "No usable temporary directory" in notes(list(doctor._scratch()))


def test_a_disk_without_hard_links_is_said_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    findings = of("storage", list(examine([str(tmp_path)])))
    assert "has no hard links" in notes(findings) and is_well(findings)
    assert not list(tmp_path.iterdir())


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
