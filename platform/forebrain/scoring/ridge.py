"""The closed-form head: what ridge regressions add to another forecast of one session.

A base forecast (the linear baseline, a backbone) leaves a residual. The head forecasts it from features of
the context, for each step of the horizon:

- `level`: the unit's last frame and its whole past relative to it, with weights that all units share;
- `own`: the last frame and the newest of that past, with weights of each unit;
- `population`: principal components of the population now and their changes, with weights of each unit.

Each block has a strength of its penalty, chosen by forecasting blocks of time from all others, training and
validation part together; a block that does not help there is left out, and so is a head. The weights are then
fitted on both parts. Levels drift: how far they moved between the halves of what is fitted on is taken for
how far they may be elsewhere later, so that no weight relies on them more than that allows. See `gram` for
the regressions. The linear baseline with a head is called `ridge`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse.linalg import svds

from forebrain.errors import ConfigError
from forebrain.scoring.conformal import window_spread
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.gram import (
    FeatureBlock,
    Gram,
    Strengths,
    Weights,
    choose_strengths,
    num_own,
    solve,
    solve_shared,
    solve_units,
)
from forebrain.scoring.protocols import Part
from forebrain.scoring.time_blocks import LEAST_BLOCKS, TimeBlock, time_blocks
from forebrain.scoring.window_source import WindowSource

NUM_COMPONENTS = 8
CHANGE_LAGS = (1, 2, 4, 8, 16)
# What a head adds is trusted up to this spread of a window about its last frame, in training standard
# deviations, or up to the largest that was seen.
TRUSTED_SPREAD = 3.0
# Bounds on memory and time: unit-windows that weights are fitted on, those that choices are made by, units
# that choices are made by, units whose sums are held at once. A session has MIN_WINDOWS whatever its size.
MAX_ROWS = 1 << 19
MAX_CHOICE_ROWS = 1 << 18
CHOICE_UNITS = 48
UNITS_AT_ONCE = 16_384
# Unit-windows that are forecast out of block at once: all windows are read again for the next.
OUT_OF_BLOCK_ROWS = 1 << 19
MIN_WINDOWS = 512
# Unit-windows that are read at once, so that they lie in the cache, or in so many windows, whose sums are not
# much work beside adding them up; and at most.
BATCH_ROWS = 1 << 15
BATCH_WINDOWS = 32
MAX_BATCH_ROWS = 1 << 17
# Frames that components are found on. Of fewer than DENSE units or frames all components are found first.
MAX_FRAMES = 2048
DENSE = 128

MoreFeatures = Callable[[np.ndarray], Sequence[FeatureBlock]]


@dataclass(frozen=True, eq=False)
class Features:
    """Properties of a session that the features of its windows are formed with.

    Attributes:
        loadings: float32 [N, k], of the population's components.
        low, high: float32 [N], the range of each unit's frames that was seen; what lies outside is taken for
            its bound.
        spread: float32 [N], up to which spread a window is trusted.
    """

    loadings: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spread: np.ndarray

    @classmethod
    def unbounded(cls, loadings: np.ndarray) -> Self:
        """Features without bounds, for frames all of which are seen now."""
        low, high, spread = (np.full(len(loadings), bound, np.float32) for bound in (-np.inf, np.inf, np.inf))
        return cls(loadings, low, high, spread)

    def past(self, context: np.ndarray, units: slice | np.ndarray = slice(None)) -> np.ndarray:
        """[B, C, N]: the last frame, and those before it relative to it, newest first; of some units."""
        frames = context[..., units]
        past: np.ndarray = frames[:, ::-1] - frames[:, -1:]
        np.clip(frames[:, -1], self.low[units], self.high[units], out=past[:, 0])
        return past

    def common(self, context: np.ndarray) -> list[FeatureBlock]:
        """The population: [B, (1 + changes) k], the components of the last frame and their changes."""
        lags = change_lags(context.shape[1])
        frames = np.ascontiguousarray(context[:, [-1, *(-1 - lag for lag in lags)]])
        components = np.matmul(np.clip(frames, self.low, self.high), self.loadings)
        now = components[:, :1]
        values = np.concatenate([now, now - components[:, 1:]], axis=1).reshape(len(context), -1)
        return [FeatureBlock("population", values)]

    def trust(self, context: np.ndarray) -> np.ndarray:
        """[B, 1, N]: 1, and less in a window that is wilder than any that was seen, as artefacts are."""
        return np.minimum(1, self.spread / spread_of(context))


def spread_of(context: np.ndarray) -> np.ndarray:
    """[B, 1, N]: root mean square distance of the frames of contexts [B, C, N] from the last; never zero."""
    away = context - context[:, -1:]
    squares = np.einsum("bcn,bcn->bn", away, away)[:, None] / np.float32(context.shape[1])
    return np.sqrt(squares + np.float32(1e-12))


def change_lags(context: int) -> tuple[int, ...]:
    """Those of CHANGE_LAGS that a context of so many frames has room for."""
    return tuple(lag for lag in CHANGE_LAGS if lag < context)


@dataclass(frozen=True, eq=False)
class Head:
    """Regressions of one session, whose forecasts are added to a base forecast.

    Attributes:
        features: of the session.
        shared: float32 [C, H], weights of the past for all units.
        own: float32 [P, H, N], weights of its newest for each unit.
        common: float32 [F, H, N] by block of common features; a block that was left out is not there.
    """

    features: Features
    shared: np.ndarray
    own: np.ndarray
    common: Mapping[str, np.ndarray]

    def add_to(self, base: np.ndarray, context: np.ndarray, more: Sequence[FeatureBlock] = ()) -> np.ndarray:
        """The base forecasts [B, H, N] of contexts [B, C, N] with what the head adds."""
        return base + self.correction(context, more)

    def correction(self, context: np.ndarray, more: Sequence[FeatureBlock] = ()) -> np.ndarray:
        """The correction that is added to forecasts; less in windows wilder than any that was seen.

        Args:
            context: float32 [B, C, N], normalised.
            more: blocks of common features besides the population, [B, F] each.

        Returns:
            float32 [B, H, N]. A window has the same bits whatever the batch that it lies in.
        """
        past = self.features.past(context)
        added: np.ndarray = np.matmul(self.shared.T, past)
        for column, weights in enumerate(self.own):
            added += weights * past[:, column, None]
        for block in (*self.features.common(context), *more):
            if block.name in self.common:
                # A product a window, so that its sums have one order whatever the batch.
                flat = self.common[block.name].reshape(block.values.shape[1], -1)
                added += np.matmul(block.values[:, None], flat).reshape(added.shape)
        added *= self.features.trust(context)
        return added

    def scaled(self, weights: np.ndarray) -> Head:
        """The head times a weight for each step of the horizon, float32 [H]."""
        common = {name: values * weights[:, None] for name, values in self.common.items()}
        return Head(self.features, self.shared * weights, self.own * weights[:, None], common)

    def plus(self, other: Head) -> Head:
        """The sum of two heads with the same features."""
        common = dict(self.common)
        for name, values in other.common.items():
            common[name] = common[name] + values if name in common else values
        return Head(self.features, self.shared + other.shared, self.own + other.own, common)

    def without(self, block: str) -> Head:
        """The head without a block of common features, its other weights as they are."""
        common = {name: values for name, values in self.common.items() if name != block}
        return Head(self.features, self.shared, self.own, common)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a safetensors file."""
        features = {f"features.{name}": getattr(self.features, name) for name in _FEATURES}
        common = {f"common.{name}": values for name, values in self.common.items()}
        return {**features, "shared": self.shared, "own": self.own, **common}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], where: str) -> Self:
        """The head whose `arrays` these are.

        Args:
            arrays: by name.
            where: the file, for messages.

        Raises:
            ConfigError: an array is missing, of another shape or type than the others expect, or not finite.
        """
        prefix = "common."
        common = {
            name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)
        }
        names = [*(f"features.{name}" for name in _FEATURES), "shared", "own"]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ConfigError(f"{where}: the head has no {', '.join(missing)}. Is the file whole?")
        loadings, low, high, spread, shared, own = (arrays[name] for name in names)
        horizon, num_units = own.shape[1:] if own.ndim == 3 else (0, 0)
        num_population = loadings.shape[-1] * (1 + len(change_lags(len(shared))))
        expected = {
            "features.loadings": (num_units, loadings.shape[-1]),
            **{f"features.{name}": (num_units,) for name in _FEATURES[1:]},
            "shared": (len(shared), horizon),
            "own": (num_own(len(shared)), horizon, num_units),
            **{f"{prefix}{name}": (len(values), horizon, num_units) for name, values in common.items()},
        }
        if "population" in common:
            expected[f"{prefix}population"] = (num_population, horizon, num_units)
        for name, shape in expected.items():
            values = arrays[name]
            if values.shape != shape or values.dtype != np.float32 or not np.isfinite(values).all():
                raise ConfigError(
                    f"{where}: {name} of the head is {values.dtype} {list(values.shape)}; expected float32 "
                    f"{list(shape)}, all finite. Is the file damaged?"
                )
        return cls(Features(loadings, low, high, spread), shared, own, common)


