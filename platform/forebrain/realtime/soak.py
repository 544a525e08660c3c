"""A long run with everything that can be wrong with a stream: does memory grow, does the clock drift?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from forebrain.errors import ConfigError, FrameError
from forebrain.realtime.forecaster import LiveForecaster
from forebrain.realtime.messages import (
    Forecast,
    Frame,
    Question,
    decode_reply,
    decode_request,
    encode_forecast,
    encode_frame,
)
from forebrain.realtime.pacing import Pacer
from forebrain.realtime.pictures import Pictures
from forebrain.realtime.server import serve
from forebrain.realtime.state import StateFile

SETTLED_PART = 0.1  # of the frames; what memory has grown to by then is what the program needs
NUM_CHECKS = 100
BURST = 50  # frames that come faster than they can be forecast, after as many that do not


@dataclass(frozen=True)
class SoakConfig:
    """How long to run, and what is too much.

    Attributes:
        frames: to send.
        rate_hz: frames a second; 0 sends each as soon as the last is answered.
        max_growth_mb: memory may grow by this after the first tenth of the frames, MiB.
        seed: of the frames and their faults.
    """

    frames: int = 1_000_000
    rate_hz: float = 0.0
    max_growth_mb: float = 16.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 1000:
            raise ConfigError(f"frames is {self.frames}; expected 1,000 or more, so that memory can settle.")


@dataclass(frozen=True)
class Soaked:
    """The result of a soak.

    Attributes:
        frames: sent, faulty ones included.
        growth_bytes: of the process's memory after the first tenth.
        rss_bytes: of the process at the end.
        last_late_s, worst_late_s: how much later than its time the last frame was sent, and the latest one;
            0 where frames are not paced.
        status: of the forecaster.
    """

    frames: int
    growth_bytes: int
    rss_bytes: int
    last_late_s: float
    worst_late_s: float
    status: dict[str, Any]


def soak(live: LiveForecaster, config: SoakConfig, state: StateFile | None = None) -> Soaked:
    """Sends frames through messages, the server's loop, the forecaster and pictures, in one process."""
    rig = _Rig(live.num_units, config)
    pictures = Pictures(live, lambda picture: None)
    serve(live, rig, lambda: rig.is_done, lambda live: None, [pictures], state)
    resident = np.array(rig.resident_bytes)
    settled = resident[: int(SETTLED_PART * NUM_CHECKS)].max()
    return Soaked(
        frames=rig.sent,
        growth_bytes=int(resident.max() - settled),
        rss_bytes=int(resident[-1]),
        last_late_s=rig.last_late_s,
        worst_late_s=rig.worst_late_s,
        status=live.status(),
    )


class _Rig:
    """A port that makes its frames up: mostly good ones, one fault in twenty, half of them in bursts."""

    def __init__(self, num_units: int, config: SoakConfig) -> None:
        self.sent = 0
        self.resident_bytes: list[int] = []
        self.last_late_s = self.worst_late_s = 0.0
        self._config = config
        self._frames = _faulty_frames(num_units, config.seed)
        self._process = psutil.Process()
        self._pacer = Pacer(1 / config.rate_hz) if config.rate_hz else None

    @property
    def is_done(self) -> bool:
        return self.sent == self._config.frames

    def receive(self, timeout_s: float) -> Frame | Question | None:
        if self._pacer is not None:
            self._pacer.wait(self.sent)
            self.last_late_s = -self._pacer.remaining_s(self.sent)
            self.worst_late_s = max(self.worst_late_s, self.last_late_s)
        self.sent += 1
        if self.sent % (self._config.frames // NUM_CHECKS) == 0:
            self.resident_bytes.append(self._process.memory_info().rss)
        return decode_request(encode_frame(next(self._frames)))

    def is_behind(self) -> bool:
        return self.sent % (2 * BURST) < BURST and not self.is_done

    def send(self, forecast: Forecast) -> None:
        decode_reply(encode_forecast(forecast))

    def answer(self, answer: dict[str, Any]) -> None: ...

    def refuse(self, error: FrameError) -> None: ...

    def close(self) -> None: ...


def _faulty_frames(num_units: int, seed: int) -> Iterator[Frame]:
    rng = np.random.default_rng(seed)
    values = np.zeros(num_units, np.float32)
    index = 0
    for number in itertools.count():
        values = 0.95 * values + 0.3 * rng.standard_normal(num_units, np.float32)
        fault = number % 20 == 0 and rng.integers(6)
        if fault == 1:
            values[rng.integers(num_units)] = np.nan
        elif fault == 2:
            index += int(rng.integers(1, 4))  # missing
        elif fault == 3 and number % 500 == 0:
            index += 100  # a gap
        shown = index - 2 if fault == 4 else index - 1 if fault == 5 else index  # late, repeated
        yield Frame(values, max(0, shown))
        index += shown == index
        np.nan_to_num(values, copy=False)
