"""The windows of one recording that lies in no shards, the same as if it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from forebrain.scoring.protocols import (
    LABELLED,
    PARTS,
    Part,
    Windows,
    fit_ranges,
    frame_parts,
    part_ranges,
    windows_of,
)
from forebrain.scoring.window_source import SessionInfo
from forebrain.sessions.frames import pieces, read_frames
from forebrain.sessions.inputs import Input
from forebrain.sessions.preprocessing import Preprocessing
from forebrain.sessions.session import Range, Session
from forebrain.shards.fits import LEAST_PERSISTENCE, Moments, least_persistence, scale_of

# Recordings up to this size are normalised once and held in memory; of larger ones each window is read.
HELD_BYTES = 1 << 30


def is_held(session: Session) -> bool:
    """Whether a session is small enough to be read once, and not all through the work."""
    return 4 * session.num_frames * session.num_units <= HELD_BYTES


class SessionWindows:
    """A `WindowSource` over one session, normalised as `prepare` and `ShardWindows` would.

    Args:
        session: a repaired session.
        protocol: splits and fits, see `forebrain.scoring.protocols`.
        context, horizon: C and H, frames.
        hold_out: values of inputs by name, for protocol `values`.
        is_short: see `SessionInfo`.

    Attributes:
        preprocessing: the normalisation, and the frames that it was fitted on.
        persistence: of those frames, see `Moments.persistence`.
        least_persistence: from which on the session counts as smooth.
    """

    def __init__(
        self,
        session: Session,
        protocol: str,
        context: int,
        horizon: int,
        hold_out: Mapping[str, Sequence[float]] | None = None,
        is_short: bool = False,
    ) -> None:
        self.protocol, self.context, self.horizon = protocol, context, horizon
        self._labels = frame_parts(protocol, session, hold_out)
        fitted_on = fit_ranges(protocol, session.num_frames, session.segments, self._labels)
        if is_short:  # its validation part is for choices alone, and every frame counts
            validation = part_ranges(
                protocol, "validation", session.num_frames, session.segments, self._labels
            )
            fitted_on = sorted(fitted_on + validation)
        moments = _moments(session, fitted_on)
        self.persistence = moments.persistence
        self.least_persistence = least_persistence(moments.count) if is_short else LEAST_PERSISTENCE
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
                self.persistence >= self.least_persistence,
                is_short,
                is_short or protocol not in LABELLED,
            )
        ]
        self._session, self._segments = session, session.segments
        self._inputs: dict[tuple[str, ...], np.ndarray] = {}
        self._held: np.ndarray | None = None
        if is_held(session):
            self._held = self._normalised(0, session.num_frames)

    @staticmethod
    def counts(
        session: Session,
        protocol: str,
        context: int,
        horizon: int,
        hold_out: Mapping[str, Sequence[float]] | None = None,
    ) -> dict[Part, int]:
        """How many windows a session has in each part; none of its activity is read."""
        segments, num_frames = session.segments, session.num_frames
        labels = frame_parts(protocol, session, hold_out)
        return {
            part: windows_of(protocol, part, num_frames, segments, context, horizon, labels).count
            for part in PARTS
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

    def starts(self, part: Part) -> np.ndarray:
        """int64 [W], the start frames of all windows of a part."""
        windows = self._windows(part)
        return windows.starts(np.arange(windows.count))

    def inputs_of(self, session: int) -> Sequence[Input]:
        """The inputs that the recording has."""
        return self._session.inputs

    def inputs(
        self, session: int, starts: np.ndarray, before: int, after: int, names: Sequence[str]
    ) -> np.ndarray:
        """float32 [B, before + after, D]: named inputs of windows that start at `starts` [B].

        The first `before` frames end with the last frame of the context, the others are of the horizon.
        Before its segment a level is held at the first value there and an event is zero.

        Raises:
            RecordingError: there is no such input.
        """
        if tuple(names) not in self._inputs:
            self._inputs[tuple(names)] = self._session.input_values(names)
        values = self._inputs[tuple(names)]
        firsts = np.array([start for start, _ in self._segments])
        first = firsts[np.searchsorted(firsts, starts, side="right") - 1][:, None]
        places = (starts + self.context - before)[:, None] + np.arange(before + after)
        found: np.ndarray = values[np.maximum(places, first)]
        kinds = {each.name: each.kind for each in self._session.inputs}
        is_event = np.array([kinds.get(name) == "event" for name in names], bool)
        if is_event.any():
            found[..., is_event] *= (places >= first)[..., None]
        return found

    def training_mean(self, session: int) -> np.ndarray:
        ranges = part_ranges(self.protocol, "train", self._session.num_frames, self._segments, self._labels)
        if tuple(ranges) == self.preprocessing.fitted_on:
            return np.zeros(self._session.num_units, dtype=np.float32)
        moments = Moments(self._session.num_units)
        for start, stop in _pieces(self._session, ranges):
            moments.add(self._normalised(start, stop))
        return moments.mean.astype(np.float32)

    def _windows(self, part: Part) -> Windows:
        return windows_of(
            self.protocol, part, self._session.num_frames, self._segments, self.context, self.horizon,
            self._labels,
        )  # fmt: skip

    def _normalised(self, start: int, stop: int) -> np.ndarray:
        return self.preprocessing.normalise(read_frames(self._session.traces, start, stop, self._session.id))


def _moments(session: Session, ranges: list[Range]) -> Moments:
    moments = Moments(session.num_units)
    for start, stop in _pieces(session, ranges):
        moments.add(read_frames(session.traces, start, stop, session.id))
    return moments


def _pieces(session: Session, ranges: list[Range]) -> list[Range]:
    return [piece for start, stop in ranges for piece in pieces(start, stop, session.num_units)]
