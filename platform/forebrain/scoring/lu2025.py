"""The protocol of Lu et al. 2025 (arXiv 2510.18037), to compare with their benchmark.

60 % train, 20 % validate, 20 % test, in order of time. Windows of the validation and the test part lie a
horizon apart, so that their targets do not overlap and tile the part; what is known before reaches back as
far as the context does. Their recordings are means of regions at 35 Hz and their horizons 18, 35 and 70
frames; scores are MWQL with the factor 2, of standardised values here, and a step is informative while its
quantile loss is below 95 % of that of the training part's normal distribution.
"""

from __future__ import annotations

import numpy as np

from forebrain.scoring.protocols import Part, part_ranges
from forebrain.scoring.window_source import ArrayWindows
from forebrain.sessions.session import Session


class LuWindows(ArrayWindows):
    """Sessions in memory by the protocol of Lu et al. 2025.

    Args:
        sessions: repaired sessions, without NaN.
        context, horizon: C and H, frames.
    """

    def __init__(self, sessions: list[Session], context: int, horizon: int) -> None:
        super().__init__(sessions, "chronological", context, horizon)

    def num_windows(self, session: int, part: Part) -> int:
        return super().num_windows(session, part) if part == "train" else len(self._tiles(session, part))

    def read(
        self, session: int, part: Part, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if part == "train":
            return super().read(session, part, windows)
        starts = self._tiles(session, part)[windows]
        frames = self._traces[session][starts[:, None] + np.arange(self.context + self.horizon)]
        return frames[:, : self.context], frames[:, self.context :], starts

    def _tiles(self, session: int, part: Part) -> np.ndarray:
        """Start frames of windows whose targets lie one after another in a part, each within one segment."""
        segments = self._segments[session]
        found: list[int] = []
        for first, stop in part_ranges(self.protocol, part, len(self._traces[session]), segments):
            begin = next(start for start, end in segments if start <= first < end)
            first = max(first, begin + self.context)
            found += range(first - self.context, stop - self.context - self.horizon + 1, self.horizon)
        return np.array(found, np.int64)
