"""Blocks of time: choices are made by forecasting each from all others."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

# Six, or fewer where six would be shorter than a window, never fewer than four.
MOST_BLOCKS = 6
LEAST_BLOCKS = 4


@dataclass(frozen=True, eq=False)
class TimeBlock:
    """A block of time among windows.

    Attributes:
        held_out: bool [W], the windows in it.
        rest: bool [W], those that share no frame with any of these.
    """

    held_out: np.ndarray
    rest: np.ndarray


def time_blocks(starts: np.ndarray, length: int) -> list[TimeBlock]:
    """Cuts windows into blocks of time of as many windows each; none where there are too few for four.

    Args:
        starts: sorted start frames [W].
        length: frames of a window, context + horizon. The starts of a block span at least as many.
    """
    for num_blocks in range(MOST_BLOCKS, LEAST_BLOCKS - 1, -1):
        blocks = blocks_of(starts, num_blocks, length)
        if all(np.ptp(starts[block.held_out]) >= length for block in blocks):
            return blocks
    return []


def blocks_of(starts: np.ndarray, num_blocks: int, length: int) -> list[TimeBlock]:
    """So many blocks, however short; see `time_blocks`."""
    edges = np.arange(num_blocks + 1) * len(starts) // num_blocks
    numbers = np.arange(len(starts))
    return [
        TimeBlock(
            (numbers >= first) & (numbers < stop),
            (starts <= starts[first] - length) | (starts >= starts[stop - 1] + length),
        )
        for first, stop in itertools.pairwise(edges)
        if stop > first
    ]
