"""A rig's side in Python: frames out, forecasts back, and nothing waits for ever. Needs the extra `live`."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np

from forebrain.errors import AdaptationError, ConfigError, FrameError
from forebrain.realtime.arrivals import MAX_INDEX
from forebrain.realtime.messages import Forecast, Frame, Question, require_few
from forebrain.sessions.arrays import column_names, with_names
from forebrain.sessions.inputs import in_order

try:
    from forebrain.realtime.zeromq import RequestClient
except ImportError as error:
    raise ConfigError(
        f"ZeroMQ is not there ({error}). Install forebrain with the extra `live`: pip install '.[live]'."
    ) from error

DEFAULT_ADDRESS = "tcp://127.0.0.1:5600"
MOST_TIMEOUT_S = 86_400


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
        ConfigError: the address is none, or the timeout no number of seconds from above 0 to a day.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, timeout_s: float = 5.0) -> None:
        if not isinstance(address, str):
            raise ConfigError(f"{address!r:.60} is no address; expected one such as {DEFAULT_ADDRESS}.")
        given: Any = timeout_s  # to mypy no float is Real
        if isinstance(given, bool) or not isinstance(given, Real):
            raise ConfigError(f"timeout_s is {timeout_s!r:.60}; expected seconds, a number.")
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s is {timeout_s}; expected more than 0.")
        if timeout_s > MOST_TIMEOUT_S:
            raise ConfigError(f"timeout_s is {timeout_s}; expected at most {MOST_TIMEOUT_S:g}, a day.")
        self.address, self.timeout_s = address, timeout_s
        self._requests = RequestClient(address)
        self._is_labelled = False  # the newest frame, by what pandas or xarray call its values

    def step(
        self,
        frame: Any,
        index: int | None = None,
        time_s: float | None = None,
        units: Sequence[str] | None = None,
        quantiles: Sequence[float] | None = None,
        inputs: Any = None,
        plan: Any = None,
    ) -> Forecast:
        """Sends a frame and returns its forecast; see `LiveForecaster.step`.

        Args:
            frame, index, time_s, units: as there, with what pandas or xarray call the values. Each frame says
                by which names it is to be read: a server that does not hold them, such as one that was
                started again, asks for them and is told.
            quantiles: levels to have besides the points, as `Forecast.quantiles` [H, N, Q].
            inputs, plan: as there, by name too; arrays are in the order of `describe()["inputs"]`.

        Raises:
            FrameError: the frame was refused; nothing changed.
            NoAnswerError: no answer came in time; whether the frame was taken in is not known.
        """
        sent = Frame(
            _numbers(frame, "the frame", "iuf", (1,))[0], _index(index), _seconds(time_s),
            quantiles=None if quantiles is None else tuple(quantiles),
        )  # fmt: skip
        if inputs is not None:
            sent.inputs, sent.input_names = _numbers(inputs, "the frame's inputs", "biuf", (0, 1))
        if plan is not None:
            sent.plan, sent.plan_names = _plan(plan, "the plan")
        sent.units = self._units(frame, units)
        return self._requests.step(sent, self.timeout_s)

    def _units(self, frame: Any, units: Sequence[str] | None) -> tuple[str, ...] | None:
        """The names to tell: labels are of their frame alone."""
        told = None if units is None else _names(units)
        labels = column_names(frame) if told is None else None
        was_labelled, self._is_labelled = self._is_labelled, labels is not None
        if labels is not None:
            return None if self._requests.names == tuple(labels) else tuple(labels)
        return () if told is None and was_labelled else told

    def what_if(self, plans: Any, quantiles: Sequence[float] | None = None) -> np.ndarray:
        """The forecasts from the newest frame under plans, one after another: nothing changes.

        Args:
            plans: K of them, 64 at most: [K, H, D], or each [H, D] or by name, as of `step`.
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
        values, names = _plans(plans)
        answer = self._requests.ask(Question(ask, values, levels, plan_names=names), self.timeout_s)
        return np.frombuffer(answer["forecasts"], "<f4").reshape(answer["shape"])

    def describe(self) -> dict[str, Any]:
        """The description of the forecaster and what it expects: its model, and the animal and session that
        it was adapted to; units and their names, context, horizon, rates.

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
        """Begins a new run, such as after a pause: the next frame is the first. Names that a sender gave its
        values stay. Returns the status.

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


def _plans(plans: Any) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """[K, H, D], and the names of their inputs where they have some. Raises FrameError."""
    if isinstance(plans, np.ndarray) or not isinstance(plans, Iterable) or hasattr(plans, "keys"):
        array, names = _numbers(plans, "plans", "biuf", (3,))
        require_few(len(array))  # the server cuts off whoever sends more than it ever takes
        return array, names
    each = list(plans)
    require_few(len(each))
    found = [_plan(plan, f"plan {number}") for number, plan in enumerate(each)]
    if not found:
        raise FrameError("plans: there is none; expected one or more.")
    names = found[0][1]
    if any((others is None) != (names is None) for _, others in found):
        raise FrameError("plans: some name their inputs and others do not; expected names in each, or none.")
    if len({len(values) for values, _ in found}) > 1:
        raise FrameError("plans: they differ in length; expected as many frames in each.")
    try:
        values = found if names is None else [(in_order(plan, names, 2, "a plan"), names) for plan in each]
        return np.stack([array for array, _ in values]), names
    except (AdaptationError, ValueError) as error:
        raise FrameError(f"plans: {error}") from error


def _plan(plan: Any, what: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """[L, D], and the names of its inputs where it has some. Raises FrameError."""
    values, names = _numbers(plan, what, "biuf", (1, 2))
    # Of a single input, as in process: the forecaster refuses it where there are more.
    return (values[:, None], None) if values.ndim == 1 else (values, names)


def _numbers(
    values: Any, what: str, kinds: str, axes: tuple[int, ...]
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """An array of numbers with so many axes, and the names along the last one. Raises FrameError."""
    try:
        array, names = with_names(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FrameError(f"{what}: no array can be made of it ({error}).") from error
    if array.dtype.kind not in kinds:
        raise FrameError(f"{what}: holds values of type {array.dtype}; expected real numbers.")
    if axes == (1,) and array.ndim == 2 and len(array) == 1:  # a row, as MATLAB has them
        array = array[0]
    if array.ndim not in axes:
        raise FrameError(f"{what}: has shape {array.shape}; expected {' or '.join(map(str, axes))} axes.")
    return array, None if names is None else tuple(names)


def _names(units: Sequence[str]) -> tuple[str, ...]:
    names = tuple(units)
    if not all(isinstance(name, str) for name in names):
        raise FrameError(f"the frame's units are {names!r:.60}; expected names.")
    return names


def _index(index: Any) -> int | None:
    """A whole number, NumPy's too, as Python's. Raises FrameError."""
    if index is None:
        return None
    try:
        number = operator.index(index)
    except TypeError as error:
        raise FrameError(f"the frame's index is {index!r:.60}; expected a whole number.") from error
    if isinstance(index, bool):
        raise FrameError(f"the frame's index is {index}; expected a whole number.")
    if not 0 <= number < MAX_INDEX:
        raise FrameError(f"the frame's index is {number}; expected 0 or more and below 2^62.")
    return number


def _seconds(time_s: Any) -> float | None:
    """A real number, NumPy's too, as Python's. Raises FrameError."""
    if time_s is None or isinstance(time_s, Real):
        return None if time_s is None else float(time_s)
    raise FrameError(f"the frame's time is {time_s!r:.60}; expected seconds, a number.")
