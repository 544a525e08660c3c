"""A cluster that does not start or answer is one error that says what to do."""

from __future__ import annotations

import os
import pwd
import resource
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import ray

from forebrain import ray_runtime
from forebrain.commands import doctor
from forebrain.errors import ClusterError
from forebrain.ray_runtime import quiet_ray, start_ray


@pytest.mark.parametrize(
    ("address", "raised", "words"),
    [
        (None, Exception("The node timed out.\nLook at /tmp/ray"), r"did not start.*\(The node timed out\)"),
        (None, RuntimeError(), r"\(RuntimeError\).*--workers 0 pretrain, prepare and adapt"),
        ("auto", ConnectionError("nobody"), r"RAY_ADDRESS=auto.*\(nobody\).*doctor"),
        ("127.0.0.1:1", AssertionError("not asked"), r"RAY_ADDRESS=127\.0\.0\.1:1 .*nobody answers.*doctor"),
    ],
)
def test_ray_that_does_not_start_is_one_error(
    address: str | None, raised: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=words):
        start_ray()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What Ray is given, and where its processes begin; it is not started."""
    given: dict[str, object] = {}

    def init(**options: object) -> None:
        given.update(options, cwd=str(Path.cwd()), hangup=signal.getsignal(signal.SIGHUP))
        given.update({name: os.environ.get(name) for name in ("TMPDIR", "PYTHONPATH", "PYTHONWARNINGS")})

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return given


def test_a_tmpdir_whose_path_is_too_long_for_sockets_is_not_ray_s(
    started: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, is_too_long in ((tmp_path / ("t" * 120), True), (Path("/tmp"), False)):
        monkeypatch.setenv("TMPDIR", str(folder))
        start_ray()
        assert started["TMPDIR"] == (started["_temp_dir"] if is_too_long else str(folder))
        assert os.environ["TMPDIR"] == str(folder)


def test_ray_does_not_take_the_user_s_files_for_modules(
    started: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`signal.py` where a command is given would end Ray's processes, which look there first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "lib:/else")
    start_ray()
    assert started["cwd"] == started["_temp_dir"]
    assert started["PYTHONPATH"] == f"{tmp_path / 'lib'}:/else"
    assert (Path.cwd(), os.environ["PYTHONPATH"]) == (tmp_path, "lib:/else")
    # Where this process takes modules from there, Ray's must, too.
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    start_ray()
    assert started["cwd"] == str(tmp_path)


def test_warnings_that_are_errors_are_none_to_ray(
    started: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, rays in (("error", "default"), ("ignore", "ignore")):
        monkeypatch.setenv("PYTHONWARNINGS", given)
        start_ray()
        assert (started["PYTHONWARNINGS"], os.environ["PYTHONWARNINGS"]) == (rays, given)


def test_what_ray_warns_of_in_this_process_is_no_error() -> None:
    def warn(module: str) -> None:
        warnings.warn_explicit("old", DeprecationWarning, "file.py", 1, module=module)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("error")
        quiet_ray()
        warn("ray.data.context")  # as each training does
        assert [str(each.message) for each in told] == ["old"]
        with pytest.raises(DeprecationWarning):
            warn("rays")


def test_too_few_open_files_are_raised_or_said_before_ray_starts(
    started: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(64, 100_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: limits.append(limit))
    start_ray()
    assert limits[-1] == (ray_runtime.OPEN_FILES, 100_000)
    started.clear()
    limits.append((64, 64))
    with pytest.raises(ClusterError, match=r"may open 64 files; expected 256 at least.*`ulimit -n`"):
        start_ray()
    assert not started


def test_a_terminal_that_is_closed_does_not_end_ray_before_the_run_is_saved(
    started: dict[str, object],
) -> None:
    before = signal.getsignal(signal.SIGHUP)
    start_ray()
    assert started["hangup"] is signal.SIG_IGN and signal.getsignal(signal.SIGHUP) == before


def test_where_no_folder_can_be_made_for_ray_is_said(
    started: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp

    def refuse(suffix: str | None = None, prefix: str | None = None, dir: str | None = None) -> str:
        if dir == "/tmp":
            raise PermissionError(13, "Permission denied")
        return make(suffix, prefix, dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.delenv("TMPDIR", raising=False)
    with pytest.raises(ClusterError, match=r"/tmp: Permission denied\).*TMPDIR"):
        start_ray()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as other:
        monkeypatch.setenv("TMPDIR", other)
        start_ray()
        assert str(started["_temp_dir"]).startswith(other)


def test_a_bound_on_addresses_is_said_where_ray_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (6 << 30, 6 << 30))
    assert "6.0 GiB of addresses" in ray_runtime._what_helps() and "ulimit -v" in ray_runtime._what_helps()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert ray_runtime._what_helps() == "Try again when it is less busy."


def test_ray_gets_the_cores_that_may_be_used_and_not_those_there_are(
    started: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_runtime, "num_cores", lambda: 3)
    start_ray()
    assert started["num_cpus"] == 3


def test_a_user_without_a_home_is_told_before_ray_starts_and_by_doctor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))
    with pytest.raises(ClusterError, match=r"no home folder.*Set HOME.*--workers 0"):
        start_ray()
    (found,) = doctor._cluster(None)
    assert found.verdict == "wrong" and "no home folder" in found.text
