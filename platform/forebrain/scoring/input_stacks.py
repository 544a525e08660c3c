"""Forecasts of one animal that know what was done to it, and what will be.

Three forecasts stand side by side. The adaptation's own stack sees the activity alone. The heads of the
*past* stack read the inputs so far besides. Under a *plan* each unit's response to the inputs is taken off
the context, a stack of its own forecasts the rest, and the response to past and plan is put back (see
`scoring.response`). The past and the plan are kept only where blocks of time of the training and validation
part are forecast better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from forebrain.errors import AdaptationError, ConfigError
from forebrain.scoring.baselines import LinearBaseline
from forebrain.scoring.conformal import Calibration
from forebrain.scoring.evaluate import Forecaster, fit_linear
from forebrain.scoring.gram import FeatureBlock
from forebrain.scoring.inputs import InputFeatures, InputSource
from forebrain.scoring.response import (
    BLOCK,
    HeldPlan,
    Response,
    RestWindows,
    fit_response,
    past_features,
)
from forebrain.scoring.ridge import MoreFeatures
from forebrain.scoring.stack import Stack, StackFit, fit_stack
from forebrain.scoring.window_source import WindowSource
from forebrain.sessions.inputs import Input, in_order

# What a plan may say in place of values: the inputs stay as they are at the last frame.
HOLD = "hold"
Known = Literal["none", "past", "plan"]
KNOWN: Mapping[Known, str] = {
    "none": "the activity alone",
    "past": "the inputs so far",
    "plan": "the inputs so far and the plan",
}


@dataclass(frozen=True, eq=False)
class RestStack:
    """A stack of what the units' response to inputs leaves.

    Attributes:
        response: of the units.
        stack: that forecasts the rest.
    """

    response: Response
    stack: Stack

    def frames_before(self, context: int) -> int:
        """Frames of inputs up to the last of a context of C frames that are read."""
        return self.response.features.before + context - 1

    @property
    def horizon(self) -> int:
        """H, frames."""
        return self.stack.linear.weights.shape[1]

    def features(self, inputs: np.ndarray, count: int) -> np.ndarray:
        """float32 [B, count, F], of the newest frames of inputs [B, T, D]."""
        features = self.response.features
        return features(inputs[:, inputs.shape[1] - features.before - count + 1 :])

    def forecast(self, context: np.ndarray, model: Forecaster, features: np.ndarray) -> np.ndarray:
        """float32 [B, H, N] from contexts [B, C, N] and features [B, C + H, F] of their inputs."""
        num_context, response = context.shape[1], self.response.of_features(features)
        rest = np.subtract(context, response[:, :num_context], out=response[:, :num_context])
        forecast = self.stack.forecast(rest, model(0, rest))
        forecast += response[:, num_context:]
        return forecast

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, for a safetensors file; `response.features.record` has the rest."""
        parts = {"response": self.response.arrays(), "stack": self.stack.arrays()}
        return {f"{name}.{key}": values for name, part in parts.items() for key, values in part.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], where: str) -> Self:
        """What `arrays` and the record were made of. Raises ConfigError where something does not fit."""
        return cls(
            Response.from_arrays(under("response.", arrays), record, where),
            Stack.from_arrays(under("stack.", arrays), where),
        )


