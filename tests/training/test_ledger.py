"""The account of a run's time: complete, whatever killed the attempts."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebrain.training.ledger import AttemptClock, account, read_attempts
from forebrain_registry.storage import Folder


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def run_attempt(run: Folder, clock: Clock, launched: float, first: int, steps: int, save_at: int) -> None:
    """Steps of 2 s after 0.5 s of waiting; one snapshot that stalls 0.25 s; 1 s unaccounted before."""
    attempt = AttemptClock(run, launched, save_every_s=0.0, clock=clock)
    clock.now += 1.0
    attempt.begin(first)
    for step in range(first + 1, first + steps + 1):
        attempt.add("wait", 0.5)
        with attempt.during("step"):
            clock.now += 2.0
        clock.now += 0.5
        if step == save_at:
            attempt.snapshot(step)
            with attempt.during("checkpoint"):
                clock.now += 0.25
        attempt.step(step)


def test_the_time_of_a_killed_run_is_divided_without_a_gap(tmp_path: Path) -> None:
    run, clock = Folder(tmp_path), Clock(100.0)
    clock.now = 107.0
    run_attempt(run, clock, launched=100.0, first=0, steps=5, save_at=3)  # killed after 5, 2 of them lost
    clock.now += 16.0  # the same driver starts workers again
    run_attempt(run, clock, launched=100.0, first=3, steps=4, save_at=6)
    clock.now += 30.0  # the driver is gone, another is launched and needs 9 s
    run_attempt(run, clock, launched=clock.now, first=6, steps=2, save_at=8)
    attempts = read_attempts(run)
    ledger = account(attempts)
    assert ledger.seconds == pytest.approx(
        {
            "start": 7.0, "resume": 0.0, "wait": 8 * 0.5, "step": 8 * 2.0, "communication": 0.0,
            "validation": 0.0, "checkpoint": 0.75, "lost": 3 * 2.5, "recovery": 16.0, "away": 30.0,
            "other": 3.0,
        }
    )  # fmt: skip
    assert sum(ledger.seconds.values()) == pytest.approx(ledger.wall_s)
    assert ledger.wall_s == pytest.approx(clock.now - 100.0)
    assert (ledger.attempts, ledger.steps_done, ledger.steps_lost) == (3, 8, 3)
    assert ledger.goodput == pytest.approx(16 / ledger.wall_s)


def test_an_attempt_that_saved_nothing_is_all_lost(tmp_path: Path) -> None:
    run, clock = Folder(tmp_path), Clock(0.0)
    run_attempt(run, clock, launched=0.0, first=0, steps=2, save_at=-1)
    run_attempt(run, clock, launched=0.0, first=0, steps=3, save_at=3)
    ledger = account(read_attempts(run))
    assert ledger.seconds["lost"] == pytest.approx(5.0)
    assert ledger.seconds["step"] == pytest.approx(6.0)
    assert ledger.steps_lost == 2


def test_a_damaged_record_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Folder(tmp_path)
    AttemptClock(run).begin(0)
    (path,) = tmp_path.glob("attempts/*.json")
    path.write_text("{}")
    AttemptClock(run).begin(7)
    assert [attempt.first_step for attempt in read_attempts(run)] == [7]
    assert path.name in caplog.text
