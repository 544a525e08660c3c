"""Sources of windows for evaluation, and the choice of the windows that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forebrain.scoring.intervals import rng_for
from forebrain.scoring.protocols import Part, Windows, fit_ranges, part_ranges, windows_of
from forebrain.sessions.session import Session


@dataclass(frozen=True)
class SessionInfo:
    """A session as reports name it and models are told of it.

    Attributes:
        rate_hz: frames a second, None where unknown.
        is_smooth: its frames are nearer to the one before than to the mean.
        is_short: only a stretch of it is known, too short to show how far units go in the long run.
        tests_later: the test part lies after all that is fitted on, so that levels may have drifted until
            then; not where the recording's own labels say what tests.
    """

    id: str
    species: str
    dataset: str
    num_units: int
    rate_hz: float | None = None
    is_smooth: bool = True
    is_short: bool = False
    tests_later: bool = True


class WindowSource(Protocol):
    """Normalised windows of numbered sessions. Sessions are named by their position in `sessions`."""

    @property
    def sessions(self) -> Sequence[SessionInfo]: ...

    @property
    def context(self) -> int:
        """C, frames."""

    @property
    def horizon(self) -> int:
        """H, frames."""

    def num_windows(self, session: int, part: Part) -> int:
        """Number of windows that the session has in a part."""

    def read(
        self, session: int, part: Part, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Windows by number [B], each in [0, num_windows), in order of time.

        Returns:
            float32 context [B, C, N], float32 target [B, H, N] and int64 start frames [B]. A source that
            skips what it cannot read gives fewer than were asked for.
        """

    def training_mean(self, session: int) -> np.ndarray:
        """float32 [N], each unit's mean over the training part, in normalised units."""


class ArrayWindows:
    """A `WindowSource` over sessions in memory, z-scored a unit on the frames the protocol fits on.

    Args:
        sessions: repaired sessions, without NaN.
        protocol: a name in `scoring.protocols.PROTOCOLS`.
        context, horizon: C and H, frames.
    """

    def __init__(self, sessions: Sequence[Session], protocol: str, context: int, horizon: int) -> None:
        self.sessions = [
            SessionInfo(item.id, item.species, item.dataset, item.num_units, item.rate_hz)
            for item in sessions
        ]
        self.protocol = protocol
        self.context = context
        self.horizon = horizon
        self._segments = [item.segments for item in sessions]
        self._traces = [
            _zscore(item.frames(0, item.num_frames), fit_ranges(protocol, item.num_frames, segments))
            for item, segments in zip(sessions, self._segments, strict=True)
        ]

    def num_windows(self, session: int, part: Part) -> int:
        return self._windows(session, part).count

    def read(
        self, session: int, part: Part, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts = self._windows(session, part).starts(windows)
        frames = self._traces[session][starts[:, None] + np.arange(self.context + self.horizon)]
        return frames[:, : self.context], frames[:, self.context :], starts

    def training_mean(self, session: int) -> np.ndarray:
        traces = self._traces[session]
        ranges = part_ranges(self.protocol, "train", len(traces), self._segments[session])
        return _rows(traces, ranges).mean(axis=0)

    def _windows(self, session: int, part: Part) -> Windows:
        num_frames = len(self._traces[session])
        return windows_of(
            self.protocol, part, num_frames, self._segments[session], self.context, self.horizon
        )


def choose_windows(session_id: str, num_windows: int, limit: int | None, seed: int) -> np.ndarray:
    """The windows to score: all, or one at random from each of `limit` equal stretches of time.

    Depends on its arguments alone, so every worker, run and forecaster scores the same windows.

    Returns:
        Sorted window numbers, int64.
    """
    if limit is None or num_windows <= limit:
        return np.arange(num_windows)
    edges = np.arange(limit + 1) * num_windows // limit
    return rng_for(seed, "windows", session_id).integers(edges[:-1], edges[1:])


def _zscore(frames: np.ndarray, ranges: list[tuple[int, int]]) -> np.ndarray:
    fitted = _rows(frames, ranges)
    scale = fitted.std(axis=0)
    return (frames - fitted.mean(axis=0)) / np.where(scale > 0, scale, 1)


def _rows(frames: np.ndarray, ranges: list[tuple[int, int]]) -> np.ndarray:
    return np.concatenate([frames[start:stop] for start, stop in ranges])
