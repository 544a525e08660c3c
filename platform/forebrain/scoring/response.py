"""The response: what a unit does when something is done to the animal, and forecasts that know a plan.

A unit answers its inputs in the same way whenever they come:

    response[t, n] = features[t] . weights[n]

with features of the inputs up to frame t (`InputFeatures`). Under a plan they are known to the end of the
horizon. So the response is taken off the context, any forecaster forecasts the rest, and the response to past
and plan is put back: `RestWindows` is the source of windows without it, on which heads and stacks are fitted
as on any other. Without a plan the future of the inputs is unknown, and a head may read the features of the
last frame (`past_features`).

Encoding and memory of the features, and each unit's penalty, are chosen by forecasting blocks of time from
all others, and so is whether there is a response at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import ndtri, stdtrit

from forebrain.errors import ConfigError
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.gram import FeatureBlock
from forebrain.scoring.inputs import ENCODINGS, MEMORY_S, InputFeatures, InputSource
from forebrain.scoring.intervals import rng_for
from forebrain.scoring.protocols import Part
from forebrain.scoring.ridge import MoreFeatures, in_time, read_windows, spread_evenly
from forebrain.scoring.time_blocks import LEAST_BLOCKS, TimeBlock, time_blocks
from forebrain.scoring.window_source import SessionInfo
from forebrain.sessions.inputs import Input

# Penalties, relative to the mean square of the features.
STRENGTHS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
# How much of what is not answered at the last frame is still there at the end of the horizon, where weights
# are fitted: noise differs from unit to unit, so each has its own of these and of the penalties.
KEPT = (1.0, 0.3, 0.01)
# Memories that are tried, as shares of the longest.
MEMORIES = (1.0, 0.4, 0.15)
MAX_CHOICE_WINDOWS = 512
# What is worked on at once, so that it lies in the cache: values of windows, units of errors.
CACHED_VALUES = 1 << 17
CACHED_UNITS = 128
# The name of the block of features that a head reads without a plan.
BLOCK = "input"


@dataclass(frozen=True, eq=False)
class Response:
    """Each unit's response to inputs.

    Attributes:
        features: of the inputs.
        weights: float32 [F, N], normalised units for a feature.
        refits: float32 [K, F, N], weights that were fitted without one of K blocks of time, less their mean;
            None of a response from before there were any.
        misfit: how far the answer to what is done is off, over the answer; see `_misfit`.
    """

    features: InputFeatures
    weights: np.ndarray
    refits: np.ndarray | None = None
    misfit: float = 0.0

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """float32 [B, 1 + A, N], the response from the frame `features.before` of the inputs on.

        Args:
            inputs: float32 [B, before + A, D], in the order of `features.channels`. To take the response off
                a context of C frames and to add it to H more, A is C - 1 + H.
        """
        return self.of_features(self.features(inputs))

    def of_features(self, features: np.ndarray) -> np.ndarray:
        """float32 [B, T, N], the response where features are [B, T, F]."""
        # A product a window, so that its sums have one order whatever the batch.
        return np.matmul(features, self.weights)

    def offsets(self, change: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """Quantiles of the true difference between two answers, less the estimated one.

        The variance is that of leaving out one block of time after another (the jackknife of a group, Student
        t with a degree of freedom less than blocks), and beside it the misfit.

        Args:
            change: [T, F], features under the first less those under the second, of frames that lie together.
            levels: each inside (0, 1).

        Returns:
            float32 [Q, T, N].

        Raises:
            ConfigError: there are no refits.
        """
        if self.refits is None:
            raise ConfigError("nothing is known of how sure the response is.")
        blocks = len(self.refits)
        variance = (blocks - 1) / blocks * np.square(change @ self.refits).sum(axis=0)
        size = self.misfit**2 * np.square(change @ self.weights).mean(axis=0)
        return np.stack(
            [
                np.sign(level - 0.5)
                * np.sqrt(stdtrit(blocks - 1, level) ** 2 * variance + ndtri(level) ** 2 * size)
                for level in levels
            ]
        ).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, for a safetensors file; `features.record` has the rest."""
        arrays = {**self.features.arrays(), "weights": self.weights}
        if self.refits is not None:
            arrays |= {"refits": self.refits, "misfit": np.array([self.misfit], np.float32)}
        return arrays

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
        refits, misfit = arrays.get("refits"), arrays.get("misfit")
        if refits is None or misfit is None:
            return cls(features, weights)
        if refits.shape[1:] != weights.shape or misfit.shape != (1,):
            raise ConfigError(f"{where}: the response's refits do not fit its weights. Is the file damaged?")
        return cls(features, weights, refits, float(misfit[0]))


