"""Forecasts of one animal that know what was done to it, and what will be.

Three forecasts stand side by side. The adaptation's own stack sees the activity alone. The heads of the
*past* stack read the inputs so far besides. Under a *plan* each unit's response to the inputs is taken off
the context, a stack of its own forecasts the rest, and the response to past and plan is put back (see
`scoring.response`). The past and the plan are kept only where blocks of time of the training and validation
part are forecast better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from forebrain.errors import AdaptationError, ConfigError
from forebrain.scoring.baselines import LinearBaseline
from forebrain.scoring.evaluate import Forecaster, fit_linear
from forebrain.scoring.gram import FeatureBlock
from forebrain.scoring.inputs import InputFeatures, InputSource
from forebrain.scoring.response import BLOCK, Response, RestWindows, fit_response, past_features
from forebrain.scoring.stack import Stack, StackFit, fit_stack
from forebrain.sessions.inputs import Input

# What a plan may say in place of values: the inputs stay as they are at the last frame.
HOLD = "hold"
Known = Literal["none", "past", "plan"]
KNOWN: Mapping[Known, str] = {
    "none": "the activity alone",
    "past": "the inputs so far",
    "plan": "the inputs so far and the plan",
}


@dataclass(frozen=True, eq=False)
class InputStacks:
    """Forecasts that know inputs.

    Attributes:
        inputs: the channels, in the order of arrays of them.
        features: of all inputs so far.
        past: the stack whose heads read these; None where they did not help.
        response: of the units to the inputs that can be planned; None where it did not help.
        plan: the stack of what the response leaves; None without a response.
    """

    inputs: tuple[Input, ...]
    features: InputFeatures
    past: Stack | None
    response: Response | None
    plan: Stack | None

    @property
    def names(self) -> tuple[str, ...]:
        """The channels' names."""
        return tuple(each.name for each in self.inputs)

    def frames_before(self, context: int) -> int:
        """Frames of inputs up to the last of a context that a forecast reads at most."""
        before = self.features.before
        if self.response is not None:
            before = max(before, self.response.features.before + context - 1)
        return before

    def known(self, wanted: Known) -> Known:
        """What a forecast knows that should know this much: less, where more did not help."""
        if wanted == "plan" and self.plan is None:
            wanted = "past"
        return "none" if wanted == "past" and self.past is None else wanted

    def forecast(
        self, context: np.ndarray, model: Forecaster, past: np.ndarray, plan: np.ndarray | None
    ) -> np.ndarray:
        """Forecasts that know the inputs so far, and a plan where there is one.

        Args:
            context: float32 [B, C, N], normalised.
            model: of the backbone, (session, context) -> [B, H, N].
            past: float32 [B, `frames_before(C)`, D], up to the last frame of the context.
            plan: float32 [B, H, D]; of inputs that cannot be planned it is not read.

        Returns:
            float32 [B, H, N].
        """
        if plan is not None and self.plan is not None:
            response = self.responses(context.shape[1], past, plan)
            rest = context - response[:, : context.shape[1]]
            return self.plan.forecast(rest, model(0, rest)) + response[:, context.shape[1] :]
        if self.past is None:
            raise ConfigError("neither the past of the inputs nor a plan helps; forecast without them.")
        seen = self._columns(past[:, past.shape[1] - self.features.before :], self.features)
        return self.past.forecast(
            context, model(0, context), [FeatureBlock(BLOCK, self.features(seen)[:, 0])]
        )

    def responses(self, context: int, past: np.ndarray, plan: np.ndarray) -> np.ndarray:
        """float32 [B, C + H, N]: the units' response over contexts of C frames and a horizon under a plan."""
        assert self.response is not None
        features = self.response.features
        needed = features.before + context - 1
        inputs = np.concatenate([past[:, past.shape[1] - needed :], plan], axis=1)
        return self.response(self._columns(inputs, features))

    def outside(self, plan: np.ndarray) -> list[str]:
        """Names of the inputs that a plan [..., D] takes out of the range that they had in training."""
        if self.response is None:
            return []
        return self.response.features.outside(self._columns(plan, self.response.features))

    def _columns(self, inputs: np.ndarray, features: InputFeatures) -> np.ndarray:
        names = self.names
        if features.channels == names:
            return inputs
        return inputs[..., [names.index(name) for name in features.channels]]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything but `record`, for a safetensors file."""
        arrays = {f"features.{name}": values for name, values in self.features.arrays().items()}
        parts = {"past": self.past, "response": self.response, "plan": self.plan}
        for name, part in parts.items():
            if part is not None:
                arrays |= {f"{name}.{key}": values for key, values in part.arrays().items()}
        return {name: np.ascontiguousarray(values) for name, values in arrays.items()}

    def record(self) -> dict[str, Any]:
        """The plain part, JSON-able."""
        return {
            "inputs": [
                {
                    "name": each.name,
                    "kind": each.kind,
                    "unit": each.unit,
                    "can_be_planned": each.can_be_planned,
                }
                for each in self.inputs
            ],
            "features": self.features.record(),
            "response": None if self.response is None else self.response.features.record(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], where: str) -> Self:
        """What `arrays` and `record` were made of; its forecasts have the same bits.

        Raises:
            ConfigError: something is missing or does not fit.
        """

        def part(name: str) -> dict[str, np.ndarray]:
            prefix = f"{name}."
            return {
                key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)
            }

        try:
            inputs = tuple(Input(**each) for each in record["inputs"])
            features, response = record["features"], record["response"]
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{where}: the record of its inputs is damaged ({error!r:.80}).") from error
        past, plan = part("past"), part("plan")
        if (response is None) != (not plan):
            raise ConfigError(f"{where}: the response to inputs and its stack do not belong together.")
        return cls(
            inputs,
            InputFeatures.from_arrays(part("features"), features, where),
            Stack.from_arrays(past, where) if past else None,
            None if response is None else Response.from_arrays(part("response"), response, where),
            Stack.from_arrays(plan, where) if plan else None,
        )


@dataclass(frozen=True, eq=False)
class InputFit:
    """Forecasts that know inputs, and how they came about.

    Attributes:
        stacks: None where no input changes in the training part.
        record: plain and JSON-able.
    """

    stacks: InputStacks | None
    record: Mapping[str, Any]


def fit_inputs(
    source: InputSource,
    inputs: Sequence[Input],
    linear: LinearBaseline,
    model: Forecaster | None,
    without: StackFit,
) -> InputFit:
    """Fits the forecasts that know inputs, and keeps what forecasts blocks of time better.

    Args:
        source: of one recording's windows; the test part is never read.
        inputs: to know.
        linear: fitted on the training part.
        model: (session, context [B, C, N]) -> [B, H, N]; None for heads on the last frame, not stacked.
        without: the stack that knows the activity alone.
    """
    features = InputFeatures.of_source(source, [each.name for each in inputs])
    if features is None:
        return InputFit(None, {"reason": "no input changes in the training part"})
    channels = tuple(each for each in inputs if each.name in features.channels)
    is_alone = model is None
    past = fit_stack(source, linear, model, more=past_features(source, features), alone=is_alone)
    best = without.squared_error
    record: dict[str, Any] = {
        "inputs": list(features.channels),
        "squared_error": {"none": _plain(best), "past": _plain(past.squared_error)},
    }
    keeps_past = past.squared_error < best
    best = min(best, past.squared_error) if keeps_past else best
    planned = [each.name for each in channels if each.can_be_planned]
    fit = fit_response(source, planned)
    record["response"] = fit.record()
    response = plan = None
    if fit.response is not None:
        rest = RestWindows(source, fit)
        rest_linear = fit_linear(rest).solve()
        rest_fit = fit_stack(rest, rest_linear, model, alone=is_alone)
        record["squared_error"]["plan"] = _plain(rest_fit.squared_error)
        if rest_fit.squared_error < best:
            response, plan = fit.response, rest_fit.stack
    record["kept"] = [name for name, kept in (("past", keeps_past), ("plan", plan is not None)) if kept]
    stacks = InputStacks(channels, features, past.stack if keeps_past else None, response, plan)
    return InputFit(stacks, record)


@dataclass(frozen=True, eq=False)
class InputForecaster:
    """Forecasts windows with what a source says of their inputs, for the scorer.

    Attributes:
        stacks: that know them.
        stack: that does not, where knowing did not help.
        model: of the backbone.
        source: of the windows.
        knows: `past` or `plan`.
        other: start frames -> those of other windows, whose plans stand in for the right ones; None for
            the right ones.
    """

    stacks: InputStacks
    stack: Stack
    model: Forecaster
    source: InputSource
    knows: Known
    other: Mapping[int, int] | None = None

    def at(self, session: int, starts: np.ndarray, context: np.ndarray) -> np.ndarray:
        known, stacks = self.stacks.known(self.knows), self.stacks
        if known == "none":
            return self.stack.forecast(context, self.model(session, context))
        before, horizon = stacks.frames_before(context.shape[1]), self.source.horizon
        past = self.source.inputs(session, starts, before, 0, stacks.names)
        plan = None
        if known == "plan":
            planned = (
                starts if self.other is None else np.array([self.other[start] for start in starts.tolist()])
            )
            plan = self.source.inputs(session, planned, 0, horizon, stacks.names)
        return stacks.forecast(context, self.model, past, plan)


def as_inputs(values: Any, inputs: Sequence[Input], what: str) -> np.ndarray:
    """Values of inputs as float32 [T, D].

    Args:
        values: an array [T, D] in the order of `inputs`, or [T] of a single one; or by name: a mapping, or a
            data frame.
        inputs: the channels.
        what: they are, for messages.

    Raises:
        AdaptationError: an input is missing, unknown, or has a value that is not finite; or the shape
            differs.
    """
    names = [each.name for each in inputs]
    if hasattr(values, "keys"):
        given = [str(name) for name in values.keys()]  # noqa: SIM118 - a data frame's are its columns
        wrong = [name for name in given if name not in names] + [name for name in names if name not in given]
        if wrong:
            raise AdaptationError(
                f"{what}: has inputs {', '.join(given) or 'none'}; expected exactly {', '.join(names)}."
            )
        columns = [np.asarray(values[name], np.float32) for name in names]
        if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
            raise AdaptationError(f"{what}: its inputs differ in length; expected one value a frame of each.")
        array = np.stack(columns, axis=1)
    else:
        try:
            array = np.asarray(values, np.float32)
        except (TypeError, ValueError) as error:
            raise AdaptationError(f"{what}: is no table of numbers ({error}).") from error
        array = array[:, None] if array.ndim == 1 and len(names) == 1 else array
    if array.ndim != 2 or array.shape[1] != len(names) or not len(array):
        raise AdaptationError(
            f"{what}: has shape {np.shape(values)}; expected [frames, {len(names)}], of {', '.join(names)}."
        )
    if not np.isfinite(array).all():
        name = names[int(np.flatnonzero(~np.isfinite(array).all(axis=0))[0])]
        raise AdaptationError(f"{what}: holds values of {name} that are not finite; expected numbers.")
    return np.ascontiguousarray(array)


def reaching_back(values: np.ndarray, inputs: Sequence[Input], before: int) -> np.ndarray:
    """The last `before` frames of inputs [T, D]; before the first a level is held and an event is zero."""
    missing = before - len(values)
    if missing <= 0:
        return values[-before:]
    first = np.where([each.kind == "event" for each in inputs], np.float32(0), values[0])
    return np.concatenate([np.broadcast_to(first, (missing, len(inputs))), values]).astype(np.float32)


def held(values: np.ndarray, inputs: Sequence[Input], horizon: int) -> np.ndarray:
    """float32 [H, D]: inputs [T, D] as they stay after the last frame; an event is not repeated."""
    last = np.where([each.kind == "event" for each in inputs], np.float32(0), values[-1])
    return np.broadcast_to(last, (horizon, len(inputs))).astype(np.float32)


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
