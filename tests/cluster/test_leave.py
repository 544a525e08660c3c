"""A spot machine that hears of its end, from a metadata service that speaks as the clouds' do.

That Ray is told is shown in test_slurm.py, on a real cluster.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "leave.py"


@pytest.fixture(scope="module")
def leave() -> ModuleType:
    spec = importlib.util.spec_from_file_location("leave", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Metadata(BaseHTTPRequestHandler):
    """Answers by path; as on EC2, only who brings the token that it gave gets an answer."""

    answers: dict[str, str]

    def do_PUT(self) -> None:
        self._answer("token-1" if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else None)

    def do_GET(self) -> None:
        trusted = "token-1" in self.headers.get("X-aws-ec2-metadata-token", "")
        trusted |= self.headers.get("Metadata-Flavor") == "Google"
        self._answer(self.answers.get(self.path) if trusted else None)

    def _answer(self, text: str | None) -> None:
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[SimpleNamespace]:
    answers: dict[str, str] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Metadata,), {"answers": answers}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", answers=answers)
    server.shutdown()
    thread.join()
    server.server_close()


def test_ec2_says_when_and_says_nothing_before(leave: ModuleType, metadata: SimpleNamespace) -> None:
    assert leave.aws_deadline(metadata.url) is None
    metadata.answers["/latest/meta-data/spot/instance-action"] = (
        '{"action": "terminate", "time": "2026-11-25T08:22:00Z"}'
    )
    assert leave.aws_deadline(metadata.url) == 1795594920.0


def test_compute_engine_gives_half_a_minute(leave: ModuleType, metadata: SimpleNamespace) -> None:
    path = "/computeMetadata/v1/instance/preempted"
    metadata.answers[path] = "FALSE\n"
    assert leave.gcp_deadline(metadata.url) is None
    metadata.answers[path] = "TRUE\n"
    assert leave.gcp_deadline(metadata.url, clock=lambda: 1000.0) == 1030.0


def test_a_service_that_does_not_answer_is_no_notice_and_is_said(
    leave: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave.gcp_deadline("http://127.0.0.1:1") is None
    assert "http://127.0.0.1:1" in capsys.readouterr().out


def test_only_workers_of_ray_that_do_something_keep_the_machine(leave: ModuleType) -> None:
    def process(*words: str) -> SimpleNamespace:
        return SimpleNamespace(info={"cmdline": list(words)})

    assert leave._is_busy(process("ray::RayTrainWorker.execute"))
    assert not leave._is_busy(process("ray::IDLE"))
    assert not leave._is_busy(process("python", "jobs/pretrain.py")) and not leave._is_busy(process())
