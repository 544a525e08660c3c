"""The stack: several forecasts of one session in one, with weights a horizon step that all units share.

Forecasts that know different things do better together than each alone. What is weighed are departures from
the last frame, so weights may add up to less than one (nearer to copy) or to more. They are fitted by least
squares on windows that no member was fitted on, and shrunk towards equal ones as far as blocks of time ask
for it; where there are too few windows to ask, they are what `_prior` says. None is negative: members that
are nearly one forecast would get large ones of both signs, which hold on those windows and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls

from forebrain.errors import ConfigError
from forebrain.scoring.baselines import CopyBaseline, LinearBaseline
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.gram import FeatureBlock
from forebrain.scoring.ridge import Head, HeadFit, MoreFeatures, fit_head, principal_components
from forebrain.scoring.time_blocks import time_blocks
from forebrain.scoring.window_source import WindowSource

# Penalties on the distance from equal weights, relative to the mean square of a member.
SHRINKAGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
# Training windows on which linear earns a quarter of the weight; tried with 48 and 16 frames.
FEW_WINDOWS = 50


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
    if trial is None:
        weights = _prior(source, session, names)
        unknown = dict.fromkeys(weights, math.nan)
        stack = Stack.of(weights, linear, heads)
        return StackFit(stack, weights, ridge, head, math.inf, 0, unknown, unknown, math.nan, math.nan)
    usable = trial.is_trained if trial.is_trained.all() else ~trial.is_trained
    departures = np.stack([members[name][usable] for name in names])
    # Blocks of time need share no frame that is forecast: nothing else was fitted on. Of a short stretch,
    # whose members are nearly as good as each other, weights that such blocks choose do not hold later.
    length = source.horizon + (source.context if source.sessions[session].is_short else 0)
    weighing = _Weighing(departures, trial.target[usable], trial.starts[usable], length)
    shrinkage, score = weighing.choose()
    own = dict(zip(names, weighing.alone(), strict=True))
    if math.isinf(shrinkage):
        # Of a member that is no better than copy even few windows tell.
        weights = _prior(source, session, names, [name for name in names if own[name] > 0])
    else:
        weights = dict(zip(names, weighing.solve(shrinkage).astype(np.float32), strict=True))
    return StackFit(
        Stack.of(weights, linear, heads), weights, ridge, head, shrinkage, int(usable.sum()),
        own,
        {name: score - weighing.without(place).choose()[1] for place, name in enumerate(names)},
        score,
        (1 - score) * weighing.mean_square,
    )  # fmt: skip


def _prior(
    source: WindowSource, session: int, names: Sequence[str], useful: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Weights where there is too little to choose by, float32 [H] of each member.

    Linear's share is a half where it is fitted on many windows and nothing where there are none; the other
    share is the model's. A member with a head has as much as the one without.

    Args:
        source, session: whose windows train.
        names: of all members.
        useful: those that have a weight; all where none is.
    """
    count = source.num_windows(session, "train")
    of_linear = 0.5 * count / (count + FEW_WINDOWS)
    weights = dict.fromkeys(names, np.zeros(source.horizon, np.float32))
    pairs = {("linear", "ridge"): of_linear, ("model", "model + head"): 1 - of_linear}
    groups = [([name for name in useful or names if name in pair], share) for pair, share in pairs.items()]
    total = sum(share for group, share in groups if group)
    for group, share in groups:
        for name in group:
            # Without the model linear has all, however few its windows.
            part = share / total if total else 1.0
            weights[name] = np.full(source.horizon, part / len(group), np.float32)
    return weights


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
        score = _score(error, float(np.square(head.trial.target).mean(dtype=np.float64)))
    return StackFit(
        Stack.of(weights, linear, heads), weights, ridge, head, math.inf, head.num_windows, {}, {}, score,
        error,
    )  # fmt: skip


