"""A proxy before an S3 server that misbehaves as asked, so that tests meet the faults of real stores."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# 503: throttled. drop: no answer. lose: done by the server, but the answer is lost. cut: half of the answer.
# stall: a silent connection. slow: an answer in eight pieces. expired: the credentials are. damage: another
# byte in the answer. page: what a network answers to those who have not logged in.
# conflict: what AWS answers to some who create one name at the same moment. denied: the credentials may not;
# of a removal of many at once the answer is 200, with an error for each. skewed: the clocks differ too much.
FAULTS = ("503", "drop", "lose", "cut", "stall", "slow")
_CODES = {
    "503": (503, "SlowDown"),
    "expired": (400, "ExpiredToken"),
    "conflict": (409, "ConditionalRequestConflict"),
    "denied": (403, "AccessDenied"),
    "skewed": (403, "RequestTimeTooSkewed"),
}
SLOW_S = 0.4


class FaultyProxy:
    """Passes requests on as they are (Host too: it is part of their signature), except for faults.

    Attributes:
        url: its address.
        log: (method, path, fault or None) of every request.
        every: each n-th request meets the next fault of `FAULTS`; 0 is never.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.log: list[tuple[str, str, str | None]] = []
        self.every = 0
        self.released = threading.Event()
        self._queued: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._cycle = itertools.cycle(FAULTS)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def fail(self, fault: str, times: int = 1, method: str = "") -> None:
        """The next `times` requests (of a method) meet this fault."""
        with self._lock:
            self._queued += [(fault, method)] * times

    def clear(self) -> None:
        """Faults that were not met yet are forgotten, as is the log."""
        with self._lock:
            self._queued.clear()
            self.log.clear()

    def fault_of(self, method: str, path: str) -> str | None:
        with self._lock:
            fault = None
            if self.every and len(self.log) % self.every == self.every - 1:
                fault = next(self._cycle)
            for position, (queued, wanted) in enumerate(self._queued):
                if method.startswith(wanted):
                    fault = queued
                    del self._queued[position]
                    break
            self.log.append((method, path, fault))
            return fault

    def met(self) -> list[str]:
        """The faults that requests have met."""
        return [fault for _, _, fault in self.log if fault]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.fault_of(self.command, self.path)
        if fault == "stall":
            self.proxy.released.wait(60)
        if fault in ("drop", "stall"):
            self.close_connection = True
        elif fault in _CODES:
            status, code = _CODES[fault]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as asked</Message></Error>"
            if fault == "denied" and self.command == "POST":
                status, text = 200, text.replace("<Error>", "<DeleteResult><Error>") + "</DeleteResult>"
            self._send(status, [("Content-Type", "application/xml")], text.encode())
        elif fault == "page":
            self._send(200, [("Content-Type", "text/html")], b"<html>Please log in</html>")
        else:
            self._pass_on(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):
                connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if fault == "lose":
            self.close_connection = True
            return
        if fault == "damage":
            data = bytes([data[0] ^ 1]) + data[1:]
        headers = [
            (k, v) for k, v in response.getheaders() if k.lower() not in ("connection", "date", "server")
        ]
        self._send(response.status, headers, data, fault)

    def _send(
        self, status: int, headers: list[tuple[str, str]], data: bytes, fault: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding") or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for piece in _pieces(data if self.command != "HEAD" else b"", fault):
            self.wfile.write(piece)
            self.wfile.flush()
        if fault == "cut":
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


def _pieces(data: bytes, fault: str | None) -> Iterator[bytes]:
    if fault == "slow" and len(data) >= 8:
        size = -(-len(data) // 8)
        for start in range(0, len(data), size):
            time.sleep(SLOW_S / 8)
            yield data[start : start + size]
    else:
        yield data[: len(data) // 2] if fault == "cut" else data
