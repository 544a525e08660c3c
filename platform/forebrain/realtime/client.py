"""A rig's side in Python: frames out, forecasts back, and nothing waits for ever. Needs the extra `live`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from forebrain.errors import ConfigError
from forebrain.realtime.messages import Forecast, Frame

try:
    from forebrain.realtime.zeromq import RequestClient
except ImportError as error:
    raise ConfigError(
        f"ZeroMQ is not there ({error}). Install forebrain with the extra `live`: pip install '.[live]'."
    ) from error

DEFAULT_ADDRESS = "tcp://127.0.0.1:5600"


class Client:
    """Sends frames to `forebrain live serve` and gets their forecasts.

        with fb.live.Client("tcp://127.0.0.1:5600") as client:
            for index, frame in enumerate(frames):
                forecast = client.step(frame, index).values  # [H, N]

    A server that is away is waited for no longer than the timeout; once it is back, the next call finds it.
    Frames that it did not take are not sent again: it counts them as missing.

    Args:
        address: the server's.
        timeout_s: how long a call waits for its answer, seconds.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, timeout_s: float = 5.0) -> None:
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s is {timeout_s}; expected more than 0.")
        self.address, self.timeout_s = address, timeout_s
        self._requests = RequestClient(address)

    def step(
        self,
        frame: np.ndarray,
        index: int | None = None,
        time_s: float | None = None,
        units: Sequence[str] | None = None,
    ) -> Forecast:
        """Sends a frame and returns its forecast; see `LiveForecaster.step`.

        Raises:
            FrameError: the frame was refused; nothing changed.
            NoAnswerError: no answer came in time; whether the frame was taken in is not known.
        """
        names = None if units is None else tuple(units)
        return self._requests.step(Frame(np.asarray(frame), index, time_s, names), self.timeout_s)

    def describe(self) -> dict[str, Any]:
        """The description of what the forecaster expects: units and their names, context, horizon, rates.

        Raises:
            NoAnswerError: no answer came in time.
        """
        return self._ask("describe")

    def status(self) -> dict[str, Any]:
        """The status so far: counts, rolling score, drift, rate.

        Raises:
            NoAnswerError: no answer came in time.
        """
        return self._ask("status")

    def reset(self) -> dict[str, Any]:
        """Begins a new run, such as after a pause: the next frame is the first. Returns the status.

        Raises:
            NoAnswerError: no answer came in time.
        """
        return self._ask("reset")

    def close(self) -> None:
        """Closes the connection; the server goes on."""
        self._requests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, question: str) -> dict[str, Any]:
        return self._requests.ask(question, self.timeout_s)
