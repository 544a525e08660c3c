"""Progress is a bar where somebody watches, lines in a log, and silence where that is asked."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from forebrain.adaptation.progress import progress_shown


def test_a_terminal_gets_a_bar_for_each_piece_of_work() -> None:
    out = io.StringIO()
    with progress_shown(True, Console(file=out, force_terminal=True, width=100)) as told:
        for done in range(4):
            told("adapted [embeddings]: step", done, 3)
        told("scoring the test part: window", 45, 45)
    assert "adapted [embeddings]: step" in out.getvalue() and "3/3" in out.getvalue()
    assert "scoring the test part: window" in out.getvalue() and "45/45" in out.getvalue()


def test_a_log_gets_lines_of_what_takes_long_and_no_control_characters() -> None:
    now, out = 0.0, io.StringIO()
    with progress_shown(True, Console(file=out), lambda: now) as told:
        for done in range(5):
            told("step", done, 4)
            now += 4
    assert "\x1b" not in out.getvalue() and out.getvalue().startswith("step 2/4")


def test_silence_and_ones_own_listener(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, int, int]] = []
    with progress_shown(False) as told:
        told("step", 1, 2)
    with progress_shown(lambda *parts: heard.append(parts)) as told:
        told("step", 1, 2)
    assert heard == [("step", 1, 2)] and capsys.readouterr() == ("", "")
