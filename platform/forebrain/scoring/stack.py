"""The stack: several forecasts of one session in one, with weights a horizon step that all units share.

Forecasts that know different things do better together than each alone. What is weighed are departures from
the last frame, so weights may add up to less than one (nearer to copy) or to more. They are fitted by least
squares on windows that no member was fitted on, and shrunk towards equal ones as far as blocks of time ask
for it; where there are too few windows to ask, see `weighing.weights_of_few`. None is negative: members that
are nearly one forecast would get large ones of both signs, which hold on those windows and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring.baselines import CopyBaseline, LinearBaseline
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.gram import FeatureBlock
from forebrain.scoring.ridge import Head, HeadFit, MoreFeatures, fit_head, principal_components
from forebrain.scoring.weighing import Weighing, score_of, weights_of_few
from forebrain.scoring.window_source import WindowSource


@dataclass(frozen=True, eq=False)
class Stack:
    """Linear, ridge, a model and the model with a head, weighed, in as few terms as they have.

    A base (linear, the model) counts with the weights of both members that build on it. The heads of both,
    which have the same features, are one:

        forecast = last + linear_weight (linear - last) + model_weight (model - last) + head

    Attributes:
        linear: the linear baseline.
        linear_weight, model_weight: float32 [H]; the latter None where no model is among the members.
        head: None where no head helped.
    """

    linear: LinearBaseline
    linear_weight: np.ndarray
    model_weight: np.ndarray | None = None
    head: Head | None = None

    @classmethod
    def of(cls, weights: Mapping[str, np.ndarray], linear: LinearBaseline, heads: Mapping[str, Head]) -> Self:
        """The stack of members with weights float32 [H], and of the heads by their base."""
        scaled = [
            heads[base].scaled(weights[member])
            for base, member in (("linear", "ridge"), ("model", "model + head"))
            if base in heads and member in weights
        ]
        head = scaled[0].plus(scaled[1]) if len(scaled) == 2 else next(iter(scaled), None)
        nothing = np.zeros(linear.weights.shape[1], np.float32)

        def total(*members: str) -> np.ndarray:
            return sum((weights[name] for name in members if name in weights), nothing)

        return cls(
            linear,
            total("linear", "ridge"),
            total("model", "model + head") if "model" in weights else None,
            head,
        )

    def forecast(
        self, context: np.ndarray, model: np.ndarray | None = None, more: Sequence[FeatureBlock] = ()
    ) -> np.ndarray:
        """Forecasts from contexts, all normalised.

        Args:
            context: float32 [B, C, N], or one window [C, N].
            model: the model's forecast from them, [B, H, N] or [H, N]; None where it is no member.
            more: further features that the head was fitted with, [B, F] each, see `fit_head`.

        Returns:
            float32 [B, H, N] or [H, N]; the same bits for a window whether it comes alone or in a batch.

        Raises:
            ConfigError: the model's forecast is missing.
        """
        if self.model_weight is not None and model is None:
            raise ConfigError("the stack weighs a model's forecast, and none was given.")
        if context.ndim == 2:
            return self.forecast(context[None], None if model is None else model[None], more)[0]
        last = context[:, -1:]
        forecast = last + self.linear_weight[:, None] * (self.linear(0, context) - last)
        if self.model_weight is not None:
            forecast += self.model_weight[:, None] * (model - last)
        if self.head is not None:
            forecast += self.head.correction(context, more)
        return forecast

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a safetensors file."""
        arrays = {"linear": self.linear.weights, "linear_weight": self.linear_weight}
        if self.model_weight is not None:
            arrays["model_weight"] = self.model_weight
        if self.head is not None:
            arrays |= {f"head.{name}": array for name, array in self.head.arrays().items()}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], where: str) -> Self:
        """The stack whose `arrays` these are; its forecasts have the same bits.

        Args:
            arrays: by name.
            where: the file, for messages.

        Raises:
            ConfigError: an array is missing or has the wrong shape.
        """
        linear, linear_weight = arrays.get("linear"), arrays.get("linear_weight")
        if linear is None or linear_weight is None or linear.ndim != 2:
            raise ConfigError(f"{where}: holds no stack: expected linear [context, horizon] and its weights.")
        model_weight, horizon = arrays.get("model_weight"), linear.shape[1]
        expected = {"linear": linear.shape, "linear_weight": (horizon,), "model_weight": (horizon,)}
        for name, values in (
            ("linear", linear), ("linear_weight", linear_weight), ("model_weight", model_weight),
        ):  # fmt: skip
            if values is None:
                continue
            if values.shape != expected[name] or values.dtype != np.float32 or not np.isfinite(values).all():
                raise ConfigError(
                    f"{where}: {name} of the stack is {values.dtype} {list(values.shape)}; expected float32 "
                    f"{list(expected[name])}, all finite. Is the file damaged?"
                )
        prefix = "head."
        head = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        return cls(
            LinearBaseline(linear),
            linear_weight,
            model_weight,
            Head.from_arrays(head, where) if head else None,
        )


