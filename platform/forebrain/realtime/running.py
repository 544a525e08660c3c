"""Mean and spread of each unit so far: causal, and forgetting what is long ago."""

from __future__ import annotations

import numpy as np

from forebrain.shards.fits import scale_of


class RunningMoments:
    """Exponentially weighted moments of each unit, over the values it had.

    A unit's k-th value moves its mean by 1/k of the way, and from the `memory`-th on by 1/memory: the plain
    mean and variance at first (Welford 1962), then with a time constant of `memory` frames (West 1979).

    Args:
        num_units: N.
        memory: the time constant, frames.
    """

    def __init__(self, num_units: int, memory: int) -> None:
        self.memory = memory
        self.mean = np.zeros(num_units)
        self.variance = np.zeros(num_units)
        self.count = np.zeros(num_units)

    def add(self, frame: np.ndarray, known: np.ndarray) -> None:
        """Takes in a frame [N], of which only the `known` [N] values count."""
        self.count += known
        weight = known / np.clip(self.count, 1, self.memory)
        deviation = np.where(known, frame - self.mean, 0.0)
        step = weight * deviation
        self.mean += step
        self.variance += step * deviation * (1 - weight) - weight * self.variance

    def scale(self) -> np.ndarray:
        """[N], what each unit is divided by: its spread, or the typical one for a silent unit."""
        return scale_of("chronological", np.sqrt(self.variance))

    def restore(self, mean: np.ndarray, variance: np.ndarray, count: np.ndarray) -> None:
        """Goes on with the moments of another."""
        self.mean[:], self.variance[:], self.count[:] = mean, variance, count
