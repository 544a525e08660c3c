"""How sure forecasts are and how right they are to be: intervals calibrated, and scored on the test part.

For each session quantiles of every forecaster are calibrated on the validation part (or as the caller did)
and scored beside the two baselines that need no model: `normal` and `ar_valql` (`autoregression`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forebrain.scoring.autoregression import (
    NormalBaseline,
    fit_autoregression,
    normal_quantiles,
    step_deviation,
)
from forebrain.scoring.baselines import CopyBaseline
from forebrain.scoring.conformal import Calibration, calibrate, window_spread
from forebrain.scoring.evaluate import WINDOWS_PER_SESSION, Forecaster, ForecasterInTime, forecast_of
from forebrain.scoring.intervals import rng_for
from forebrain.scoring.protocols import Part
from forebrain.scoring.quantiles import QuantileAccumulator, QuantileScores, headline, informative_horizon
from forebrain.scoring.ridge import (
    HeadFit,
    MoreFeatures,
    OutOfBlock,
    out_of_block,
    principal_components,
    spread_evenly,
)
from forebrain.scoring.stack import Stack, StackFit
from forebrain.scoring.window_source import SessionInfo, WindowSource, choose_windows

BASELINES = ("normal", "ar_valql")
VALIDATION = "validation part"
OUT_OF_BLOCK = "validation part, each block of time forecast by heads that were fitted on the other blocks"
OUT_OF_TRAINING = (
    "training part, since there is no validation part; each block of time forecast by heads that were fitted "
    "on the other blocks"
)
SCALED = (
    "validation part, errors scaled as those of some units grow when blocks of time are forecast by heads "
    "that were fitted on the other blocks"
)
# Units of a session that are scored, evenly spaced, and values of its residuals that are held.
MAX_UNITS = 128
MAX_STACK_UNITS = 2048
MAX_VALUES = 1 << 26
BATCH_ROWS = 1 << 13

AsScored = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Residuals:
    """Forecasts of windows that they were not fitted on, and what came.

    Attributes:
        context: C, frames that each window knows.
        starts: [W], start frames.
        forecast, target: float32 [W, H, N].
        spread: float32 [W, N], see `conformal.window_spread`.
    """

    context: int
    starts: np.ndarray
    forecast: np.ndarray
    target: np.ndarray
    spread: np.ndarray

    def calibrate(self, calibrated_on: str, step: np.ndarray | None = None) -> Calibration:
        """See `conformal.calibrate`."""
        return calibrate(
            self.forecast, self.target, self.spread, self.starts, calibrated_on, self.context, step=step
        )


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Quantile scores of forecasters and baselines on the same windows of the test part.

    Attributes:
        sessions: that were scored.
        scores: forecaster -> session id -> scores; `normal`, `ar_valql` and `mean` are always there. `mean`
            is the normal distribution of the training part.
        records: session id -> how the forecaster's quantiles were calibrated.
    """

    sessions: tuple[SessionInfo, ...]
    scores: Mapping[str, Mapping[str, QuantileScores]]
    records: Mapping[str, Mapping[str, Any]]

    def result(self, forecaster: str) -> dict[str, Any] | None:
        """The block `uncertainty` of result.json; None where no session could be scored."""
        of_model = self.scores[forecaster]
        if not of_model:
            return None
        calibrated_on = sorted({str(record["calibrated_on"]) for record in self.records.values()})
        return {
            **headline(list(of_model.values())),
            "calibrated_on": "; ".join(calibrated_on),
            "baselines": {name: headline(list(self.scores[name].values())) for name in BASELINES},
            "by_session": {
                name: {
                    **scores.to_json(),
                    "informative": self.informative(forecaster, name),
                    "calibration": dict(self.records[name]),
                    "baselines": {each: headline([self.scores[each][name]]) for each in BASELINES},
                }
                for name, scores in sorted(of_model.items())
            },
            "by_species": self._by("species", forecaster),
            "by_dataset": self._by("dataset", forecaster),
        }

    def informative(self, forecaster: str, session: str) -> dict[str, Any]:
        """How far ahead a session's forecasts say more than its mean does."""
        scores = self.scores[forecaster][session]
        of_mean = self.scores["mean"][session].step_loss()
        ahead, is_longer = informative_horizon(scores.step_loss(), of_mean, scores.rate_hz)
        return {
            "horizon": ahead,
            "unit": "frames" if scores.rate_hz is None else "s",
            "or_longer": is_longer,
        }

    def _by(self, attribute: str, forecaster: str) -> dict[str, Any]:
        groups: dict[str, list[QuantileScores]] = {}
        for info in self.sessions:
            if info.id in self.scores[forecaster]:
                groups.setdefault(getattr(info, attribute), []).append(self.scores[forecaster][info.id])
        return {name: headline(groups[name]) for name in sorted(groups)}