@dataclass(frozen=True, eq=False)
class StackFit:
    """A stack and how it came about.

    Attributes:
        stack: what forecasts.
        weights: by member, float32 [H].
        ridge, head: the fits of the heads on the linear baseline and on the model; the second None without a
            model.
        shrinkage: the chosen penalty.
        num_windows: that the weights are fitted on.
        alone: each member's score by itself on these windows.
        worth: what the stack's score on blocks of time loses without a member; NaN where there are too few.
        score: of the stack on these windows, each block by weights of the others; NaN likewise.
        squared_error: the mean of it there, normalised.
    """

    stack: Stack
    weights: Mapping[str, np.ndarray]
    ridge: HeadFit
    head: HeadFit | None
    shrinkage: float
    num_windows: int
    alone: Mapping[str, float]
    worth: Mapping[str, float]
    score: float
    squared_error: float

    def record(self) -> dict[str, Any]:
        """Plain and JSON-able; undefined is None."""
        return {
            "weights": {name: values.tolist() for name, values in self.weights.items()},
            "shrinkage": _plain(self.shrinkage),
            "num_windows": self.num_windows,
            "alone": {name: _plain(value) for name, value in self.alone.items()},
            "worth": {name: _plain(value) for name, value in self.worth.items()},
            "score": _plain(self.score),
            "ridge": self.ridge.record(),
            "head": None if self.head is None else self.head.record(),
        }


def fit_stack(
    source: WindowSource,
    linear: LinearBaseline,
    model: Forecaster | None = None,
    session: int = 0,
    more: MoreFeatures = lambda starts: (),
    alone: bool = False,
    loadings: np.ndarray | None = None,
    is_fitted: bool = True,
) -> StackFit:
    """Fits heads on the linear baseline and on a model, and weighs all four.

    Heads are chosen on blocks of time of training and validation part and fitted on both. The weights are
    fitted on the validation part, which neither the linear baseline nor the model was fitted on, with what
    heads add that were fitted on all blocks but the one that they forecast. Where a protocol has no
    validation part, they are fitted on the training part.

    Args:
        source: of the session's windows; the test part is never read.
        linear: fitted on the training part.
        model: (session, context [B, C, N]) -> [B, H, N]; None for a stack without.
        session: its number in the source.
        more: further features for both heads, see `fit_head`.
        alone: the model with its head, or a head on the last frame where there is no model, and nothing
            weighed: on short recordings weights cost more than they bring.
        loadings: of the population for both heads, see `fit_head`.
        is_fitted: the model was trained on the training part, so that its forecasts of it show nothing.
    """
    if loadings is None:
        loadings = principal_components(source, session)
    ridge = fit_head(source, linear, session, loadings=loadings, more=more)
    if alone:
        copy: Forecaster = CopyBaseline(source.horizon)
        fitted = fit_head(source, model or copy, session, loadings=loadings, more=more)
        return _alone(linear, ridge, fitted, model is not None)
    head = None if model is None else fit_head(source, model, session, loadings=loadings, more=more)
    members: dict[str, np.ndarray] = {}
    heads: dict[str, Head] = {}
    for base, member, fit in (("linear", "ridge", ridge), ("model", "model + head", head)):
        if fit is None:
            continue
        if fit.head is not None:
            heads[base] = fit.head
        if fit.trial is not None:
            members[base] = fit.trial.base
            if fit.head is not None:
                members[member] = fit.trial.base + fit.trial.added
    trial = ridge.trial
    names: Sequence[str] = tuple(members) or (("linear",) if model is None else ("linear", "model"))

    def of_few() -> dict[str, np.ndarray]:
        """A member with a head has as much as the one without."""
        weights: dict[str, np.ndarray] = {}
        bases = weights_of_few(source, session, linear, model, is_fitted)
        for pair, base in zip((("linear", "ridge"), ("model", "model + head")), bases, strict=False):
            group = [name for name in pair if name in names]
            weights |= dict.fromkeys(group, base / np.float32(len(group)))
        return weights

    if trial is None:
        weights = of_few()
        unknown = dict.fromkeys(weights, math.nan)
        stack = Stack.of(weights, linear, heads)
        return StackFit(stack, weights, ridge, head, math.inf, 0, unknown, unknown, math.nan, math.nan)
    usable = trial.is_trained if trial.is_trained.all() else ~trial.is_trained
    departures = np.stack([members[name][usable] for name in names])
    # Blocks of time need share no frame that is forecast: nothing else was fitted on. Of a short stretch,
    # whose members are nearly as good as each other, weights that such blocks choose do not hold later.
    length = source.horizon + (source.context if source.sessions[session].is_short else 0)
    weighing = Weighing(departures, trial.target[usable], trial.starts[usable], length)
    shrinkage, score = weighing.choose()
    own = dict(zip(names, weighing.alone(), strict=True))
    if math.isinf(shrinkage):
        weights = of_few()
    else:
        weights = dict(zip(names, weighing.solve(shrinkage).astype(np.float32), strict=True))
    return StackFit(
        Stack.of(weights, linear, heads), weights, ridge, head, shrinkage, int(usable.sum()),
        own,
        {name: score - weighing.without(place).choose()[1] for place, name in enumerate(names)},
        score,
        (1 - score) * weighing.mean_square,
    )  # fmt: skip


def _alone(linear: LinearBaseline, ridge: HeadFit, head: HeadFit, has_model: bool) -> StackFit:
    """The stack of a model, or of the last frame, with its head, and of no other member."""
    horizon = linear.weights.shape[1]
    nothing, whole = np.zeros(horizon, np.float32), np.ones(horizon, np.float32)
    weights = {"model": whole} if head.head is None else {"model": nothing, "model + head": whole}
    if not has_model:  # the last frame is no departure from itself
        weights.pop("model")
    heads = {} if head.head is None else {"model": head.head}
    score = error = math.nan
    if head.trial is not None:
        left = head.trial.target - head.trial.base - head.trial.added
        error = float(np.square(left).mean(dtype=np.float64))
        score = score_of(error, float(np.square(head.trial.target).mean(dtype=np.float64)))
    return StackFit(
        Stack.of(weights, linear, heads), weights, ridge, head, math.inf, head.num_windows, {}, {}, score,
        error,
    )  # fmt: skip


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
