"""The page that shows a stream while it is forecast: one HTML file, and pictures that follow as they are
made.

The page runs in a process of its own, which only listens to the forecaster; no browser, and none that stops
reading, can hold a forecast up. It asks for nothing outside of itself. There is no password: bind to
127.0.0.1 or to a network of your own.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

import msgpack

from forebrain.errors import ConfigError
from forebrain.realtime.beside import end, start_beside

HISTORY = 150  # pictures that one who opens the page gets at once
MAX_WATCHERS = 16
STUCK_S = 20.0  # a browser that reads nothing for so long is dropped
HEARTBEAT_S = 2.0
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:"
)


def listen(where: str) -> socket.socket:
    """A socket that browsers reach.

    Args:
        where: PORT, on this machine only; or ADDRESS:PORT, such as 0.0.0.0:8600 for all that reach it.

    Raises:
        ConfigError: that is no such place, or it is taken.
    """
    address, _, port = where.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"the page's address is {where!r}; expected a port such as 8600, or ADDRESS:PORT.")
    try:
        return socket.create_server((address or "127.0.0.1", int(port)), backlog=MAX_WATCHERS)
    except OSError as error:
        raise ConfigError(
            f"the page cannot be shown at {where} ({os.strerror(error.errno or 0)}). Choose another port."
        ) from error


def url_of(listening: socket.socket) -> str:
    """Where a browser finds the page."""
    address, port = listening.getsockname()[:2]
    return f"http://{socket.gethostname() if address == '0.0.0.0' else address}:{port}/"


def show(listening: socket.socket, pictures: str, should_stop: Callable[[], bool]) -> None:
    """Serves the page until asked to stop.

    Args:
        listening: see `listen`.
        pictures: address of the forecaster's pictures.
    """
    from forebrain.realtime.zeromq import Subscriber

    source, board = Subscriber(pictures), Board()
    server = _Server(listening, board)
    threading.Thread(target=server.serve_forever, args=(0.2,), name="page", daemon=True).start()
    try:
        while not should_stop():
            if (message := source.receive(0.2)) is not None:
                board.add(as_event(message))
    finally:
        source.close()
        server.shutdown()
        server.server_close()


@contextmanager
def shown(listening: socket.socket, pictures: str) -> Iterator[None]:
    """The page, served by another process meanwhile, which ends with this one, however that ends."""
    process = multiprocessing.get_context("spawn").Process(
        target=_show_beside, args=(listening, pictures), name="live-page", daemon=True
    )
    start_beside(process)
    listening.close()
    try:
        yield
    finally:
        end(process)


def _show_beside(listening: socket.socket, pictures: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the forecaster's end is this one's
    parent = multiprocessing.parent_process()
    assert parent is not None
    show(listening, pictures, lambda: bool(multiprocessing.connection.wait([parent.sentinel], 0)))


def as_event(message: bytes) -> bytes:
    """A picture as a server-sent event: JSON, arrays of float32 in base64."""
    picture: dict[str, Any] = msgpack.unpackb(message)
    text = json.dumps(picture, default=_base64, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def _base64(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value)} in a picture")


class Board:
    """The newest events, numbered, for any number of watchers, of whom none holds another up."""

    def __init__(self) -> None:
        self._events: deque[bytes] = deque(maxlen=HISTORY)
        self._count = 0
        self._changed = threading.Condition()

    def add(self, event: bytes) -> None:
        with self._changed:
            self._events.append(event)
            self._count += 1
            self._changed.notify_all()

    def since(self, number: int, timeout_s: float) -> tuple[int, list[bytes]]:
        """The events after the first `number` that are still there, and how many there were in all."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > number, timeout_s)
            new = min(self._count - number, len(self._events))
            return self._count, list(self._events)[len(self._events) - new :]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, board: Board) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.board = board
        self.html = resources.files("forebrain.realtime").joinpath("page.html").read_bytes()
        self.places = threading.Semaphore(MAX_WATCHERS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away or stopped reading is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = STUCK_S
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer("text/html; charset=utf-8", self.server.html)
        elif self.path == "/pictures":
            self._pictures()
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *arguments: Any) -> None:
        """Who looks is nobody's business."""

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def _pictures(self) -> None:
        """Server-sent events, until the browser goes."""
        if not self.server.places.acquire(blocking=False):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_WATCHERS} pages are open already")
            return
        try:
            self.close_connection = True
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            number = 0
            while True:
                number, events = self.server.board.since(number, HEARTBEAT_S)
                # Where there is no event, a comment finds out whether the browser is still there.
                self.wfile.write(b"".join(events) or b": waiting\n\n")
        finally:
            self.server.places.release()