def assess(
    name: str,
    forecaster: Forecaster,
    source: WindowSource,
    *,
    sessions: Sequence[int] | None = None,
    calibrations: Mapping[int, Calibration] | None = None,
    windows_per_session: int | None = WINDOWS_PER_SESSION,
    seed: int = 0,
    as_scored: AsScored = lambda session, values: values,
    part: Part = "test",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Uncertainty:
    """Scores the quantiles of a forecaster beside the baselines' on the same windows.

    Sessions without a window in the training, the validation or the scored part are left out. Of more than
    MAX_UNITS units some, evenly spaced, are scored.

    Args:
        name: of the forecaster.
        forecaster: points, as `evaluate` takes it.
        source: of the sessions' windows.
        sessions: numbers of the sessions; None for all.
        calibrations: by number of the session, of all its units; those that are missing are calibrated on the
            validation part, on which the forecaster must not have been fitted.
        windows_per_session: at most so many, spread evenly, calibrate, and so many are scored.
        seed: of the choice of windows and of randomised PIT.
        as_scored: see `evaluate`.
        part: that is scored.
        progress: is told after each session how many are done, of how many in all.
    """
    numbers = list(range(len(source.sessions)) if sessions is None else sessions)
    infos: list[SessionInfo] = []
    scores: dict[str, dict[str, QuantileScores]] = {each: {} for each in (name, *BASELINES, "mean")}
    records: dict[str, Mapping[str, Any]] = {}
    parts: tuple[Part, ...] = ("train", "validation", part)
    for done, number in enumerate(numbers):
        if all(source.num_windows(number, each) for each in parts):
            info = source.sessions[number]
            calibration = (calibrations or {}).get(number)
            found, record = _assess_session(
                name, forecaster, source, number, calibration, windows_per_session, seed, as_scored, part
            )
            if found:
                infos.append(info)
                records[info.id] = record
                for each, one in found.items():
                    scores[each][info.id] = one
        progress(done + 1, len(numbers))
    return Uncertainty(tuple(infos), scores, records)


def assess_known(
    forecaster: Forecaster | ForecasterInTime,
    calibration: Calibration,
    source: WindowSource,
    session: int = 0,
    *,
    windows_per_session: int | None = WINDOWS_PER_SESSION,
    seed: int = 0,
    part: Part = "test",
) -> QuantileScores:
    """Quantile scores of a forecaster by itself; see `assess`, as which it takes windows and units.

    Args:
        forecaster: points; of what it knows besides the context its calibration knows too.
        calibration: of all units of the session.
        source, windows_per_session, seed, part: as `assess` takes them.
        session: its number in the source.
    """
    info = source.sessions[session]
    units = np.unique(np.linspace(0, info.num_units - 1, min(info.num_units, MAX_UNITS)).astype(int))
    calibration = calibration.of_units(units)
    rng = rng_for(seed, "pit", info.id)
    sums = QuantileAccumulator(source.horizon, len(units), rng, info.rate_hz)
    for context, target, starts in _read(source, session, part, windows_per_session, seed):
        forecast = forecast_of(forecaster, session, starts, context)[..., units]
        sums.update(calibration.quantiles(forecast, window_spread(context[..., units])), target[..., units])
    return sums.scores()


def residuals_of(
    forecaster: Forecaster | ForecasterInTime,
    source: WindowSource,
    session: int = 0,
    part: Part = "validation",
    *,
    windows_per_session: int | None = WINDOWS_PER_SESSION,
    seed: int = 0,
    units: np.ndarray | None = None,
) -> Residuals:
    """Forecasts of a part that the forecaster was not fitted on, and what came there.

    Args:
        forecaster: points.
        source: of the session's windows.
        session: its number in the source.
        part: with windows.
        windows_per_session: at most so many, spread evenly; fewer of very many units.
        seed: of their choice.
        units: by number; None for all.
    """
    found: list[tuple[np.ndarray, ...]] = []
    chosen = slice(None) if units is None else units
    count = source.sessions[session].num_units if units is None else len(units)
    limit = min(windows_per_session or MAX_VALUES, max(8, MAX_VALUES // (source.horizon * max(count, 1))))
    for context, target, starts in _read(source, session, part, limit, seed):
        forecast = forecast_of(forecaster, session, starts, context)
        spread = window_spread(context[..., chosen])
        found.append((starts, forecast[..., chosen], target[..., chosen], spread))
    if not found:
        shape = 0, source.horizon, count
        none = np.zeros(shape, np.float32)
        return Residuals(source.context, np.zeros(0, np.int64), none, none, np.zeros((0, count), np.float32))
    return Residuals(source.context, *(np.concatenate(each) for each in zip(*found, strict=True)))


def stack_residuals(
    fit: StackFit,
    source: WindowSource,
    model: Forecaster | None = None,
    session: int = 0,
    more: MoreFeatures = lambda starts: (),
) -> tuple[Residuals, str] | None:
    """Forecasts of the validation part by a stack whose heads were fitted on other blocks of time.

    Where a protocol has none, and no model was fitted on the training part, that part takes its place. Of
    more than MAX_STACK_UNITS units those of the stack itself, whose errors are scaled as those of the units
    by which heads are chosen grow out of their blocks.

    Args:
        fit: of the session.
        source: of its windows; the test part is never read.
        model: that the stack was fitted with.
        session: its number in the source.
        more: further features that its heads were fitted with.

    Returns:
        And what they are, for the record; None where there is no window that nothing was fitted on.
    """
    stack, num_units = fit.stack, source.sessions[session].num_units
    has_validation = source.num_windows(session, "validation") > 0
    if not has_validation and model is not None:
        return None
    bases: dict[str, tuple[Forecaster, HeadFit]] = {"linear": (stack.linear, fit.ridge)}
    if fit.head is not None:  # of a model, or of the last frame where it stands alone
        bases["model"] = model or CopyBaseline(source.horizon), fit.head
    if num_units > MAX_STACK_UNITS:
        return _scaled_residuals(fit, source, model, session, more)
    loadings = principal_components(source, session)
    found: dict[str, OutOfBlock] = {}
    for name, (base, head) in bases.items():
        held_out = out_of_block(source, base, head, session, loadings=loadings, more=more)
        if held_out is None:
            return None
        found[name] = held_out
    any_ = found["linear"]
    departure = sum(_departure(fit.weights, name, each.base, each.added) for name, each in found.items())
    residuals = Residuals(
        source.context, any_.starts, any_.last + departure, any_.last + any_.target, any_.spread
    )
    if not has_validation:
        return residuals, OUT_OF_TRAINING
    has_head = any(head.head is not None for _, head in bases.values())
    return residuals, OUT_OF_BLOCK if has_head else VALIDATION


def _departure(
    weights: Mapping[str, np.ndarray], name: str, base: np.ndarray, added: np.ndarray
) -> np.ndarray:
    """What a base with and without its head adds to the last frame, [W, H, N]."""
    with_head = {"linear": "ridge", "model": "model + head"}[name]
    none = np.zeros(base.shape[1], np.float32)
    of_head = weights.get(with_head, none)
    total: np.ndarray = (weights.get(name, none) + of_head)[:, None] * base + of_head[:, None] * added
    return total


@dataclass(frozen=True, eq=False)
class _StackInTime:
    """A stack whose heads may read further features."""

    stack: Stack
    model: Forecaster | None
    more: MoreFeatures

    def at(self, session: int, starts: np.ndarray, context: np.ndarray) -> np.ndarray:
        model = None if self.model is None else self.model(session, context)
        return self.stack.forecast(context, model, self.more(starts))


def _scaled_residuals(
    fit: StackFit, source: WindowSource, model: Forecaster | None, session: int, more: MoreFeatures
) -> tuple[Residuals, str] | None:
    found = residuals_of(_StackInTime(fit.stack, model, more), source, session)
    if not len(found.starts):
        return None
    trials = {
        name: head.trial
        for name, head in (("linear", fit.ridge), ("model", fit.head))
        if head is not None and head.trial is not None
    }
    growth = np.ones((source.horizon, 1))
    if trials:
        any_ = trials["linear"]
        departure = sum(_departure(fit.weights, name, each.base, each.added) for name, each in trials.items())
        held_out = np.abs(any_.target - departure)[~any_.is_trained].mean(axis=(0, 2))
        units = spread_evenly(source.sessions[session].num_units)
        itself = np.abs(found.target - found.forecast)[..., units].mean(axis=(0, 2))
        growth = np.maximum(1, held_out / np.maximum(itself, 1e-9))[:, None]
    scaled = found.target - growth * (found.target - found.forecast)
    return Residuals(
        source.context, found.starts, scaled.astype(np.float32), found.target, found.spread
    ), SCALED


class _Scored:
    """A source as its values are scored, of some of its units."""

    def __init__(self, source: WindowSource, as_scored: AsScored, units: np.ndarray) -> None:
        self.sessions = [replace(info, num_units=len(units)) for info in source.sessions]
        self.context, self.horizon = source.context, source.horizon
        self._source, self._as_scored, self._units = source, as_scored, units

    def num_windows(self, session: int, part: Part) -> int:
        return self._source.num_windows(session, part)

    def read(
        self, session: int, part: Part, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        context, target, starts = self._source.read(session, part, windows)
        return self.take(session, context), self.take(session, target), starts

    def take(self, session: int, values: np.ndarray) -> np.ndarray:
        taken: np.ndarray = self._as_scored(session, values)[..., self._units]
        return taken

    def training_mean(self, session: int) -> np.ndarray:
        return self.take(session, self._source.training_mean(session))


def _assess_session(
    name: str,
    forecaster: Forecaster,
    source: WindowSource,
    session: int,
    calibration: Calibration | None,
    limit: int | None,
    seed: int,
    as_scored: AsScored,
    part: Part,
) -> tuple[dict[str, QuantileScores], Mapping[str, Any]]:
    info = source.sessions[session]
    num_units = as_scored(session, source.training_mean(session)).shape[-1]
    units = np.unique(np.linspace(0, num_units - 1, min(num_units, MAX_UNITS)).astype(int))
    scored = _Scored(source, as_scored, units)
    if calibration is None:
        found: list[tuple[np.ndarray, ...]] = []
        for context, target, starts in _read(source, session, "validation", limit, seed):
            forecast = scored.take(session, forecaster(session, context))
            spread = window_spread(scored.take(session, context))
            found.append((starts, forecast, scored.take(session, target), spread))
        if not found:
            return {}, {}
        joined = (np.concatenate(each) for each in zip(*found, strict=True))
        residuals = Residuals(source.context, *joined)
        calibration = residuals.calibrate(VALIDATION)
    else:
        calibration = calibration.of_units(units)
    step = step_deviation(scored, session)
    normal, regression = NormalBaseline(source.horizon, step), fit_autoregression(scored, session)
    mean, deviation = _moments(scored, session)
    rngs = {each: rng_for(seed, "pit", each, info.id) for each in (name, *BASELINES, "mean")}
    sums = {
        each: QuantileAccumulator(source.horizon, len(units), rng, info.rate_hz) for each, rng in rngs.items()
    }
    for whole, whole_target, _ in _read(source, session, part, limit, seed):
        context, target = scored.take(session, whole), scored.take(session, whole_target)
        forecast = scored.take(session, forecaster(session, whole))
        sums[name].update(calibration.quantiles(forecast, window_spread(context)), target)
        sums["normal"].update(normal(context), target)
        sums["ar_valql"].update(regression(context), target)
        of_mean = np.broadcast_to(mean, target.shape)
        sums["mean"].update(normal_quantiles(of_mean, np.broadcast_to(deviation, target.shape[1:])), target)
    return {each: one.scores() for each, one in sums.items()}, calibration.record


def _moments(source: WindowSource, session: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the training part [N], of windows that share no frame."""
    length = source.context + source.horizon
    numbers = np.arange(0, source.num_windows(session, "train"), length)
    frames = [
        np.concatenate(source.read(session, "train", numbers[[place]])[:2], axis=1)
        for place in range(len(numbers))
    ]  # a window that cannot be read is none
    joined = np.concatenate(frames).reshape(-1, source.sessions[session].num_units).astype(np.float64)
    if not len(joined):
        joined = np.zeros((1, source.sessions[session].num_units))
    return joined.mean(axis=0), joined.std(axis=0)


def _read(source: WindowSource, session: int, part: Part, limit: int | None, seed: int) -> Any:
    info = source.sessions[session]
    chosen = choose_windows(info.id, source.num_windows(session, part), limit, seed)
    size = max(1, BATCH_ROWS // info.num_units)
    for first in range(0, len(chosen), size):
        batch = source.read(session, part, chosen[first : first + size])
        if len(batch[-1]):
            yield batch
