"""What plans do: the answer to an input by itself, and the choice among plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from forebrain.adaptation.tables import require_pandas, unit_index
from forebrain.errors import AdaptationError
from forebrain.scoring.input_stacks import InputStacks
from forebrain.sessions.preprocessing import Preprocessing

if TYPE_CHECKING:
    import pandas


class ExtrapolationWarning(UserWarning):
    """A plan leaves the range that an input had in the recording that was adapted to."""


@dataclass(frozen=True, eq=False)
class Choice:
    """A plan out of several.

    Attributes:
        index: of the plan.
        values: [K], how far each brings the objective: its weighted sum of units, in their deviations, on the
            mean over the horizon.
    """

    index: int
    values: np.ndarray


def response_table(stacks: InputStacks, name: str, preprocessing: Preprocessing) -> pandas.DataFrame:
    """See `Adapted.response`."""
    response = stacks.response
    assert response is not None
    features = response.features
    if name not in features.channels:
        raise AdaptationError(
            f"input {name!r:.60} is none whose answer is known; expected one of "
            f"{', '.join(features.channels)}."
        )
    column = features.channels.index(name)
    rest = np.where((features.low <= 0) & (features.high >= 0), 0, features.low).astype(np.float32)
    length, before = len(features.basis), features.before
    inputs = np.broadcast_to(rest, (before + length, len(features.channels))).copy()
    if features.kinds[column] == "event":
        inputs[before, column] = features.high[column]
    else:
        inputs[before:, column] = features.high[column]
    answer = response(inputs[None])[0]
    change = (answer[1:] - answer[0]) * preprocessing.scale
    pandas = require_pandas()
    seconds = np.arange(len(change)) / features.rate_hz
    label = "seconds after" if preprocessing.rate_hz is not None else "frames after"
    return pandas.DataFrame(change, pandas.Index(seconds, name=label), unit_index(preprocessing))


def unit_weights(objective: Mapping[str, float] | np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The weights [N] of an objective. Raises AdaptationError where they fit no units."""
    weights = np.zeros(preprocessing.num_units)
    if isinstance(objective, Mapping):
        names = {preprocessing.name(unit): unit for unit in range(preprocessing.num_units)}
        unknown = [str(name) for name in objective if name not in names]
        if unknown:
            raise AdaptationError(f"objective: no unit is called {', '.join(unknown[:5])}.")
        for name, weight in objective.items():
            weights[names[name]] = weight
    else:
        given = np.asarray(objective, float)
        if given.shape != weights.shape:
            raise AdaptationError(
                f"objective: has shape {given.shape}; expected a weight for each unit, {weights.shape}."
            )
        weights = given
    if not (np.isfinite(weights).all() and weights.any()):
        raise AdaptationError("objective: expected finite weights, and at least one that is not zero.")
    return weights