@dataclass(frozen=True, eq=False)
class ResponseFit:
    """A response and how it came about.

    Attributes:
        response: None where there is none: no input changes, or none helped.
        features: of the inputs, for a head without a plan; None where no input changes.
        error: squared error on blocks of time forecast from all others, over that of repeating the last
            frame, the mean over blocks; NaN where there are too few windows for them.
        encoding: the chosen one of `ENCODINGS`.
        memory_s: the chosen memory, seconds.
        reason: why there is no response; None where there is one.
        blocks: of time, over `starts`, and the weights float32 [F, N] that were fitted on no frame of each.
        starts: of the windows that it was fitted on.
    """

    response: Response | None
    features: InputFeatures | None
    error: float
    encoding: str
    memory_s: float
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
        context = source.context
        shape = len(starts), context + source.horizon, source.sessions[session].num_units
        found = np.empty(shape, np.float32)
        for chosen, of_context, of_horizon in self.pieces(source, session, starts):
            found[chosen, :context], found[chosen, context:] = of_context, of_horizon
        return found

    def pieces(
        self, source: InputSource, session: int, starts: np.ndarray
    ) -> Iterator[tuple[np.ndarray | slice, np.ndarray, np.ndarray]]:
        """What `without` gives, of so few windows at a time that it lies in the cache: their places in
        `starts`, and the response over their contexts [b, C, N] and horizons [b, H, N]."""
        response = self.response
        if response is None:
            raise ConfigError("there is no response to take off.")
        names, before = response.features.channels, response.features.before
        # The first frame at which the response is formed is the first of the context.
        inputs = source.inputs(session, starts, before + source.context - 1, source.horizon, names)
        features = response.features(inputs)
        places = np.minimum(np.searchsorted(self.starts, starts), max(len(self.starts) - 1, 0))
        was_fitted = self.starts[places] == starts
        left = np.ones(len(starts), bool)
        size = max(1, CACHED_VALUES // (features.shape[1] * response.weights.shape[1]))
        for block, weights in (*self.blocks, (None, response.weights)):
            inside = left if block is None else was_fitted & block.held_out[places]
            rows = np.flatnonzero(inside)
            if not len(rows):
                continue
            # Up to the last frame of the context windows that overlap have the same response there.
            frames = starts[rows, None] + np.arange(source.context)
            _, firsts, places_of = np.unique(frames, return_index=True, return_inverse=True)
            contexts = features[rows, : source.context].reshape(-1, features.shape[2])
            answers = np.matmul(contexts[firsts, None], weights)[:, 0]
            for first in range(0, len(rows), size):
                chosen = _together(rows[first : first + size])
                of_context = answers[places_of.reshape(frames.shape)[first : first + size]]
                yield chosen, of_context, np.matmul(features[chosen, source.context :], weights)
            left &= ~inside


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
        (starts, context[:, -1].copy(), target.copy(), np.full(len(starts), part == "train"))
        for part, context, target, starts in read_windows(source, session, parts)
    ]
    if not read or not names:
        reason = "it has no window to fit a response on" if names else "no input is named"
        return _no_response(reason, np.zeros(0, np.int64))
    starts, last, target, is_trained = in_time(*(np.concatenate(each) for each in zip(*read, strict=True)))
    del read  # it is all copied
    length = source.context + source.horizon
    blocks = time_blocks(starts, length)
    if not blocks:
        reason = f"its {len(starts)} windows do not make {LEAST_BLOCKS} blocks of time of {length} frames"
        return _no_response(reason, starts)

    def values(features: InputFeatures, starts: np.ndarray) -> np.ndarray:
        return features(source.inputs(session, starts, features.before, source.horizon, features.channels))

    step = -(-len(starts) // MAX_CHOICE_WINDOWS)
    fewer = [TimeBlock(block.held_out[::step], block.rest[::step]) for block in blocks]
    of_choice = _FramesOfBlocks.of(last[::step, choice_units], target[::step][..., choice_units], fewer)
    tried: list[_Encoded] = []
    for encoding in ENCODINGS:
        for share in MEMORIES:
            features = InputFeatures.of_source(
                source,
                names,
                session,
                encoding=encoding,
                memory_s=share * memory_s,
                starts=starts[is_trained],
            )
            if features is None or any(each.is_like(features) for each in tried):
                continue
            errors = _Folds.of(values(features, starts[::step]), of_choice).errors()
            error = float(errors.min(axis=(0, 1)).sum())
            tried.append(_Encoded(features, encoding, share * memory_s, error))
    if not tried:
        return _no_response("no input changes in the training part", starts)
    best = min(tried, key=lambda each: each.error)
    if not best.error < 1:
        return _no_response("it did not help on blocks of time", starts, best)
    of_all = values(best.features, starts)
    folds = _Folds.of(of_all, _FramesOfBlocks.of(last, target, blocks))
    errors = folds.errors()
    weights, by_block = folds.solve(errors)
    refits = np.stack(by_block)
    refits -= refits.mean(axis=0)
    came = target[..., choice_units] - last[:, None, choice_units]
    misfit = _misfit(of_all, came, blocks, [each[:, choice_units] for each in by_block])
    return ResponseFit(
        Response(best.features, weights, refits, misfit), best.features,
        float(errors.min(axis=(0, 1)).sum()), best.encoding, best.memory_s, None,
        list(zip(blocks, by_block, strict=True)), starts,
    )  # fmt: skip


def _misfit(
    features: np.ndarray, came: np.ndarray, blocks: Sequence[TimeBlock], weights: Sequence[np.ndarray]
) -> float:
    """How much more windows are off in which much is answered, over what is answered there; 0 for nothing.

    It is the square root of the slope of the squared error over the squared answer, of blocks of time by the
    weights of the others, all units on the scale of their error. What features cannot express, and what
    differs from one time to the next, is in it and in no refit.

    Args:
        features: [W, 1 + H, F].
        came: [W, H, S], what frames of some units differ by from the last of the context.
        blocks: of the windows, with their `weights` [F, S].
    """
    answered, missed = np.zeros((2, len(came), came.shape[2]))
    for block, fitted in zip(blocks, weights, strict=True):
        rows = block.held_out
        answer = (features[rows, 1:] - features[rows, :1]) @ fitted
        answered[rows] = np.square(answer).mean(axis=1)
        missed[rows] = np.square(came[rows] - answer).mean(axis=1)
    usual = np.maximum(missed.mean(axis=0), np.finfo(np.float32).tiny)
    answered, missed = answered / usual, missed / usual
    answered -= answered.mean(axis=0)
    spread = np.square(answered).sum()
    return math.sqrt(max(0.0, float((answered * missed).sum() / spread))) if spread > 0 else 0.0


class _SameWindows:
    """The windows of another source, of which something is to be otherwise."""

    def __init__(self, source: InputSource) -> None:
        self._source = source

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
        return self._source.read(session, part, windows)

    def training_mean(self, session: int) -> np.ndarray:
        return self._source.training_mean(session)

    def inputs_of(self, session: int) -> Sequence[Input]:
        return self._source.inputs_of(session)


class HeldPlan(_SameWindows):
    """Windows whose inputs in the horizon are not known: levels hold their last value, and no event comes.

    A response that is fitted on them says how what was done goes on to be answered.

    Args:
        source: of the same windows with all inputs.
    """

    def inputs(
        self, session: int, starts: np.ndarray, before: int, after: int, names: Sequence[str]
    ) -> np.ndarray:
        past = self._source.inputs(session, starts, before, 0, names)
        kinds = {each.name: each.kind for each in self._source.inputs_of(session)}
        is_level = np.array([kinds.get(name) != "event" for name in names], bool)
        return np.concatenate([past, np.repeat(past[:, -1:] * is_level, after, axis=1)], axis=1)


class OtherPlan(_SameWindows):
    """Windows whose inputs in the horizon are those of another window of the same part.

    Args:
        source: of the same windows with their own inputs.
        starts: start frames of the windows of each part, all that will be asked for.
        seed: of the choice of the other window.
    """

    def __init__(self, source: InputSource, starts: Sequence[np.ndarray], seed: int) -> None:
        super().__init__(source)
        others = [
            rng_for(seed, "plans", str(part)).permutation(of_part) for part, of_part in enumerate(starts)
        ]
        known = np.concatenate(starts)
        order = np.argsort(known, kind="stable")
        self._starts, self._others = known[order], np.concatenate(others)[order]

    def inputs(
        self, session: int, starts: np.ndarray, before: int, after: int, names: Sequence[str]
    ) -> np.ndarray:
        past = self._source.inputs(session, starts, before, 0, names)
        others = self._others[np.searchsorted(self._starts, starts)]
        return np.concatenate([past, self._source.inputs(session, others, 0, after, names)], axis=1)


class RestWindows(_SameWindows):
    """The windows of a source without the response to inputs; of these, copy repeats the last frame of the
    rest.

    Args:
        source: of one session.
        fit: with a response.
    """

    def __init__(self, source: InputSource, fit: ResponseFit) -> None:
        super().__init__(source)
        self._fit = fit

    def read(
        self, session: int, part: Part, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        context, target, starts = self._source.read(session, part, windows)
        rest_of_context, rest_of_target = np.empty_like(context), np.empty_like(target)
        for chosen, of_context, of_horizon in self._fit.pieces(self._source, session, starts):
            rest_of_context[chosen] = np.subtract(context[chosen], of_context, out=of_context)
            rest_of_target[chosen] = np.subtract(target[chosen], of_horizon, out=of_horizon)
        return rest_of_context, rest_of_target, starts

    def response(self, session: int, starts: np.ndarray) -> np.ndarray:
        """float32 [B, C + H, N]: what is taken off."""
        return self._fit.without(self._source, session, starts)


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
class _Encoded:
    """Features of inputs, and the error that they leave on blocks of time."""

    features: InputFeatures
    encoding: str
    memory_s: float
    error: float

    def is_like(self, features: InputFeatures) -> bool:
        """Whether these are the same features, as where no level is among the inputs."""
        return self.features.parts == features.parts and len(self.features.basis) == len(features.basis)


# By entry of KEPT: products of features [F, F], of features and frames [F, N], squares of frames [N].
_Sums = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class _Folds:
    """The sums of blocks of time, of the windows that share no frame with each, and of all.

    Attributes:
        held, rests: of each block.
        whole: of all windows.
        copied: by block, the squared error of repeating the last frame, all units together.
    """

    held: list[_Sums]
    rests: list[_Sums]
    whole: _Sums
    copied: list[float]

    @classmethod
    def of(cls, features: np.ndarray, frames: _FramesOfBlocks) -> Self:
        """Of features [W, 1 + H, F], of the last frame of the context and those forecast, and frames."""
        held = [_sums(features[each.windows], each) for each in frames.held]
        whole = held[0]
        for other in held[1:]:
            whole = _combined(whole, other, 1)
        rests = [
            _combined(_combined(whole, own, -1), _sums(features[near.windows], near), -1)
            for own, near in zip(held, frames.near, strict=True)
        ]
        return cls(held, rests, whole, frames.copied)

    def errors(self) -> np.ndarray:
        """By entry of KEPT, strength and unit, [K, S, N]: squared error on blocks of time over that of copy
        of all units, the mean over blocks. Its sum over units is the error of a choice."""
        num_units = self.whole[0][1].shape[1]
        found = np.zeros((len(KEPT), len(STRENGTHS), num_units))
        counted = [place for place, copied in enumerate(self.copied) if copied > 0]
        for place in counted:
            for number, ((products, moments, squares), rest) in enumerate(
                zip(self.held[place], self.rests[place], strict=True)
            ):
                # In the rest's eigenvectors, where a ridge is a division, and all strengths at once; of so
                # many units that what is formed lies in the cache.
                values, vectors = np.linalg.eigh(rest[0])
                turned, of_rest, of_held = (
                    vectors.T @ products @ vectors,
                    vectors.T @ rest[1],
                    vectors.T @ moments,
                )
                for first in range(0, num_units, CACHED_UNITS):
                    units = slice(first, first + CACHED_UNITS)
                    weights = _turned_ridges(values, of_rest[:, units])  # [F, S, n]
                    gradient = (turned @ weights.reshape(len(turned), -1)).reshape(weights.shape)
                    gradient -= 2 * of_held[:, None, units]
                    after = squares[units] + np.einsum("fsn,fsn->sn", weights, gradient)
                    found[number, :, units] += after / self.copied[place]
        return found / max(len(counted), 1)

    def solve(self, errors: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Weights float32 [F, N] of all windows, and of all but each block; each unit by its best choice."""
        best = errors.reshape(-1, errors.shape[2]).argmin(axis=0)
        kept, strength = np.divmod(best, errors.shape[1])
        width, num_units = self.whole[0][1].shape
        solved = []
        for sums in (self.whole, *self.rests):
            weights = np.zeros((width, num_units), np.float32)
            for number in np.unique(kept):
                for row, found in enumerate(_ridges(*sums[number][:2])):
                    units = (kept == number) & (strength == row)
                    weights[:, units] = found[:, units]
            solved.append(weights)
        return solved[0], solved[1:]


def _sums(features: np.ndarray, frames: _Frames) -> _Sums:
    """Sums over windows and steps of features[h] - k features[0] and frames[h] - k frames[0], k the share
    that is kept at step h."""
    width, horizon = features.shape[2], features.shape[1] - 1
    first, flat = features[:, 0], features[:, 1:].reshape(-1, width)
    products, moments = flat.T @ flat, flat.T @ frames.flat
    sums = []
    shares = _shares(horizon)
    summed = np.matmul(shares, features[:, 1:])  # [W, K, F]
    for number, share in enumerate(shares):
        of_features = summed[:, number]
        total = float(np.square(share).sum())
        mixed = of_features.T @ first
        sums.append(
            (
                (products - mixed - mixed.T + total * first.T @ first).astype(np.float64),
                (
                    moments - of_features.T @ frames.first - first.T @ frames.summed[number]
                    + total * first.T @ frames.first
                ).astype(np.float64),
                frames.squares[number],
            )
        )  # fmt: skip
    return sums


def _shares(horizon: int) -> np.ndarray:
    """float32 [K, H], what of the last frame is kept at each step, by entry of KEPT."""
    return (np.array(KEPT)[:, None] ** (np.arange(1, horizon + 1) / horizon)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Frames:
    """The frames of some windows, and what sums with any features need of them.

    Attributes:
        windows: bool [W], which.
        first: float32 [w, N], the last of the context.
        flat: float32 [w H, N], those forecast.
        summed: float32 [K, w, N], these summed by shares.
        squares: float64 [K, N], of frames less the share of the first.
    """

    windows: np.ndarray
    first: np.ndarray
    flat: np.ndarray
    summed: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, last: np.ndarray, target: np.ndarray, windows: np.ndarray) -> Self:
        """Of the last frames of contexts [W, N], and those forecast [W, H, N]."""
        first, ahead = last[windows], target[_together(np.flatnonzero(windows))]
        flat, shares = ahead.reshape(-1, ahead.shape[2]), _shares(ahead.shape[1])
        summed = np.ascontiguousarray(np.matmul(shares, ahead).transpose(1, 0, 2))
        total = np.square(shares).sum(axis=1, dtype=np.float64)
        squares = (
            np.einsum("wn,wn->n", flat, flat, dtype=np.float64)
            - 2 * np.einsum("kwn,wn->kn", summed, first, dtype=np.float64)
            + total[:, None] * np.einsum("wn,wn->n", first, first, dtype=np.float64)
        )
        return cls(windows, first, flat, summed, squares)

    def copied(self) -> float:
        """The squared error of repeating the last frame; zero only where nothing moves."""
        away = self.flat.reshape(len(self.first), -1, self.first.shape[1]) - self.first[:, None]
        return float(np.square(away, out=away).sum(dtype=np.float64))


@dataclass(frozen=True, eq=False)
class _FramesOfBlocks:
    """Frames by block of time, for any features.

    Attributes:
        held: of each block.
        near: of the other windows that share a frame with it.
        copied: by block, the squared error of repeating the last frame, all units together.
    """

    held: list[_Frames]
    near: list[_Frames]
    copied: list[float]

    @classmethod
    def of(cls, last: np.ndarray, target: np.ndarray, blocks: Sequence[TimeBlock]) -> Self:
        """Of the last frames of contexts [W, N], and those forecast [W, H, N]."""
        held = [_Frames.of(last, target, block.held_out) for block in blocks]
        near = [_Frames.of(last, target, ~block.rest & ~block.held_out) for block in blocks]
        return cls(held, near, [each.copied() for each in held])


def _together(places: np.ndarray) -> np.ndarray | slice:
    """Ascending places, as a slice where they lie together: what it takes of an array is no copy."""
    if len(places) and len(places) == places[-1] - places[0] + 1:
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def _combined(first: _Sums, second: _Sums, sign: int) -> _Sums:
    return [
        (one[0] + sign * two[0], one[1] + sign * two[1], one[2] + sign * two[2])
        for one, two in zip(first, second, strict=True)
    ]


def _ridges(products: np.ndarray, moments: np.ndarray) -> list[np.ndarray]:
    """The weights [F, N] for each of STRENGTHS."""
    values, vectors = np.linalg.eigh(products)
    turned = _turned_ridges(values, vectors.T @ moments)
    return [vectors @ turned[:, row] for row in range(len(STRENGTHS))]


def _turned_ridges(values: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The weights [F, S, N] for each of STRENGTHS, of sums whose products have these eigenvalues [F], all in
    their eigenvectors."""
    square = max(float(values.mean()), 0.0)
    if square == 0:
        return np.zeros((len(values), len(STRENGTHS), moments.shape[1]))
    penalised = np.maximum(values, 0)[:, None] + square * np.array(STRENGTHS)
    weights: np.ndarray = moments[:, None] / penalised[..., None]
    return weights


def _no_response(reason: str, starts: np.ndarray, tried: _Encoded | None = None) -> ResponseFit:
    if tried is None:
        return ResponseFit(None, None, math.nan, "level", 0.0, reason, (), starts)
    return ResponseFit(None, tried.features, tried.error, tried.encoding, tried.memory_s, reason, (), starts)