@dataclass(frozen=True, eq=False)
class InputStacks:
    """Forecasts that know inputs.

    Attributes:
        inputs: the channels, in the order of arrays of them.
        features: of all inputs so far.
        past: the stack whose heads read these, or one beside a response to inputs that stay as they are,
            whichever was better; None where neither helped.
        plan: beside a response to inputs that are known to the end of the horizon; None where it did not
            help.
        calibrations: of intervals, by what a forecast knows: `past`, `plan`, or none of them.
    """

    inputs: tuple[Input, ...]
    features: InputFeatures
    past: Stack | RestStack | None
    plan: RestStack | None
    calibrations: Mapping[Known, Calibration] = field(default_factory=dict)

    @property
    def response(self) -> Response | None:
        """The units' response to inputs that can be planned; None where no plan helps."""
        return None if self.plan is None else self.plan.response

    @property
    def names(self) -> tuple[str, ...]:
        """The channels' names."""
        return tuple(each.name for each in self.inputs)

    def frames_before(self, context: int) -> int:
        """Frames of inputs up to the last of a context that a forecast reads at most."""
        rests = [each for each in (self.past, self.plan) if isinstance(each, RestStack)]
        return max([self.features.before, *(each.frames_before(context) for each in rests)])

    def known(self, wanted: Known) -> Known:
        """What a forecast knows that should know this much: less, where more did not help."""
        if wanted == "plan" and self.plan is None:
            wanted = "past"
        return "none" if wanted == "past" and self.past is None else wanted

    def forecast(
        self,
        context: np.ndarray,
        model: Forecaster,
        past: np.ndarray,
        plan: np.ndarray | None,
        features: np.ndarray | None = None,
    ) -> np.ndarray:
        """Forecasts that know the inputs so far, and a plan where there is one.

        Args:
            context: float32 [B, C, N], normalised.
            model: of the backbone, (session, context) -> [B, H, N].
            past: float32 [B, `frames_before(C)`, D], up to the last frame of the context.
            plan: float32 [B, H, D]; of inputs that cannot be planned it is not read.
            features: `response_features` of the whole context and horizon, where they are at hand.

        Returns:
            float32 [B, H, N].
        """
        rest = self._rest(plan)
        if rest is not None:
            if features is None:
                ahead = self.inputs_ahead(past, plan)
                assert ahead is not None
                features = self.response_features(past, plan, ahead, context.shape[1] + rest.horizon)
            return rest.forecast(context, model, features)
        if not isinstance(self.past, Stack):
            raise ConfigError("neither the past of the inputs nor a plan helps; forecast without them.")
        seen = self._columns(past[:, past.shape[1] - self.features.before :], self.features)
        return self.past.forecast(
            context, model(0, context), [FeatureBlock(BLOCK, self.features(seen)[:, 0])]
        )

    def inputs_ahead(self, past: np.ndarray, plan: np.ndarray | None) -> np.ndarray | None:
        """float32 [B, H, D]: the inputs that `forecast` takes the horizon to have, the plan or what stays.

        None where it forms no response to them.
        """
        rest = self._rest(plan)
        if rest is None:
            return None
        if plan is not None and rest is self.plan:
            return plan
        return np.stack([held(each, self.inputs, rest.horizon) for each in past])

    def response_features(
        self, past: np.ndarray, plan: np.ndarray | None, ahead: np.ndarray, count: int
    ) -> np.ndarray:
        """float32 [B, count, F]: what `forecast` forms a response of, of the newest frames up to the end of
        the horizon. Those of a frame depend on the inputs up to it alone.

        Args:
            past, plan: as `forecast` takes them.
            ahead: of `inputs_ahead`.
            count: of frames, those of the horizon among them.
        """
        rest = self._rest(plan)
        assert rest is not None
        return rest.features(self._inputs(rest, past, ahead), count)

    def _rest(self, plan: np.ndarray | None) -> RestStack | None:
        """What a forecast takes a response off with; None where it does not."""
        if plan is not None and self.plan is not None:
            return self.plan
        return self.past if isinstance(self.past, RestStack) else None

    def responses(self, context: int, past: np.ndarray, plan: np.ndarray) -> np.ndarray:
        """float32 [B, C + H, N]: the units' response over contexts of C frames and a horizon under a plan."""
        assert self.plan is not None
        features = self.plan.features(self._inputs(self.plan, past, plan), context + self.plan.horizon)
        return self.plan.response.of_features(features)

    def effect(
        self,
        context: int,
        past: np.ndarray,
        plan: np.ndarray,
        against: np.ndarray,
        levels: Sequence[float] | None = None,
    ) -> np.ndarray:
        """What a plan changes of a forecast under another.

        Args:
            context: C, frames.
            past: float32 [`frames_before(C)`, D].
            plan, against: float32 [H, D].
            levels: of quantiles of the true effect, see `Response.offsets`; None for the estimated one.

        Returns:
            float32 [H, N], normalised; of levels [H, N, Q].

        Raises:
            ConfigError: levels are asked for, and the response says nothing of how sure it is.
        """
        under_it, under_other = (
            self.responses(context, past[None], each[None])[0, context:] for each in (plan, against)
        )
        effect: np.ndarray = under_it - under_other
        if levels is None:
            return effect
        return effect[..., None] + np.moveaxis(self._offsets(past, plan, against, levels), 0, -1)

    def _offsets(
        self, past: np.ndarray, plan: np.ndarray, against: np.ndarray, levels: Sequence[float]
    ) -> np.ndarray:
        assert self.plan is not None
        features = self.plan.response.features
        before = past[len(past) - features.before :]
        first, second = (
            features(self._columns(np.concatenate([before, each])[None], features))[0, 1:]
            for each in (plan, against)
        )
        return self.plan.response.offsets(first - second, levels)

    def _inputs(self, rest: RestStack, past: np.ndarray, plan: np.ndarray) -> np.ndarray:
        return self._columns(np.concatenate([past, plan], axis=1), rest.response.features)

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
        for name, part in (("past", self.past), ("plan", self.plan)):
            if part is not None:
                arrays |= {f"{name}.{key}": values for key, values in part.arrays().items()}
        for known, calibration in self.calibrations.items():
            arrays |= {f"intervals.{known}.{key}": each for key, each in calibration.arrays().items()}
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
            "responses": {
                name: part.response.features.record()
                for name, part in (("past", self.past), ("plan", self.plan))
                if isinstance(part, RestStack)
            },
            "intervals": {known: dict(each.record) for known, each in self.calibrations.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], where: str) -> Self:
        """What `arrays` and `record` were made of; its forecasts have the same bits.

        Raises:
            ConfigError: something is missing or does not fit.
        """
        try:
            inputs = tuple(Input(**each) for each in record["inputs"])
            features, responses = record["features"], dict(record["responses"])
            intervals = dict(record.get("intervals", {}))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{where}: the record of its inputs is damaged ({error!r:.80}).") from error
        past, plan = under("past.", arrays), under("plan.", arrays)
        if bool(plan) != ("plan" in responses):
            raise ConfigError(f"{where}: the response to a plan and its stack do not belong together.")
        known: Stack | RestStack | None = None
        if "past" in responses:
            known = RestStack.from_arrays(past, responses["past"], where)
        elif past:
            known = Stack.from_arrays(past, where)
        return cls(
            inputs,
            InputFeatures.from_arrays(under("features.", arrays), features, where),
            known,
            RestStack.from_arrays(plan, responses["plan"], where) if plan else None,
            {
                name: Calibration.from_arrays(under(f"intervals.{name}.", arrays), each, where)
                for name, each in intervals.items()
            },
        )


