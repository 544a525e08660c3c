"""Evoked and quiet windows apart: those in whose horizon something is done to the animal, and the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forebrain.scoring.evaluate import Forecaster, ForecasterInTime, forecast_of
from forebrain.scoring.inputs import InputSource
from forebrain.scoring.metrics import ScoreAccumulator
from forebrain.scoring.protocols import Part
from forebrain.scoring.window_source import choose_windows

# A window is evoked where a level changes in its horizon by more than this share of its range.
EVOKED_SHARE = 0.1
# Which windows a score is of, in the order of tables.
APART = ("evoked", "quiet")
_BATCH_ROWS = 1 << 18


def is_evoked(
    source: InputSource, names: Sequence[str], starts: np.ndarray, training: np.ndarray, session: int = 0
) -> np.ndarray:
    """bool [B]: in the horizon of a window an event comes, or another input differs from its last value by
    more than EVOKED_SHARE of its range in training.

    Args:
        source: of the windows.
        names: of inputs.
        starts, training: start frames of the windows asked about [B], and of those of the training part.
        session: its number in the source.
    """
    seen = source.inputs(session, training, source.context, source.horizon, names)
    spread = np.ptp(seen.reshape(-1, len(names)), axis=0) if len(training) else np.zeros(len(names))
    kinds = {each.name: each.kind for each in source.inputs_of(session)}
    is_event = np.array([kinds.get(name) == "event" for name in names], bool)
    inputs = source.inputs(session, starts, 1, source.horizon, names)
    moved = np.abs(inputs[:, 1:] - inputs[:, :1]) > EVOKED_SHARE * spread
    found: np.ndarray = np.where(is_event, inputs[:, 1:] != 0, moved).any(axis=(1, 2))
    return found


def scores_apart(
    forecasters: Mapping[str, Forecaster | ForecasterInTime],
    source: InputSource,
    names: Sequence[str],
    training: np.ndarray,
    *,
    session: int = 0,
    part: Part = "test",
    windows_per_session: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores on all windows of a part, on the evoked and on the quiet ones, all forecasters on the same.

    Args:
        forecasters: by name.
        source: of the windows.
        names: of the inputs by which windows are evoked.
        training: start frames of the windows of the training part.
        session: its number in the source.
        part: that is scored.
        windows_per_session: at most so many, spread evenly; None for all.
        seed: of their choice.

    Returns:
        Plain values: under `all`, `evoked` and `quiet` each forecaster's score, None where there is no such
        window; `num_evoked`, and `num_windows` in all.
    """
    info = source.sessions[session]
    kept = {
        (which, name): ScoreAccumulator(info.id, name, source.horizon, info.num_units)
        for which in ("all", *APART)
        for name in forecasters
    }
    counts = dict.fromkeys(("all", *APART), 0)
    size = max(1, _BATCH_ROWS // info.num_units)
    numbers = choose_windows(info.id, source.num_windows(session, part), windows_per_session, seed)
    for first in range(0, len(numbers), size):
        context, target, starts = source.read(session, part, numbers[first : first + size])
        if not len(starts):
            continue
        evoked = is_evoked(source, names, starts, training, session)
        chosen = {"all": np.ones_like(evoked), "evoked": evoked, "quiet": ~evoked}
        for name, forecaster in forecasters.items():
            forecast = forecast_of(forecaster, session, starts, context)
            for which, rows in chosen.items():
                if rows.any():
                    kept[which, name].update(forecast[rows], target[rows], context[rows, -1], starts[rows])
        for which, rows in chosen.items():
            counts[which] += int(rows.sum())
    length = source.context + source.horizon

    def score(which: str, name: str) -> float | None:
        value = kept[which, name].scores(length, seed).value("score") if counts[which] else np.nan
        return float(value) if np.isfinite(value) else None

    found: dict[str, Any] = {which: {name: score(which, name) for name in forecasters} for which in counts}
    return {**found, "num_evoked": counts["evoked"], "num_windows": counts["all"]}
