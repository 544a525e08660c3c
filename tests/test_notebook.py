"""What a notebook shows is short, and names in it are text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from forebrain.notebook import facts
from forebrain.sessions.session import Session


def test_facts_are_escaped() -> None:
    shown = facts("<b>", [("a", "<script>")], "better & worse", "<leak>")
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "better &amp; worse" in shown
    assert "&lt;leak&gt;" in shown


def test_a_session_is_said_in_a_line_and_in_a_small_table(walk: Callable[..., Session]) -> None:
    session = walk(1)
    assert repr(session) == "lab/animal1/one: 400 frames (160 s), 5 units, 2.5 Hz, celegans"
    assert "400 frames" in session._repr_html_() and session._repr_html_().count("<tr>") == 4
    unknown = dataclasses.replace(session, rate_hz=None, subject="<i>")
    assert "rate not known" in repr(unknown) and "<i>" not in unknown._repr_html_()
