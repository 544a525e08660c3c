"""Scores of forecasters on one part of a data set, all on the same windows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring.baselines import BASELINES, CopyBaseline, LinearBaseline, LinearFit, MeanBaseline
from forebrain.scoring.metrics import ScoreAccumulator, Scores, summarise
from forebrain.scoring.protocols import Part
from forebrain.scoring.window_source import SessionInfo, WindowSource, choose_windows

WINDOWS_PER_SESSION = 256
# Rows (units x windows) of one batch. One window is never divided, so a larger session goes one at a time.
MAX_ROWS = 32_768
# A map of some hundred weights gains nothing from more rows of a session, nor from more windows in all.
_MAX_FIT_ROWS = 262_144
_MAX_FIT_WINDOWS = 65_536


class Forecaster(Protocol):
    """Forecasts a session by its number in the source: float32 context [B, C, N] -> forecast [B, H, N]."""

    def __call__(self, session: int, context: np.ndarray, /) -> np.ndarray: ...


@runtime_checkable
class ForecasterInTime(Protocol):
    """Forecasts windows of a session by where they start too: what it knows of them besides is its affair."""

    def at(self, session: int, starts: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Start frames [B] and contexts float32 [B, C, N] to forecasts [B, H, N]."""


def forecast_of(
    forecaster: Forecaster | ForecasterInTime, session: int, starts: np.ndarray, context: np.ndarray
) -> np.ndarray:
    """The forecasts [B, H, N] of either kind."""
    if isinstance(forecaster, ForecasterInTime):
        return forecaster.at(session, starts, context)
    return forecaster(session, context)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of several forecasters on the same windows of one part.

    Attributes:
        part: `validation`, `test` or `train`.
        horizon: H, frames.
        windows_per_session: the cap on windows scored a session; None scored all.
        seed: of the choice of windows and of the bootstraps.
        sessions: every session evaluated, those without a window in the part too.
        windows_available: windows of the part by session id.
        scores: forecaster -> session id -> scores, for the sessions that have windows.
    """

    part: Part
    horizon: int
    windows_per_session: int | None
    seed: int
    sessions: tuple[SessionInfo, ...]
    windows_available: Mapping[str, int]
    scores: Mapping[str, Mapping[str, Scores]]

    def summary(self, forecaster: str) -> Scores:
        """A forecaster's mean over all sessions."""
        return summarise(self.scores[forecaster], self.horizon, self.seed)

    def by(self, attribute: Literal["species", "dataset"], forecaster: str) -> dict[str, Scores]:
        """A forecaster's mean over the sessions of each species or data set, in alphabetical order."""
        groups: dict[str, dict[str, Scores]] = {}
        for info in self.sessions:
            if info.id in self.scores[forecaster]:
                group = groups.setdefault(getattr(info, attribute), {})
                group[info.id] = self.scores[forecaster][info.id]
        return {name: summarise(groups[name], self.horizon, self.seed) for name in sorted(groups)}

    @property
    def without_windows(self) -> list[str]:
        """Sessions too short, or too broken up, for a window in this part."""
        return [info.id for info in self.sessions if not self.windows_available[info.id]]

    def r2(self, forecaster: str, **group: str) -> float:
        """A forecaster's R2 against the units' training means, 1 - MSE / MSE of mean: the mean over sessions.

        Args:
            forecaster: its name; the mean must have been evaluated too.
            **group: of these sessions alone, such as `species="mouse"`.
        """
        own, mean = self.scores[forecaster], self.scores["mean"]
        found = [
            1 - own[info.id].value("mse") / mean[info.id].value("mse")
            for info in self.sessions
            if info.id in own
            and own[info.id].num_sessions
            and mean[info.id].value("mse") > 0
            and all(getattr(info, name) == value for name, value in group.items())
        ]
        return float(np.mean(found)) if found else math.nan

    def windows_skipped(self, forecaster: str) -> int:
        """Windows that were to be scored and could not be read; see `ShardSet.open`."""
        limit = self.windows_per_session
        chosen = sum(
            count if limit is None else min(count, limit) for count in self.windows_available.values()
        )
        return chosen - sum(scores.num_windows for scores in self.scores[forecaster].values())

    @property
    def undefined(self) -> list[str]:
        """Sessions in which nothing moved, so that no score against copy exists."""
        of_any = next(iter(self.scores.values()))  # It depends on the recording alone.
        return sorted(name for name, scores in of_any.items() if not scores.num_sessions)

    @property
    def models(self) -> list[str]:
        """Names of the forecasters that are not baselines."""
        return [name for name in self.scores if name not in BASELINES]

    def require_baselines(self) -> None:
        """Makes sure that copy, mean and linear stand beside what is reported.

        Raises:
            ConfigError: a baseline was not evaluated.
        """
        require_baselines(self.scores, f"evaluation on {self.part}")

    def require(self, model: str) -> None:
        """Makes sure that a model and the baselines were evaluated.

        Raises:
            ConfigError: one of them was not evaluated.
        """
        self.require_baselines()
        if model not in self.scores:
            raise ConfigError(f"no forecaster {model!r}; there are {', '.join(self.scores)}.")

    def result(self, model: str) -> dict[str, Any]:
        """One part's block of result.json: the model's scores, and the baselines' in the same form.

        Raises:
            ConfigError: the model or a baseline was not evaluated.
        """
        self.require(model)
        scored = sum(scores.num_windows for scores in self.scores[model].values())
        return {
            **self._block(model),
            "baselines": {name: self._block(name) for name in BASELINES},
            "windows": {
                "scored": scored,
                "skipped": self.windows_skipped(model),
                "available": sum(self.windows_available.values()),
                "per_session": self.windows_per_session,
                "seed": self.seed,
            },
            "sessions_without_windows": self.without_windows,
            "sessions_without_score": self.undefined,
        }

    def _block(self, forecaster: str) -> dict[str, Any]:
        r2 = self.r2(forecaster)
        return {
            **self.summary(forecaster).to_json(),
            "r2": r2 if math.isfinite(r2) else None,
            "by_session": {
                name: {**scores.headline(), "windows_available": self.windows_available[name]}
                for name, scores in sorted(self.scores[forecaster].items())
            },
            "by_species": {name: mean.headline() for name, mean in self.by("species", forecaster).items()},
            "by_dataset": {name: mean.headline() for name, mean in self.by("dataset", forecaster).items()},
        }

    def to_json(self) -> dict[str, Any]:
        """The evaluation as plain values, which JSON can hold and workers send each other."""
        return {
            "part": self.part,
            "horizon": self.horizon,
            "windows_per_session": self.windows_per_session,
            "seed": self.seed,
            "sessions": [asdict(info) for info in self.sessions],
            "windows_available": dict(self.windows_available),
            "scores": {
                forecaster: {name: scores.to_json() for name, scores in sessions.items()}
                for forecaster, sessions in self.scores.items()
            },
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_json` was given."""
        return cls(
            part=state["part"],
            horizon=state["horizon"],
            windows_per_session=state["windows_per_session"],
            seed=state["seed"],
            sessions=tuple(SessionInfo(**_renamed(info)) for info in state["sessions"]),
            windows_available=state["windows_available"],
            scores={
                forecaster: {name: Scores.from_json(scores) for name, scores in sessions.items()}
                for forecaster, sessions in state["scores"].items()
            },
        )

    @classmethod
    def merge(cls, parts: Sequence[Evaluation]) -> Evaluation:
        """Joins evaluations of different sessions, as several workers make them.

        Raises:
            ConfigError: they were not made alike, or a session is in two of them.
        """
        first = parts[0]
        for part in parts[1:]:
            for name in ("part", "horizon", "windows_per_session", "seed"):
                if getattr(part, name) != getattr(first, name):
                    raise ConfigError(
                        f"evaluations to merge differ in {name}: {getattr(first, name)} and "
                        f"{getattr(part, name)}."
                    )
            if part.scores.keys() != first.scores.keys():
                raise ConfigError(
                    f"evaluations to merge hold different forecasters: {', '.join(first.scores)} and "
                    f"{', '.join(part.scores)}."
                )
        sessions = sorted((info for part in parts for info in part.sessions), key=lambda info: info.id)
        _require_distinct(sessions)
        return cls(
            part=first.part,
            horizon=first.horizon,
            windows_per_session=first.windows_per_session,
            seed=first.seed,
            sessions=tuple(sessions),
            windows_available={
                name: count for part in parts for name, count in part.windows_available.items()
            },
            scores={
                forecaster: {
                    name: scores for part in parts for name, scores in part.scores[forecaster].items()
                }
                for forecaster in first.scores
            },
        )


def require_baselines(scored: Collection[str], where: str) -> None:
    """Raises ConfigError if one of the baselines is not among what was scored."""
    missing = [name for name in BASELINES if name not in scored]
    if missing:
        raise ConfigError(
            f"{where}: baselines {', '.join(missing)} are missing. Evaluate them with "
            "the model: evaluate({'model': model, **fit_baselines(source)}, ...)."
        )


def evaluate(
    forecasters: Mapping[str, Forecaster | ForecasterInTime],
    source: WindowSource,
    part: Part,
    *,
    sessions: Sequence[int] | None = None,
    windows_per_session: int | None = WINDOWS_PER_SESSION,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
    as_scored: Callable[[int, np.ndarray], np.ndarray] = lambda session, values: values,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Scores forecasters side by side, each on the same windows.

    Args:
        forecasters: by name; the baselines of `fit_baselines` belong among them.
        source: where the windows come from.
        part: `validation`, `test` or `train`.
        sessions: numbers of the sessions to score, None for all. Evaluations of disjoint sessions merge.
        windows_per_session: at most this many windows a session, spread evenly; None scores all.
        seed: of the choice of windows and of the bootstraps.
        max_rows: units x windows of one batch.
        as_scored: (session, values [..., N]) -> the values that count, in the units of measure in which
            errors are formed [..., K]; for a source whose normalisation or units are not those of the score.
        progress: is told after each batch how many windows are done, of how many in all.

    Raises:
        ConfigError: a forecast has the wrong shape, or two sessions share an id.
        DivergenceError: a forecast is not finite.
    """
    numbers = range(len(source.sessions)) if sessions is None else sessions
    infos = [source.sessions[number] for number in numbers]
    _require_distinct(infos)
    available = {
        info.id: source.num_windows(number, part) for number, info in zip(numbers, infos, strict=True)
    }
    total = sum(min(count, windows_per_session or count) for count in available.values())
    done = 0
    scores: dict[str, dict[str, Scores]] = {name: {} for name in forecasters}
    for number, info in zip(numbers, infos, strict=True):
        chosen = choose_windows(info.id, available[info.id], windows_per_session, seed)
        if len(chosen):
            collected: dict[str, ScoreAccumulator] = {}
            for context, target, starts in _batches(source, number, part, chosen, max_rows):
                truth, last_frame = as_scored(number, target), as_scored(number, context[:, -1])
                for name, forecaster in forecasters.items():
                    if name not in collected:
                        num_units = truth.shape[-1]
                        collected[name] = ScoreAccumulator(info.id, name, source.horizon, num_units)
                    forecast = as_scored(number, forecast_of(forecaster, number, starts, context))
                    collected[name].update(forecast, truth, last_frame, starts)
                done += len(starts)
                progress(done, total)
            length = source.context + source.horizon
            mean = as_scored(number, source.training_mean(number)) if collected else None
            for name, accumulator in collected.items():
                of_units = None if name in BASELINES else mean
                scores[name][info.id] = accumulator.scores(length, seed, of_units)
    return Evaluation(part, source.horizon, windows_per_session, seed, tuple(infos), available, scores)


def fit_linear(
    source: WindowSource,
    sessions: Sequence[int] | None = None,
    windows_per_session: int = WINDOWS_PER_SESSION,
    seed: int = 0,
) -> LinearFit:
    """Gathers the linear baseline's normal equations from training windows, spread evenly in time.

    Args:
        source: where the windows come from.
        sessions: numbers of the sessions to read, None for all; fits of several workers add up.
        windows_per_session: at most this many windows a session, fewer of very many sessions. Of large
            sessions every k-th unit is used.
        seed: of the choice of windows.
    """
    fit = LinearFit(source.context, source.horizon)
    windows_per_session = min(windows_per_session, max(1, _MAX_FIT_WINDOWS // max(1, len(source.sessions))))
    for number in range(len(source.sessions)) if sessions is None else sessions:
        info = source.sessions[number]
        chosen = choose_windows(info.id, source.num_windows(number, "train"), windows_per_session, seed)
        stride = max(1, math.ceil(len(chosen) * info.num_units / _MAX_FIT_ROWS))
        batches = _batches(source, number, "train", chosen, MAX_ROWS)
        fit.add_session((context[..., ::stride], target[..., ::stride]) for context, target, _ in batches)
    return fit


def baselines(source: WindowSource, linear: LinearBaseline) -> dict[str, Forecaster]:
    """The three baselines by name, for `evaluate`."""
    return {
        "copy": CopyBaseline(source.horizon),
        "mean": MeanBaseline(source.horizon, source.training_mean),
        "linear": linear,
    }


def fit_baselines(source: WindowSource, seed: int = 0) -> dict[str, Forecaster]:
    """The three baselines by name, fitted on the training part of every session of the source."""
    return baselines(source, fit_linear(source, seed=seed).solve())


def _batches(
    source: WindowSource, session: int, part: Part, windows: np.ndarray, max_rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    size = max(1, max_rows // source.sessions[session].num_units)
    for first in range(0, len(windows), size):
        batch = source.read(session, part, windows[first : first + size])
        if len(batch[-1]):
            yield batch


def _renamed(info: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a session by today's names; files written before call one `persists`."""
    return {("is_smooth" if name == "persists" else name): value for name, value in info.items()}


def _require_distinct(sessions: Sequence[SessionInfo]) -> None:
    counts = Counter(info.id for info in sessions)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ConfigError(f"sessions {', '.join(twice)} appear twice; each may be scored once.")
