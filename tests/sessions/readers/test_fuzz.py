"""Mutated recordings, some in each run of the tests; `fuzz.py` says what is held of them and tries more."""

from __future__ import annotations

import fuzz
import pytest


def test_mutated_recordings_are_typed_errors_or_what_their_library_reads() -> None:
    counts, wrong = fuzz.run(range(300))
    assert not wrong, wrong
    assert sum(counts.values()) == 300
    # Both happen in numbers, so that neither a refusal of all nor a reading of all passes.
    assert sum(n for (_, what), n in counts.items() if what == "read") > 60
    assert sum(n for (_, what), n in counts.items() if what == "refused") > 60


@pytest.mark.slow
def test_thousands_of_mutated_recordings_are_typed_errors_or_what_their_library_reads() -> None:
    _, wrong = fuzz.run(range(300, 2300))
    assert not wrong, wrong
