"""The first signal asks a run to stop, the second ends it; a notice makes it leave in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from forebrain.training import on_ray
from forebrain.training.stopping import StopSignals

PLATFORM = Path(__file__).parents[2] / "platform"
TWICE = """
import os, signal
from forebrain.training.stopping import StopSignals
with StopSignals() as stop:
    os.kill(os.getpid(), signal.{name})
    print(stop.asked(), flush=True)
    os.kill(os.getpid(), signal.{name})
    print("went on")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_second_signal_ends_the_process_at_once(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE.format(name=name)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PLATFORM)},
        timeout=60,
    )
    assert done.stdout == f"{name}\n" and done.returncode == -signal.Signals[name]


def test_a_terminal_that_is_closed_is_heeded_but_not_under_nohup() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, name in ((signal.SIG_DFL, "SIGHUP"), (signal.SIG_IGN, None)):
            signal.signal(signal.SIGHUP, handler)
            with StopSignals() as stop:
                signal.raise_signal(signal.SIGHUP)
                assert stop.asked() == name
            assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_a_request_only_while_the_block_lasts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.asked() is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked() == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_who_has_notice_saves_at_once_and_again_shortly_before_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=1000.0)
    notice = SimpleNamespace(deadline_ms=1e3 * (clock.now + 60))
    monkeypatch.setattr(on_ray.time, "time", lambda: clock.now)
    monkeypatch.setattr(on_ray.ray.train, "get_preemption_info", lambda: notice)
    requests = on_ray._ClusterRequests(desk=None, group=SimpleNamespace(is_first=False))
    assert requests.asked() is None
    assert requests.poll() and not requests.poll()  # a checkpoint at once, and once
    assert requests.asked() is None
    requests.saved(4.0)  # three times as long as a checkpoint takes, and 5 s at least
    for clock.now, leaves in ((1047.0, False), (1048.5, True)):
        assert (requests.asked() == on_ray.PREEMPTION) is leaves
    requests.saved(0.1)
    for clock.now, leaves in ((1054.0, False), (1055.5, True)):
        assert (requests.asked() == on_ray.PREEMPTION) is leaves


def test_a_notice_without_a_deadline_is_heeded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    notice = SimpleNamespace(deadline_ms=None)
    monkeypatch.setattr(on_ray.ray.train, "get_preemption_info", lambda: notice)
    requests = on_ray._ClusterRequests(desk=None, group=SimpleNamespace(is_first=False))
    assert requests.poll() and requests.asked() == on_ray.PREEMPTION
