"""Windows of prepared sessions: read from shards, normalised by the protocol's fits, ready for a model."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from forebrain.errors import BadShardError, ConfigError, ShardError
from forebrain.scoring.protocols import (
    NO_WINDOWS,
    Part,
    Range,
    Windows,
    fit_ranges,
    part_ranges,
    windows_of,
    windows_within,
)
from forebrain.scoring.window_source import SessionInfo
from forebrain.shards.fits import LEAST_PERSISTENCE
from forebrain.shards.index import BEHAVIOUR, STIMULUS
from forebrain.shards.reader import ALL, ShardSet
from forebrain.shards.subset import SubsetShards


class _SessionFrames(NamedTuple):
    """Frames of a session, where windows may lie, and where training windows may."""

    num_frames: int
    segments: tuple[Range, ...]
    training: tuple[Range, ...]


class ShardWindows:
    """All windows of a prepared data set under one protocol, context and horizon.

    Args:
        shards: an open shard set, or a part of one.
        protocol: splits and fits, see `forebrain.scoring.protocols`.
        context, horizon: frames.
        longest_context: windows to validate and test on are those before which there is room for a context of
            so many frames, so that models of shorter contexts forecast the same frames. None: the context.
        held_out: ids of sessions that have no windows to train, validate or test on: those of their test
            part are the part `held_out`.

    Raises:
        ShardError: windows are longer than the shards were prepared for.
    """

    def __init__(
        self,
        shards: ShardSet | SubsetShards,
        protocol: str,
        context: int,
        horizon: int,
        longest_context: int | None = None,
        held_out: Collection[str] = (),
    ) -> None:
        if context + horizon > shards.max_window:
            raise ShardError(
                f"a window of {context} + {horizon} frames is longer than the {shards.max_window} that "
                f"{shards.uri} was prepared for; prepare again with a larger --prepare.max_window."
            )
        self.shards, self.protocol = shards, protocol
        self.context, self.horizon = context, horizon
        self._longest_context = longest_context or context
        self.held_out = frozenset(held_out)
        self.sessions: list[SessionInfo] = []
        self._frames_of: list[_SessionFrames] = []
        for number, entry in enumerate(shards.sessions):  # each entry once, and none is kept
            self.sessions.append(
                SessionInfo(
                    entry.id,
                    sys.intern(entry.species),
                    sys.intern(entry.dataset),
                    self._num_units(number),
                    entry.rate_hz,
                    entry.persistence.get(protocol, 1.0) >= LEAST_PERSISTENCE,
                )
            )
            training = tuple(shards.training_segments(number))
            segments = training if training == entry.segments else entry.segments
            self._frames_of.append(_SessionFrames(entry.num_frames, segments, training))
        self._windows = lru_cache(maxsize=None)(self._find_windows)

    def num_windows(self, session: int, part: Part) -> int:
        return self._windows(session, part).count

    def starts(self, session: int, part: Part, numbers: np.ndarray) -> np.ndarray:
        """First frames [B] of window numbers [B]."""
        return self._windows(session, part).starts(numbers)

    def read(
        self, session: int, part: Part, numbers: np.ndarray, units: slice = ALL
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads windows; of a set that skips bad shards, those of them that can be read.

        Args:
            session: position in `sessions`.
            part: `train`, `validation`, `test` or `held_out`.
            numbers: int64 [B], each in [0, num_windows).
            units: a range of the session's N units.

        Returns:
            context [B, C, N] and target [B, H, N], normalised float32, and start frames [B]; B is smaller
            by the windows that were skipped.

        Raises:
            ShardError: a page is damaged, or a window holds a value that is not finite.
        """
        if self.shards.fetcher is not None:
            self.expect(session, part, numbers, units)
        return self.read_expected(session, part, numbers, units)

    def read_expected(
        self, session: int, part: Part, numbers: np.ndarray, units: slice = ALL
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads windows, as `read` does, of which `expect` was told before."""
        length = self.context + self.horizon
        fit = self.shards.fit(session, self.protocol)
        narrow, outputs = (units, ALL) if fit.components is None else (ALL, units)
        fit = fit.of_units(narrow)
        read, found = [], []
        for start in self.starts(session, part, numbers):
            raw = self._frames(session, int(start), int(start) + length, narrow)
            if raw is not None:
                read.append(fit.apply(raw, outputs))
                found.append(start)
        starts = np.array(found, dtype=np.int64)
        if not read:
            num_units = len(range(self._num_units(session))[units])
            empty = np.zeros((0, length, num_units), dtype=np.float32)
            return empty[:, : self.context], empty[:, self.context :], starts
        windows = np.stack(read)
        if not np.isfinite(windows).all():
            bad = starts[~np.isfinite(windows).all(axis=(1, 2))][0]
            raise ShardError(
                f"session {self.sessions[session].id}: the window at frame {bad} holds a value that is not "
                "finite; the shards were not written by `prepare` or its fits are damaged. Prepare again."
            )
        return windows[:, : self.context], windows[:, self.context :], starts

    def read_inputs(
        self, session: int, starts: np.ndarray, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The inputs of windows, and which of them are known when a forecast is made.

        Args:
            session: position in `sessions`.
            starts: first frames [B], as `read` gives them.
            names: of D inputs; those that the session has not are zeros and not known.

        Returns:
            float32 [B, C + H, D], as they were recorded, and bool [C + H, D]: of what cannot be planned
            (behaviour) the horizon is zeros and not known.

        Raises:
            ShardError: a page is damaged.
        """
        length = self.context + self.horizon
        values = np.zeros((len(starts), length, len(names)), np.float32)
        known = np.zeros((length, len(names)), bool)
        for member, columns, places, stop in self._inputs(session, names):
            known[:stop, places] = True
            for number, start in enumerate(starts.tolist()):
                read = self.shards.read_inputs(session, member, start, start + stop)
                values[number, :stop, places] = read[:, columns].T
        return values, known

    def expect(
        self,
        session: int,
        part: Part,
        numbers: np.ndarray,
        units: slice = ALL,
        inputs: Sequence[str] = (),
    ) -> None:
        """Hears that windows will be read by `read_expected`, and their inputs by `read_inputs`, after all
        that it heard of before; see `ShardSet.expect`."""
        length = self.context + self.horizon
        narrow = ALL if self.shards.forecasts_components else units
        starts = self.starts(session, part, numbers).tolist()
        self.shards.expect(session, [(start, start + length) for start in starts], narrow)
        for member, _, _, stop in self._inputs(session, inputs):
            self.shards.expect(session, [(start, start + stop) for start in starts], name=member)

    def _inputs(self, session: int, names: Sequence[str]) -> Iterator[tuple[str, list[int], list[int], int]]:
        """Where named inputs lie: member, columns there, places among the names, and how many of a window's
        frames are known when a forecast is made."""
        entry = self.shards.sessions[session]
        length = self.context + self.horizon
        for member, channels in ((STIMULUS, entry.stimulus_names), (BEHAVIOUR, entry.behaviour_names)):
            column_of = {name: column for column, name in enumerate(channels or ())}
            places = [place for place, name in enumerate(names) if name in column_of]
            if places and member in entry.pages:
                columns = [column_of[names[place]] for place in places]
                yield member, columns, places, length if member == STIMULUS else self.context

    def in_own_units(self, session: int, values: np.ndarray) -> np.ndarray:
        """Normalised values [..., N] in the recording's own units, up to an offset.

        Raises:
            ConfigError: principal components stand in place of the units.
        """
        if self.shards.forecasts_components:
            raise ConfigError(
                f"{self.shards.uri} forecasts principal components, which have no units of measure; "
                "expected shards prepared without --prepare.pca."
            )
        return values * self.shards.fit(session, self.protocol).scale

    def as_scored(self, session: int, values: np.ndarray) -> np.ndarray:
        """Normalised values [..., N] as they are scored, see `SubsetShards.as_scored`."""
        return self.shards.as_scored(session, self.protocol, values)

    def training_mean(self, session: int) -> np.ndarray:
        """float32 [N], each unit's mean over the training part, in normalised units."""
        entry = self.shards.sessions[session]
        segments = self.shards.training_segments(session)
        training = part_ranges(self.protocol, "train", entry.num_frames, segments)
        if training == fit_ranges(self.protocol, entry.num_frames, segments):
            return np.zeros(self._num_units(session), dtype=np.float32)
        fit, step = self.shards.fit(session, self.protocol), self.shards.max_window
        total, num_frames = np.zeros(fit.num_outputs), 0
        pieces = [
            (first, min(first + step, stop)) for start, stop in training for first in range(start, stop, step)
        ]
        self.shards.expect(session, pieces)
        for start, stop in pieces:
            raw = self._frames(session, start, stop)
            if raw is not None:
                total += fit.apply(raw).sum(0, dtype=float)
                num_frames += len(raw)
        return (total / max(1, num_frames)).astype(np.float32)

    def _frames(self, session: int, start: int, stop: int, units: slice = ALL) -> np.ndarray | None:
        """Raw frames [start, stop), or None where they cannot be read and the set skips what is bad."""
        try:
            return self.shards.read(session, start, stop, units)
        except BadShardError:
            if self.shards.skips_bad:
                return None
            raise

    def _num_units(self, session: int) -> int:
        """The number of series forecast: the session's units, or the principal components in their place."""
        if self.shards.forecasts_components:
            return self.shards.fit(session, self.protocol).num_outputs
        return self.shards.sessions[session].num_units

    def _find_windows(self, session: int, part: Part) -> Windows:
        frames = self._frames_of[session]
        if self.sessions[session].id in self.held_out:
            if part != "held_out":
                return NO_WINDOWS
            part = "test"
        if part == "train":
            training = list(frames.training)
            return windows_of(self.protocol, part, frames.num_frames, training, self.context, self.horizon)
        longest = self._longest_context
        held_out = self.shards.held_out_ranges(session)
        if part == "held_out" and held_out:
            windows = windows_within(held_out, longest + self.horizon)
        else:
            windows = windows_of(
                self.protocol, part, frames.num_frames, list(frames.segments), longest, self.horizon
            )
        return replace(windows, first=windows.first + longest - self.context)
