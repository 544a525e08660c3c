"""The windows of one recording that lies in no shards, the same as if it did."""

from __future__ import annotations

import numpy as np

from forebrain.scoring.protocols import PARTS, Part, Windows, fit_ranges, part_ranges, windows_of
from forebrain.scoring.window_source import SessionInfo
from forebrain.sessions.frames import pieces, read_frames
from forebrain.sessions.preprocessing import Preprocessing
from forebrain.sessions.session import Range, Session
from forebrain.shards.fits import LEAST_PERSISTENCE, Moments, scale_of

# Recordings up to this size are normalised once and held in memory; of larger ones each window is read.
HELD_BYTES = 1 << 30


class SessionWindows:
    """A `WindowSource` over one session, normalised as `prepare` and `ShardWindows` would.

    Args:
        session: a repaired session.
        protocol: splits and fits, see `forebrain.scoring.protocols`.
        context, horizon: C and H, frames.

    Attributes:
        preprocessing: the normalisation, and the frames that it was fitted on.
        persistence: of those frames, see `Moments.persistence`.
    """

    def __init__(self, session: Session, protocol: str, context: int, horizon: int) -> None:
        self.protocol, self.context, self.horizon = protocol, context, horizon
        fitted_on = fit_ranges(protocol, session.num_frames, session.segments)
        moments = _moments(session, fitted_on)
        self.persistence = moments.persistence
        self.preprocessing = Preprocessing.of_units(
            mean=moments.mean.astype(np.float32),
            scale=scale_of(protocol, moments.std).astype(np.float32),
            unit_names=session.unit_names or (),
            rate_hz=session.rate_hz,
            fitted_on=tuple(fitted_on),
        )
        self.sessions = [
            SessionInfo(
                session.id,
                session.species,
                session.dataset,
                session.num_units,
                session.rate_hz,
                self.persistence >= LEAST_PERSISTENCE,
            )
        ]
        self._session, self._segments = session, session.segments
        self._held: np.ndarray | None = None
        if 4 * session.num_frames * session.num_units <= HELD_BYTES:
            self._held = self._normalised(0, session.num_frames)

    @staticmethod
    def counts(session: Session, protocol: str, context: int, horizon: int) -> dict[Part, int]:
        """How many windows a session has in each part; nothing of it is read."""
        segments, num_frames = session.segments, session.num_frames
        return {
            part: windows_of(protocol, part, num_frames, segments, context, horizon).count for part in PARTS
        }

    def num_windows(self, session: int, part: Part) -> int:
        return self._windows(part).count

    def read(
        self, session: int, part: Part, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts = self._windows(part).starts(windows)
        length = self.context + self.horizon
        if self._held is not None:
            frames = self._held[starts[:, None] + np.arange(length)]
        else:
            frames = np.stack([self._normalised(int(start), int(start) + length) for start in starts])
        return frames[:, : self.context], frames[:, self.context :], starts

    def training_mean(self, session: int) -> np.ndarray:
        ranges = part_ranges(self.protocol, "train", self._session.num_frames, self._segments)
        if tuple(ranges) == self.preprocessing.fitted_on:
            return np.zeros(self._session.num_units, dtype=np.float32)
        moments = Moments(self._session.num_units)
        for start, stop in _pieces(self._session, ranges):
            moments.add(self._normalised(start, stop))
        return moments.mean.astype(np.float32)

    def _windows(self, part: Part) -> Windows:
        return windows_of(
            self.protocol, part, self._session.num_frames, self._segments, self.context, self.horizon
        )

    def _normalised(self, start: int, stop: int) -> np.ndarray:
        return self.preprocessing.normalise(read_frames(self._session.traces, start, stop, self._session.id))


def _moments(session: Session, ranges: list[Range]) -> Moments:
    moments = Moments(session.num_units)
    for start, stop in _pieces(session, ranges):
        moments.add(read_frames(session.traces, start, stop, session.id))
    return moments


def _pieces(session: Session, ranges: list[Range]) -> list[Range]:
    return [piece for start, stop in ranges for piece in pieces(start, stop, session.num_units)]
