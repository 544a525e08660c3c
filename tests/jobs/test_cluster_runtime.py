"""A cluster that does not start or answer is one error that says what to do."""

from __future__ import annotations

import pwd

import pytest
import ray

from forebrain import ray_runtime
from forebrain.commands import doctor
from forebrain.errors import ClusterError
from forebrain.ray_runtime import start_ray


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


def test_ray_gets_the_cores_that_may_be_used_and_not_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(ray_runtime, "num_cores", lambda: 3)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    start_ray()
    assert given["num_cpus"] == 3


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
