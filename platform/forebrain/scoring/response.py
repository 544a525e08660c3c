"""The response: what a unit does when something is done to the animal, and forecasts that know a plan.

A unit answers its inputs in the same way whenever they come:

    response[t, n] = features[t] . weights[n]

with features of the inputs up to frame t (`InputFeatures`). Under a plan they are known to the end of the
horizon. So the response is taken off the context, any forecaster forecasts the rest, and the response to past
and plan is put back: `RestWindows` is the source of windows without it, on which heads and stacks are fitted as
on any other. Without a plan the future of the inputs is unknown, and a head may read the features of the last
frame (`past_features`).

Encoding, memory and penalty of the features are chosen by forecasting blocks of time from all others, and so is
whether there is a response at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.gram import FeatureBlock
from forebrain.scoring.inputs import ENCODINGS, MEMORY_S, InputFeatures, InputSource
from forebrain.scoring.protocols import Part
from forebrain.scoring.ridge import MoreFeatures, read_windows, spread_evenly
from forebrain.scoring.time_blocks import LEAST_BLOCKS, TimeBlock, time_blocks
from forebrain.scoring.window_source import SessionInfo

# Penalties, relative to the mean square of the features.
STRENGTHS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
# How much of what is not answered at the last frame is still there at the end of the horizon.
KEPT = (1.0, 0.5, 0.1, 0.001)
# Memories that are tried, as shares of the longest.
MEMORIES = (1.0, 0.4, 0.15)
# The name of the block of features that a head reads without a plan.
BLOCK = "input"


@dataclass(frozen=True, eq=False)
class Response:
    """Each unit's response to inputs.

    Attributes:
        features: of the inputs.
        weights: float32 [F, N], normalised units for a feature.
    """

    features: InputFeatures
    weights: np.ndarray

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """float32 [B, 1 + A, N], the response from the frame `features.before` of the inputs on.

        Args:
            inputs: float32 [B, before + A, D], in the order of `features.channels`. To take the response off a
                context of C frames and to add it to H more, A is C - 1 + H.
        """
        # A product a window, so that its sums have one order whatever the batch.
        return np.matmul(self.features(inputs), self.weights)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, for a safetensors file; `features.record` has the rest."""
        return {**self.features.arrays(), "weights": self.weights}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], where: str) -> Self:
        """The response whose `arrays` and `features.record` these are.

        Raises:
            ConfigError: something is missing or does not fit.
        """
        features = InputFeatures.from_arrays(arrays, record, where)
        weights = arrays.get("weights")
        if weights is None or weights.ndim != 2 or len(weights) != features.num_features:
            raise ConfigError(f"{where}: the response has no weights of its features. Is the file whole?")
        return cls(features, weights)


@dataclass(frozen=True, eq=False)
class ResponseFit:
    """A response and how it came about.

    Attributes:
        response: None where there is none: no input changes, or none helped.
        features: of the inputs, for a head without a plan; None where no input changes.
        error: squared error on blocks of time forecast from all others, over that of repeating the last frame,
            the mean over blocks; NaN where there are too few windows for them.
        encoding: the chosen one of `ENCODINGS`.
        memory_s: the chosen memory, seconds.
        strength: the chosen penalty.
        reason: why there is no response; None where there is one.
        blocks: of time, over `starts`, and the weights float32 [F, N] that were fitted on no frame of each.
        starts: of the windows that it was fitted on.
    """

    response: Response | None
    features: InputFeatures | None
    error: float
    encoding: str
    memory_s: float
    strength: float
    reason: str | None
    blocks: Sequence[tuple[TimeBlock, np.ndarray]]
    starts: np.ndarray

    def record(self) -> dict[str, Any]:
        """Plain and JSON-able; undefined is None."""
        features = self.features
        return {
            "error": self.error if math.isfinite(self.error) else None,
            "encoding": self.encoding,
            "memory_s": self.memory_s,
            "strength": self.strength if math.isfinite(self.strength) else None,
            "num_features": 0 if features is None else features.num_features,
            "parts": [] if features is None else [[features.channels[c], part] for c, part in features.parts],
            "reason": self.reason,
        }

    def without(self, source: InputSource, session: int, starts: np.ndarray) -> np.ndarray:
        """float32 [B, C + H, N]: the response over windows, by weights that were fitted on no frame of them
        where they were fitted on.

        Args:
            source: of the session's windows.
            session: its number in the source.
            starts: of the windows, [B].
        """
        response = self.response
        if response is None:
            raise ConfigError("there is no response to take off.")
        length = source.context + source.horizon
        names, before = response.features.channels, response.features.before
        # The first frame at which the response is formed is the first of the context.
        inputs = source.inputs(session, starts, before + source.context - 1, source.horizon, names)
        features = response.features(inputs)
        found = np.matmul(features, response.weights)
        places = np.minimum(np.searchsorted(self.starts, starts), max(len(self.starts) - 1, 0))
        was_fitted = self.starts[places] == starts
        for block, weights in self.blocks:
            inside = was_fitted & block.held_out[places]
            if inside.any():
                found[inside] = np.matmul(features[inside], weights)
        assert found.shape[1] == length
        return found


