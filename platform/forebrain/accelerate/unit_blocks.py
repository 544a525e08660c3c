"""Cuts the unit-windows of sessions (units times windows) into blocks that pass as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Temporaries [unit-windows, 1024] of a block fit in a CPU core's cache; on a GPU one launch should fill it.
CPU_BLOCK = 1024
GPU_BLOCK = 65_536


def block_unit_windows(device: torch.device) -> int:
    """Unit-windows that pass as one block."""
    return CPU_BLOCK if device.type == "cpu" else GPU_BLOCK


class Piece(NamedTuple):
    """Some samples of some units of one session, samples first, and where in their block they are."""

    session: int
    samples: slice
    units: slice
    rows: slice

    def rows_of(self, block: Tensor) -> Tensor:
        """The piece's part of a block's tensor [r, W], as [b, n, W]."""
        shape = self.samples.stop - self.samples.start, self.units.stop - self.units.start
        part = block if len(block) == self.rows.stop - self.rows.start else block[self.rows]
        return part.view(*shape, -1)

    def part_of(self, session: Tensor) -> Tensor:
        """The piece's part of a session's tensor [B, W, N], as [b, n, W]."""
        return session[self.samples, :, self.units].transpose(1, 2)

    def same_units(self, other: Piece) -> bool:
        return self.session == other.session and self.units == other.units


def blocks_of(shapes: Sequence[tuple[int, int]], size: int) -> Iterator[list[Piece]]:
    """Cuts sessions (samples, units) into blocks of up to `size` unit-windows, or one sample of `size` units.

    Pieces of the same units follow one another. Large sessions are cut by units, small ones share a block.
    """
    block: list[Piece] = []
    filled = 0
    for session, (num_samples, num_units) in enumerate(shapes):
        num_cuts = -(-num_units // size)
        for cut in range(num_cuts):
            units = slice(cut * num_units // num_cuts, (cut + 1) * num_units // num_cuts)
            width = units.stop - units.start
            step = max(1, size // width)
            for first in range(0, num_samples, step):
                samples = slice(first, min(first + step, num_samples))
                num_rows = (samples.stop - first) * width
                if filled + num_rows > size and block:
                    yield block
                    block, filled = [], 0
                block.append(Piece(session, samples, units, slice(filled, filled + num_rows)))
                filled += num_rows
    if block:
        yield block
