"""Numbers that the workers sum at every step, in the message that carries the backbone's gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forebrain.training.optimise import sum_of_squares
from forebrain.training.strategies import Strategy


class StepTotals:
    """Numbers of one step: this worker's at first, all workers' after `reduce`.

    Attributes:
        error: errors of the windows, summed.
        interface_square: sum of squares of the interfaces' gradients, each counted once.
        failed: workers that could not read their part, or not write their checkpoint.
        saving: workers that are still writing a checkpoint.
        stop: workers that were asked to stop.
        poll: workers that want to look together whether a machine is about to be taken away.
        windows_skipped, rows_skipped: what could not be read.
    """

    def __init__(self, device: torch.device) -> None:
        self._tensor = torch.zeros(8, device=device)
        (
            self.error, self.interface_square, self.failed, self.saving, self.stop, self.poll,
            self.windows_skipped, self.rows_skipped,
        ) = self._tensor.unbind()  # fmt: skip

    def reduce(self, strategy: Strategy, shared: Sequence[Tensor]) -> None:
        """Sums them over the workers, and gradients [d] that workers share; all are replaced."""
        if not shared:
            return strategy.reduce(self._tensor)
        message = torch.cat([self._tensor, *shared])
        strategy.reduce(message)
        sums = message.split([len(self._tensor), *map(len, shared)])
        for tensor, summed in zip((self._tensor, *shared), sums, strict=True):
            tensor.copy_(summed)
        self.interface_square += sum_of_squares(shared)
