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
    for step in range(1, 101):
        now += 1
        follow("long: step", step, 100)
    lines = out.getvalue().splitlines()
    assert lines[0] == "long: step 1/100  3:18 left"  # the first second was the end of what came before
    assert lines[1] == "long: step 6/100  1:50 left"
    assert len(lines) == 20 and lines[-1] == "long: step 96/100  0:04 left"
