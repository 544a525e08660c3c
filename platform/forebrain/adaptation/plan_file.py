"""A plan as CSV: a row for each frame ahead, a column for each input that can be planned."""

from __future__ import annotations

import csv
import os

from forebrain.errors import AdaptationError
from forebrain.scoring.input_stacks import HOLD
from forebrain_registry.storage import path_here

# Columns that say when, as the order of the rows does too.
TIMES = ("frames_ahead", "seconds_ahead", "time_s")
MOST_OFF = 0.25  # of the time between two frames


def read_plan(path: str | os.PathLike[str], rate_hz: float | None) -> dict[str, list[float]] | str:
    """The plan of a file, values by input; or `hold`, given as such in place of a file.

    Args:
        path: of the file.
        rate_hz: frames a second of the forecast; None where it is not known.

    Raises:
        AdaptationError: there is no such file, it is no table of numbers under distinct names, or its times
            are not those of the frames that are forecast.
    """
    if str(path) == HOLD:
        return HOLD
    try:
        rows = list(csv.reader(path_here(path).read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise AdaptationError(f"{path}: the plan cannot be read ({error}).") from error
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    names = rows[0] if rows else []
    if len(rows) < 2 or len(set(names)) != len(names) or not all(names):
        raise AdaptationError(
            f"{path}: expected a plan: a row of names, each once, and below it a row for each frame ahead."
        )
    columns: dict[str, list[float]] = {name: [] for name in names}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise AdaptationError(f"{path}, line {number}: has {len(row)} values; expected {len(names)}.")
        for name, cell in zip(names, row, strict=True):
            try:
                columns[name].append(float(cell))
            except ValueError as error:
                raise AdaptationError(
                    f"{path}, line {number}: {name} is {cell!r:.40}; expected a number."
                ) from error
    for name, values in columns.items():
        if name.lower() in TIMES:
            _require_frames(name, values, rate_hz, path)
    return {name: values for name, values in columns.items() if name.lower() not in TIMES}


def _require_frames(
    name: str, values: list[float], rate_hz: float | None, path: str | os.PathLike[str]
) -> None:
    """Raises AdaptationError where a column of TIMES does not count the frames ahead, one after another."""
    step = 1.0 if name.lower() == "frames_ahead" else None if rate_hz is None else 1 / rate_hz
    first = values[0] if step is None or name.lower() == "time_s" else step
    for row, value in enumerate(values):
        expected = first + row * (step or 0)
        if step is None:
            is_right, meant = row == 0 or value > values[row - 1], "more"
        else:
            is_right, meant = abs(value - expected) <= MOST_OFF * step, f"{expected:g}"
        if not is_right:
            raise AdaptationError(
                f"{path}: {name} has {value:g} where {meant} is expected: a row for each frame that is "
                f"forecast, in order{'' if rate_hz is None else f', at {rate_hz:.4g} Hz'}. Leave {name} "
                "out if the rows are that."
            )
