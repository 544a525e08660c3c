"""Fits: how raw frames become model inputs under each protocol, and on which frames that was learned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from forebrain.scoring.protocols import Range
from forebrain.sessions.session import FrameSource

SILENT = 0.01  # of the session's typical spread; a unit below it was silent while the fit was made
# Persistence from which on a session's frames are nearer to the one before than to the mean.
LEAST_PERSISTENCE = 0.5
# A stretch understates how far units go from their mean in the long run, and so how persistent they are: the
# persistence asked of so many frames is half of that asked of many.
SHORT_FRAMES = 100
ROUNDING = 1e-9  # of the mean; float32 frames cannot vary by less, so a smaller spread is no spread
PCA_BYTES = 128 << 20  # of frames in memory at once while components are fitted
PCA_FRAMES = 4096


class Moments:
    """Mean, spread and persistence of units over frames that arrive in pieces, in float64.

    Mean and spread as Chan et al. (1983) have it.
    """

    def __init__(self, num_units: int) -> None:
        self._count = 0
        self._mean = np.zeros(num_units)
        self._squares = np.zeros(num_units)
        self._num_steps = 0
        self._squared_steps = np.zeros(num_units)

    def add(self, frames: np.ndarray) -> None:
        """Takes in frames [t, N], each the next after the one before."""
        count = len(frames)
        mean = frames.mean(axis=0, dtype=np.float64)
        deviation = frames - mean
        squares = np.einsum("tn,tn->n", deviation, deviation)
        total = self._count + count
        shift = mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._squares = self._squares + squares + shift**2 * (self._count * count / total)
        self._count = total
        steps = np.diff(deviation, axis=0)
        self._squared_steps += np.einsum("tn,tn->n", steps, steps)
        self._num_steps += len(steps)

    @property
    def count(self) -> int:
        """Frames seen."""
        return self._count

    @property
    def mean(self) -> np.ndarray:
        return self._mean

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the frames seen (the mean square is divided by their number)."""
        std = np.sqrt(self._squares / max(self._count, 1))
        return np.where(std > ROUNDING * np.abs(self._mean), std, 0.0)

    @property
    def persistence(self) -> float:
        """Correlation of a frame with the next, the mean over units that vary; 1 where there are none.

        Below a half the mean forecasts even the next frame better than the last frame does: so it is with
        events, spike counts and very noisy traces.
        """
        active = self.std > 0
        if not (active.any() and self._num_steps):
            return 1.0
        squared_step = self._squared_steps[active] / self._num_steps
        return float(np.mean(1 - squared_step / (2 * self.std[active] ** 2)))


def least_persistence(num_frames: int) -> float:
    """The persistence over so many frames from which on a session counts as smooth.

    Of 39 recordings tried none changes sides between this limit on the last half minute of training and
    LEAST_PERSISTENCE on all of it, while of smooth ones persistence falls to 0.34 there (docs/LOG.md).
    """
    return LEAST_PERSISTENCE * num_frames / (num_frames + SHORT_FRAMES)


def persistence_remark(persistence: float, least: float = LEAST_PERSISTENCE) -> str | None:
    """The remark that a person should read on a session's low persistence; None where it has enough of it."""
    if persistence >= least:
        return None
    return (
        f"a frame and the next correlate by {persistence:.2f} over the training part, less than "
        f"{least:.2g}, so models see its windows as they are and not relative to their last frame"
    )


def scale_of(protocol: str, std: np.ndarray) -> np.ndarray:
    """The divisor of each unit, from its standard deviation over the fit's frames.

    A unit that was silent while the fit was made and fires later would explode if it were divided by its
    own spread, so `chronological` gives it the typical (median) spread of the session's other units.
    `poco` divides by the plain spread, as published; a spread of zero counts as 1.
    """
    active = std[std > 0]
    if active.size == 0:
        return np.ones_like(std)
    if protocol == "poco":
        return np.where(std > 0, std, 1.0)
    typical = np.median(active)
    return np.where(std < SILENT * typical, typical, std)


@dataclass(frozen=True, eq=False)
class Fit:
    """Normalisation of one session under one protocol.

    Attributes:
        mean, scale: float32 [N].
        components: float32 [N, k], orthonormal columns, or None where units are forecast themselves.
        component_scale: float32 [k], the spread of each component over the fit's frames.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray | None = None
    component_scale: np.ndarray | None = None

    @property
    def num_outputs(self) -> int:
        """Channels after `apply`: N units, or k components."""
        return len(self.mean) if self.components is None else self.components.shape[1]

    def of_units(self, units: slice) -> Fit:
        """The fit of a range of the units, where units are forecast themselves."""
        return replace(self, mean=self.mean[units], scale=self.scale[units])

    def apply(self, raw: np.ndarray, outputs: slice = slice(None)) -> np.ndarray:
        """Raw frames [..., N] as float32 [..., num_outputs] with about zero mean and unit spread.

        Args:
            raw: frames.
            outputs: those wanted, as if the result were sliced.
        """
        if self.components is None:
            return (raw[..., outputs] - self.mean[outputs]) / self.scale[outputs]
        components, scale = self.components[:, outputs], self.component_scale
        assert scale is not None
        return ((raw - self.mean) / self.scale) @ components / scale[outputs]


def fit_components(
    traces: FrameSource, ranges: Iterable[Range], fit: Fit, num_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of normalised frames, fitted on evenly spaced frames of `ranges` only.

    At most `PCA_FRAMES` frames and `PCA_BYTES` of them are used. Signs are fixed (the largest weight of a
    component is positive). Fewer components come back where the frames have no more dimensions.

    Returns:
        components float32 [N, k] with orthonormal columns, and the spread of each, float32 [k].
    """
    frames = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    limit = max(num_components, min(PCA_FRAMES, PCA_BYTES // (4 * traces.shape[1])))
    frames = frames[:: -(-len(frames) // limit)]
    sample = np.concatenate([np.asarray(traces[int(frame) : int(frame) + 1]) for frame in frames])
    sample = (sample - fit.mean) / fit.scale
    _, values, right = np.linalg.svd(sample, full_matrices=False)
    rank = int((values > values[0] * 1e-6).sum()) if values[0] > 0 else 0
    k = min(num_components, rank)
    components = right[:k].T
    signs = np.sign(components[np.abs(components).argmax(axis=0), np.arange(k)])
    spread = values[:k] / np.sqrt(len(sample))
    return np.ascontiguousarray(components * signs, np.float32), spread.astype(np.float32)
