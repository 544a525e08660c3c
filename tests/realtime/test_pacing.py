"""A clock that is moved by hand: pacing is exact however late each moment is met."""

from __future__ import annotations

import numpy as np

from forebrain.realtime.pacing import Pacer


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds * 1.03 + 1e-4  # a sleep is always too long


def test_delays_never_add_up() -> None:
    clock, rng = Clock(), np.random.default_rng(0)
    pacer = Pacer(1 / 30, clock)
    lateness = []
    for moment in range(20_000):
        pacer.wait(moment, clock.sleep)
        lateness.append(clock.now - 1000 - moment / 30)
        clock.now += rng.exponential(0.01)  # the frame's own work, sometimes longer than a period
    assert min(lateness) >= 0
    assert np.median(lateness[-1000:]) < 2e-3 and lateness[-1] < 0.1


def test_after_a_pause_the_moments_that_passed_come_at_once() -> None:
    clock = Clock()
    pacer = Pacer(0.1, clock)
    pacer.wait(0, clock.sleep)
    clock.now += 1
    before = clock.now
    for moment in range(1, 10):
        pacer.wait(moment, clock.sleep)
    assert clock.now == before
    pacer.wait(12, clock.sleep)
    assert clock.now - 1000 >= 1.2
