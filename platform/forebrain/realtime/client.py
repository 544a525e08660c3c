"""A rig's side in Python: frames out, forecasts back, and nothing waits for ever. Needs the extra `live`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from forebrain.errors import ConfigError
from forebrain.realtime.messages import Forecast, Frame, Question

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
        quantiles: Sequence[float] | None = None,
        inputs: Any = None,
        plan: Any = None,
    ) -> Forecast:
        """Sends a frame and returns its forecast; see `LiveForecaster.step`.

        Args:
            frame, index, time_s, units: as there.
            quantiles: levels to have besides the points, as `Forecast.quantiles` [H, N, Q].
            inputs, plan: as there; `describe()["inputs"]` names them.

        Raises:
            FrameError: the frame was refused; nothing changed.
            NoAnswerError: no answer came in time; whether the frame was taken in is not known.
        """
        names = None if units is None else tuple(units)
        levels = None if quantiles is None else tuple(quantiles)
        given, planned = (None if each is None else np.asarray(each, np.float32) for each in (inputs, plan))
        sent = Frame(np.asarray(frame), index, time_s, names, levels, given, planned)
        return self._requests.step(sent, self.timeout_s)

    def what_if(self, plans: Any, quantiles: Sequence[float] | None = None) -> np.ndarray:
        """The forecasts from the newest frame under plans, one after another: nothing changes.

        Args:
            plans: [K, H, D], as `describe` names their inputs.
            quantiles: levels of quantiles of what will come; None for points.

        Returns:
            float32 [K, H, N], with quantiles [K, H, N, Q].

        Raises:
            FrameError: it cannot be told, or a plan does not fit.
            NoAnswerError: no answer came in time.
        """
        return self._about_plans("what_if", plans, quantiles)

    def effect(self, plans: Any, quantiles: Sequence[float] | None = None) -> np.ndarray:
        """The differences that plans make to inputs that stay as they are, from the newest frame on.

        Args:
            plans: as of `what_if`.
            quantiles: levels of where the effect may truly lie, see `Adapted.effect`; None for the effect
                itself.

        Returns:
            float32 [K, H, N], with quantiles [K, H, N, Q].

        Raises:
            FrameError: it cannot be told, or a plan does not fit.
            NoAnswerError: no answer came in time.
        """
        return self._about_plans("effect", plans, quantiles)

    def _about_plans(self, ask: str, plans: Any, quantiles: Sequence[float] | None) -> np.ndarray:
        levels = None if quantiles is None else tuple(quantiles)
        answer = self._requests.ask(Question(ask, np.asarray(plans, np.float32), levels), self.timeout_s)
        return np.frombuffer(answer["forecasts"], "<f4").reshape(answer["shape"])

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
