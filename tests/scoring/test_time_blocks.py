from __future__ import annotations

import numpy as np
import pytest

from forebrain.scoring.time_blocks import time_blocks


@pytest.mark.parametrize("step", [1, 3])
def test_no_block_shares_a_frame_with_the_rest(step: int) -> None:
    starts = np.concatenate([np.arange(0, 300, step), np.arange(400, 700, step)])
    blocks = time_blocks(starts, 20)
    assert len(blocks) == 6
    assert np.sum([block.held_out for block in blocks], axis=0).tolist() == [1] * len(starts)
    for block in blocks:
        inside, outside = starts[block.held_out], starts[block.rest]
        assert len(outside) and np.abs(inside[:, None] - outside[None]).min() >= 20


def test_fewer_blocks_of_a_short_recording_and_none_of_a_shorter() -> None:
    assert len(time_blocks(np.arange(100), 16)) == 5
    assert len(time_blocks(np.arange(70), 16)) == 4
    assert time_blocks(np.arange(60), 16) == []
    assert time_blocks(np.arange(0), 16) == []
