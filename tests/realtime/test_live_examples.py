"""What docs/live.md shows is run as it stands: with a server, without one, in each language at hand."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from realtime_small import CONTEXT, HORIZON, Small, activity
from test_transports import MAX_BYTES, served

from forebrain.realtime import LiveForecaster
from forebrain.realtime.lsl import LslPort
from forebrain.realtime.pacing import Pacer
from forebrain.realtime.recorder import Recorder
from forebrain.realtime.zeromq import RequestPort

Open = Callable[..., LiveForecaster]
ROOT = Path(__file__).parents[2]
ADDRESS = "tcp://127.0.0.1:5600"


def example(language: str, holds: str) -> str:
    """The block of the page that holds a text."""
    text = (ROOT / "docs" / "live.md").read_text()
    (found,) = [each for each in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if holds in each]
    return found


ZEROMQ = {"client": "fb.live.Client", "raw": "zmq.REQ"}


@pytest.mark.parametrize("which", ZEROMQ)
def test_python_gets_forecasts(small: Small, open_live: Open, which: str) -> None:
    frames, in_process = activity(CONTEXT + 5, small.preprocessing), open_live()
    expected = [in_process.step(frame) for frame in frames][-1]
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    live, names = open_live(), {"recording": frames}
    with served(live, port):
        exec(example("python", ZEROMQ[which]).replace(ADDRESS, port.address), names)
    assert live.counts["frames"] == len(frames) and live.counts["refused"] == 0
    forecast = names["reply"].values if which == "client" else names["forecast"]
    np.testing.assert_array_equal(forecast, expected)


@pytest.mark.parametrize("which", ZEROMQ)
def test_python_without_a_server_neither_waits_for_ever_nor_hangs_at_its_end(
    tmp_path: Path, which: str
) -> None:
    """`describe` is left out of the client's: it raises at once that nobody is there."""
    code = example("python", ZEROMQ[which]).replace(ADDRESS, "tcp://127.0.0.1:9")
    code = "\n".join(line for line in code.splitlines() if not re.search("describe|reset|status", line))
    script = tmp_path / "rig.py"
    script.write_text(f"import numpy\nrecording = numpy.zeros((3, 6))\n{code}")
    began = time.monotonic()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no answer") == 3
    assert time.monotonic() - began < 30


class Paced:
    """Frames that come evenly, as a rig's do: over LSL their times tell which are missing."""

    def __init__(self, frames: np.ndarray, period_s: float = 0.05) -> None:
        self.frames, self.shape, self.period_s = frames, frames.shape, period_s

    def __iter__(self) -> Iterator[np.ndarray]:
        pacer = Pacer(self.period_s)
        for number, frame in enumerate(self.frames):
            pacer.wait(number)
            yield frame


def test_lsl_gets_forecasts(small: Small, open_live: Open) -> None:
    frames, live, in_process = activity(CONTEXT + 5, small.preprocessing), open_live(), open_live()
    name = f"forebrain-test-{uuid.uuid4().hex[:8]}"
    order = [5, 3, 0, 1, 2, 4]
    expected = [in_process.step(frame) for frame in frames][-1]
    names = {"recording": Paced(frames[:, order]), "names": [live.unit_names[unit] for unit in order]}
    code = example("python", "pylsl.StreamInfo").replace('"rig', f'"{name}')
    with served(live, LslPort(name, HORIZON, 6, 5.0, live.unit_names)):
        exec(code, names)
    assert live.counts["frames"] == len(frames)
    np.testing.assert_array_equal(names["forecast"], expected.astype(np.float32))


def test_what_bonsai_sends_over_lsl_is_forecast(small: Small, open_live: Open) -> None:
    """Its StreamOutlet: named by its type, without labels, source or rate, and stamped by LSL's own clock."""
    import pylsl

    frames, live, in_process = activity(CONTEXT + 3, small.preprocessing), open_live(), open_live()
    expected = [in_process.step(frame) for frame in frames][-1]
    name = f"forebrain-test-{uuid.uuid4().hex[:8]}"
    outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "Double[]", 6, 0, pylsl.cf_double64, ""))
    with served(live, LslPort(name, HORIZON, 6, 5.0, live.unit_names)):
        (found,) = pylsl.resolve_byprop("name", f"{name}-forecast", 1, 10)
        assert found.channel_count() == 1 + HORIZON * 6
        inlet = pylsl.StreamInlet(found)
        inlet.open_stream(10)
        assert outlet.wait_for_consumers(10)
        for frame in Paced(frames):
            outlet.push_sample(frame.astype(np.float64))
            sample, _ = inlet.pull_sample(timeout=10)
    assert sample[0] == 1
    np.testing.assert_array_equal(np.float32(sample[1:]), expected.ravel())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("matlab") is None, reason="MATLAB is not at hand")
