"""Long pieces of work are followed in lines, short ones in silence."""

from __future__ import annotations

import io

from rich.console import Console

from forebrain.console import Follower


def test_a_line_every_few_seconds_says_how_far_it_is_and_how_long_it_will_take() -> None:
    now, out = 0.0, io.StringIO()
    follow = Follower(Console(file=out, width=140), every_s=5, clock=lambda: now)
    for step in range(4):
        follow("soon over: step", step, 3)
        now += 1
    for step in range(20, 121):  # 20 had been done before
        follow("long: step", step, 120, "loss 0.5  ")
        now += 1
    lines = out.getvalue().splitlines()
    assert lines[0] == "long: step  21/120  loss 0.5  1:39 left"
    assert lines[1] == "long: step  26/120  loss 0.5  1:34 left"
    assert len(lines) == 20 and lines[-1] == "long: step 116/120  loss 0.5  0:04 left"


def test_work_that_is_done_again_is_followed_once_it_is_new() -> None:
    now, out = 0.0, io.StringIO()
    follow = Follower(Console(file=out, width=140), every_s=5, clock=lambda: now)
    for step in (50, 20, 50, 60):  # a lost worker's steps are done again
        follow("step", step, 100)
        now += 10
    assert out.getvalue() == "step  60/100  2:00 left\n"
