"""Plays frames to a forecaster as a rig would, at their rate or faster, and times the answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from forebrain.errors import FrameError
from forebrain.realtime.messages import Forecast, Frame
from forebrain.realtime.pacing import Pacer
from forebrain.sessions.repair import MIN_GAP_FRAMES
from forebrain.sessions.session import Range, Session

REPLY_S = 5.0  # how long a forecast may take before it counts as lost
MOST_SILENT = 3  # frames in a row without one, after which nobody is taken to answer


class Client(Protocol):
    """A rig's end of a transport.

    Attributes:
        awaits_answers: whether a frame can be sent only once the last is answered.
    """

    awaits_answers: bool

    def send(self, frame: Frame) -> None: ...

    def receive(self, timeout_s: float) -> Forecast | None: ...


@dataclass(frozen=True, eq=False)
class Played:
    """A summary of the forecasts that came back.

    Attributes:
        latencies_ms: [T], from the time each frame was due to the arrival of its forecast, NaN where none
            came. A frame that had to wait for the one before it was due all the same.
        late_s: how much later than its time the last frame was sent, 0 where frames have none.
        last: the newest forecast.
        sources: how many forecasts came from where.
    """

    latencies_ms: np.ndarray
    late_s: float
    last: Forecast
    sources: Counter[str] = field(default_factory=Counter)


def frames_of(
    session: Session, ranges: list[Range], num_frames: int | None, names: Sequence[str] | None = None
) -> Iterator[Frame]:
    """Frames of a recording's stretches with index and time, again from the start until there are enough.

    Between stretches, and before each repetition, the index jumps: what follows is not what came before.

    Args:
        session: repaired.
        ranges: frames [start, stop) to play.
        num_frames: how many; None for each once.
        names: of its units, which the first frame tells; None for units in order.
    """
    units = None if names is None else tuple(names)
    sent, index = 0, 0
    while True:
        for start, stop in ranges:
            for values in session.frames(start, stop):
                if num_frames is not None and sent == num_frames:
                    return
                time_s = index / session.rate_hz if session.rate_hz else None
                yield Frame(values, index, time_s, units if not sent else None)
                sent, index = sent + 1, index + 1
            index += MIN_GAP_FRAMES
        if num_frames is None:
            return


def play(
    client: Client,
    frames: Iterable[Frame],
    num_frames: int,
    period_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Played:
    """Sends frames and gathers their forecasts.

    Args:
        client: connected.
        frames: `num_frames` of them, each with an index of its own.
        period_s: between two frames; 0 sends the next once the last is answered.
        clock: seconds that only run forward.

    Raises:
        FrameError: the forecaster refused a frame, or answered none at all.
    """
    book = _Book(client, num_frames, clock)
    pacer = Pacer(period_s, clock)
    late_s, silent = 0.0, 0
    for moment, frame in enumerate(frames):
        if period_s:
            while (remaining_s := pacer.remaining_s(moment)) > 0:
                book.receive(remaining_s)
            late_s = -remaining_s
        book.send(moment, frame, late_s)
        if client.awaits_answers or not period_s:
            silent = 0 if book.wait_for(moment) else silent + 1
            if silent == MOST_SILENT:
                raise FrameError(
                    f"no forecast came for {silent} frames in a row, within {REPLY_S:g} s each; is the "
                    f"forecaster running still? {moment + 1} of {num_frames} frames were sent."
                )
    book.wait_for(num_frames - 1)
    if book.last is None:
        raise FrameError(f"no forecast came back for {num_frames} frames; is the forecaster running?")
    return Played(book.latencies_ms, late_s, book.last, book.sources)


class _Book:
    """The frames that are out, and the forecasts that came back."""

    def __init__(self, client: Client, num_frames: int, clock: Callable[[], float]) -> None:
        self.latencies_ms = np.full(num_frames, np.nan)
        self.sources: Counter[str] = Counter()
        self.last: Forecast | None = None
        self._client, self._clock = client, clock
        self._due_at = np.zeros(num_frames)
        self._moment_of: dict[int, int] = {}  # of frames that are not answered, by index

    def send(self, moment: int, frame: Frame, late_s: float) -> None:
        assert frame.index is not None
        self._moment_of[frame.index] = moment
        self._due_at[moment] = self._clock() - late_s
        self._client.send(frame)

    def receive(self, timeout_s: float) -> None:
        forecast = self._client.receive(timeout_s)
        if forecast is None or forecast.index is None:
            return
        moment = self._moment_of.pop(forecast.index, None)
        if moment is not None:
            self.latencies_ms[moment] = 1e3 * (self._clock() - self._due_at[moment])
            self.sources[forecast.source] += 1
            self.last = forecast

    def wait_for(self, moment: int) -> bool:
        """Receives until a frame is answered, or takes too long; whether it was."""
        deadline = self._clock() + REPLY_S
        while np.isnan(self.latencies_ms[moment]) and self._clock() < deadline:
            self.receive(0.1)
        return bool(np.isfinite(self.latencies_ms[moment]))
