"""The frame of reference of a window: forecasts relative to the last frame, in units of the window's spread.

Over hours a unit's level and amplitude drift away from those it was normalised by, most where the test part
lies. A model that sees each row less its last frame and over its spread, and whose forecast is put back the
same way, does not care: like a linear map on x - x_last it is equivariant to both. A deviation from the last
frame is trusted up to MAX_SPREAD training standard deviations only, so an artefact far outside of what was
seen is met with nearly a copy.

Of events, spike counts and very noisy traces the last frame says less than the mean does. Sessions of such
frames are seen as they are (`Interface.is_smooth`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# In training standard deviations. The floor keeps silent rows from being blown up.
MIN_SPREAD = 0.3
MAX_SPREAD = 3.0


@dataclass(frozen=True)
class WindowFrame:
    """Where each row of a batch of windows stands.

    Attributes:
        last: [B, 1, N], the last frame of the context.
        spread: [B, 1, N], root mean square distance from it, with a floor.
    """

    last: Tensor
    spread: Tensor

    @classmethod
    def of(cls, context: Tensor) -> WindowFrame:
        """The frame of contexts [B, C, N]; what it sees is past."""
        last = context[:, -1:]
        mean_square = (context - last).square().mean(dim=1, keepdim=True)
        return cls(last, (mean_square + MIN_SPREAD**2).sqrt())

    def enter(self, context: Tensor) -> Tensor:
        return (context - self.last) / self.spread

    @property
    def trusted(self) -> Tensor:
        """[B, 1, N], what a forecast of 1 in this frame deviates from the last frame."""
        return self.spread.clamp(max=MAX_SPREAD)

    def leave(self, forecast: Tensor) -> Tensor:
        """Puts forecasts [B, H, N] back where the context was."""
        return self.last + forecast * self.trusted
