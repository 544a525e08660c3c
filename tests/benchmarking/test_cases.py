"""Cases are those that were asked for, and their arithmetic is counted as it is done."""

from __future__ import annotations

import torch

from forebrain.benchmarking.cases import Case, cases, time_case
from forebrain.benchmarking.ceilings import Ceilings
from forebrain.benchmarking.timing import Patience

CPU = torch.device("cpu")


def test_a_row_of_known_units_takes_272_thousand_multiply_adds_and_a_little() -> None:
    once, ceilings = Patience(1, 1, seconds=0, p99_within_s=0), Ceilings({"fp32": 1e9, "bf16": 1e9}, 1e9)
    few, many = (time_case(Case("forecast", units, 1), CPU, once, ceilings)[0] for units in (100, 300))
    # Nothing but rows differs: 65,536 of the feed-forward, 199,000 of the forecaster, 9,216 of latents.
    each = (many["flops"] - few["flops"]) / 200 / 2
    assert 272e3 < each < 290e3
    assert few["of_flops_ceiling"] == few["flops_per_s"] / 1e9


def test_training_on_a_cpu_stops_at_forty_thousand_rows() -> None:
    asked = [300, 1000, 5000, 20_000, 71_721]
    rows = [case.rows for case in cases("train", asked, CPU)]
    assert max(rows) == 40_000
    assert max(case.rows for case in cases("train", asked, torch.device("cuda"))) == 71_721


def test_one_size_is_one_size() -> None:
    assert {case.units for case in cases("train", [1000], CPU)} == {1000}
    assert [case.batch for case in cases("adapt", [77], CPU)] == [1]