_FEATURES = ("loadings", "low", "high", "spread")


@dataclass(frozen=True, eq=False)
class Trial:
    """Windows, each forecast by a head that was fitted on no frame of it.

    Attributes:
        starts: [W], their start frames, in order.
        is_trained: bool [W], they lie in the training part, on which the base may have been fitted.
        base: float32 [W, H, S], the base's forecasts of some units, less the last frame.
        added: float32 [W, H, S], what the head adds; zero where none helped.
        target: float32 [W, H, S], what came, less the last frame.
    """

    starts: np.ndarray
    is_trained: np.ndarray
    base: np.ndarray
    added: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, eq=False)
class HeadFit:
    """A head and how it came about.

    Attributes:
        head: None where none could be fitted, or none helped.
        strengths: the chosen penalties by block of features; infinite for a block that is left out.
        error: squared error of blocks of time forecast from all others, over that of the base alone, the mean
            over blocks; NaN where there are too few windows for them.
        num_windows: that the weights are fitted on.
        reason: why there is no head; None where there is one.
        trial: the forecasts of these blocks of time; None where there are none.
        drift: mean square by which levels moved between the halves of these windows, see `Gram.with_drift`.
    """

    head: Head | None
    strengths: Strengths
    error: float
    num_windows: int
    reason: str | None = None
    trial: Trial | None = None
    drift: float = 0.0

    def forecaster(self, base: Forecaster) -> Forecaster:
        """The base with the head, or the base where there is none."""
        head = self.head
        if head is None:
            return base
        return lambda session, context: head.add_to(base(session, context), context)

    def record(self) -> dict[str, Any]:
        """Plain and JSON-able; undefined or infinite is None."""
        return {
            "strengths": {name: _plain(value) for name, value in self.strengths.items()},
            "error": _plain(self.error),
            "num_windows": self.num_windows,
            "drift": self.drift,
            "reason": self.reason,
        }


