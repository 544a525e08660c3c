"""Frames and forecasts over ZeroMQ: request and reply, or two streams (PUB/SUB). Needs the extra `live`.

The forecaster binds, rigs connect. There is no encryption and no password: bind to 127.0.0.1 or to a network
of your own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import re
import secrets
import socket as posix
import struct
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import zmq

from forebrain.errors import ConfigError, FrameError, NoAnswerError
from forebrain.realtime.arrivals import PAUSE_S
from forebrain.realtime.messages import (
    Forecast,
    Frame,
    Question,
    decode_reply,
    decode_request,
    encode_answer,
    encode_error,
    encode_forecast,
    encode_frame,
    encode_question,
)
from forebrain.realtime.names import UntoldNamesError, hash_of_names

Answer = TypeVar("Answer", Forecast, dict[str, Any])
CONNECT_S = 5.0
ASK_AGAIN_S = 0.05
PAUSE_FRAMES = 3  # of a slow stream, after which its sender pauses, if that is longer than PAUSE_S
QUEUED_PICTURES = 20
QUEUED_FRAMES = 1000  # of a stream; what comes beyond is dropped, and shows as missing frames
_log = logging.getLogger(__name__)


class _Taken(NamedTuple):
    """Who has the place of a socket's sender.

    Attributes:
        sender: the text that it says with every frame, else the number of its connection; None for nobody.
        connection: the number.
        heard_s: when its newest frame came.
        is_named: it is known by its connection alone, and told names once: others are not read by them.
    """

    sender: str | int | None = None
    connection: int | None = None
    heard_s: float = -math.inf
    is_named: bool = False


class _Place:
    """The place of the one sender whose frames a socket takes: another's would be mixed into its stream. It
    is free again once its connection has ended, or no frame came from it for a while. Questions need none.

    A sender that says neither who it is nor by which names it is to be read is known by its connection, and
    the names that it told once are put to its frames here.

    Args:
        socket: that frames come to.
        rate_hz: of the frames; None where not known.
        clock: seconds that only run forward.
    """

    def __init__(
        self, socket: zmq.Socket, rate_hz: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._events = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._gone: set[int] = set()  # connections that have ended, of which frames may still wait here
        self._pause_s = max(PAUSE_S, PAUSE_FRAMES / rate_hz if rate_hz else 0.0)
        self._clock = clock
        self._taken = _Taken()
        self._asked: _Taken | None = None  # by the newest message, until it is known not to be refused
        self._told: dict[int, tuple[str, ...]] = {}  # names by connection, of senders that tell them once

    def follow(self) -> None:
        """Gives the place to who asked for it last, and reads what became of connections; to be called before
        each message, and often: ZeroMQ stands still where much is unread."""
        if self._asked is not None:
            self._taken, self._asked = self._asked, None
            if self._taken.connection in self._gone:
                self._taken = _Taken(is_named=self._taken.is_named)
        while self._events.poll(0):
            event, connection = struct.unpack("=hi", self._events.recv_multipart()[0])
            if event == zmq.EVENT_ACCEPTED:
                self._gone.discard(connection)
                self._told.pop(connection, None)  # of an earlier one of this number
                continue
            self._gone.add(connection)
            if self._taken.connection == connection:
                self._taken = _Taken(is_named=self._taken.is_named)

    def take(self, connection: int, message: Frame | Question) -> None:
        """Asks for the place for a frame's sender. Questions want none, but a reset is of who has it.

        Raises:
            FrameError: the place is another's, or a frame says neither who sent it nor how to read it where
                another connection told names.
        """
        sender = message.sender or connection
        if isinstance(message, Question):
            if message.ask == "reset":
                self._require(sender)
            return
        tells_once = message.names is None and message.sender is None
        if tells_once and message.units is not None:
            self._told[connection] = message.units  # though it be refused
        self._require(sender)
        if tells_once:
            message.units = self._told.get(connection)
            if message.units is None and self._taken.is_named:
                raise FrameError(
                    "the frame names no units, and those before it came by another connection, with names; "
                    "expected `units`, empty where they are in the adaptation's order. A sender that says "
                    "the hash of its names with each frame may change its connection, see docs/live.md."
                )
        if self._taken.sender not in (None, sender):
            _log.warning("frames come from another sender from now on")
        is_named = tells_once and bool(message.units)
        self._asked = _Taken(sender, connection, self._clock(), is_named)

    def give_back(self) -> None:
        """The newest message was refused: its sender has the place no more than before."""
        self._asked = None

    def _require(self, sender: str | int) -> None:
        """Raises FrameError while the place is another's."""
        silent_s = self._clock() - self._taken.heard_s
        if self._taken.sender not in (None, sender) and silent_s < self._pause_s:
            raise FrameError(
                f"another sender's frames come to this address, the newest {silent_s:.2g} s ago; expected "
                "those of one. Stop one, or let each have a forecaster of its own. If it is the same rig, "
                f"connected anew: its frames are taken once its last one is {self._pause_s:.3g} s old."
            )


