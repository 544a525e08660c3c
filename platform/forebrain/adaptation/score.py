"""How good an adaptation is, as it is kept beside it and shown to people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forebrain.errors import AdaptationError


@dataclass(frozen=True)
class Lead:
    """How far a model is ahead of another on the same windows of the test part.

    Attributes:
        over: the other's name.
        score: difference in score, negative where the other is better.
        low, high: its 95 % interval by bootstrap over blocks of time; NaN where there are too few windows.
    """

    over: str
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """The score of an adaptation on the test part, beside what else could have been done.

    Attributes:
        value: 1 - MSE / MSE of copy; 0 is copy, 1 is perfect.
        low, high: its 95 % interval by bootstrap over blocks of time; NaN where there are too few windows.
        baselines: of the recording's own forecasts, by name: copy, mean, linear, ridge, and of era and self
            where they were trained.
        others: of what else was trained, by name.
        lead: over the best of all else; None of adaptations from before it was kept.
        verdict: whether adapting was worth it, in a sentence.
        leak: what the backbone has seen of this animal, in words; None for nothing that is known.
    """

    value: float
    low: float
    high: float
    baselines: Mapping[str, float]
    others: Mapping[str, float]
    lead: Lead | None
    verdict: str
    leak: str | None

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Score:
        """The score in a result.json.

        Raises:
            AdaptationError: it holds none.
        """
        try:
            low, high = map(_number, result["interval"])
            return cls(
                value=_number(result["score"]),
                low=low,
                high=high,
                baselines={
                    name: float(value) for name, value in result["baselines"].items() if value is not None
                },
                others={name: _number(value) for name, value in result["others"].items()},
                lead=_lead(result["lead"]) if "lead" in result else None,
                verdict=result["verdict"],
                leak=result["leak_note"] if result["leak"] else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AdaptationError(f"the result of this adaptation is damaged ({error!r:.120}).") from error

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" (95 % interval {self.low:.3f} to {self.high:.3f})"
        others = ", ".join(f"{name} {value:.3f}" for name, value in {**self.others, **self.baselines}.items())
        leak = "" if self.leak is None else f"\nLEAK: {self.leak}."
        return f"score {self.value:.3f}{interval}; {others}\n{self.verdict}{leak}"

    __repr__ = __str__


def _lead(lead: Mapping[str, Any]) -> Lead:
    low, high = map(_number, lead["interval"])
    return Lead(lead["over"], _number(lead["score"]), low, high)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
