"""The time of a run over all its attempts, divided by what it was spent on; the useful part is the goodput.

    attempts/<id>.json      one for each start of the training loop, rewritten every few seconds

The first worker keeps the file of its attempt; whatever kills the attempt, the file says how far it came.
From the files of a run follows a ledger that divides the time from the first launch to the last sign of life
without a gap: what lies between two attempts is recovery, and steps after the checkpoint that the next
attempt went on from are lost work.

Machines' clocks differ and are set anew, so attempts are counted, their own time is measured by a clock that
only goes forward, and what would be less than no time between two of them is none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from forebrain.errors import CheckpointError
from forebrain.training.run_folder import RunFolder
from forebrain.training.versions import versions

# Categories that an attempt measures itself. `step` is forward, backward and optimiser, `communication` the
# message between the workers, which includes waiting for the slowest; both are useful.
MEASURED = ("resume", "wait", "step", "communication", "validation", "checkpoint")
# Categories that follow from comparing attempts. `away` is time in which no driver ran; `other` is what an
# attempt spent outside everything it measures.
DERIVED = ("start", "recovery", "away", "lost", "other")
USEFUL = ("step", "communication", "validation")

_log = logging.getLogger(__name__)


@dataclass
class Attempt:
    """The record of one start of the training loop: how far it came, and its time.

    Attributes:
        launched: when the driver that started it began, seconds of the Unix clock.
        started: when its loop began.
        until: its last sign of life.
        first_step: steps done when it began.
        step: steps done when it last gave a sign.
        seconds: by category of `MEASURED`.
        at_step: the same, as it stood at its latest checkpoints, by their step.
        number: attempts of the run that were there before, and this one; 0 in records that do not say.
        versions: of what it computed with, by package.
        saved: step of the newest checkpoint that it committed; 0 for none, and in records that do not say.
    """

    launched: float
    started: float
    until: float
    first_step: int
    step: int
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MEASURED, 0.0))
    at_step: dict[int, dict[str, float]] = field(default_factory=dict)
    number: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    saved: int = 0


@dataclass(frozen=True)
class Ledger:
    """The time of a run, divided.

    Attributes:
        seconds: by category; they sum to `wall_s`.
        wall_s: from the first launch to the last sign of life, as far as the clocks of the attempts agree.
        goodput: useful seconds over `wall_s`, in [0, 1].
        attempts: starts of the training loop.
        steps_done: steps that count.
        steps_lost: steps that were done again.
    """

    seconds: dict[str, float]
    wall_s: float
    goodput: float
    attempts: int
    steps_done: int
    steps_lost: int


def steady_clock() -> Callable[[], float]:
    """A clock that is right now and only goes forward, seconds of the Unix clock."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class AttemptClock:
    """Measures an attempt and keeps its file.

    Args:
        run: the run folder; None keeps no file.
        launched: when the driver began, seconds of the Unix clock; None for now.
        save_every_s: seconds between rewrites of the file.
        clock: seconds of the Unix clock; None for a steady one.
    """

    KEPT_CHECKPOINTS = 4

    def __init__(
        self,
        run: RunFolder | None,
        launched: float | None = None,
        save_every_s: float = 5.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock or steady_clock()
        now = self._clock()
        number = 1 + max((before.number for before in read_attempts(run)), default=0) if run else 1
        self.attempt = Attempt(
            now if launched is None else launched, now, now, 0, 0, number=number, versions=versions()
        )
        self._folder = run.attempts if run else None
        self._name = f"{uuid.uuid4().hex[:12]}.json"
        self._save_every_s = save_every_s
        self._saved = -float("inf")

    def begin(self, step: int) -> None:
        """The loop begins after this step."""
        self.attempt.first_step = self.attempt.step = step
        self.save()

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """Counts the block's time."""
        began = self._clock()
        try:
            yield
        finally:
            self.add(category, self._clock() - began)

    def add(self, category: str, seconds: float) -> None:
        self.attempt.seconds[category] += seconds

    def step(self, step: int) -> None:
        """A step is done; the file is rewritten if it is time to."""
        self.attempt.step = step
        if self._clock() - self._saved >= self._save_every_s:
            self.save()

    def snapshot(self, step: int) -> None:
        """The state after this step is being saved: another attempt may go on from here."""
        at_step = {**self.attempt.at_step, step: dict(self.attempt.seconds)}
        self.attempt.at_step = {key: at_step[key] for key in sorted(at_step)[-self.KEPT_CHECKPOINTS :]}

    def committed(self, step: int) -> None:
        """The checkpoint of this step is there, which is noted at once: another attempt is to find it."""
        self.attempt.saved = step
        self.save()

    def save(self) -> None:
        self.attempt.until = self._saved = self._clock()
        if self._folder:
            self._folder.write(self._name, json.dumps(dataclasses.asdict(self.attempt)).encode())


def read_attempts(run: RunFolder) -> list[Attempt]:
    """The attempts of a run, oldest first; a file that cannot be read is reported and left out."""
    folder = run.attempts
    attempts = []
    for name in folder.names():
        if name.endswith(".json"):
            try:
                attempts.append(_attempt(json.loads(folder.read(name))))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
                _log.warning("%s: not the record of an attempt (%r); ignored.", folder.uri_of(name), error)
    return sorted(attempts, key=lambda attempt: (attempt.number, attempt.started))


def require_checkpoints(run: RunFolder) -> None:
    """Makes sure that a run whose attempts tell of checkpoints has some; without any it would start over.

    Raises:
        CheckpointError: all are gone, as where the disk that holds them is not mounted.
    """
    if run.checkpoints().newest_step():
        return
    known = max((max(attempt.saved, attempt.first_step) for attempt in read_attempts(run)), default=0)
    if known:
        raise CheckpointError(
            f"{run.uri}: this run came to a checkpoint at step {known}, and none is there now; nothing "
            "starts over by itself. Bring checkpoints/ back, or mount the disk that holds it, and give the "
            "same command again; or give another --out."
        )


def _attempt(values: dict[str, Any]) -> Attempt:
    """An attempt from its record; what another version of the program wrote besides is passed over."""
    known = {item.name: values[item.name] for item in dataclasses.fields(Attempt) if item.name in values}
    known["at_step"] = {int(step): _categories(seconds) for step, seconds in known["at_step"].items()}
    known |= {name: int(known[name]) for name in ("first_step", "step", "number", "saved") if name in known}
    known |= {name: _finite(known[name]) for name in ("launched", "started", "until")}
    return Attempt(**{**known, "seconds": _categories(known["seconds"])})


def _categories(seconds: dict[str, float]) -> dict[str, float]:
    return {category: _finite(seconds.get(category, 0.0)) for category in MEASURED}


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} s")
    return number


