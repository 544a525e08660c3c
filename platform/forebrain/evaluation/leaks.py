"""Leaks: what looking into the future is worth to a small model, against the same model without.

Each leak stands in published work. It is measured as the score that would be reported with it less the score
of its honest counterpart, which differs in nothing but the leak:

- z-score: mean and spread of the whole recording, against those of the training part.
- PCA: components of the whole recording and their spread, against those of the training part.
- filter: a context low-pass filtered forward and backward in time, against one that is filtered by the same
  filter twice forward. The frames to forecast, and the last one before them, are unfiltered in both. (Were
  they filtered too, a linear model could not tell: both ways leave the same spectrum.)
- split: patches of 1,000 frames, each split 60/20/20, against one split of the recording; recordings of fewer
  than 2,000 frames are one patch, and show nothing.

The model is one ridge regression from a unit's last frames, levels included, to its next ones, since a model
that sees only changes since the last frame would not care where a z-score comes from. copy, mean and linear
stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forebrain.errors import ConfigError
from forebrain.evaluation.tables import Table, or_none
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.evaluate import Forecaster, evaluate, fit_baselines, require_baselines
from forebrain.scoring.metrics import Scores
from forebrain.scoring.pairs import Difference, paired_difference
from forebrain.scoring.protocols import Part, Windows, fit_ranges, part_ranges, windows_of
from forebrain.scoring.window_source import SessionInfo, WindowSource, choose_windows
from forebrain.sessions.session import Range, Session

MODEL = "ridge"
LEAKS = ("z-score", "PCA", "filter", "split")
_CONTEXT, _HORIZON = 48, 16
_NUM_COMPONENTS = 10
# Of the highest frequency that the frames can show.
_CUTOFF = 0.2
_FIT_WINDOWS = 512


@dataclass(frozen=True)
class Prepared:
    """Frames as a model sees them.

    Attributes:
        traces: float32 [T, K].
        protocol: of the split alone.
        unfiltered: float32 [T, K], what is forecast where `traces` are filtered; None for `traces`.
    """

    traces: np.ndarray
    protocol: str = "chronological"
    unfiltered: np.ndarray | None = None


@dataclass(frozen=True)
class LeakResult:
    """The worth of one leak to one forecaster.

    Attributes:
        leak: one of `LEAKS`.
        forecaster: the model or a baseline.
        honest, leaky: mean score over sessions without and with it.
        worth: the difference, paired by session.
    """

    leak: str
    forecaster: str
    honest: float
    leaky: float
    worth: Difference


def measure_leaks(
    sessions: Sequence[Session],
    context: int = _CONTEXT,
    horizon: int = _HORIZON,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[LeakResult]:
    """Measures every leak on repaired recordings.

    Args:
        sessions: repaired, so without NaN.
        context, horizon: C and H, frames.
        seed: of the choice of windows and of the bootstraps.
        progress: is told a line for each leak.

    Raises:
        ConfigError: a recording is too short for a window in each part.
    """
    results = []
    for leak in LEAKS:
        progress(leak)
        honest, leaky = (
            _scores(
                [_prepare(session, leak, leaks) for session in sessions], sessions, context, horizon, seed
            )
            for leaks in (False, True)
        )
        for forecaster in (MODEL, *BASELINES):
            one, other = leaky[forecaster], honest[forecaster]
            results.append(
                LeakResult(leak, forecaster, _mean(other), _mean(one), paired_difference(one, other, seed))
            )
    return results


def leak_table(results: Sequence[LeakResult]) -> Table:
    """A row for each leak and forecaster.

    Raises:
        ConfigError: a baseline is missing.
    """
    require_baselines({result.forecaster for result in results}, "leaks")
    num_sessions = max(result.worth.num_sessions for result in results)
    return Table(
        name="leaks",
        title=f"what each leak adds to the test score of {num_sessions} sessions, with the 95 % interval by "
        "bootstrap over sessions",
        columns=("leak", "forecaster", "honest", "with the leak", "worth", "low", "high"),
        rows=tuple(
            (
                result.leak,
                result.forecaster,
                *map(or_none, (result.honest, result.leaky)),
                *map(or_none, (result.worth.value, result.worth.low, result.worth.high)),
            )
            for result in results
        ),
    )


def _prepare(session: Session, leak: str, is_leaky: bool) -> Prepared:
    """A session with a leak, or as its honest counterpart."""
    frames, segments = session.frames(0, session.num_frames), session.segments
    training = fit_ranges("chronological", session.num_frames, segments)
    if leak == "split":
        protocol = "poco" if is_leaky else "chronological"
        return Prepared(
            _zscored(frames, part_ranges(protocol, "train", session.num_frames, segments)), protocol
        )
    seen = segments if is_leaky else training
    if leak == "z-score":
        return Prepared(_zscored(frames, seen))
    normal = _zscored(frames, training)
    if leak == "PCA":
        return Prepared(_zscored(normal @ _components(_rows(normal, seen)), seen))
    return Prepared(_filtered(normal, segments, backward=is_leaky), unfiltered=normal)


def _rows(frames: np.ndarray, ranges: Sequence[Range]) -> np.ndarray:
    return np.concatenate([frames[start:stop] for start, stop in ranges])


def _zscored(frames: np.ndarray, ranges: Sequence[Range]) -> np.ndarray:
    rows = _rows(frames, ranges)
    scale = rows.std(axis=0)
    return ((frames - rows.mean(axis=0)) / np.where(scale > 0, scale, 1)).astype(np.float32)


def _components(rows: np.ndarray) -> np.ndarray:
    """The first principal components, [N, k] with orthonormal columns."""
    _, _, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return right[:_NUM_COMPONENTS].T


def _filtered(frames: np.ndarray, segments: Sequence[Range], backward: bool) -> np.ndarray:
    """Traces filtered by a low-pass twice, so that both ways leave the same frequencies; segments apart."""
    from scipy.signal import butter, sosfilt, sosfilt_zi

    sections = butter(2, _CUTOFF, output="sos")
    at_rest = sosfilt_zi(sections)[:, :, None]
    filtered = np.empty_like(frames)
    for start, stop in segments:
        once, _ = sosfilt(sections, frames[start:stop], axis=0, zi=at_rest * frames[start])
        again = once[::-1] if backward else once
        twice, _ = sosfilt(sections, again, axis=0, zi=at_rest * again[0])
        filtered[start:stop] = twice[::-1] if backward else twice
    return filtered


def _scores(
    prepared: Sequence[Prepared], sessions: Sequence[Session], context: int, horizon: int, seed: int
) -> Mapping[str, Mapping[str, Scores]]:
    """Test scores by forecaster and session."""
    source = _PreparedWindows(prepared, sessions, context, horizon)
    for number, session in enumerate(sessions):
        if not (source.num_windows(number, "train") and source.num_windows(number, "test")):
            raise ConfigError(
                f"session {session.id}: {session.num_frames} frames are too few for windows of {context} + "
                f"{horizon} frames to train and to test on; expected a longer recording, or shorter windows."
            )
    forecasters = {MODEL: _fit_ridge(source, seed), **fit_baselines(source, seed)}
    return evaluate(forecasters, source, "test", seed=seed).scores


def _mean(scores: Mapping[str, Scores]) -> float:
    return float(np.mean([one.value("score") for one in scores.values() if one.num_sessions]))


class _PreparedWindows:
    """A `WindowSource` over frames that are normalised already."""

    def __init__(
        self, prepared: Sequence[Prepared], sessions: Sequence[Session], context: int, horizon: int
    ) -> None:
        self.context, self.horizon = context, horizon
        self._prepared, self._segments = prepared, [session.segments for session in sessions]
        self.sessions = [
            SessionInfo(item.id, item.species, item.dataset, one.traces.shape[1], item.rate_hz)
            for item, one in zip(sessions, prepared, strict=True)
        ]

    def num_windows(self, session: int, part: Part) -> int:
        return self._windows(session, part).count

    def read(
        self, session: int, part: Part, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts = self._windows(session, part).starts(windows)
        one, length = self._prepared[session], self.context + self.horizon
        frames = one.traces[starts[:, None] + np.arange(length)]
        context, target = frames[:, : self.context], frames[:, self.context :]
        if one.unfiltered is not None:
            unfiltered = one.unfiltered[starts[:, None] + np.arange(self.context - 1, length)]
            context = np.concatenate([context[:, 1:], unfiltered[:, :1]], axis=1)
            target = unfiltered[:, 1:]
        return context, target, starts

    def training_mean(self, session: int) -> np.ndarray:
        one = self._prepared[session]
        ranges = part_ranges(one.protocol, "train", len(one.traces), self._segments[session])
        return _rows(one.traces, ranges).mean(axis=0)

    def _windows(self, session: int, part: Part) -> Windows:
        one = self._prepared[session]
        return windows_of(
            one.protocol, part, len(one.traces), self._segments[session], self.context, self.horizon
        )


@dataclass(frozen=True, eq=False)
class _Ridge:
    """One affine map from the context to the horizon, of all units."""

    weights: np.ndarray  # float32 [C + 1, H]

    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        return np.matmul(self.weights[:-1].T, context) + self.weights[-1][:, None]


def _fit_ridge(source: WindowSource, seed: int) -> Forecaster:
    width = source.context + 1
    gram, moment = np.zeros((width, width)), np.zeros((width, source.horizon))
    for number, info in enumerate(source.sessions):
        chosen = choose_windows(info.id, source.num_windows(number, "train"), _FIT_WINDOWS, seed)
        context, target, _ = source.read(number, "train", chosen)
        x = context.swapaxes(1, 2).reshape(-1, source.context).astype(np.float64)
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        y = target.swapaxes(1, 2).reshape(-1, source.horizon)
        gram += x.T @ x / len(x)
        moment += x.T @ y / len(x)
    ridge = 1e-4 * np.trace(gram) / width
    return _Ridge(np.linalg.solve(gram + ridge * np.eye(width), moment).astype(np.float32))
