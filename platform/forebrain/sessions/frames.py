"""Frame sources that clean another source as it is read: nothing is held but the slice asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.session import FrameSource

PIECE_BYTES = 8 << 20
# What float32 cannot square is no activity, but what a device or a format marks a missing value by (1e30, the
# largest float32, 9.97e36 of netCDF).
NO_VALUE = float(np.sqrt(np.finfo(np.float32).max))

Range = tuple[int, int]
Combine = Literal["mean", "sum", "last"]


def pieces(start: int, stop: int, num_units: int, piece_bytes: int = PIECE_BYTES) -> Iterator[Range]:
    """Cuts frames [start, stop) into ranges of at most `piece_bytes` of float32, one frame at least."""
    step = max(1, piece_bytes // (4 * num_units))
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def read_frames(
    source: FrameSource, start: int, stop: int, where: str, dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """Frames [start, stop) of a recording as `dtype` [stop - start, N]; what is missing is not finite.

    Raises:
        RecordingError: the storage behind the source fails, for example because a file is cut off.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # too large for float32: found as not finite
            frames = np.asarray(source[start:stop]).astype(dtype, copy=False)
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # h5py and zarr raise all of these
        raise RecordingError(
            f"{where}: frames {start} to {stop} cannot be read ({error}). "
            "The file is damaged or incomplete; copy it again from its source."
        ) from error
    is_none = np.abs(frames) > NO_VALUE
    if is_none.any():
        frames = np.where(is_none, dtype(np.nan), frames)
    if frames.shape != (stop - start, source.shape[1]):
        raise RecordingError(
            f"{where}: frames {start} to {stop} came back with shape {frames.shape}; expected "
            f"{(stop - start, source.shape[1])}. The file is shorter than it claims; copy it again."
        )
    return frames


def hold_last(frames: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Replaces values that are not finite by the last finite one of their column.

    Causal: a value depends on earlier frames only.

    Args:
        frames: [t, N].
        before: [N], the last finite value before the first frame, NaN where there is none.
    """
    finite = np.isfinite(frames)
    columns = np.flatnonzero(~finite.all(axis=0))
    if columns.size == 0:
        return frames
    padded = np.concatenate([before[None, columns], frames[:, columns]])
    known = np.concatenate([np.ones((1, columns.size), bool), finite[:, columns]])
    latest = np.where(known, np.arange(len(padded))[:, None], 0)
    np.maximum.accumulate(latest, axis=0, out=latest)
    filled = frames.copy()
    filled[:, columns] = np.take_along_axis(padded, latest, axis=0)[1:]
    return filled


@dataclass(frozen=True, eq=False)
class RepairedFrames:
    """The kept frames and units of a recording, with missing values held at the last finite one.

    Any slice can be read at any time, and gives the same values however it is cut: where a slice starts
    inside a missing run, the run's value comes from `held`, or from the frames since its entry.

    Attributes:
        source: [T, N], the recording as it is.
        kept_frames: ascending source ranges [start, stop) that remain.
        kept_units: [N'], source columns that remain.
        held: for source frames at which a piece of the scan began: the columns of N' missing there, and
            the values they hold. Empty where nothing is missing.
        where: the session's name in errors.
    """

    source: FrameSource
    kept_frames: tuple[Range, ...]
    kept_units: np.ndarray
    held: Mapping[int, tuple[np.ndarray, np.ndarray]]
    where: str

    @property
    def shape(self) -> tuple[int, int]:
        return sum(stop - start for start, stop in self.kept_frames), len(self.kept_units)

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        start, stop, _ = frames.indices(self.shape[0])
        parts = []
        offset = 0
        for first, last in self.kept_frames:
            low, high = max(start, offset), min(stop, offset + last - first)
            if low < high:
                parts.append(self._read(first + low - offset, first + high - offset))
            offset += last - first
        if not parts:
            return np.empty((0, self.shape[1]), np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Source frames [start, stop), filled."""
        frames = self._units_of(start, stop)
        if not self.held:
            return frames
        before = np.full(frames.shape[1], np.nan, np.float32)
        if not np.isfinite(frames[0]).all():
            mark = max(frame for frame in self.held if frame <= start)
            columns, values = self.held[mark]
            before[columns] = values
            if mark < start:
                before = hold_last(self._units_of(mark, start), before)[-1]
        return hold_last(frames, before)

    def _units_of(self, start: int, stop: int) -> np.ndarray:
        frames = read_frames(self.source, start, stop, self.where)
        if len(self.kept_units) == frames.shape[1]:
            return frames
        return frames[:, self.kept_units]


@dataclass(frozen=True, eq=False)
class BlockFrames:
    """Frames that each combine a block of consecutive source frames.

    Attributes:
        source: [T, N].
        first, stop: int64 [T'], the block [first, stop) of each frame; both never decrease.
        combine: `mean`, `sum` (blocks apart from each other) or `last` (blocks of one frame, repeated).
    """

    source: FrameSource
    first: np.ndarray
    stop: np.ndarray
    combine: Combine

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.first), self.source.shape[1]

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        start, stop, _ = frames.indices(len(self.first))
        result = np.empty((stop - start, self.shape[1]), np.float32)
        position = start
        for low, high in self._readable(start, stop):
            block = np.asarray(self.source[int(self.first[low]) : int(self.stop[high - 1])])
            result[low - position : high - position] = combine_blocks(
                block,
                self.first[low:high] - self.first[low],
                self.stop[low:high] - self.first[low],
                self.combine,
            )
        return result

    def _readable(self, start: int, stop: int) -> Iterator[Range]:
        """Cuts output frames [start, stop) so that the source frames behind each piece stay small."""
        step = max(1, PIECE_BYTES // (4 * self.shape[1]))
        low = start
        while low < stop:
            high = int(np.searchsorted(self.stop, self.first[low] + step, side="right"))
            high = min(max(high, low + 1), stop)
            yield low, high
            low = high


def combine_blocks(frames: np.ndarray, first: np.ndarray, stop: np.ndarray, combine: Combine) -> np.ndarray:
    """Combines blocks [first, stop) of frames [t, N] into float32 [blocks, N]; sums run in float64."""
    if combine == "last":
        return frames[stop - 1].astype(np.float32)
    edges = np.stack([first, stop], axis=1).ravel()
    edges = edges[:-1] if edges[-1] == len(frames) else edges  # reduceat sums to the end by itself
    sums = np.add.reduceat(frames, edges, axis=0, dtype=np.float64)[::2]
    if combine == "mean":
        sums = sums / (stop - first)[:, None]
    return sums.astype(np.float32)
