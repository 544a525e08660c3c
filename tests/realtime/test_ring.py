from __future__ import annotations

import numpy as np
import pytest

from forebrain.realtime.ring import Ring


@pytest.mark.parametrize("length", [1, 4])
def test_the_window_is_the_newest_frames_in_order_and_in_one_piece(length: int) -> None:
    ring = Ring(length, 3)
    frames = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    for number, frame in enumerate(frames, start=1):
        assert ring.is_full == (number > length)
        ring.push(frame)
        if number >= length:
            np.testing.assert_array_equal(ring.window, frames[number - length : number])
            assert ring.window.flags.c_contiguous and np.shares_memory(ring.window, ring.window)


def test_reading_and_writing_take_no_new_memory() -> None:
    ring = Ring(4, 3)
    rows = ring.window.base
    for _ in range(9):
        ring.push(np.ones(3, np.float32))
        assert ring.window.base is rows


def test_a_restored_ring_goes_on_as_the_other_would() -> None:
    frames = np.arange(30, dtype=np.float32).reshape(10, 3)
    ring, other = Ring(4, 3), Ring(4, 3)
    for frame in frames[:6]:
        ring.push(frame)
    other.restore(ring.window, ring.filled)
    for frame in frames[6:]:
        ring.push(frame)
        other.push(frame)
        np.testing.assert_array_equal(other.window, ring.window)


def test_filling_changes_the_whole_past_of_a_unit() -> None:
    ring = Ring(4, 3)
    for frame in np.arange(18, dtype=np.float32).reshape(6, 3):
        ring.push(frame)
    ring.fill(np.array([False, True, False]), np.array([7.0]))
    for _ in range(3):
        assert (ring.window[:, 1] == 7).all() and not (ring.window[:, [0, 2]] == 7).any()
        ring.push(np.full(3, 7, np.float32) * [0, 1, 0])


def test_a_cleared_ring_is_full_again_after_as_many_frames() -> None:
    ring = Ring(3, 1)
    for _ in range(5):
        ring.push(np.ones(1, np.float32))
    ring.clear()
    for _ in range(3):
        assert not ring.is_full
        ring.push(np.ones(1, np.float32))
    assert ring.is_full