class _Sockets:
    """Holds sockets of a context of its own, and closes them when asked to, or once nobody holds it.

    Where it goes in a cycle of references, the collection of garbage would take it, its context and its
    sockets at once; a context then no longer knows its sockets, and waits for ever for them to be closed. So
    both are kept by who closes them.
    """

    def __init__(self) -> None:
        self._context, self._opened = _context(), list[zmq.Socket]()
        self._end = weakref.finalize(self, _destroy, self._context, self._opened)
        self._end.atexit = False  # others may be using it still

    def _open(self, kind: int) -> zmq.Socket:
        self._opened.append(self._context.socket(kind))
        return self._opened[-1]

    def close(self) -> None:
        self._end()


class RequestPort(_Sockets):
    """Answers each request: REP. Frames are taken from one sender at a time, see `_Place`.

    Args:
        address: to bind, such as tcp://127.0.0.1:5600.
        max_bytes: of a message; a sender of larger ones is cut off.
        rate_hz: of the frames; None where not known.
    """

    def __init__(self, address: str, max_bytes: int, rate_hz: float | None = None) -> None:
        super().__init__()
        self._socket = self._open(zmq.REP)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        self.address = _bind(self._socket, address)
        self._place = _Place(self._socket, rate_hz)

    def receive(self, timeout_s: float) -> Frame | Question | None:
        came = self._socket.poll(round(1e3 * timeout_s))
        self._place.follow()
        return _request(self._socket, self._place) if came else None

    def is_behind(self) -> bool:
        return False  # whoever asks waits for the answer

    def send(self, forecast: Forecast) -> None:
        self._socket.send(encode_forecast(forecast))

    def answer(self, answer: dict[str, Any]) -> None:
        self._socket.send(encode_answer(answer))

    def refuse(self, error: FrameError) -> None:
        self._place.give_back()
        self._socket.send(encode_error(error))


class StreamPort(_Sockets):
    """Listens to frames and publishes forecasts: SUB and PUB. Frames are taken from one sender at a time, see
    `_Place`.

    Args:
        frames, forecasts: addresses to bind.
        max_bytes: of a message; a sender of larger ones is cut off.
        rate_hz: of the frames; None where not known.
    """

    def __init__(self, frames: str, forecasts: str, max_bytes: int, rate_hz: float | None = None) -> None:
        super().__init__()
        self._frames = self._open(zmq.SUB)
        self._frames.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        self._frames.setsockopt(zmq.RCVHWM, QUEUED_FRAMES)
        self._frames.setsockopt(zmq.SUBSCRIBE, b"")
        self._forecasts = self._open(zmq.PUB)
        self.address = _bind(self._frames, frames), _bind(self._forecasts, forecasts)
        self._place = _Place(self._frames, rate_hz)

    def receive(self, timeout_s: float) -> Frame | Question | None:
        came = self._frames.poll(round(1e3 * timeout_s))
        self._place.follow()
        return _request(self._frames, self._place) if came else None

    def is_behind(self) -> bool:
        return bool(self._frames.poll(0))

    def send(self, forecast: Forecast) -> None:
        self._forecasts.send(encode_forecast(forecast))

    def answer(self, answer: dict[str, Any]) -> None:
        self._forecasts.send(encode_answer(answer))

    def refuse(self, error: FrameError) -> None:
        self._place.give_back()
        self._forecasts.send(encode_error(error))


class Publisher(_Sockets):
    """Gives messages to whoever listens: PUB. It never waits: a listener who is behind misses some.

    Args:
        address: to bind.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self._socket = self._open(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, QUEUED_PICTURES)
        self.address = _bind(self._socket, address)

    def send(self, message: bytes) -> None:
        self._socket.send(message, zmq.NOBLOCK)


class Subscriber(_Sockets):
    """Listens to a `Publisher`; one that is away is found again.

    Args:
        address: to connect to.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self._socket = self._open(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, QUEUED_PICTURES)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        _connect(self._socket, address)

    def receive(self, timeout_s: float) -> bytes | None:
        """The next message, None if none comes in time."""
        return self._socket.recv() if _poll(self._socket, timeout_s) else None


