"""A plan as CSV: a row for each frame ahead, a column for each input that can be planned."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from forebrain.errors import AdaptationError
from forebrain.scoring.input_stacks import HOLD

# Columns that say when, which the order of the rows says too.
TIMES = ("frames_ahead", "seconds_ahead", "time_s")


def read_plan(path: str | os.PathLike[str]) -> dict[str, list[float]] | str:
    """The plan of a file, values by input; or `hold`, given as such in place of a file.

    Raises:
        AdaptationError: there is no such file, or it is no table of numbers under distinct names.
    """
    if str(path) == HOLD:
        return HOLD
    try:
        rows = list(csv.reader(Path(path).read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise AdaptationError(f"{path}: the plan cannot be read ({error}).") from error
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    names = rows[0] if rows else []
    if len(rows) < 2 or len(set(names)) != len(names) or not all(names):
        raise AdaptationError(
            f"{path}: expected a plan: a row of names, each once, and below it a row for each frame ahead."
        )
    plan: dict[str, list[float]] = {name: [] for name in names if name.lower() not in TIMES}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise AdaptationError(f"{path}, line {number}: has {len(row)} values; expected {len(names)}.")
        for name, cell in zip(names, row, strict=True):
            if name not in plan:
                continue
            try:
                plan[name].append(float(cell))
            except ValueError as error:
                raise AdaptationError(
                    f"{path}, line {number}: {name} is {cell!r:.40}; expected a number."
                ) from error
    return plan
