"""Frames that ZAPBench trains on and forecasts: the constants of its published protocol."""

from __future__ import annotations

import itertools
from typing import Literal

NUM_FRAMES = 7879
NAMES = ("gain", "dots", "flash", "taxis", "turning", "position", "open loop", "rotation", "dark")
HELD_OUT = "taxis"
HORIZON = 32
LONGEST_CONTEXT = 256

_EDGES = (0, 649, 2422, 3078, 3735, 5047, 5638, 6623, 7279, NUM_FRAMES)
_PADDING = 1
_VALIDATION, _TEST = 0.1, 0.2


def forecast_frames(part: Literal["train", "validation", "test", "held_out"]) -> dict[str, tuple[int, int]]:
    """The frames [start, stop) of a part by condition, in order of time.

    Training windows lie within them; of the other parts these are the frames that are forecast, and their
    contexts reach back before `start`, within the condition. Of the held-out condition they begin where the
    longest context ends, so that every context is tested on the same windows.
    """
    found = {}
    for name, (first, last) in zip(NAMES, itertools.pairwise(_EDGES), strict=True):
        start, stop = first + _PADDING, last - _PADDING
        if (name == HELD_OUT) != (part == "held_out"):
            continue
        num_test, num_validation = int((stop - start) * _TEST), int((stop - start) * _VALIDATION)
        found[name] = {
            "train": (start, stop - num_test - num_validation),
            "validation": (stop - num_test - num_validation, stop - num_test),
            "test": (stop - num_test, stop),
            "held_out": (start + LONGEST_CONTEXT, stop),
        }[part]
    return found