class _Sender:
    """What a rig says of itself with each frame: a text of its own, and the hash of the names that it last
    gave its values. The names go along until a frame with them is taken, and where they are asked for."""

    def __init__(self) -> None:
        self.text = secrets.token_hex(8)
        self.name(())

    def name(self, names: tuple[str, ...]) -> None:
        """Says from the next frame on that its values have these names; none where they are in order."""
        self.names, self.has_told = names, True
        self._said = {"sender": self.text} | ({"names": hash_of_names(names)} if names else {})

    def encode(self, frame: Frame) -> bytes:
        if frame.units is not None:
            if frame.units != self.names:
                self.name(frame.units)
            self.has_told = False
        return encode_frame(frame, self._said if self.has_told else self._said | {"units": self.names})

    def heard(self, data: bytes) -> Forecast | dict[str, Any]:
        """The message that came back. Raises FrameError where it is a refusal, see `decode_reply`."""
        try:
            reply = decode_reply(data)
        except UntoldNamesError:
            self.has_told = False
            raise
        if isinstance(reply, Forecast) and reply.source not in ("late", "repeated"):
            self.has_told = True
        return reply


class RequestClient(_Sockets):
    """Sends a frame and gets its forecast: REQ. A lost answer does not block the next request.

    While nobody is at the address nothing is sent, and nothing kept: a server that comes back gets no frames
    of the time that it was away.
    """

    awaits_answers = True

    def __init__(self, address: str) -> None:
        self.address = address
        self._sender = _Sender()
        super().__init__()
        self._socket = self._open(zmq.REQ)
        self._socket.setsockopt(zmq.REQ_RELAXED, 1)
        self._socket.setsockopt(zmq.REQ_CORRELATE, 1)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        _connect(self._socket, address)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that the values of frames have which tell none; none where they are in order."""
        return self._sender.names

    def send(self, frame: Frame, timeout_s: float = CONNECT_S) -> None:
        """Sends a frame to whoever is at the address.

        Raises:
            NoAnswerError: nobody is there, or comes in time.
        """
        self._send(self._sender.encode(frame), timeout_s)

    def receive(self, timeout_s: float) -> Forecast | None:
        """The forecast of the frame sent last, None if it does not come in time.

        Raises:
            FrameError: the frame was refused.
        """
        reply = self._reply(timeout_s)
        return reply if isinstance(reply, Forecast) else None

    def ask(self, ask: str | Question, timeout_s: float = 10.0) -> dict[str, Any]:
        """Asks one of `QUESTIONS`.

        Raises:
            NoAnswerError: no answer in time.
        """
        deadline = time.perf_counter() + timeout_s
        question = Question(ask) if isinstance(ask, str) else ask
        if question.ask == "reset":
            self._sender.has_told = False  # a forecaster of an earlier version forgets names by it
        self._send(encode_question(replace(question, sender=self._sender.text)), timeout_s)
        return self.answer(dict, max(0.0, deadline - time.perf_counter()))

    def step(self, frame: Frame, timeout_s: float) -> Forecast:
        """Sends a frame and waits for its forecast; a forecaster that does not hold its names is told them.

        Raises:
            FrameError: it was refused.
            NoAnswerError: no answer in time.
        """
        deadline = time.perf_counter() + timeout_s
        self._send(self._sender.encode(frame), timeout_s)
        try:
            return self.answer(Forecast, max(0.0, deadline - time.perf_counter()))
        except UntoldNamesError:
            self._send(self._sender.encode(frame), max(0.0, deadline - time.perf_counter()))
        return self.answer(Forecast, max(0.0, deadline - time.perf_counter()))

    def answer(self, kind: type[Answer], timeout_s: float) -> Answer:
        """The answer to what was sent last.

        Raises:
            FrameError: it was refused.
            NoAnswerError: no answer in time.
        """
        reply = self._reply(timeout_s)
        if not isinstance(reply, kind):
            raise self._silence(self._asked_s)
        return reply

    def _send(self, message: bytes, timeout_s: float) -> None:
        self._asked_s = timeout_s
        if not _poll(self._socket, timeout_s, zmq.POLLOUT):
            raise self._silence(timeout_s)
        self._socket.send(message, zmq.NOBLOCK)

    def _silence(self, timeout_s: float) -> NoAnswerError:
        return NoAnswerError(
            f"no answer from {self.address} within {timeout_s:g} s; is `forebrain live serve` running there?"
        )

    def _reply(self, timeout_s: float) -> Forecast | dict[str, Any] | None:
        return self._sender.heard(self._socket.recv()) if _poll(self._socket, timeout_s) else None


class StreamClient(_Sockets):
    """Publishes frames and listens to forecasts: PUB and SUB.

    Streams find each other a moment after connecting; `ready` waits for it, so that no frame is lost. A
    forecaster that does not hold the names of the values is told them with the frame after its refusal.
    """

    awaits_answers = False

    def __init__(self, frames: str, forecasts: str) -> None:
        self._sender = _Sender()
        super().__init__()
        self._frames = self._open(zmq.PUB)
        self._forecasts = self._open(zmq.SUB)
        self._forecasts.setsockopt(zmq.SUBSCRIBE, b"")
        _connect(self._frames, frames)
        _connect(self._forecasts, forecasts)

    def ready(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """Asks until an answer comes, and returns what the forecaster says of itself. What others get
        meanwhile is passed over.

        Raises:
            NoAnswerError: no answer in time.
        """
        ask_at = time.monotonic()
        deadline = ask_at + timeout_s
        while (now := time.monotonic()) < deadline:
            if now >= ask_at:
                self._frames.send(encode_question(Question("describe")))
                ask_at = now + ASK_AGAIN_S
            if _poll(self._forecasts, min(ask_at, deadline) - now):
                with contextlib.suppress(FrameError):  # a frame of somebody's was refused
                    reply = decode_reply(self._forecasts.recv())
                    if isinstance(reply, dict) and "num_units" in reply:
                        return reply
        raise NoAnswerError(
            f"no answer within {timeout_s:g} s; is the forecaster running at these addresses?"
        )

    def send(self, frame: Frame) -> None:
        self._frames.send(self._sender.encode(frame))

    def receive(self, timeout_s: float) -> Forecast | None:
        """The next forecast, None if none comes in time.

        Raises:
            FrameError: a frame was refused.
        """
        if not _poll(self._forecasts, timeout_s):
            return None
        reply = self._sender.heard(self._forecasts.recv())
        return reply if isinstance(reply, Forecast) else None


def _context() -> zmq.Context:
    """A context whose sockets, when closed, do not wait for a peer that is gone to take what was sent."""
    context = zmq.Context()
    context.linger = 0
    return context


def _destroy(context: zmq.Context, opened: list[zmq.Socket]) -> None:
    context.destroy()


def _request(socket: zmq.Socket, place: _Place) -> Frame | Question:
    """The message that has come. Raises FrameError if it is none, or a frame or a reset while the place is
    another's."""
    parts = socket.recv_multipart(copy=False)
    if len(parts) != 1:
        raise FrameError(f"the message has {len(parts)} parts; expected one.")
    request = decode_request(parts[0].bytes)
    place.take(int(parts[0].get(zmq.SRCFD)), request)
    return request


