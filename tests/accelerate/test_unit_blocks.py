"""Unit-windows are cut into blocks of which none is missed, done twice or too large."""

from __future__ import annotations

import pytest
import torch

from forebrain.accelerate.unit_blocks import blocks_of


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 5)],
        [(1, 100), (4, 17)],
        [(2, 3), (1, 1), (7, 2), (1, 16), (2, 40), (1, 1)],
        [(50, 1), (1, 50)],
    ],
)
def test_every_unit_window_is_in_one_block_of_bounded_size(shapes: list[tuple[int, int]]) -> None:
    seen = [torch.zeros(shape, dtype=torch.int64) for shape in shapes]
    blocks = list(blocks_of(shapes, 16))
    for pieces in blocks:
        filled = 0
        for piece in pieces:
            part = seen[piece.session][piece.samples, piece.units]
            part += 1
            assert piece.rows == slice(filled, filled + part.numel())
            filled += part.numel()
        assert 0 < filled <= 16
    assert all((count == 1).all() for count in seen)
    # Two that follow one another never fit into one.
    sizes = [pieces[-1].rows.stop for pieces in blocks]
    firsts = [pieces[0].rows.stop for pieces in blocks]
    assert all(size + first > 16 for size, first in zip(sizes, firsts[1:], strict=False))
