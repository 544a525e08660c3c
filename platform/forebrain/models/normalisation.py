"""Instance normalisation of windows (as in RevIN and NLinear): relative to the last frame, over the spread.

Over hours a unit's level and amplitude drift away from those it was z-scored by, most where the test part
lies. A model that sees each unit's window less its last frame and over its spread, and whose forecast is put
back the same way, does not care: like a linear map on x - x_last it is equivariant to both. A deviation from
the last frame is trusted up to MAX_SPREAD training standard deviations only, so an artefact far outside of
what was seen is met with nearly a copy.

Of events, spike counts and very noisy traces the last frame says less than the mean does. Windows of such
sessions are seen as they are (`Interface.is_smooth`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# In training standard deviations. The floor keeps silent units from being blown up.
MIN_SPREAD = 0.3
MAX_SPREAD = 3.0


@dataclass(frozen=True)
class InstanceNorm:
    """Offset and scale of each unit in each window of a batch.

    Attributes:
        last: [B, 1, N], the last frame of the context.
        spread: [B, 1, N], root mean square distance from it, with a floor.
    """

    last: Tensor
    spread: Tensor

    @classmethod
    def of(cls, context: Tensor) -> InstanceNorm:
        """The normalisation of contexts [B, C, N]; it sees nothing but them."""
        last = context[:, -1:]
        mean_square = (context - last).square().mean(dim=1, keepdim=True)
        return cls(last, (mean_square + MIN_SPREAD**2).sqrt())

    def normalise(self, context: Tensor) -> Tensor:
        return (context - self.last) / self.spread

    @property
    def forecast_scale(self) -> Tensor:
        """[B, 1, N], how far from the last frame a normalised forecast of 1 lies."""
        return self.spread.clamp(max=MAX_SPREAD)

    def denormalise(self, forecast: Tensor) -> Tensor:
        """Puts forecasts [B, H, N] back where the context was."""
        return self.last + forecast * self.forecast_scale
