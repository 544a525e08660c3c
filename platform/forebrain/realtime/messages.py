"""The messages between a recording rig and a forecaster: msgpack maps of plain values, checked on arrival.

    frame       {"v": 1, "frame": bytes, "dtype": "<f4", "index": int?, "time_s": float?, "sender": text?,
                 "names": hash?, "units": [name]?, "quantiles": [level]?, "inputs": bytes?, "plan": bytes?,
                 "plan_shape": [L, D]?, "input_names": [name]?, "plan_names": [name]?}
    question    {"v": 1, "ask": "status" | "describe" | "reset", "sender": text?}
                {"v": 1, "ask": "what_if" | "effect", "plans": bytes, "shape": [K, H, D],
                 "plan_names": [name]?, "quantiles": [level]?}
    forecast    {"v": 1, "forecast": bytes, "shape": [H, N], "index": int?, "time_s": float?, "made_at": int?,
                 "made_at_s": float?, "source": name, "score": float?, "drift": bool, "rate_differs": bool,
                 "step_ms": float, "quantiles": bytes?, "levels": [level]?, "knows": name,
                 "extrapolates": [name]}
    answer      {"v": 1, "answer": {name: value}}
    error       {"v": 1, "error": text, "expects": "units"?}

A sender that named its units says by which names each frame is to be read: `names` is their `hash_of_names`.
Where the forecaster does not hold those it expects `units`, and nothing is read in another order.

Arrays are little-endian float32 (a frame may be float64, "<f8"); quantiles, where they were asked for, are
[H, N, Q]. Inputs are [D] of the frame, a plan [L, D] of the frames after it, in the order in which
`describe` names them, or in that of `input_names` and `plan_names`, which then name each of them. A message
comes from anybody who reaches the address: it is data, of a bounded size, and nothing in it is ever run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgpack
import numpy as np

from forebrain.errors import ConfigError, FrameError
from forebrain.realtime.names import UntoldNamesError, hash_of_names
from forebrain.scoring.quantiles import LEVELS, require_levels

VERSION = 1
QUESTIONS = ("status", "describe", "reset", "what_if", "effect")
# That bring plans.
ABOUT_PLANS = ("what_if", "effect")
MAX_NAME_BYTES = 256
MAX_SENDER = 64  # characters
# Of one question: each costs a forecast, and frames wait meanwhile.
MAX_PLANS = 64
OVERHEAD_BYTES = 4096


@dataclass(eq=False)
class Frame:
    """A frame on its way to the forecaster.

    Attributes:
        values: [N].
        index: of the frame in the stream, None where the sender does not count.
        time_s: when it was taken, None where not known.
        units: names of the values, only where they have changed; none at all for all in order again.
        names: `hash_of_names` of the names that the values have; None of a sender that names none, or says
            so nowhere but in `units`.
        quantiles: levels of the forecast that are asked for besides the points; None for what the forecaster
            gives unasked.
        inputs: [D], what was done at this frame; None where it is not known.
        plan: [L, D], what will be done at the frames after it; None for what is queued.
        is_new: the transport brings no frame twice, so that one of the newest frame's time is another frame.
        sender: a text of its sender's own; None where it is known by its connection alone.
        input_names, plan_names: of the D inputs, in the order of `inputs` and of `plan`; None where that is
            the forecaster's.
    """

    values: np.ndarray
    index: int | None = None
    time_s: float | None = None
    units: tuple[str, ...] | None = None
    quantiles: tuple[float, ...] | None = None
    inputs: np.ndarray | None = None
    plan: np.ndarray | None = None
    is_new: bool = False
    names: str | None = None
    sender: str | None = None
    input_names: tuple[str, ...] | None = None
    plan_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Question:
    """A question that a client asks: one of `QUESTIONS`.

    Attributes:
        ask: which.
        plans: of ABOUT_PLANS, [K, H, D].
        quantiles: of these, the levels that are asked for in place of points.
        sender, plan_names: as of a frame.
    """

    ask: str
    plans: np.ndarray | None = field(default=None, compare=False)
    quantiles: tuple[float, ...] | None = None
    sender: str | None = None
    plan_names: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Forecast:
    """A forecast on its way back.

    Attributes:
        values: float32 [H, N] in the frame's units.
        index, time_s: those of the frame that it answers.
        source: `model`, `warm-up` or `copy`; `late` or `repeated` where the frame changed nothing, and this
            is the newest forecast once more. See `LiveForecaster.step`.
        score: rolling score against copy, None where not defined yet.
        drift: whether the stream has left what the interface was fitted on.
        step_ms: from the frame's arrival to the forecast, without the way.
        made_at, made_at_s: index and time of the frame that it was made at: the newest that came. Another
            than `index` only of a late or repeated frame; counted where the sender does not count.
        rate_differs: whether frames come at another rate than the model expects.
        quantiles: float32 [H, N, Q] at `levels`; None where nobody asked.
        knows: of inputs: `none`, `past` or `plan`.
        extrapolates: inputs that the plan takes out of the range that they had in the recording.
    """

    values: np.ndarray
    index: int | None
    time_s: float | None
    source: str
    score: float | None
    drift: bool
    step_ms: float
    made_at: int | None = None
    made_at_s: float | None = None
    rate_differs: bool = False
    quantiles: np.ndarray | None = None
    levels: tuple[float, ...] | None = None
    knows: str = "none"
    extrapolates: tuple[str, ...] = ()


def max_frame_bytes(num_values: int, planned: int = 0) -> int:
    """No honest frame of so many values is larger, with a name for each and so many planned values."""
    return num_values * (8 + MAX_NAME_BYTES + 5) + 4 * planned + OVERHEAD_BYTES


def encode_frame(frame: Frame, said: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """A frame as it travels, with what its sender says of itself; what it does not say is left out."""
    message: dict[str, Any] = {"v": VERSION, "frame": _little(frame.values), "dtype": "<f4", **said}
    if frame.index is not None:
        message["index"] = frame.index
    if frame.time_s is not None:
        message["time_s"] = frame.time_s
    if frame.sender is not None:
        message["sender"] = frame.sender
    if frame.names is not None:
        message["names"] = frame.names
    if frame.units is not None:
        message["units"] = list(frame.units)
    if frame.quantiles is not None:
        message["quantiles"] = list(frame.quantiles)
    for name in ("inputs", "plan"):
        if (values := getattr(frame, name)) is not None:
            message[name] = _little(np.asarray(values))
    for name in ("input_names", "plan_names"):
        if (given := getattr(frame, name)) is not None:
            message[name] = list(given)
    if frame.plan is not None and np.ndim(frame.plan) == 2:
        message["plan_shape"] = list(np.shape(frame.plan))
    return msgpack.packb(message)


def decode_request(data: bytes | memoryview) -> Frame | Question:
    """The frame or question that came over the network.

    Raises:
        FrameError: it is neither a frame nor a question.
    """
    message = _unpacked(data)
    sender = _text(message, "sender")
    if "ask" in message:
        ask = message["ask"]
        if ask not in QUESTIONS:
            raise FrameError(f"the question is {ask!r:.60}; expected one of {', '.join(QUESTIONS)}.")
        if ask not in ABOUT_PLANS:
            return Question(ask, sender=sender)
        levels, plan_names = _levels(message.get("quantiles")), _named_inputs(message, "plan_names")
        return Question(ask, _plans(message), levels, sender, plan_names)
    values, dtype = message.get("frame"), message.get("dtype", "<f4")
    if not isinstance(values, bytes) or dtype not in ("<f4", "<f8"):
        raise FrameError("the message holds no frame: expected bytes under 'frame', of dtype <f4 or <f8.")
    if len(values) % int(dtype[-1]):
        raise FrameError(f"the frame has {len(values)} bytes; expected {dtype[-1]} for each value.")
    units, names = _names(message, sender)
    return Frame(
        np.frombuffer(values, dtype),
        _optional(message, "index", int),
        _optional(message, "time_s", float),
        units,
        _levels(message.get("quantiles")),
        _floats(message, "inputs"),
        _plan(message),
        names=names,
        sender=sender,
        input_names=_named_inputs(message, "input_names"),
        plan_names=_named_inputs(message, "plan_names"),
    )


def encode_question(question: Question) -> bytes:
    """A question as it travels."""
    message: dict[str, Any] = {"v": VERSION, "ask": question.ask}
    if question.plans is not None:
        message |= {"plans": _little(question.plans), "shape": list(question.plans.shape)}
    if question.quantiles is not None:
        message["quantiles"] = list(question.quantiles)
    if question.plan_names is not None:
        message["plan_names"] = list(question.plan_names)
    if question.sender is not None:
        message["sender"] = question.sender
    return msgpack.packb(message)


def encode_forecast(forecast: Forecast) -> bytes:
    """A forecast as it travels; quantiles are left out where nobody asked for them."""
    message: dict[str, Any] = {
        "v": VERSION,
        "forecast": _little(forecast.values),
        "shape": list(forecast.values.shape),
        "index": forecast.index,
        "time_s": forecast.time_s,
        "source": forecast.source,
        "score": forecast.score,
        "drift": forecast.drift,
        "step_ms": forecast.step_ms,
        "made_at": forecast.made_at,
        "made_at_s": forecast.made_at_s,
        "rate_differs": forecast.rate_differs,
        "knows": forecast.knows,
        "extrapolates": list(forecast.extrapolates),
    }
    if forecast.quantiles is not None:
        message |= {"quantiles": _little(forecast.quantiles), "levels": list(forecast.levels or ())}
    return msgpack.packb(message)


def encode_answer(answer: dict[str, Any]) -> bytes:
    return msgpack.packb({"v": VERSION, "answer": answer})


def encode_error(error: FrameError) -> bytes:
    """A refusal as it travels, with what would have the frame be taken."""
    expects = {"expects": "units"} if isinstance(error, UntoldNamesError) else {}
    return msgpack.packb({"v": VERSION, "error": str(error), **expects})


def decode_reply(data: bytes | memoryview) -> Forecast | dict[str, Any]:
    """A forecast, or the answer to a question.

    Raises:
        FrameError: the forecaster refused the frame, or the message is none of its.
        UntoldNamesError: it refused the frame for now, until it is told the names of its values.
    """
    message = _unpacked(data)
    if "error" in message:
        kind = UntoldNamesError if message.get("expects") == "units" else FrameError
        raise kind(str(message["error"]))
    if isinstance(message.get("answer"), dict):
        return message["answer"]
    try:
        shape = tuple(message["shape"])
        values = np.frombuffer(message["forecast"], "<f4").reshape(shape)
        known = {name: message[name] for name in _FORECAST_FIELDS}
        newer: dict[str, Any] = {name: message[name] for name in _NEWER_FIELDS if name in message}
        newer["extrapolates"] = tuple(message.get("extrapolates", ()))
        if "quantiles" in message:
            newer["levels"] = tuple(message["levels"])
            newer["quantiles"] = np.frombuffer(message["quantiles"], "<f4").reshape(*shape, -1)
        return Forecast(values, **known, **newer)
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError(f"the message is no forecast ({error}); is the address a forecaster's?") from error


_FORECAST_FIELDS = ("index", "time_s", "source", "score", "drift", "step_ms")
_NEWER_FIELDS = ("made_at", "made_at_s", "rate_differs", "knows")  # which older forecasters do not send


def _unpacked(data: bytes | memoryview) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(data, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, RecursionError) as error:  # msgpack's own errors are ValueErrors
        raise FrameError(f"the message is not msgpack ({error!r:.80}); expected a map.") from error
    if not isinstance(message, dict) or message.get("v") != VERSION:
        raise FrameError(f"the message is no map with 'v': {VERSION}; see docs/live.md for the format.")
    return message


def _optional(message: dict[str, Any], name: str, kind: type) -> Any:
    value = message.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise FrameError(f"the frame's {name} is {value!r:.60}; expected a number.")
    return kind(value)


def _floats(message: dict[str, Any], name: str) -> np.ndarray | None:
    """Little-endian float32 values under a name, flat; None where there are none."""
    data = message.get(name)
    if data is None:
        return None
    if not isinstance(data, bytes) or len(data) % 4:
        raise FrameError(f"the frame's {name} are no bytes of <f4 values.")
    return np.frombuffer(data, "<f4")


def _named_inputs(message: dict[str, Any], name: str) -> tuple[str, ...] | None:
    names = message.get(name)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise FrameError(f"the message's {name} are not a list of names.")
    if len(set(names)) < len(names):
        raise FrameError(f"the message's {name} name an input twice; expected each once.")
    return tuple(names)


def _plan(message: dict[str, Any]) -> np.ndarray | None:
    """Flat where the message does not tell its shape, as those of earlier senders."""
    plan, shape = _floats(message, "plan"), message.get("plan_shape")
    if plan is None or shape is None:
        return plan
    is_shape = isinstance(shape, list) and [type(each) for each in shape] == [int] * 2 and min(shape) > 0
    if not is_shape or math.prod(shape) != plan.size:
        raise FrameError(f"the plan has {plan.size} values and shape {shape!r:.60}; expected [L, D].")
    return plan.reshape(shape)


def _plans(message: dict[str, Any]) -> np.ndarray:
    plans, shape = _floats(message, "plans"), message.get("shape")
    fits = isinstance(shape, list) and [type(each) for each in shape] == [int] * 3 and min(shape) > 0
    if plans is None or not isinstance(shape, list) or not fits or math.prod(shape) != plans.size:
        raise FrameError(
            f"the question {message['ask']} brings no plans; expected bytes of <f4 and a shape [K, H, D]."
        )
    require_few(shape[0])
    return plans.reshape(shape)


def require_few(num_plans: int) -> None:
    """Raises FrameError where a question brings more than MAX_PLANS plans."""
    if num_plans > MAX_PLANS:
        raise FrameError(
            f"{num_plans} plans are asked about at once; expected at most {MAX_PLANS}. Ask several times."
        )


def _text(message: dict[str, Any], name: str) -> str | None:
    text = message.get(name)
    if text is None or (isinstance(text, str) and 0 < len(text) <= MAX_SENDER):
        return text
    raise FrameError(f"the message's {name} is {text!r:.60}; expected 1 to {MAX_SENDER} characters.")


def _names(message: dict[str, Any], sender: str | None) -> tuple[tuple[str, ...] | None, str | None]:
    """The names of the values where the message tells them, and their hash. A sender that says who it is also
    says by which names each frame is read: one without any is in order."""
    units, names = message.get("units"), _text(message, "names")
    if units is None:
        return (() if sender is not None and names is None else None), names
    if not isinstance(units, list) or not all(isinstance(name, str) for name in units):
        raise FrameError("the frame's units are not a list of names.")
    must_say = names is not None or (sender is not None and units)
    expected = hash_of_names(units) if must_say and units else None
    if names != expected:
        raise FrameError(
            f"the frame's units come with names {names!r}; expected {expected!r}, the hash of these units, "
            "in this frame and in all after it until they change. See docs/live.md."
        )
    return tuple(units), names


def _levels(levels: Any) -> tuple[float, ...] | None:
    if levels is None:
        return None
    if not isinstance(levels, list) or not all(isinstance(level, int | float) for level in levels):
        raise FrameError("the quantiles are not a list of numbers.")
    if len(levels) > len(LEVELS):
        raise FrameError(f"{len(levels)} quantiles are asked for; expected at most {len(LEVELS)}.")
    try:
        return require_levels(levels)
    except ConfigError as error:
        raise FrameError(str(error)) from error


def _little(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()
