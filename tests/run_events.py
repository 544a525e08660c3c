"""What tests look for among the events of a run."""

from __future__ import annotations

from collections.abc import Iterable

from forebrain.training.events import Event, StepDone


def steps_of(events: Iterable[Event]) -> list[StepDone]:
    return [event for event in events if isinstance(event, StepDone)]


def losses_of(events: Iterable[Event]) -> list[float]:
    """Loss of each step."""
    return [event.loss for event in steps_of(events)]
