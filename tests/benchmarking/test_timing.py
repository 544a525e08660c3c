"""Times are taken in turn and as often as asked, and memory is what a call takes at most."""

from __future__ import annotations

import pytest
import torch

from forebrain.benchmarking.timing import Patience, Times, peak_bytes, time_together

CPU = torch.device("cpu")


def test_functions_run_in_turn_and_the_plain_one_less_often() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in ("ours", "plain")}
    times = time_together(functions, CPU, Patience(3, 1, seconds=60, p99_within_s=0))
    # One call of each to warm up, then turns.
    assert calls == ["ours", "plain", "ours", "plain", "ours", "ours"]
    assert [len(times[name].seconds) for name in functions] == [3, 1]


def test_what_is_fast_is_repeated_until_it_has_a_99th_percentile() -> None:
    times = time_together({"ours": lambda: None, "plain": lambda: None}, CPU, Patience(3, 2))
    assert len(times["ours"].seconds) == 100 and times["ours"].p99_ms is not None
    assert len(times["plain"].seconds) == 2 and times["plain"].p99_ms is None


def test_no_round_is_begun_once_patience_is_out() -> None:
    times = time_together({"ours": lambda: None}, CPU, Patience(50, 1, seconds=0, p99_within_s=0))
    assert len(times["ours"].seconds) == 1


def test_the_plain_formulation_stops_where_it_would_take_most_of_the_time() -> None:
    patience = Patience(4, 4, seconds=60, plain_seconds=0, p99_within_s=0)
    times = time_together({"ours": lambda: None, "plain": lambda: None}, CPU, patience)
    assert [len(times[name].seconds) for name in ("ours", "plain")] == [4, 1]


def test_median_best_and_percentile_are_those_of_the_repetitions() -> None:
    times = Times([0.001 * count for count in range(1, 102)])
    assert times.median_ms == pytest.approx(51) and times.best_ms == pytest.approx(1)
    assert times.p99_ms == pytest.approx(100)
    assert Times([0.1] * 99).p99_ms is None


def test_peak_memory_is_what_a_call_takes_at_most() -> None:
    taken = peak_bytes(lambda: torch.ones(2**25).add_(1), CPU)  # 128 MiB, given back at once
    assert 0.95 * 2**27 < taken < 1.2 * 2**27
    assert peak_bytes(lambda: None, CPU) < 2**22
