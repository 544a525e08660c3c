"""`forebrain live` from end to end: an adaptation served to a rig, killed, and started again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import xarray
from safetensors import safe_open
from torch import nn

import forebrain as fb
from forebrain.adaptation.adapted import Adapted
from forebrain.adaptation.artifact import Identity
from forebrain.adaptation.description import Description
from forebrain.adaptation.origin import Origin, weights_of
from forebrain.commands import main
from forebrain.commands.live import replay, serve
from forebrain.errors import ConfigError
from forebrain.models.base import Interface
from forebrain.models.poco import Poco, PocoConfig
from forebrain.realtime.client import Client
from forebrain.realtime.messages import Frame
from forebrain.realtime.zeromq import RequestClient
from forebrain.scoring.conformal import calibrate
from forebrain.sessions.preprocessing import Preprocessing
from forebrain.sessions.session import Session

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
CONFIG = PocoConfig(
    context=12, horizon=4, token_length=4, width=8, num_latents=2, num_heads=1, head_width=8, film_width=8,
    relative=True,
)  # fmt: skip
NUM_RECORDED, COLUMNS = 6, np.array([0, 1, 3, 4, 5])


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adaptation to five of six recorded units, with random weights."""
    torch.manual_seed(0)
    model = Poco(CONFIG).requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    origin = Origin("runs/worms", hashlib.sha256(weights_of(model)).hexdigest())
    description = Description(
        model=CONFIG, num_datasets=1, loss="relative", protocol="chronological", event_rate_hz=None,
        resample_hz=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("adapted") / "worm"
    preprocessing = Preprocessing(
        mean=np.full(5, 2.0, np.float32),
        scale=np.full(5, 0.5, np.float32),
        columns=COLUMNS,
        num_recorded=NUM_RECORDED,
        unit_names=("AVA", "AVB", "RIM", "SMD", "RIV"),
        rate_hz=2.5,
        recorded_rate_hz=2.5,
        fitted_on=((0, 240),),
    )
    Adapted(
        model=model,
        interface=Interface(5, CONFIG.width),
        preprocessing=preprocessing,
        identity=Identity("celegans", "worm9", "day1", "lab"),
        mode="embeddings",
        origin=origin,
        description=description,
    ).save(folder)
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six units, one of them always missing."""
    rng = np.random.default_rng(0)
    traces = np.tanh(0.2 * rng.normal(size=(200, NUM_RECORDED)).cumsum(axis=0)) + 2
    traces[:, 2] = np.nan
    path = tmp_path_factory.mktemp("recording") / "worm9.npz"
    Session(traces.astype(np.float32), 2.5, "celegans", "worm9", "day1", "lab").save(path)
    return path


@contextlib.contextmanager
def serving(
    adapted: Path, *options: str, said: list[str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its address; what it said before goes to `said`."""
    command = [sys.executable, str(ROOT / "jobs" / "serve.py"), "--adapted", str(adapted)]
    command += ["--address", "tcp://127.0.0.1:*", "--threads", "1", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if said is not None:
                said.append(line)
            if line.startswith("serving"):
                assert re.match(r"serving \d+ units of celegans lab/worm9/day1 by \S.* at tcp://", line)
                yield process, line.split()[-1]
                break
        else:
            raise AssertionError(f"the server ended with status {process.wait()}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_killed_at_any_time_a_server_goes_on_from_the_next_frame(
    adapted: Path, recording: Path, tmp_path: Path
) -> None:
    loaded, state = Adapted.load(adapted), tmp_path / "state"
    session = Session.load(recording)
    frames = session.frames(0, 60)
    times_s = np.arange(60) / session.rate_hz  # else a slow start is a pause
    undisturbed = loaded.stream()
    expected = [undisturbed.step(frame, index, times_s[index]) for index, frame in enumerate(frames)]
    options = ("--state", str(state), "--state_every_s", "0.001")

    with serving(adapted, *options) as (process, address):
        client = RequestClient(address)
        for index in range(30):
            client.send(Frame(frames[index], index, float(times_s[index])))
            forecast = client.receive(60)
            assert forecast is not None
            np.testing.assert_array_equal(forecast.values, expected[index])
        before = client.ask("status")
        client.close()
        while not state.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)  # at whatever moment the writer is in
        process.wait()

    with serving(adapted, *options) as (process, address):
        client = RequestClient(address)
        resumed = client.ask("status")
        assert 0 <= resumed["index"] == _saved_index(state) and resumed["frames"] == resumed["index"] + 1
        for index in range(resumed["index"] + 1, 60):
            client.send(Frame(frames[index], index, float(times_s[index])))
            forecast = client.receive(60)
            assert forecast is not None
            np.testing.assert_array_equal(forecast.values, expected[index])
        after = client.ask("status")
        assert after["frames"] == 60 and after["score_windows"] >= before["score_windows"]
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert _saved_index(state) == 59


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_live_forecast_is_the_adaptations_bit_for_bit(adapted: Path, recording: Path, order: str) -> None:
    loaded = Adapted.load(adapted)
    frames = np.asarray(Session.load(recording).frames(0, 40), order=order)
    frames = frames[:, COLUMNS]
    live = loaded.stream()
    for stop, frame in enumerate(frames, start=1):
        forecast = live.step(frame)
        if stop >= loaded.context:
            np.testing.assert_array_equal(forecast, loaded.forecast(frames[stop - loaded.context : stop]))


@pytest.mark.usefixtures("fine_pictures")
def test_a_recording_is_replayed_and_its_latency_reported(
    adapted: Path,
    recording: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(adapted) as (_, address):
        play = ["live", "replay", "--recording", str(recording), "--address", address, "--part", "all"]
        out = ["--out", str(tmp_path / "out")]
        assert main([*play, "--speed", "0", "--budget_ms", "60000", *out]) == 0
        shown = capsys.readouterr().out
        assert "p99 ms" in shown and "model 189, warm-up 11" in shown
        result = json.loads((tmp_path / "out" / "latency.json").read_text())
        assert result["frames"] == result["forecasts"] == 200 and result["misses"] == 0
        assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
        assert (tmp_path / "out" / "latency.png").stat().st_size > 10_000

        # The picture is told when the next frame is due, beside the budget.
        told: list[float | None] = []
        draw = replay.latency_histogram
        monkeypatch.setattr(replay, "latency_histogram", lambda *given: told.append(given[4]) or draw(*given))
        fast = ["--rate_hz", "50", "--frames", "20", "--budget_ms", "60000", "--overwrite", *out]
        assert main([*play, *fast]) == 0 and told == [20.0]

        # Nobody is that fast: too many misses are an exit status.
        assert main([*play, "--speed", "0", "--frames", "20", "--budget-ms", "0.0001"]) == 1
        assert "20 (100.00%)" in capsys.readouterr().out
        # Nor does it say how sure it is.
        assert main([*play, "--speed", "0", "--drift"]) != 0
        assert "no calibrated intervals" in capsys.readouterr().err


def test_a_recording_is_played_in_the_forecasters_frames_which_is_said() -> None:
    events = (np.random.default_rng(0).random((1000, 5)) < 0.02).astype(np.float32)
    session = Session(events, 20.0, "mouse", "m1", "day1", "lab")
    described = {"rate_hz": 2.0, "recorded_rate_hz": 20.0, "event_rate_hz": 2.0, "resample_hz": None}
    played, (told,) = replay._as_expected(session, described)
    assert played.rate_hz == 2.0 and "summed in bins of 10 frames" in told
    np.testing.assert_array_equal(played.frames(0, 100), events.reshape(100, 10, 5).sum(axis=1))
    assert replay._as_expected(played, described) == (played, [])
    held, (told,) = replay._as_expected(session, {**described, "event_rate_hz": None})
    np.testing.assert_allclose(held.frames(0, 100), events.reshape(100, 10, 5).mean(axis=1), rtol=1e-6)
    assert "resampled from 20 Hz to 2 Hz" in told

    described |= {"rate_hz": 20.0, "event_rate_hz": None}
    _, (told,) = replay._as_expected(replace(session, rate_hz=None), described)
    assert "rate is not known; the forecaster takes its frames to come at 20 Hz" in told
    _, (told,) = replay._as_expected(replace(session, time_s=np.arange(1000) / 8), described)
    assert "stated rate is 20 Hz but the frame times say 8 Hz" in told


def test_a_recording_is_played_by_the_names_of_its_units_and_another_animal_is_told(
    adapted: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = replace(Session.load(recording), unit_names=("AVA", "AVB", "lost", "RIM", "SMD", "RIV"))
    turned = replace(session, traces=session.frames(0, 200)[:, ::-1], unit_names=session.unit_names[::-1])
    turned.save(tmp_path / "turned.npz")
    replace(turned, unit_names=tuple("abcdef")).save(tmp_path / "others.npz")
    live = Adapted.load(adapted).stream()
    for index, frame in enumerate(session.frames(0, 200)):
        live.step(frame, index)
    with serving(adapted) as (_, address):
        play = ["live", "replay", "--address", address, "--part", "all", "--speed", "0"]
        play += ["--budget_ms", "60000", "--recording"]
        assert main([*play, str(tmp_path / "turned.npz")]) == 0
        with Client(address, timeout_s=60) as client:
            assert client.status()["score"] == pytest.approx(live.rolling_score)
        assert main([*play, str(tmp_path / "others.npz")]) != 0
        assert "units are none of the model's" in capsys.readouterr().err

    described = {"unit_names": ["AVA"], "dataset": session.dataset, "subject": "another"}
    _, (told,) = replay._as_expected(session, described)
    assert "another was adapted to: its units must be the same cells" in told
    assert replay._as_expected(session, {**described, "subject": session.subject})[1] == []
    assert replay._as_expected(session, {**described, "unit_names": None})[1] == []


@contextlib.contextmanager
def pages(adapted: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A server process that shows a page, its address and the page's."""
    with serving(adapted, "--page", "0", *options, said=(said := [])) as (process, address):
        yield process, address, next(line.split()[-1] for line in said if "watch it at" in line)


def pictures_of(url: str) -> Iterator[dict]:
    with urllib.request.urlopen(url + "pictures", timeout=30) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


@pytest.mark.slow
def test_a_page_that_stands_still_keeps_neither_state_nor_record_nor_server_from_their_end(
    adapted: Path, recording: Path, tmp_path: Path
) -> None:
    frames, kept = Session.load(recording).frames(0, 20), ["--record", str(tmp_path / "run.nc")]
    kept += ["--state", str(tmp_path / "state"), "--state_every_s", "1000"]
    with pages(adapted, *kept) as (process, address, _):
        (page,) = (
            each
            for each in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(each.cmdline())
        )
        page.suspend()
        with Client(address, timeout_s=60) as client:
            for index, frame in enumerate(frames):
                client.step(frame, index)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.returncode == 0 and not page.is_running()
    assert _num_recorded(tmp_path / "run.nc") == 20
    with safe_open(tmp_path / "state", framework="np") as file:
        assert json.loads(file.metadata()["state"])["index"] == 19


def test_a_killed_server_leaves_its_record_whole_and_no_page(
    adapted: Path, recording: Path, tmp_path: Path
) -> None:
    frames, record = Session.load(recording).frames(0, 60), tmp_path / "run.nc"
    for first in (0, 30):
        with pages(adapted, "--record", str(record)) as (process, address, url):
            with Client(address, timeout_s=60) as client:
                part = enumerate(frames[first : first + 30], start=first)
                replies = [client.step(frame, index) for index, frame in part]
            picture = next(each for each in pictures_of(url) if each["status"]["frames"] == 30)
            assert picture["about"]["title"] == "worm9, day1"
            deadline = time.monotonic() + 30
            while _num_recorded(record) < first + 30:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            with pytest.raises(OSError):  # the page ends with its server
                while time.monotonic() < deadline:
                    urllib.request.urlopen(url, timeout=1).close()
                    time.sleep(0.1)
    session = fb.read(record)
    assert session.id == "lab/worm9/day1" and session.unit_names == ("AVA", "AVB", "RIM", "SMD", "RIV")
    np.testing.assert_array_equal(session.frames(0, 60), frames[:, COLUMNS])
    assert session.segments == [(0, 30), (30, 60)]
    with xarray.open_dataset(record, engine="scipy") as data:
        np.testing.assert_array_equal(data.forecast.values[-1], replies[-1].values)


def test_another_machine_shows_the_page(adapted: Path, recording: Path) -> None:
    frames = Session.load(recording).frames(0, 20)
    said: list[str] = []
    with serving(adapted, "--pictures", "tcp://127.0.0.1:*", said=said) as (_, address):
        pictures = next(line.split()[-1] for line in said if "pictures for" in line)
        command = [sys.executable, "-m", "forebrain", "live", "watch", pictures, "--page", "0"]
        watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert watch.stdout is not None
        try:
            url = watch.stdout.readline().split()[3].rstrip(";")
            seen = pictures_of(url)
            assert next(seen)["indices"] == []  # a server that waits says so
            with Client(address, timeout_s=60) as client:
                for index, frame in enumerate(frames):
                    client.step(frame, index)
                    time.sleep(0.01)
            assert next(each for each in seen if each["status"]["source"] == "model")
        finally:
            watch.send_signal(signal.SIGINT)
            assert watch.wait(30) == 130
            watch.stdout.close()


def test_a_page_or_a_record_that_cannot_be_is_said_in_a_line_before_anything_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("of great value")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for options, reason in (
            (["--page", str(taken.getsockname()[1])], "Address already in use"),
            (["--page", "eight"], "expected a port such as 8600"),
            (["--pictures", "nowhere"], "cannot be bound"),
            (["--record", str(notes)], "nothing is overwritten"),
            (["--record", str(tmp_path)], "cannot be written"),
            (["--budget_ms", "0"], "expected more than 0"),
            (["--state", str(link), "--record", str(tmp_path / "one")], "--state and --record are one file"),
        ):
            serve_it = ["live", "serve", "--untrained_units", "5", "--address", "tcp://127.0.0.1:*", *options]
            assert main(serve_it) == 2, options
            said = capsys.readouterr()
            assert reason in said.err and said.err.count("error: ") == 1 and "serving" not in said.out
    assert notes.read_text() == "of great value"
    assert main(["live", "watch", "nowhere"]) == 2
    assert "is no address" in capsys.readouterr().err


def _num_recorded(record: Path) -> int:
    return int.from_bytes(record.read_bytes()[4:8], "big") if record.exists() else 0


def test_a_replay_that_drifts_says_what_intervals_cover(
    adapted: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(60, 4, 5)).astype(np.float32)
    calibration = calibrate(0 * target, target, np.ones((60, 5)), 4 * np.arange(60), "here", 12)
    replace(Adapted.load(adapted), calibration=calibration).save(tmp_path / "calibrated")
    play = ["live", "replay", "--recording", str(recording), "--part", "all", "--speed", "0", "--drift"]
    with serving(tmp_path / "calibrated") as (_, address):
        out = tmp_path / "out"
        words = [*play, "--address", address, "--budget_ms", "60000", "--out", str(out)]
        assert main(words) == 0
        assert "lay in its 80 % intervals" in capsys.readouterr().out
        coverage = json.loads((out / "latency.json").read_text())["coverage"]
        assert 0 < coverage["least"] <= coverage["whole"] <= coverage["most"] <= 1
        assert coverage["num_frames"] == 188


def test_a_soak_shows_what_it_came_to(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--model.width", "8", "--model.film_width", "8", "--model.num_heads", "1", "--units", "3"]
    assert main(["live", "soak", *small, "--soak.frames", "1000"]) == 0
    assert "1,000" in capsys.readouterr().out


def test_what_makes_no_sense_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for status, options in (
        (2, ["serve"]),
        (1, ["serve", "--adapted", str(tmp_path)]),
        (2, ["serve", "--untrained_units", "5", "--address", "nowhere"]),
        (2, ["serve", "--untrained_units", "5", "--updates", "--live.normalise", "running"]),
        (2, ["replay", "--speed", "-1"]),
        (2, ["replay", "--drift"]),
        (1, ["replay", "--recording", str(tmp_path / "missing.npz")]),
        (2, ["soak", "--soak.frames", "10"]),
    ):
        assert main(["live", *options]) == status, options
        assert capsys.readouterr().err.count("error: ") == 1, options
    with pytest.raises(ConfigError):
        serve.Config(adapted="a", untrained_units=3)
    with pytest.raises(ConfigError):
        replay.Config(frames=0)


def _saved_index(state: Path) -> int:
    with safe_open(state, framework="np") as file:
        return json.loads(file.metadata()["state"])["index"]
