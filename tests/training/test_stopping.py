"""The first signal asks a run to stop, the second ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_the_process_at_once(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE.format(name=name)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PLATFORM)},
        timeout=60,
    )
    assert done.stdout == f"{name}\n" and done.returncode == -signal.Signals[name]


def test_a_signal_is_a_request_only_while_the_block_lasts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.asked() is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked() == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
