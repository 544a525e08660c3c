"""Many sessions are prepared, opened, trained on, stopped and resumed by the commands that people give."""

from __future__ import annotations

import pytest

from forebrain.benchmarking import many_sessions, report
from forebrain.errors import ForebrainError


def test_each_phase_is_done_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_sessions, "UNITS", 4)
    monkeypatch.setattr(many_sessions, "OPENERS", 2)
    rows = list(many_sessions.time_many_sessions(sessions=6, workers=0))
    opened = ["open", "open, 2 processes at once"]
    assert [row["phase"] for row in rows] == ["prepare", *opened, "train and stop", "resume and end"]
    assert all(row["bytes"] > 0 for row in rows if row["phase"] in opened)
    assert all(row["seconds"] > 0 for row in rows)
    (shown,) = report.tables(rows)
    assert len(shown.rows) == 5


def test_a_command_that_fails_is_an_error_with_its_last_words() -> None:
    with pytest.raises(ForebrainError, match=r"forebrain prepare ended with status \d+:\n.*nothing is there"):
        many_sessions._command(
            "prepare", "--recording", "/no/such/place", "--out", "/tmp/x", "--workers", "0"
        )
