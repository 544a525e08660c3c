"""The account of a run's time: complete, whatever killed the attempts and whatever their clocks say."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

from forebrain.training.ledger import AttemptClock, account, read_attempts
from forebrain.training.run_folder import RunFolder


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def run_attempt(run: RunFolder, clock: Clock, launched: float, first: int, steps: int, save_at: int) -> None:
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
    run, clock = RunFolder(str(tmp_path)), Clock(100.0)
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
    run, clock = RunFolder(str(tmp_path)), Clock(0.0)
    run_attempt(run, clock, launched=0.0, first=0, steps=2, save_at=-1)
    run_attempt(run, clock, launched=0.0, first=0, steps=3, save_at=3)
    ledger = account(read_attempts(run))
    assert ledger.seconds["lost"] == pytest.approx(5.0)
    assert ledger.seconds["step"] == pytest.approx(6.0)
    assert ledger.steps_lost == 2


@pytest.mark.parametrize(
    "damage", [{"started": "x"}, {"until": float("inf")}, {"step": None}, {"number": [1]}, {"at_step": 3}]
)
def test_a_damaged_record_is_named_and_left_out(
    tmp_path: Path, damage: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(str(tmp_path))
    for _ in range(3):
        AttemptClock(run).begin(0)
    one, other, third = tmp_path.glob("attempts/*.json")
    one.write_text(json.dumps(json.loads(one.read_text()) | damage))
    other.write_text("{}")
    third.write_text("[" * 3000)
    AttemptClock(run).begin(7)
    assert [attempt.first_step for attempt in read_attempts(run)] == [7]
    assert all(path.name in caplog.text for path in (one, other, third))


def test_clocks_that_disagree_neither_change_the_order_nor_give_negative_times(tmp_path: Path) -> None:
    run, clock = RunFolder(str(tmp_path)), Clock(1000.0)
    # The driver's clock is ahead of the worker's.
    run_attempt(run, clock, launched=1500.0, first=0, steps=5, save_at=3)
    clock.now = 10.0  # the next node's clock was never set
    run_attempt(run, clock, launched=5.0, first=3, steps=4, save_at=6)
    attempts = read_attempts(run)
    assert [attempt.first_step for attempt in attempts] == [0, 3]
    ledger = account(attempts)
    assert (ledger.steps_done, ledger.steps_lost) == (7, 2)
    assert min(ledger.seconds.values()) >= 0 and 0 < ledger.goodput <= 1
    assert ledger.seconds["step"] == pytest.approx(7 * 2.0)
    assert sum(ledger.seconds.values()) == pytest.approx(ledger.wall_s)


def test_a_clock_that_is_set_back_while_an_attempt_runs_takes_no_time_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(str(tmp_path))
    attempt = AttemptClock(run)
    attempt.begin(0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with attempt.during("step"):
        time.sleep(0.01)
    attempt.step(1)
    attempt.save()
    (read,) = read_attempts(run)
    assert read.seconds["step"] >= 0.01 and read.until >= read.started + 0.01


def test_records_of_other_versions_count_as_far_as_they_say(tmp_path: Path) -> None:
    run, clock = RunFolder(str(tmp_path)), Clock(100.0)
    run_attempt(run, clock, launched=100.0, first=0, steps=5, save_at=3)
    (path,) = tmp_path.glob("attempts/*.json")
    older = json.loads(path.read_text())
    del older["number"], older["versions"], older["seconds"]["communication"]
    path.write_text(json.dumps({**older, "of a later version": True}))
    run_attempt(run, clock, launched=100.0, first=3, steps=4, save_at=6)
    first, second = read_attempts(run)
    assert (first.number, second.number) == (0, 1)
    assert first.versions == {} and set(second.versions) >= {"python", "torch"}
    ledger = account([first, second])
    assert dataclasses.asdict(ledger)["seconds"]["communication"] == 0 and ledger.steps_lost == 2
