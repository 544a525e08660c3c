"""The scorer against figures of the published implementation, on real recordings."""

from __future__ import annotations

import pytest

from forebrain.scoring.evaluate import evaluate, fit_baselines
from forebrain.scoring.window_source import ArrayWindows


def test_linear_on_three_worms_is_where_the_reference_heads(load_real) -> None:
    """NLinear of the reference reaches 0.184 / 0.196 after 600 steps of AdamW and still climbs.

    Trained by those steps and scored here it reaches 0.181 / 0.191 (1,000 steps: 0.211 / 0.222); the
    closed form is where it converges to.
    """
    worms = [load_real(f"celegans__kato2015__worm{number}") for number in (1, 2, 3)]
    source = ArrayWindows(worms, "poco", context=48, horizon=16)
    forecasters = fit_baselines(source)
    for part, expected in (("validation", 0.241), ("test", 0.253)):
        evaluation = evaluate(forecasters, source, part, windows_per_session=None)
        assert evaluation.summary("linear").value("score") == pytest.approx(expected, abs=0.003)
        assert evaluation.summary("copy").value("score") == 0
        assert evaluation.summary("mean").value("score") < 0


def test_a_subset_of_windows_tells_nearly_what_all_tell(load_real) -> None:
    source = ArrayWindows([load_real("celegans__dag2023__2022-01-16-01")], "chronological", 48, 16)
    forecasters = fit_baselines(source)
    whole = evaluate(forecasters, source, "test", windows_per_session=None).summary("linear")
    some = evaluate(forecasters, source, "test", windows_per_session=64).summary("linear")
    assert some.num_windows == 64 < whole.num_windows
    assert some.value("score") == pytest.approx(whole.value("score"), abs=0.05)
