"""A stream that drifts, for trials: its units' scale grows to double and their offset to one deviation.

And how often what came lay inside the intervals that had been forecast, any stretch of frames by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forebrain.errors import ConfigError
from forebrain.realtime.intervals import BOUNDS
from forebrain.realtime.messages import Forecast, Frame
from forebrain.realtime.replay import Client

RAMP_FRAMES = 2000
STRETCH_FRAMES = 500


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [N] of the values [T, N] that came; 0 for a unit without any."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0, dtype=np.float64) / count
    squares = np.square(np.where(known, values - mean, 0)).sum(axis=0) / count
    return mean, np.sqrt(squares)


def drifting(
    frames: Iterable[Frame], mean: np.ndarray, deviation: np.ndarray, ramp: int = RAMP_FRAMES
) -> Iterator[Frame]:
    """Frames whose scale about the mean grows to double, and whose offset to one deviation, over the ramp.

    Args:
        frames: as they were recorded.
        mean, deviation: [N] of the recording.
        ramp: frames; after these the stream stays as it is.
    """
    for moment, frame in enumerate(frames):
        part = min(1.0, moment / ramp)
        values = mean + (frame.values - mean) * (1 + part) + part * deviation
        yield replace(frame, values=values.astype(np.float32))


@dataclass(frozen=True)
class StretchCoverage:
    """Part of the targets inside their 80 % intervals, all units and steps.

    Attributes:
        whole: of all frames.
        least, most: of the stretch of STRETCH_FRAMES frames, anywhere, in which it is least and most; those
            of all frames where there are fewer.
        num_frames: frames of which something had been forecast.
    """

    whole: float
    least: float
    most: float
    num_frames: int


class CoverageCount:
    """Counts, frame by frame, what lies inside the intervals that had been forecast."""

    def __init__(self) -> None:
        self._made: dict[int, np.ndarray] = {}  # by index of the frame: [H, N, 2]
        self._counts: list[tuple[int, int]] = []

    def add(self, index: int, bounds: np.ndarray) -> None:
        """The interval [H, N, 2] that was forecast from a frame."""
        self._made[index] = bounds

    def observe(self, index: int, values: np.ndarray) -> None:
        """A frame [N] that came; what is not finite did not."""
        inside = number = 0
        known = np.isfinite(values)
        for made_at in list(self._made):
            bounds, ahead = self._made[made_at], index - made_at
            if ahead > len(bounds):
                del self._made[made_at]
            elif ahead > 0:
                low, high = bounds[ahead - 1].T
                inside += int(((low <= values) & (values <= high) & known).sum())
                number += int(known.sum())
        if number:
            self._counts.append((inside, number))

    def restart(self) -> None:
        """Drops intervals whose targets will not come."""
        self._made.clear()

    def coverage(self, stretch: int = STRETCH_FRAMES) -> StretchCoverage | None:
        """What was covered so far; None where nothing that had been forecast came."""
        counts = np.array(self._counts, np.float64)
        if not len(counts):
            return None
        whole = float(counts[:, 0].sum() / counts[:, 1].sum())
        if len(counts) < stretch:
            return StretchCoverage(whole, whole, whole, len(counts))
        sums = np.concatenate([np.zeros((1, 2)), counts.cumsum(axis=0)])
        inside, number = (sums[stretch:] - sums[:-stretch]).T
        parts = inside / number
        return StretchCoverage(whole, float(parts.min()), float(parts.max()), len(counts))


class CoverageClient:
    """A rig's end of a transport that asks for intervals, and counts what comes inside.

    Args:
        client: connected; of a transport that carries quantiles.
        columns: of the forecast units among those recorded; None where frames hold just these.

    Attributes:
        count: what was covered so far.
    """

    def __init__(self, client: Client, columns: Sequence[int] | None = None) -> None:
        self.awaits_answers = client.awaits_answers
        self.count = CoverageCount()
        self._client, self._columns = client, columns

    def send(self, frame: Frame) -> None:
        assert frame.index is not None
        values = frame.values if self._columns is None else frame.values[self._columns]
        self.count.observe(frame.index, values)
        self._client.send(replace(frame, quantiles=BOUNDS))

    def receive(self, timeout_s: float) -> Forecast | None:
        forecast = self._client.receive(timeout_s)
        if forecast is not None and forecast.index is not None and forecast.source == "model":
            if forecast.quantiles is None:
                raise ConfigError(
                    "the forecaster gives no intervals; expected one of an adaptation that has them: "
                    "adapt again."
                )
            self.count.add(forecast.index, forecast.quantiles)
        return forecast

    def close(self) -> None:
        """Closes the transport."""
        self._client.close()  # type: ignore[attr-defined]