def _poll(socket: zmq.Socket, timeout_s: float, for_what: int = zmq.POLLIN) -> bool:
    """Whether a message is there, or one can be sent, before the timeout; as exact as the clock, where ZeroMQ
    counts whole ms."""
    deadline = time.perf_counter() + timeout_s
    while True:
        remaining_ms = 1e3 * (deadline - time.perf_counter())
        if socket.poll(max(0, int(remaining_ms)), for_what):
            return True
        if remaining_ms < 1:
            time.sleep(max(0.0, deadline - time.perf_counter()))
            return bool(socket.poll(0, for_what))


def _check_port(address: str) -> None:
    """Raises ValueError at a port that no machine has, of which ZeroMQ takes the last 16 bits."""
    found = re.fullmatch(r"tcp://.*:(\d+)", address)
    if found and int(found[1]) > 65535:
        raise ValueError("ports end at 65535")


def _bind(socket: zmq.Socket, address: str) -> str:
    """Where it is bound. Closes all that was opened for it if it cannot be: a context that is left to the
    collection of garbage may wait there for ever for a socket that goes with it."""
    try:
        _check_port(address)
        if _is_answered(address):  # ZeroMQ would take it away from who has it
            raise zmq.ZMQError(errno.EADDRINUSE)
        socket.bind(address)
    except (zmq.ZMQError, ValueError) as error:
        socket.context.destroy()
        raise ConfigError(
            f"{address} cannot be bound ({error}); expected a free address such as tcp://127.0.0.1:5600."
        ) from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def _is_answered(address: str) -> bool:
    """Whether somebody listens at an ipc:// address; what a killed process has left there answers nothing.

    Raises:
        ValueError: a file is there, which ZeroMQ would remove.
    """
    if not address.startswith("ipc://") or address == "ipc://*" or sys.platform == "win32":
        return False
    path = address.removeprefix("ipc://")
    if Path(path).exists() and not Path(path).is_socket():
        raise ValueError("a file is there, or a folder")
    with posix.socket(posix.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            return isinstance(error, BlockingIOError)  # so many wait for who stands still there
    return True


def _connect(socket: zmq.Socket, address: str) -> None:
    """Closes all that was opened for it if there is no such address, see `_bind`."""
    try:
        _check_port(address)
        socket.connect(address)
    except (zmq.ZMQError, ValueError) as error:
        socket.context.destroy()
        raise ConfigError(
            f"{address} is no address ({error}); expected one such as tcp://127.0.0.1:5600."
        ) from error
