"""The steps that readers take with a lazy source: choose units, scale values, load what is small."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forebrain.errors import RecordingError
from forebrain.sessions.session import FrameSource

# Up to this size traces are read on opening, which finds damage at once and decompresses each chunk once.
MAX_LOADED_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class SelectedFrames:
    """Some units of a source, as `stored * scale + offset`.

    Attributes:
        source: [T, M].
        units: [N] columns of the source that are read.
        scale, offset: from stored numbers to the recording's own.
    """

    source: FrameSource
    units: np.ndarray
    scale: float = 1.0
    offset: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape[0], len(self.units)

    def __getitem__(self, frames: slice, /) -> np.ndarray:
        values = np.asarray(self.source[frames])[:, self.units]
        if self.scale == 1.0 and self.offset == 0.0:
            return values
        values = values.astype(
            np.result_type(values, np.float32), copy=False
        )  # half precision would overflow
        return values * self.scale + self.offset


def loaded_if_small(source: FrameSource) -> FrameSource:
    """The frames themselves [T, N] where they are few, as float32 or what holds more, else the source.

    Raises:
        RecordingError: the storage gives other frames than it announced.
    """
    num_frames, num_units = source.shape
    if 4 * num_frames * num_units > MAX_LOADED_BYTES:
        return source
    values = np.asarray(source[0:num_frames])
    is_wide = values.dtype.kind in "fiu" and not np.can_cast(values.dtype, np.float32)
    frames = values if is_wide else np.asarray(values, np.float32)
    if frames.shape != (num_frames, num_units):
        raise RecordingError(
            f"traces came back with shape {frames.shape}, but the file announces {(num_frames, num_units)}. "
            "It is damaged or incomplete; copy it again."
        )
    return frames