def account(attempts: Sequence[Attempt]) -> Ledger:
    """Divides the time of a run.

    Args:
        attempts: at least one, oldest first.
    """
    seconds = dict.fromkeys((*MEASURED, *DERIVED), 0.0)
    steps_lost = 0
    seconds["start"] = max(0.0, attempts[0].started - attempts[0].launched)
    for number, attempt in enumerate(attempts):
        following = attempts[number + 1] if number + 1 < len(attempts) else None
        resumed_at = attempt.step if following is None else min(following.first_step, attempt.step)
        kept = _seconds_until(attempt, resumed_at)
        for category in MEASURED:
            lost = attempt.seconds[category] - kept[category] if category in (*USEFUL, "wait") else 0.0
            seconds[category] += attempt.seconds[category] - lost
            seconds["lost"] += lost
        span_s = attempt.until - attempt.started
        seconds["other"] += max(0.0, span_s - sum(attempt.seconds.values()))
        steps_lost += attempt.step - resumed_at
        if following is not None:
            # Another driver: nobody was there between the last sign of life and its launch.
            away = max(0.0, following.launched - attempt.until)
            seconds["away"] += away
            seconds["recovery"] += max(0.0, following.started - attempt.until - away)
    wall_s = sum(seconds.values())
    useful = sum(seconds[category] for category in USEFUL)
    goodput = useful / wall_s if wall_s > 0 else 0.0
    return Ledger(seconds, wall_s, goodput, len(attempts), attempts[-1].step, steps_lost)


def _seconds_until(attempt: Attempt, step: int) -> dict[str, float]:
    """The attempt's seconds up to a step that another went on from, or that was its last."""
    if step >= attempt.step:
        return attempt.seconds
    # A step without a snapshot is the one this attempt began at: all its work was done again.
    return attempt.at_step.get(step, dict.fromkeys(MEASURED, 0.0))
