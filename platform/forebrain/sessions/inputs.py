"""Inputs: the channels of a session that are not units: what was done to the animal, and what it did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from forebrain.errors import AdaptationError, RecordingError
from forebrain.sessions.arrays import with_names

InputKind = Literal["event", "level", "pattern"]
INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)
# Parts of a recording as its file assigns them, by the number in `Session.split`; -1 belongs to none.
SPLIT_PARTS = ("train", "validation", "test")

_MAX_MARKED = 0.2  # frames that are not zero, in a channel of events
_MIN_ISOLATED = 0.9  # marks that last one frame, in a channel of events
_MIN_STEP = 0.05  # of a channel's range, from which on it is said to change
_TARGET = re.compile(r"^(?P<group>.+)\[(?P<target>[^\[\]]+)\]$")


@dataclass(frozen=True)
class Input:
    """One channel of input.

    Attributes:
        name: unique in its session; of a pattern `NAME[target]`, one channel for each target.
        kind: `event` (zero but for marks of a frame each; its values add up), `level` (a value that lasts),
            `pattern` (what one target of several receives, for example a unit under holographic stimulation:
            marks, or values that last).
        unit: of measurement, empty where it is not known.
        can_be_planned: whether its future may be known: a stimulus can be planned, behaviour cannot.
    """

    name: str
    kind: InputKind
    unit: str = ""
    can_be_planned: bool = True

    @property
    def group(self) -> str:
        """The name of the pattern that the channel is of; its own name where it is of none."""
        found = _TARGET.match(self.name) if self.kind == "pattern" else None
        return found["group"] if found else self.name

    @property
    def target(self) -> str | None:
        """What the channel of a pattern acts on, as the recording names it."""
        found = _TARGET.match(self.name) if self.kind == "pattern" else None
        return found["target"] if found else None


def in_order(values: Any, names: Sequence[str], num_axes: int, what: str) -> np.ndarray:
    """Values of inputs as float32, those that bear names brought into an order.

    Args:
        values: an array, whose inputs are in this order; or by name: a mapping, or what pandas and xarray
            label. Of another number of axes than expected labels are no names.
        names: of all inputs, in order.
        num_axes: 1 for those of one frame, [D], or 2, [T, D].
        what: they are, for messages.

    Raises:
        AdaptationError: an input is missing or unknown, or it is no table of numbers.
    """
    try:
        array, given = with_names(values)
        array = array.astype(np.float32, copy=False)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AdaptationError(f"{what}: is no table of numbers ({error}).") from error
    if given is None or array.ndim != num_axes:
        return array
    if sorted(given) != sorted(names):
        raise AdaptationError(
            f"{what}: has inputs {', '.join(given) or 'none'}; expected exactly {', '.join(names)}."
        )
    ordered: np.ndarray = array[..., [given.index(name) for name in names]]
    return ordered


def kind_of(values: np.ndarray) -> InputKind:
    """The kind that the values of a channel, [T], tell: events are zero but for marks of single frames.

    Values that are not finite are passed over; a channel that never changes is a level.
    """
    is_marked = np.isfinite(values) & (values != 0)
    if not is_marked.any() or is_marked.mean() > _MAX_MARKED:
        return "level"
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_marked, [False]])))
    lengths = edges[1::2] - edges[::2]
    return "event" if (lengths == 1).mean() >= _MIN_ISOLATED else "level"


def adds_up(kind: InputKind, values: np.ndarray) -> bool:
    """Whether the values of a channel, [T], are summed where frames are joined: marks, a pattern's too."""
    return kind == "event" or (kind == "pattern" and kind_of(values) == "event")


def changes(values: np.ndarray, segments: Sequence[tuple[int, int]]) -> np.ndarray:
    """bool [T], the frames at which inputs, [T, D], differ from the frame before by more than a twentieth of
    the range of some channel; the first frame of a segment is none."""
    spread = np.ptp(values, axis=0)
    step = np.abs(np.diff(values, axis=0, prepend=values[:1]))
    found: np.ndarray = (step > _MIN_STEP * spread).any(axis=1)
    found[[start for start, _ in segments]] = False
    return found


def share_of_windows(
    changed: np.ndarray, segments: Sequence[tuple[int, int]], context: int, horizon: int
) -> float | None:
    """The share of windows of a recording, stride 1, whose horizon holds a change; None where none fits.

    Args:
        changed: bool [T].
    """
    before = np.concatenate([[0], np.cumsum(changed)])
    hits = [
        before[start + context + horizon : stop + 1] > before[start + context : stop - horizon + 1]
        for start, stop in segments
        if stop - start >= context + horizon
    ]
    return float(np.concatenate(hits).mean()) if hits else None


def columns_of(inputs: Sequence[Input], names: Sequence[str], where: str) -> list[int]:
    """The columns of the named inputs, in the order of `names`; a pattern's name stands for all its targets.

    Args:
        where: named in errors.

    Raises:
        RecordingError: there is no such input, or one is named twice.
    """
    columns: list[int] = []
    for name in names:
        found = [column for column, each in enumerate(inputs) if name in (each.name, each.group)]
        if not found:
            there = ", ".join(dict.fromkeys(each.group for each in inputs)) or "none"
            raise RecordingError(
                f"{where}: has no input {name!r}; expected some of its inputs ({there}). Leave it out, or "
                "bring it with the recording."
            )
        columns += found
    if len(set(columns)) < len(columns):
        raise RecordingError(f"{where}: inputs {', '.join(names)} name a channel twice; name each once.")
    return columns
