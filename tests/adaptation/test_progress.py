"""Progress is a bar where somebody watches, lines in a log, and silence where that is asked."""

from __future__ import annotations

import io
import itertools
import sys
import types

import pytest
from rich.console import Console

from forebrain.adaptation.progress import progress_shown
from forebrain.notebook import Bars


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


def test_a_notebook_gets_bars_that_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, bundle: dict[str, str], raw: bool) -> None:
            shown.append(bundle["text/html"])

    module = types.ModuleType("IPython.display")
    module.display = lambda *given, **more: Handle()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    now = itertools.count()
    with progress_shown(True, Console(force_jupyter=True), lambda: float(next(now))) as told:
        for done in range(4):
            told("adapted <embeddings>: step", done, 3)
        told("scoring: window", 1, 2)
    assert 'value="2" max="3"' in shown[2] and "&lt;embeddings&gt;" in shown[2]
    assert "scoring: window 1 of 2" in shown[-2] and "3 of 3" in shown[-2] and "progress" not in shown[-1]


def test_a_notebook_is_not_drawn_more_than_ten_times_a_second() -> None:
    updates: list[object] = []
    handle = types.SimpleNamespace(update=lambda bundle, raw: updates.append(bundle))
    bars = Bars(handle)
    for done in range(1001):
        bars("step", done, 1000, 10.0 + done / 1000)
    assert len(updates) <= 12


def test_silence_and_ones_own_listener(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, int, int]] = []
    with progress_shown(False) as told:
        told("step", 1, 2)
    with progress_shown(lambda *parts: heard.append(parts)) as told:
        told("step", 1, 2)
    assert heard == [("step", 1, 2)] and capsys.readouterr() == ("", "")
