"""The causality guard: each leak is seen where it is, and not where it is not; the honest ways are honest."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from forebrain.errors import ConfigError
from forebrain.evaluation.leaks import LEAKS, LeakResult, _prepare, leak_table, measure_leaks
from forebrain.scoring.protocols import part_ranges
from forebrain.sessions.session import Session


def recording(number: int, drift: float, num_frames: int = 2400, num_units: int = 12) -> Session:
    """Smooth noise, on levels that wander by `drift` deviations."""
    rng = np.random.default_rng(number)
    kernel = np.hanning(9) / np.hanning(9).sum()
    noise = rng.normal(size=(num_frames + 8, num_units))
    smooth = np.apply_along_axis(np.convolve, 0, noise, kernel, mode="valid")
    smooth += 0.15 * rng.normal(size=smooth.shape)
    levels = np.cumsum(rng.normal(size=(num_frames, num_units)), axis=0) / np.sqrt(num_frames)
    traces = smooth + drift * smooth.std() * levels
    return Session(traces.astype(np.float32), 3.0, "worm", f"w{number}", "one", "lab")


def worth(results: list[LeakResult], leak: str, forecaster: str = "ridge") -> float:
    (found,) = (one for one in results if (one.leak, one.forecaster) == (leak, forecaster))
    return found.worth.value


def test_statistics_of_the_future_help_where_levels_drift_and_nowhere_else() -> None:
    drifting = measure_leaks([recording(number, 8.0) for number in range(3)], 16, 8)
    steady = measure_leaks([recording(number, 0.0) for number in range(3)], 16, 8)
    for leak in ("z-score", "split"):
        assert worth(drifting, leak, "mean") > 0.1
        assert abs(worth(steady, leak, "mean")) < 0.05
        assert abs(worth(steady, leak)) < 0.05
    for results in (drifting, steady):
        assert worth(results, "filter") > 0.05
        assert {one.forecaster for one in results} == {"ridge", "copy", "mean", "linear"}
        assert all(one.honest == one.leaky == 0 for one in results if one.forecaster == "copy")


@pytest.mark.parametrize("leak", LEAKS)
def test_only_what_leaks_knows_frames_to_come(leak: str) -> None:
    session = recording(0, 1.0)
    changed = session.traces.copy()
    changed[2000:] = 5 * changed[2000:] + 3  # within the test part, which begins at 1,920
    other = Session(changed, 3.0, "worm", "w0", "one", "lab")
    honest = [_prepare(each, leak, is_leaky=False) for each in (session, other)]
    assert np.array_equal(honest[0].traces[:2000], honest[1].traces[:2000])
    leaky = [_prepare(each, leak, is_leaky=True) for each in (session, other)]
    if leak == "split":
        training = part_ranges(leaky[0].protocol, "train", 2400, [(0, 2400)])
        tested = part_ranges(leaky[0].protocol, "test", 2400, [(0, 2400)])
        assert training[-1][1] > tested[0][0]
    else:
        assert not np.array_equal(leaky[0].traces[:2000], leaky[1].traces[:2000])


def test_on_worms_every_leak_is_worth_something(load_real: Callable[[str], Session]) -> None:
    worms = [load_real(f"celegans__kato2015__worm{number}") for number in (1, 2)]
    results = measure_leaks(worms)
    assert worth(results, "filter") > 0.1
    assert worth(results, "PCA") > 0.03
    assert worth(results, "z-score", "mean") > 0.1 and worth(results, "split", "mean") > 0.1
    rows = leak_table(results).rows
    assert len(rows) == len(LEAKS) * 4


def test_no_table_without_the_baselines() -> None:
    results = measure_leaks([recording(0, 0.0, 400)], 8, 4)
    with pytest.raises(ConfigError, match="baselines mean"):
        leak_table([one for one in results if one.forecaster != "mean"])


def test_a_recording_that_is_too_short_is_named() -> None:
    with pytest.raises(ConfigError, match=re.escape("lab/w0/one: 100 frames")):
        measure_leaks([recording(0, 0.0, 100)])