def fit_head(
    source: WindowSource,
    base: Forecaster,
    session: int = 0,
    *,
    parts: Sequence[Part] = ("train", "validation"),
    loadings: np.ndarray | None = None,
    choice_units: np.ndarray | None = None,
    more: MoreFeatures = lambda starts: (),
    also: Callable[[np.ndarray], np.ndarray] | None = None,
) -> HeadFit:
    """Fits the head of one session to a base forecast.

    Args:
        source: of the session's windows. No other part than those named is read.
        base: what the head is added to, (session, context [B, C, N]) -> [B, H, N].
        session: its number in the source.
        parts: that choices are made by and weights fitted on, in order of time.
        loadings: float32 [N, k] of the population; None for principal components of the training part.
        choice_units: the units whose errors choose the strengths; None for some, spread evenly.
        more: start frames [B] -> common features besides the population, for example of inputs.
        also: start frames [B] -> [B, H, N] that is added to the base's forecasts.
    """
    num_units, length = source.sessions[session].num_units, source.context + source.horizon
    if loadings is None:
        loadings = principal_components(source, session)
    if choice_units is None:
        choice_units = spread_evenly(num_units)

    def forecast(context: np.ndarray, starts: np.ndarray) -> np.ndarray:
        values = base(session, context)
        return values if also is None else values + also(starts)

    # Kept where the sums of all units are held at once.
    read = _reader(source, session, parts, forecast, loadings, more, keep=num_units <= UNITS_AT_ONCE)
    sample = _Sample.of(read(), loadings, choice_units)
    if sample is None:
        return _no_head("it has no window to fit a head on", 0)
    num_windows = len(sample.starts)
    blocks = time_blocks(sample.starts, length)
    if not blocks:
        return _no_head(
            f"its {num_windows} windows do not make {LEAST_BLOCKS} blocks of time longer than a window of "
            f"{length} frames, which choosing a head takes",
            num_windows,
        )
    whole, sums = sample.folds(blocks)
    drift = sample.drift() if source.sessions[session].tests_later else 0.0

    def drifting(gram: Gram, units: slice | np.ndarray = sample.units) -> Gram:
        return gram.with_drift(drift, loadings, units)

    folds = [(held_out, drifting(rest)) for held_out, rest in sums]
    strengths, error = choose_strengths(folds)
    if not error < 1:
        reason = "it did not help on blocks of time"
        return HeadFit(None, strengths, error, num_windows, reason, sample.trial, drift)
    for block, (_, rest) in zip(blocks, folds, strict=True):
        sample.trial.added[block.held_out] = sample.predict(solve(rest, strengths), block.held_out)
    whole = drifting(whole)
    shared = solve_shared(whole, strengths["level"]).astype(np.float32)
    if np.array_equal(choice_units, np.arange(num_units)):
        own, common = solve_units(whole.after(shared), strengths)
    else:
        own, common = _solve_all(read, sample, shared, strengths, num_units, drifting)
    edges = np.cumsum(list(whole.widths.values()))
    weights = {
        name: np.ascontiguousarray(each.transpose(0, 2, 1), np.float32)
        for name, each in zip(whole.widths, np.split(common, edges[:-1]), strict=True)
        if math.isfinite(strengths[name]) and len(each)
    }
    head = Head(sample.features, shared, np.ascontiguousarray(own.transpose(1, 2, 0), np.float32), weights)
    return HeadFit(head, strengths, error, num_windows, None, sample.trial, drift)


