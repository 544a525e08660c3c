"""The last frames of a stream, always as one contiguous block in the order of time."""

from __future__ import annotations

import numpy as np


class Ring:
    """The last `length` frames of N units, in memory that is taken once.

    Each frame is written twice, `length` rows apart, so some block of `length` rows always is the window:
    nothing is moved or copied to read it.

    Args:
        length: C, frames.
        num_units: N.
    """

    def __init__(self, length: int, num_units: int) -> None:
        self.length = length
        self._rows = np.zeros((2 * length, num_units), np.float32)
        self._next = 0
        self._filled = 0

    @property
    def is_full(self) -> bool:
        """Whether every frame of the window was pushed since the last `clear`."""
        return self._filled == self.length

    @property
    def filled(self) -> int:
        """Frames pushed since the last `clear`, at most `length`."""
        return self._filled

    @property
    def window(self) -> np.ndarray:
        """[C, N], oldest frame first: a view, which the next push changes."""
        return self._rows[self._next : self._next + self.length]

    def push(self, frame: np.ndarray) -> None:
        """Adds a frame [N]; the oldest is forgotten."""
        self._rows[self._next] = frame
        self._rows[self._next + self.length] = frame
        self._next = (self._next + 1) % self.length
        self._filled = min(self._filled + 1, self.length)

    def fill(self, units: np.ndarray, values: np.ndarray) -> None:
        """Puts one value in every frame of some units: what is assumed of a past that nobody saw."""
        self._rows[:, units] = values

    def clear(self) -> None:
        """Forgets that the window was full; the rows are overwritten as frames come."""
        self._filled = 0

    def restore(self, window: np.ndarray, filled: int) -> None:
        """Takes over a window [C, N] of another ring."""
        self._rows[: self.length] = window
        self._rows[self.length :] = window
        self._next, self._filled = 0, filled