def fit_response(
    source: InputSource,
    names: Sequence[str],
    session: int = 0,
    *,
    memory_s: float = MEMORY_S,
    parts: Sequence[Part] = ("train", "validation"),
    choice_units: np.ndarray | None = None,
) -> ResponseFit:
    """Fits the response of every unit of a session: what the frames of the horizon differ by from the last of
    the context is forecast from what the features differ by.

    Args:
        source: of the session's windows. No other part than those named is read.
        names: of the inputs that may be planned.
        session: its number in the source.
        memory_s: how far lags reach back at most, seconds; frames where the rate is unknown.
        parts: that choices are made by and weights fitted on.
        choice_units: the units whose errors choose; None for some, spread evenly.
    """
    if choice_units is None:
        choice_units = spread_evenly(source.sessions[session].num_units)
    read = [
        (starts, np.concatenate([context[:, -1:], target], axis=1))
        for _, context, target, starts in read_windows(source, session, parts)
    ]
    nothing = np.zeros(0, np.int64)
    if not read or not names:
        return _no_response("it has no windows" if names else "no input is named", nothing)
    starts, frames = (np.concatenate(each) for each in zip(*read, strict=True))
    order = np.argsort(starts, kind="stable")
    starts, frames = starts[order], frames[order]
    blocks = time_blocks(starts, source.context + source.horizon)
    tried: list[_Fit] = []
    for encoding in ENCODINGS:
        for share in MEMORIES if blocks else ():
            features = InputFeatures.of_source(
                source, names, session, encoding=encoding, memory_s=share * memory_s
            )
            if features is None or any(each.is_like(features) for each in tried):
                continue
            inputs = source.inputs(session, starts, features.before, source.horizon, features.channels)
            values = features(inputs)
            for kept in KEPT:
                sums = _Sums.of(values, frames[..., choice_units], blocks, kept)
                tried.append(_Fit(features, encoding, share * memory_s, kept, *sums.choose()))
    if not blocks:
        return _no_response(f"its windows do not make {LEAST_BLOCKS} blocks of time", starts)
    if not tried:
        return _no_response("no input changes in the training part", starts)
    best = min(tried, key=lambda fit: fit.error)
    if not best.error < 1:
        return _no_response("it did not help on blocks of time", starts, best)
    features = best.features
    inputs = source.inputs(session, starts, features.before, source.horizon, features.channels)
    sums = _Sums.of(features(inputs), frames, blocks, best.kept)
    whole, by_block = sums.solve(best.strength)
    return ResponseFit(
        Response(features, whole), features, best.error, best.encoding, best.memory_s, best.strength, None,
        list(zip(blocks, by_block, strict=True)), starts,
    )  # fmt: skip