def test_matlab_gets_forecasts(small: Small, open_live: Open, tmp_path: Path) -> None:
    frames, live = activity(CONTEXT + 5, small.preprocessing), open_live()
    np.savetxt(tmp_path / "frames.csv", frames, delimiter=",")
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    code = f'pyenv(Version="{sys.executable}"); recording = readmatrix("frames.csv");\n'
    code += example("matlab", "py.forebrain").replace(ADDRESS, port.address)
    (tmp_path / "rig.m").write_text(code + f"\nassert(isequal(size(forecast), [{HORIZON} 6]))\n")
    with served(live, port):
        subprocess.run(["matlab", "-batch", "rig"], cwd=tmp_path, check=True, timeout=600)
    assert live.counts["frames"] == len(frames)


def test_a_recording_is_read_as_shown(
    small: Small, open_live: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, live = activity(CONTEXT + 5, small.preprocessing), open_live()
    about = {"species": "celegans", "subject": "worm3", "session": "day1", "dataset": "lab"}
    recorder = Recorder(tmp_path / "worm3.nc", live, about)
    for frame in frames:
        live.step(frame)
        live.step_ms = 1.0
        recorder.frame(live)
    recorder.close()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(example("python", "xarray"), names)
    np.testing.assert_array_equal(names["session"].frames(0, len(frames)), frames)
    assert names["ahead"].shape == frames.shape


def test_a_rig_survives_a_kill_a_restart_wrong_units_and_a_changed_rate(
    small: Small, open_live: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client as the page shows it, with everything that happens to a rig; every reply is true."""
    port = RequestPort("tcp://127.0.0.1:*", MAX_BYTES)
    address, live = port.address, open_live(memory=CONTEXT)
    calm = small.preprocessing.denormalise(np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32))
    replies, missed = [], []
    code = textwrap.dedent(example("python", "fb.live.Client")).replace(ADDRESS, address)
    code = code.replace("client.step(frame, index)", "client.step(frame, index, time_of(index))")
    code = code.replace('if reply.source == "model"', 'seen(reply)\n        if reply.source == "model"')
    code = code.replace("print(error)", "missed(index, error)").replace("timeout_s=0.5", "timeout_s=0.2")
    stack = contextlib.ExitStack()
    stack.enter_context(served(live, port))

    def recording():
        for index in range(400):
            if index == 100:  # killed
                stack.close()
            if index == 105:  # and started again
                stack.enter_context(served(live, RequestPort(address, MAX_BYTES)))
            yield 1000 * calm[index] if 200 <= index < 300 else calm[index]

    def time_of(index: int) -> float:
        return index / 5 if index < 320 else 64 + (index - 320) / 10

    names = {
        "recording": recording(),
        "time_of": time_of,
        "seen": replies.append,
        "missed": lambda index, error: missed.append(index),
    }
    thread = threading.current_thread()
    assert thread is threading.main_thread()
    with stack:
        exec(code, names)
    assert missed == [100, 101, 102, 103, 104]
    assert len(replies) == 395
    assert all(reply.index == reply.made_at for reply in replies)
    by_index = {reply.index: reply for reply in replies}
    # Five frames were missing: a gap, after which the window is filled anew.
    assert [by_index[index].source for index in (99, 105, 105 + CONTEXT - 2, 105 + CONTEXT - 1)] == [
        "model",
        "warm-up",
        "warm-up",
        "model",
    ]
    # Frames in other units of measurement: said before the window holds nothing else.
    assert not by_index[199].drift and all(by_index[index].drift for index in range(200 + CONTEXT, 300))
    assert not by_index[319].rate_differs and by_index[399].rate_differs
    assert "'restarts': 0" in capsys.readouterr().out