@dataclass(frozen=True, eq=False)
class OutOfBlock:
    """Validation windows of all units, forecast by a head that was fitted on no frame of theirs.

    Attributes:
        starts: [W], start frames, in order.
        last: float32 [W, 1, N], the last frame of the contexts.
        spread: float32 [W, N], see `conformal.window_spread`.
        base, added, target: float32 [W, H, N], as `Trial` has them, less the last frame.
    """

    starts: np.ndarray
    last: np.ndarray
    spread: np.ndarray
    base: np.ndarray
    added: np.ndarray
    target: np.ndarray


def out_of_block(
    source: WindowSource,
    base: Forecaster,
    fit: HeadFit,
    session: int = 0,
    *,
    loadings: np.ndarray | None = None,
    more: MoreFeatures = lambda starts: (),
) -> OutOfBlock | None:
    """Forecasts of the validation part by a head's choices, fitted on all blocks of time but the window's; of
    the training part where there is no other.

    For every unit, where `HeadFit.trial` is of some. Memory: float32 of validation windows x H x N, four
    times.

    Args:
        source: of the session's windows; the test part is never read.
        base: that the head was fitted to.
        fit: the head, by `fit_head` with the same source, loadings and further features.
        session: its number in the source.
        loadings, more: as `fit_head` takes them.

    Returns:
        None where there is no window.
    """
    num_units = source.sessions[session].num_units
    if loadings is None:
        loadings = principal_components(source, session)
    read = _reader(
        source,
        session,
        ("train", "validation"),
        lambda context, starts: base(session, context),
        loadings,
        more,
    )
    lasts, spreads = [], []
    part: Part = "validation" if source.num_windows(session, "validation") else "train"
    for batch in read():
        if batch.part == part:
            lasts.append(batch.context[:, -1:])
            spreads.append(window_spread(batch.context))
    if not lasts:
        return None
    trials: list[Trial] = []
    num_windows = num_windows_read(source, session, ("train", "validation"))
    at_once = max(CHOICE_UNITS, OUT_OF_BLOCK_ROWS // max(1, num_windows))
    for first in range(0, num_units, at_once):
        sample = _Sample.of(read(), loadings, np.arange(first, min(first + at_once, num_units)))
        assert sample is not None
        if fit.head is not None:
            blocks = time_blocks(sample.starts, source.context + source.horizon)
            for block, (_, rest) in zip(blocks, sample.folds(blocks)[1], strict=True):
                weights = solve(rest.with_drift(fit.drift, loadings, sample.units), fit.strengths)
                sample.trial.added[block.held_out] = sample.predict(weights, block.held_out)
        trials.append(sample.trial)
    usable = trials[0].is_trained if part == "train" else ~trials[0].is_trained
    base_, added, target = (
        np.concatenate([getattr(trial, name)[usable] for trial in trials], axis=2)
        for name in ("base", "added", "target")
    )
    return OutOfBlock(
        trials[0].starts[usable], np.concatenate(lasts), np.concatenate(spreads), base_, added, target
    )


def _solve_all(
    read: Callable[[], Iterator[_Batch]],
    sample: _Sample,
    shared: np.ndarray,
    strengths: Strengths,
    num_units: int,
    drifting: Callable[[Gram, slice], Gram],
) -> tuple[np.ndarray, np.ndarray]:
    """The weights of all units, own [N, P, H] and common [F, N, H], given those that they share.

    All windows are read again for every range of units whose sums fit into memory at once.
    """
    solved = []
    unbounded, width = Features.unbounded(sample.features.loadings), num_own(len(shared))
    # The older past, relative to the last frame and newest first, times its weights is frames times these.
    older = np.ascontiguousarray(shared[: width - 1 : -1].T)  # [H, C - P]
    for first in range(0, num_units, UNITS_AT_ONCE):
        units = slice(first, min(first + UNITS_AT_ONCE, num_units))
        gram: Gram | None = None
        for batch in read():
            context = batch.context[..., units]
            rest = batch.target[..., units] - batch.forecast[..., units]
            rest -= np.matmul(older, context[:, : len(shared) - width])
            rest += older.sum(axis=1)[:, None] * context[:, -1:]
            summed = Gram.of(unbounded.past(batch.context[:, -width:], units), rest, batch.common)
            gram = summed if gram is None else gram.plus(summed)
        assert gram is not None
        solved.append(solve_units(drifting(gram, units).after(shared[:width]), strengths))
    own, common = zip(*solved, strict=True)
    return np.concatenate(own), np.concatenate(common, axis=1)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Windows, the base's forecasts of them, and the features that all units have in common."""

    part: Part
    context: np.ndarray
    target: np.ndarray
    forecast: np.ndarray
    starts: np.ndarray
    common: Sequence[FeatureBlock]


def _reader(
    source: WindowSource,
    session: int,
    parts: Sequence[Part],
    forecast: Callable[[np.ndarray, np.ndarray], np.ndarray],
    loadings: np.ndarray,
    more: MoreFeatures,
    keep: bool = True,
) -> Callable[[], Iterator[_Batch]]:
    """What reads a session's windows, again and again in the same order.

    Args:
        source, session, parts: of the windows, see `read_windows`.
        forecast: the base's, of contexts [B, C, N] and their start frames [B].
        loadings: of the population.
        more: common features besides it.
        keep: forecasts and common features, for the next time.
    """
    known: list[tuple[np.ndarray, Sequence[FeatureBlock]]] = []
    unbounded = Features.unbounded(loadings)

    def read() -> Iterator[_Batch]:
        windows = read_windows(source, session, parts)
        for number, (part, context, target, starts) in enumerate(windows):
            if number < len(known):
                values, common = known[number]
            else:
                values, common = forecast(context, starts), (*unbounded.common(context), *more(starts))
                if keep:
                    known.append((values, common))
            yield _Batch(part, context, target, values, starts, common)

    return read


@dataclass(frozen=True, eq=False)
class _Sample:
    """All windows of the units that choices are made by.

    Attributes:
        features: of the session, bounded by what was seen.
        units: [S], which of the session's.
        past, residual: float32 [W, C, S] and [W, H, S].
        common: of all units, [W, F] each.
        trial: nothing added yet.
    """

    features: Features
    units: np.ndarray
    past: np.ndarray
    residual: np.ndarray
    common: Sequence[FeatureBlock]
    trial: Trial

    @classmethod
    def of(cls, batches: Iterator[_Batch], loadings: np.ndarray, units: np.ndarray) -> Self | None:
        """The quantities kept of all windows; None where there are none."""
        unbounded = Features.unbounded(loadings)
        low, high = np.full(len(loadings), np.inf), np.full(len(loadings), -np.inf)
        spread = np.full(len(loadings), TRUSTED_SPREAD)
        kept: list[tuple[np.ndarray, ...]] = []
        commons: list[Sequence[FeatureBlock]] = []
        for batch in batches:
            context, last = batch.context, batch.context[:, -1:, units]
            low, high = np.minimum(low, context.min(axis=(0, 1))), np.maximum(high, context.max(axis=(0, 1)))
            spread = np.maximum(spread, spread_of(context).max(axis=(0, 1)))
            commons.append(batch.common)
            target, forecast = batch.target[..., units], batch.forecast[..., units]
            is_trained = np.full(len(context), batch.part == "train")
            kept.append(
                (unbounded.past(context, units), target - forecast, forecast - last, batch.starts, is_trained)
            )
        if not kept:
            return None
        *columns, unsorted, is_trained = (np.concatenate(each) for each in zip(*kept, strict=True))
        blocks = [np.concatenate([block.values for block in each]) for each in zip(*commons, strict=True)]
        starts, past, residual, departure, is_trained, *blocks = in_time(
            unsorted, *columns, is_trained, *blocks
        )
        common = [FeatureBlock(block.name, values) for block, values in zip(commons[0], blocks, strict=True)]
        trial = Trial(starts, is_trained, departure, np.zeros_like(residual), residual + departure)
        bounds = (each.astype(np.float32) for each in (low, high, spread))
        return cls(Features(loadings, *bounds), units, past, residual, common, trial)

    @property
    def starts(self) -> np.ndarray:
        return self.trial.starts

    def drift(self) -> float:
        """Mean square by which a unit's level moved from the earlier half of the windows to the later.

        Chance is not taken off: levels that came and went within the halves are seen at few values, and a
        level not seen yet is as likely after a short stretch as after a drift.
        """
        earlier, later = (half.mean(axis=0, dtype=np.float64) for half in np.array_split(self.past[:, 0], 2))
        return float(np.mean(np.square(later - earlier)))

    def gram(self, chosen: np.ndarray) -> Gram:
        """The sums of some windows, bool [W]."""
        return Gram.of(self.past[chosen], self.residual[chosen], self._common(chosen))

    def folds(self, blocks: Sequence[TimeBlock]) -> tuple[Gram, list[tuple[Gram, Gram]]]:
        """The sums of all windows; and of each block of time those of its windows, and of those that share no
        frame with it."""
        held_out = [self.gram(block.held_out) for block in blocks]
        whole = held_out[0]
        for other in held_out[1:]:
            whole = whole.plus(other)
        return whole, [
            (own, whole.less(own).less(self.gram(~block.rest & ~block.held_out)))
            for block, own in zip(blocks, held_out, strict=True)
        ]

    def predict(self, weights: Weights, chosen: np.ndarray) -> np.ndarray:
        """The correction by weights that is added to the forecasts of some windows."""
        return weights.predict(self.past[chosen], self._common(chosen))

    def _common(self, chosen: np.ndarray) -> list[FeatureBlock]:
        return [FeatureBlock(block.name, block.values[chosen]) for block in self.common]


def spread_evenly(num_units: int, most: int = CHOICE_UNITS) -> np.ndarray:
    """The units that choices are made by: all, or so many of them."""
    return np.unique(np.linspace(0, num_units - 1, min(num_units, most)).astype(int))


def read_windows(
    source: WindowSource, session: int, parts: Sequence[Part]
) -> Iterator[tuple[Part, np.ndarray, np.ndarray, np.ndarray]]:
    """Batches (part, context, target, starts) of a session's windows, evenly spaced and bounded in number."""
    num_units = source.sessions[session].num_units
    size = max(1, BATCH_ROWS // num_units, min(BATCH_WINDOWS, MAX_BATCH_ROWS // num_units))
    for part, numbers in _windows_to_read(source, session, parts).items():
        for first in range(0, len(numbers), size):
            context, target, starts = source.read(session, part, numbers[first : first + size])
            if len(starts):
                yield part, context, target, starts


def in_time(starts: np.ndarray, *more: np.ndarray) -> tuple[np.ndarray, ...]:
    """Start frames of windows [W] and what belongs to them, in order of time: parts may lie in any order."""
    if (np.diff(starts) >= 0).all():
        return (starts, *more)
    order = np.argsort(starts, kind="stable")
    return tuple(each[order] for each in (starts, *more))


def num_windows_read(source: WindowSource, session: int, parts: Sequence[Part]) -> int:
    """How many windows `read_windows` gives, where all can be read."""
    return sum(map(len, _windows_to_read(source, session, parts).values()))


def _windows_to_read(source: WindowSource, session: int, parts: Sequence[Part]) -> dict[Part, np.ndarray]:
    num_units = source.sessions[session].num_units
    most = max(MIN_WINDOWS, min(MAX_ROWS // num_units, MAX_CHOICE_ROWS // min(num_units, CHOICE_UNITS)))
    counts = {part: source.num_windows(session, part) for part in parts}
    step = max(1, math.ceil(sum(counts.values()) / most))
    return {part: np.arange(0, count, step) for part, count in counts.items()}


def principal_components(
    source: WindowSource, session: int = 0, count: int = NUM_COMPONENTS, units: np.ndarray | None = None
) -> np.ndarray:
    """float32 [N, k]: the directions in which frames of the training part vary most, k of them or all there
    are.

    Found on at most MAX_FRAMES frames; where some `units` are named, on these alone, and others load on none.
    """
    num_units, length = source.sessions[session].num_units, source.context + source.horizon
    num_windows = source.num_windows(session, "train")
    step = max(length, math.ceil(num_windows * length / MAX_FRAMES))
    frames = np.zeros((1, num_units), np.float32)
    if num_windows:
        context, target, _ = source.read(session, "train", np.arange(0, num_windows, step))
        frames = np.concatenate([context, target], axis=1).reshape(-1, num_units)
    if units is not None:
        frames = frames[:, units]
    if min(frames.shape) <= DENSE:
        _, spreads, components = np.linalg.svd(frames, full_matrices=False)
    else:
        _, spreads, components = svds(frames, count, v0=np.ones(min(frames.shape)))
        spreads, components = spreads[::-1], components[::-1]
    components = components[:count][spreads[:count] > 1e-6 * max(spreads[0], 1e-12)]
    # A component has no sign of its own: its largest loading is made positive.
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(np.take_along_axis(components, largest[:, None], axis=1))
    loadings = np.zeros((num_units, len(components)), np.float32)
    loadings[slice(None) if units is None else units] = (components * signs).T
    return loadings


def _no_head(reason: str, num_windows: int) -> HeadFit:
    return HeadFit(
        None, dict.fromkeys(("level", "own", "population"), math.inf), math.nan, num_windows, reason
    )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
