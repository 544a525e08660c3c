"""The stack: several forecasts of one session in one, with weights a horizon step that all units share.

Forecasts that know different things do better together than each alone. What is weighed are departures from
the last frame, so weights may add up to less than one (nearer to copy) or to more. They are fitted by least
squares on windows that no member was fitted on, and shrunk towards equal ones as far as blocks of time ask
for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring.baselines import LinearBaseline
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.ridge import Head, HeadFit, fit_head, principal_components
from forebrain.scoring.time_blocks import time_blocks
from forebrain.scoring.window_source import WindowSource

# Members, in the order that tables have them: the linear baseline, the same with a head, a model, the same
# with a head.
MEMBERS = ("linear", "ridge", "model", "model + head")
# Penalties on the distance from equal weights, relative to the mean square of a member.
SHRINKAGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
# Where there are too few windows for blocks of time to choose by.
DEFAULT_SHRINKAGE = 0.1


@dataclass(frozen=True, eq=False)
class Stack:
    """Linear, ridge, a model and the model with a head, weighed.

    Attributes:
        weights: by member, float32 [H].
        linear: the linear baseline.
        heads: by the member that each is added to, `linear` or `model`; their features are the same.
    """

    weights: Mapping[str, np.ndarray]
    linear: LinearBaseline
    heads: Mapping[str, Head]

    @property
    def needs_model(self) -> bool:
        """Whether the model's forecast is among the members."""
        return "model" in self.weights

    def members(self, context: np.ndarray, model: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Each member's forecast [B, H, N] of contexts [B, C, N], given the model's."""
        forecasts = {"linear": self.linear(0, context), "model": model}
        forecasts["ridge"] = forecasts["linear"]
        for base, member in (("linear", "ridge"), ("model", "model + head")):
            forecast = forecasts[base]
            if base in self.heads and forecast is not None:
                forecasts[member] = self.heads[base].add_to(forecast, context)
        return {name: forecast for name in self.weights if (forecast := forecasts.get(name)) is not None}

    def forecast(self, context: np.ndarray, model: np.ndarray | None = None) -> np.ndarray:
        """Forecasts from contexts, all normalised.

        Args:
            context: float32 [B, C, N], or one window [C, N].
            model: the model's forecast from them, [B, H, N] or [H, N]; None where it is no member.

        Returns:
            float32 [B, H, N] or [H, N]; the same bits for a window whether it comes alone or in a batch.

        Raises:
            ConfigError: the model's forecast is missing.
        """
        if self.needs_model and model is None:
            raise ConfigError("the stack weighs a model's forecast, and none was given.")
        if context.ndim == 2:
            return self.forecast(context[None], None if model is None else model[None])[0]
        last = context[:, -1:]
        forecast = last + self._total("linear") * (self.linear(0, context) - last)
        if model is not None and self.needs_model:
            forecast += self._total("model") * (model - last)
        if self._head is not None:
            forecast += self._head.correction(context)
        return forecast

    def _total(self, base: str) -> np.ndarray:
        """[H, 1]: the weight of a base, with and without its head."""
        members = ("linear", "ridge") if base == "linear" else ("model", "model + head")
        total = sum((self.weights[name] for name in members if name in self.weights), np.float32(0))
        return np.asarray(total, np.float32)[..., None]

    @cached_property
    def _head(self) -> Head | None:
        """Both heads in one, since they have the same features."""
        scaled = [
            self.heads[base].scaled(self.weights[member])
            for base, member in (("linear", "ridge"), ("model", "model + head"))
            if base in self.heads and member in self.weights
        ]
        return scaled[0].plus(scaled[1]) if len(scaled) == 2 else next(iter(scaled), None)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a safetensors file."""
        arrays = {f"weights.{name}": weights for name, weights in self.weights.items()}
        arrays["linear"] = self.linear.weights
        for base, head in self.heads.items():
            for name, array in head.arrays().items():
                arrays[name if name.startswith("features.") else f"{base}.{name}"] = array
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
        weights = {name: arrays[f"weights.{name}"] for name in MEMBERS if f"weights.{name}" in arrays}
        linear = arrays.get("linear")
        if not weights or linear is None or linear.ndim != 2:
            raise ConfigError(
                f"{where}: holds no stack: expected weights by member, and linear [context, horizon]."
            )
        horizon = linear.shape[1]
        for name, values in (*weights.items(), ("linear", linear[0])):
            if values.shape != (horizon,) or values.dtype != np.float32 or not np.isfinite(values).all():
                raise ConfigError(
                    f"{where}: weights of {name} have shape {values.shape} and type {values.dtype}; expected "
                    f"({horizon},), finite, float32."
                )
        features = {name: array for name, array in arrays.items() if name.startswith("features.")}
        heads = {
            base: Head.from_arrays({**features, **own}, where)
            for base in ("linear", "model")
            if (own := _under(f"{base}.", arrays))
        }
        return cls(weights, LinearBaseline(linear), heads)


@dataclass(frozen=True, eq=False)
class StackFit:
    """A stack and how it came about.

    Attributes:
        stack: members with their weights.
        ridge, head: the fits of the heads on the linear baseline and on the model; the second None without a
            model.
        shrinkage: the chosen penalty.
        num_windows: that the weights are fitted on.
        alone: each member's score by itself on these windows.
        worth: what the stack's score on blocks of time loses without a member; NaN where there are too few.
        score: of the stack on these windows, each block by weights of the others; NaN likewise.
    """

    stack: Stack
    ridge: HeadFit
    head: HeadFit | None
    shrinkage: float
    num_windows: int
    alone: Mapping[str, float]
    worth: Mapping[str, float]
    score: float

    def record(self) -> dict[str, Any]:
        """Plain and JSON-able; undefined is None."""
        return {
            "weights": {name: values.tolist() for name, values in self.stack.weights.items()},
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
) -> StackFit:
    """Fits heads on the linear baseline and on a model, and weighs all four.

    Heads are chosen on blocks of time of training and validation part and fitted on both. The weights are
    fitted on the validation part, which neither the linear baseline nor the model was fitted on, with what
    heads add that were fitted on all blocks but the one that they forecast.

    Args:
        source: of the session's windows; the test part is never read.
        linear: fitted on the training part.
        model: (session, context [B, C, N]) -> [B, H, N]; None for a stack without.
        session: its number in the source.
    """
    loadings = principal_components(source, session)
    ridge = fit_head(source, linear, session, loadings=loadings)
    head = None if model is None else fit_head(source, model, session, loadings=loadings)
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
        equal = np.full(source.horizon, 1 / len(names), np.float32)
        unknown = dict.fromkeys(names, math.nan)
        stack = Stack(dict.fromkeys(names, equal), linear, heads)
        return StackFit(stack, ridge, head, math.inf, 0, unknown, unknown, math.nan)
    usable = ~trial.is_trained
    departures = np.stack([members[name][usable] for name in names])
    # Blocks of time need share no frame that is forecast: nothing else was fitted on.
    weighing = _Weighing(departures, trial.target[usable], trial.starts[usable], source.horizon)
    shrinkage, score = weighing.choose()
    weights = weighing.solve(shrinkage).astype(np.float32)
    stack = Stack(dict(zip(names, weights, strict=True)), linear, heads)
    return StackFit(
        stack, ridge, head, shrinkage, int(usable.sum()),
        dict(zip(names, weighing.alone(), strict=True)),
        {name: score - weighing.without(place).choose()[1] for place, name in enumerate(names)},
        score,
    )  # fmt: skip


class _Weighing:
    """Normal equations of the weights, by block of time."""

    def __init__(self, departures: np.ndarray, target: np.ndarray, starts: np.ndarray, length: int) -> None:
        """departures [M, W, H, S], target [W, H, S], both less the last frame."""
        self.blocks = time_blocks(starts, length)
        every = np.ones(len(starts), bool)
        self.whole = _sums(departures, target, every)
        self.folds = [
            (_sums(departures, target, block.held_out), _sums(departures, target, block.rest))
            for block in self.blocks
        ]

    def choose(self) -> tuple[float, float]:
        """The shrinkage that forecasts blocks of time best, and the score it has there."""
        if not self.folds:
            return DEFAULT_SHRINKAGE, math.nan
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
        rest.blocks = self.blocks

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
    """Weights [M, H], shrunk to equal ones; equal where nothing moves."""
    products, moments, _ = sums
    count = products.shape[1]
    if not count:
        return np.zeros((0, len(products)))
    penalty = shrinkage * np.einsum("hmm->h", products) / count
    penalty = np.where(penalty > 0, penalty, 1.0)[:, None]
    ridge = penalty[..., None] * np.eye(count)
    weights: np.ndarray = np.linalg.solve(products + ridge, (moments + penalty / count)[..., None])[..., 0].T
    return weights


def _score(error: float, copy: float) -> float:
    return 1 - error / copy if copy > 0 else math.nan


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