class RestWindows:
    """The windows of a source without the response to inputs; of these, copy repeats the last frame of the
    rest.

    Args:
        source: of one session.
        fit: with a response.
    """

    def __init__(self, source: InputSource, fit: ResponseFit) -> None:
        self._source, self._fit = source, fit

    @property
    def sessions(self) -> Sequence[SessionInfo]:
        return self._source.sessions

    @property
    def context(self) -> int:
        return self._source.context

    @property
    def horizon(self) -> int:
        return self._source.horizon

    def num_windows(self, session: int, part: Part) -> int:
        return self._source.num_windows(session, part)

    def read(
        self, session: int, part: Part, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        context, target, starts = self._source.read(session, part, windows)
        response = self._fit.without(self._source, session, starts)
        return context - response[:, : self.context], target - response[:, self.context :], starts

    def training_mean(self, session: int) -> np.ndarray:
        return self._source.training_mean(session)


def under_plan(forecaster: Forecaster, context: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Forecasts [B, H, N] that know the inputs.

    Args:
        forecaster: of the rest, (session, context [B, C, N]) -> [B, H, N].
        context: float32 [B, C, N], normalised.
        response: float32 [B, C + H, N], of `Response`, to past and planned inputs.
    """
    num_context = context.shape[1]
    return forecaster(0, context - response[:, :num_context]) + response[:, num_context:]


def past_features(source: InputSource, features: InputFeatures, session: int = 0) -> MoreFeatures:
    """Features of the last frame's inputs and those before, as `fit_head` takes them; nothing of the plan."""

    def more(starts: np.ndarray) -> Sequence[FeatureBlock]:
        inputs = source.inputs(session, starts, features.before, 0, features.channels)
        return [FeatureBlock(BLOCK, features(inputs)[:, 0])]

    return more


@dataclass(frozen=True, eq=False)
class _Fit:
    features: InputFeatures
    encoding: str
    memory_s: float
    kept: float
    strength: float
    error: float

    def is_like(self, features: InputFeatures) -> bool:
        return self.features.parts == features.parts and len(self.features.basis) == len(features.basis)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Products of features [F, F] and with changes [F, N], by block of time and of all but it.

    Attributes:
        held: of each block, with the sum of squared changes.
        rests: of the windows that share no frame with it.
        whole: of all windows.
    """

    held: list[tuple[np.ndarray, np.ndarray, float, float]]
    rests: list[tuple[np.ndarray, np.ndarray]]
    whole: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, features: np.ndarray, frames: np.ndarray, blocks: Sequence[TimeBlock], kept: float) -> Self:
        """Of features [W, 1 + H, F] and frames [W, 1 + H, N]."""
        horizon = frames.shape[1] - 1
        share = (kept ** (np.arange(1, horizon + 1) / horizon)).astype(np.float32)[:, None]
        moved = features[:, 1:] - share * features[:, :1]
        change = frames[:, 1:] - share * frames[:, :1]
        width, num_units = moved.shape[2], change.shape[2]

        def sums(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x, y = moved[chosen].reshape(-1, width), change[chosen].reshape(-1, num_units)
            return (x.T @ x).astype(np.float64), (x.T @ y).astype(np.float64)

        squares = np.square(change).sum(axis=(1, 2), dtype=np.float64)
        copied = np.square(frames[:, 1:] - frames[:, :1]).sum(axis=(1, 2), dtype=np.float64)
        held = [
            (*sums(block.held_out), float(squares[block.held_out].sum()), float(copied[block.held_out].sum()))
            for block in blocks
        ]
        products, moments = sum(each[0] for each in held), sum(each[1] for each in held)
        rests = []
        for block in blocks:
            near_products, near_moments = sums(~block.rest)
            rests.append((products - near_products, moments - near_moments))
        return cls(held, rests, (products, moments))

    def choose(self) -> tuple[float, float]:
        """The strength that forecasts blocks of time best, and the error it has there."""
        errors = {strength: self._error(strength) for strength in STRENGTHS}
        best = min(errors, key=lambda strength: errors[strength])
        return best, errors[best]

    def solve(self, strength: float) -> tuple[np.ndarray, list[np.ndarray]]:
        """Weights float32 [F, N] of all windows, and of all but each block."""
        return _ridge(*self.whole, strength), [_ridge(*rest, strength) for rest in self.rests]

    def _error(self, strength: float) -> float:
        ratios = []
        for (products, moments, squares, copied), rest in zip(self.held, self.rests, strict=True):
            weights = _ridge(*rest, strength)
            after = squares + float(np.sum(weights * (products @ weights - 2 * moments)))
            ratios.append(after / copied if copied > 0 else 1.0)
        return float(np.mean(ratios))


def _ridge(products: np.ndarray, moments: np.ndarray, strength: float) -> np.ndarray:
    width = len(products)
    square = float(np.trace(products)) / width
    if square == 0:
        return np.zeros_like(moments, np.float32)
    weights: np.ndarray = np.linalg.solve(products + strength * square * np.eye(width), moments)
    return weights.astype(np.float32)


def _no_response(reason: str, starts: np.ndarray, tried: _Fit | None = None) -> ResponseFit:
    if tried is None:
        return ResponseFit(None, None, math.nan, "level", 0.0, math.inf, reason, (), starts)
    return ResponseFit(
        None, tried.features, tried.error, tried.encoding, tried.memory_s, math.inf, reason, (), starts
    )