class _Weighing:
    """Normal equations of the weights, by block of time."""

    def __init__(self, departures: np.ndarray, target: np.ndarray, starts: np.ndarray, length: int) -> None:
        """departures [M, W, H, S], target [W, H, S], both less the last frame."""
        self.blocks = time_blocks(starts, length)
        every = np.ones(len(starts), bool)
        self.whole = _sums(departures, target, every)
        self.mean_square = float(self.whole[2].sum() / max(target.size, 1))
        self.folds = [
            (_sums(departures, target, block.held_out), _sums(departures, target, block.rest))
            for block in self.blocks
        ]

    def choose(self) -> tuple[float, float]:
        """The shrinkage that forecasts blocks of time best, and the score it has there; infinite where there
        are too few windows for blocks."""
        if not self.folds:
            return math.inf, math.nan
        scores = {shrinkage: self._score(shrinkage) for shrinkage in SHRINKAGES}
        best = max(scores, key=lambda shrinkage: scores[shrinkage])
        return best, scores[best]

    def solve(self, shrinkage: float) -> np.ndarray:
        """Weights [M, H] of all windows."""
        return _solve(self.whole, shrinkage)

    def alone(self) -> list[float]:
        """Each member's own score."""
        products, moments, squares = self.whole
        errors = squares.sum() - 2 * moments.sum(axis=0) + np.einsum("hmm->m", products)
        return [_score(float(error), float(squares.sum())) for error in errors]

    def without(self, member: int) -> _Weighing:
        """The same without a member; of the last member's absence, copy is left."""
        rest = object.__new__(_Weighing)
        rest.blocks, rest.mean_square = self.blocks, self.mean_square

        def drop(sums: _Sums) -> _Sums:
            products, moments, squares = sums
            products = np.delete(np.delete(products, member, 1), member, 2)
            return products, np.delete(moments, member, 1), squares

        rest.whole = drop(self.whole)
        rest.folds = [(drop(held_out), drop(others)) for held_out, others in self.folds]
        return rest

    def _score(self, shrinkage: float) -> float:
        error = copy = 0.0
        for (products, moments, squares), others in self.folds:
            weights = _solve(others, shrinkage).T  # [H, M]
            error += float(squares.sum() - 2 * (weights * moments).sum())
            error += float(np.einsum("hm,hmk,hk->", weights, products, weights))
            copy += float(squares.sum())
        return _score(error, copy)


# By step: products of members [H, M, M], of members and target [H, M], squares of the target [H].
_Sums = tuple[np.ndarray, np.ndarray, np.ndarray]


def _sums(departures: np.ndarray, target: np.ndarray, chosen: np.ndarray) -> _Sums:
    members, wanted = departures[:, chosen].astype(np.float64), target[chosen].astype(np.float64)
    products = np.einsum("mwhs,kwhs->hmk", members, members, optimize=True)
    moments = np.einsum("mwhs,whs->hm", members, wanted, optimize=True)
    return products, moments, np.einsum("whs,whs->h", wanted, wanted)


def _solve(sums: _Sums, shrinkage: float) -> np.ndarray:
    """Weights [M, H], shrunk to equal ones and none of them negative; equal where nothing moves."""
    products, moments, _ = sums
    count = products.shape[1]
    if not count:
        return np.zeros((0, len(products)))
    penalty = shrinkage * np.einsum("hmm->h", products) / count
    penalty = np.where(penalty > 0, penalty, 1.0)[:, None]
    ridge = penalty[..., None] * np.eye(count)
    systems, sides = products + ridge, moments + penalty / count
    weights: np.ndarray = np.linalg.solve(systems, sides[..., None])[..., 0]
    for step in np.flatnonzero((weights < 0).any(axis=1)):
        root = np.linalg.cholesky(systems[step])
        weights[step] = nnls(root.T, np.linalg.solve(root, sides[step]))[0]
    return weights.T


def _score(error: float, copy: float) -> float:
    return 1 - error / copy if copy > 0 else math.nan


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
