"""ZAPBench's protocol to the letter, on an array of the same constants."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from forebrain.errors import ConfigError
from forebrain.scoring.evaluate import fit_baselines
from forebrain.scoring.protocols import fit_ranges, part_ranges, windows_of
from forebrain.scoring.window_source import ArrayWindows
from forebrain.scoring.zapbench import score_zapbench
from forebrain.scoring.zapbench_frames import NAMES, NUM_FRAMES, forecast_frames
from forebrain.sessions.session import Session

WHOLE = [(0, NUM_FRAMES)]
EDGES = [0, 649, 2422, 3078, 3735, 5047, 5638, 6623, 7279, 7879]
TAXIS = (3078 + 1, 3735 - 1)


def windows(part: str, context: int):
    return windows_of("zapbench", part, NUM_FRAMES, WHOLE, context, 32)


@pytest.fixture(scope="module")
def recording() -> Session:
    """The benchmark's length, and few units, of very different sizes."""
    rng = np.random.default_rng(0)
    frames = 0.1 * np.sin(np.arange(NUM_FRAMES)[:, None] * rng.uniform(0.05, 0.2, 3)) * [0.1, 1, 10]
    return Session(frames.astype(np.float32), 1.09, "zebrafish", "zap", "one", "zapbench")


@pytest.mark.parametrize("context", [4, 256])
def test_there_are_1557_test_windows_whatever_the_context(context: int) -> None:
    tested, held_out = windows("test", context), windows("held_out", context)
    assert tested.count + held_out.count == 1557
    assert held_out.count == 368
    frames = [
        set(each.starts(np.arange(each.count)) + context) for each in (tested, held_out)
    ]  # first frames forecast
    for each, part in zip(frames, ("test", "held_out"), strict=True):
        other = windows(part, 48)
        assert each == set(other.starts(np.arange(other.count)) + 48)


def test_the_parts_are_70_10_and_20_percent_of_each_condition_without_its_edges() -> None:
    for name, first, last in zip(NAMES, EDGES[:-1], EDGES[1:], strict=True):
        if name == "taxis":
            assert forecast_frames("held_out")[name] == (TAXIS[0] + 256, TAXIS[1])
            continue
        parts = [forecast_frames(part)[name] for part in ("train", "validation", "test")]
        assert parts[0][0] == first + 1 and parts[-1][1] == last - 1
        assert parts[0][1] == parts[1][0] and parts[1][1] == parts[2][0]
        length = last - first - 2
        assert [stop - start for start, stop in parts[1:]] == [int(0.1 * length), int(0.2 * length)]


def test_no_window_leaves_its_condition_and_none_but_the_held_out_touches_taxis() -> None:
    condition = np.full(NUM_FRAMES, -1)
    for number, (first, last) in enumerate(itertools.pairwise(EDGES)):
        condition[first + 1 : last - 1] = number
    for part in ("train", "validation", "test", "held_out"):
        starts = (each := windows(part, 256)).starts(np.arange(each.count))
        inside = condition[starts[:, None] + np.arange(288)]
        assert (inside == inside[:, :1]).all() and (inside >= 0).all()
        assert ((inside == 3) == (part == "held_out")).all()
    fitted = fit_ranges("zapbench", NUM_FRAMES, WHOLE)
    assert fitted == part_ranges("zapbench", "train", NUM_FRAMES, WHOLE)
    assert all(stop <= TAXIS[0] or start >= TAXIS[1] for start, stop in fitted)


def test_errors_are_in_the_recordings_units_and_conditions_count_alike(recording: Session) -> None:
    source = ArrayWindows([recording], "zapbench", context=4, horizon=32)
    frames = recording.frames(0, NUM_FRAMES)
    scale = np.concatenate([frames[start:stop] for start, stop in fit_ranges("zapbench", NUM_FRAMES, WHOLE)])
    scores = score_zapbench(fit_baselines(source), source, lambda _, values: values * scale.std(axis=0))
    assert scores["copy"].num_windows == 1557

    def copy_errors(start: int, stop: int) -> np.ndarray:
        """[32], of windows whose forecasts lie in a range."""
        last = np.arange(start, stop - 31) - 1
        return np.array(
            [np.abs(frames[last + step] - frames[last]).mean(dtype=float) for step in range(1, 33)]
        )

    expected = {name: copy_errors(*bounds) for name, bounds in forecast_frames("test").items()}
    found = scores["copy"]
    for name, errors in expected.items():
        np.testing.assert_allclose(found.by_condition[name], errors, rtol=1e-4)
    np.testing.assert_allclose(found.mean, np.mean(list(expected.values()), axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.held_out, copy_errors(TAXIS[0] + 256, TAXIS[1]), rtol=1e-4)
    assert (scores["linear"].mean < found.mean).all()


def test_another_recording_or_horizon_is_an_error(recording: Session) -> None:
    with pytest.raises(ConfigError, match="7,879"):
        windows_of("zapbench", "train", 5000, [(0, 5000)], 4, 32)
    source = ArrayWindows([recording], "zapbench", context=4, horizon=16)
    with pytest.raises(ConfigError, match=r"--model\.horizon 32"):
        score_zapbench({}, source, lambda _, values: values)