@dataclass(frozen=True, eq=False)
class KnownFit:
    """How a stack that knows inputs was fitted: what it takes to fit it again on fewer blocks of time.

    Attributes:
        source: of the windows: those of the recording, or what a response leaves of them.
        stack: fitted on them.
        more: further features of its heads.
    """

    source: WindowSource
    stack: StackFit
    more: MoreFeatures = lambda starts: ()


@dataclass(frozen=True, eq=False)
class InputFit:
    """Forecasts that know inputs, and how they came about.

    Attributes:
        stacks: None where no input changes in the training part.
        record: plain and JSON-able.
        fits: of the past and the plan, those of them that are kept.
    """

    stacks: InputStacks | None
    record: Mapping[str, Any]
    fits: Mapping[Known, KnownFit] = field(default_factory=dict)


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
    record: dict[str, Any] = {"inputs": list(features.channels)}
    errors = record["squared_error"] = {"none": _plain(without.squared_error)}
    planned = [each.name for each in channels if each.can_be_planned]

    def beside_response(source: InputSource, name: str) -> tuple[RestStack, KnownFit] | None:
        """A stack of what the response to a source's inputs leaves."""
        fit = fit_response(source, planned)
        record[f"response to {name}"] = fit.record()
        if fit.response is None:
            return None
        rest = RestWindows(source, fit)
        made = fit_stack(rest, fit_linear(rest).solve(), model, alone=model is None)
        errors[name] = _plain(made.squared_error)
        return RestStack(fit.response, made.stack), KnownFit(rest, made)

    fits: dict[Known, KnownFit] = {}
    reads = past_features(source, features)
    read = fit_stack(source, linear, model, more=reads, alone=model is None)
    errors["past"] = _plain(read.squared_error)
    past: Stack | RestStack | None = read.stack
    best, fits["past"] = read.squared_error, KnownFit(source, read, reads)
    stays = beside_response(HeldPlan(source), "held")
    if stays is not None and stays[1].stack.squared_error < best:
        past, fits["past"] = stays
        best = stays[1].stack.squared_error
    if not best < without.squared_error:
        past, best = None, without.squared_error
        del fits["past"]
    plan: RestStack | None = None
    under_it = beside_response(source, "plan")
    if under_it is not None and under_it[1].stack.squared_error < best:
        plan, fits["plan"] = under_it
    record["kept"] = list(fits)
    return InputFit(InputStacks(channels, features, past, plan), record, fits)


@dataclass(frozen=True, eq=False)
class InputForecaster:
    """Forecasts windows with what a source says of their inputs, for the scorer.

    Attributes:
        stacks: that know them.
        stack: that does not, where knowing did not help.
        model: of the backbone.
        source: of the windows.
        knows: `past` or `plan`.
    """

    stacks: InputStacks
    stack: Stack
    model: Forecaster
    source: InputSource
    knows: Known

    def at(self, session: int, starts: np.ndarray, context: np.ndarray) -> np.ndarray:
        known, stacks = self.stacks.known(self.knows), self.stacks
        if known == "none":
            return self.stack.forecast(context, self.model(session, context))
        before, horizon = stacks.frames_before(context.shape[1]), self.source.horizon
        past = self.source.inputs(session, starts, before, 0, stacks.names)
        plan = None
        if known == "plan":
            plan = self.source.inputs(session, starts, 0, horizon, stacks.names)
        return stacks.forecast(context, self.model, past, plan)


def as_inputs(values: Any, inputs: Sequence[Input], what: str) -> np.ndarray:
    """Values of inputs as float32 [T, D].

    Args:
        values: an array [T, D] in the order of `inputs`, or [T] of a single one; or by name, see `in_order`.
        inputs: the channels.
        what: they are, for messages.

    Raises:
        AdaptationError: an input is missing, unknown, or has a value that is not finite; or the shape
            differs.
    """
    names = [each.name for each in inputs]
    array = in_order(values, names, 2, what)
    array = array[:, None] if array.ndim == 1 and len(names) == 1 else array
    if array.ndim != 2 or array.shape[1] != len(names) or not len(array):
        raise AdaptationError(
            f"{what}: has shape {array.shape}; expected [frames, {len(names)}], of {', '.join(names)}."
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


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
