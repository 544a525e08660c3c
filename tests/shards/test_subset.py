"""A part of the data to train on: nested, with its own statistics, scored on what all the others are."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forebrain.errors import ConfigError
from forebrain.scoring.evaluate import evaluate, fit_baselines
from forebrain.scoring.protocols import part_ranges
from forebrain.sessions.session import Session
from forebrain.shards.holdout import HoldoutConfig, held_out_sessions
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.reader import ShardSet
from forebrain.shards.subset import SubsetConfig, SubsetShards, latest, subject_of
from forebrain.shards.windows import ShardWindows

CONTEXT, HORIZON = 12, 4


@pytest.fixture
def whole(small_shards: str) -> ShardSet:
    return ShardSet.open(small_shards)


def windows_of(
    shards: ShardSet, protocol: str = "chronological", seed: int = 0, context: int = CONTEXT, **kept: object
) -> ShardWindows:
    subset = SubsetShards(shards, SubsetConfig(**kept), protocol, seed)  # type: ignore[arg-type]
    return ShardWindows(subset, protocol, context, HORIZON, longest_context=CONTEXT)


def all_windows(windows: ShardWindows, session: int, part: str) -> np.ndarray:
    return np.arange(windows.num_windows(session, part))


def test_the_latest_training_frames_are_kept(whole: ShardSet) -> None:
    windows = windows_of(whole, frames=50)
    for session, entry in enumerate(windows.shards.sessions):
        ((_, stop),) = part_ranges("chronological", "train", entry.num_frames, list(entry.segments))
        starts = windows.starts(session, "train", all_windows(windows, session, "train"))
        assert starts[0] == stop - 50 and starts[-1] == stop - CONTEXT - HORIZON


def test_an_animal_is_one_however_its_accents_are_written(
    save_session: Callable[..., str], tmp_path: Path
) -> None:
    forms = [unicodedata.normalize(form, "ratón") for form in ("NFC", "NFD")]
    recordings = [save_session(f"{number}.npz", subject=name) for number, name in enumerate(forms)]
    recordings.append(save_session("other.npz"))
    prepare(recordings, str(tmp_path / "out"), PrepareConfig(), lambda path: [Session.load(path)], map_here)
    shards = ShardSet.open(str(tmp_path / "out"))
    one, two, _ = sorted(shards.sessions, key=lambda entry: entry.session)
    assert subject_of(one) == subject_of(two) == subject_of(replace(two, subject=forms[1]))
    for name in forms:
        held_out = held_out_sessions(shards, HoldoutConfig(subjects=[f"lab/{name}"]))
        assert held_out == {one.id, two.id}
        config = SubsetConfig(include=[f"lab/{name}/*"])
        assert len(SubsetShards(shards, config, "chronological", 0).sessions) == 2


def test_the_latest_frames_of_several_ranges_are_their_end() -> None:
    ranges = [(0, 10), (20, 30), (40, 45)]
    assert latest(ranges, 5) == [(40, 45)]
    assert latest(ranges, 8) == [(27, 30), (40, 45)]
    assert latest(ranges, 25) == ranges


def test_validation_and_test_windows_stay_where_they_are(whole: ShardSet) -> None:
    full = ShardWindows(whole, "chronological", CONTEXT, HORIZON)
    for kept in ({"frames": 40}, {"fraction": 0.5}, {"units": 3}):
        part = windows_of(whole, **kept)
        for session in range(len(full.sessions)):
            for name in ("validation", "test"):
                numbers = all_windows(full, session, name)
                assert part.num_windows(session, name) == len(numbers)
                np.testing.assert_array_equal(
                    part.starts(session, name, numbers), full.starts(session, name, numbers)
                )


def test_no_frame_outside_the_subset_has_a_part_in_what_the_model_sees(tmp_path, save_session) -> None:
    # Everything before the kept frames, and everything after the training part, is replaced.
    changed, plain = [], []
    for folder, outside in ((plain, 0.0), (changed, 1e3)):
        traces = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
        traces[:160] += outside
        traces[240:] += outside
        path = save_session(f"{outside}.npz", traces=traces)
        out = str(tmp_path / f"out-{outside}")
        prepare([path], out, PrepareConfig(), lambda path: [Session.load(path)], run_each=map_here)
        windows = windows_of(ShardSet.open(out), frames=80)
        read = windows.read(0, "train", all_windows(windows, 0, "train"))
        folder += [read[0], read[1], windows.training_mean(0)]
    for one, other in zip(plain, changed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_statistics_of_all_frames_are_those_that_prepare_made(whole: ShardSet) -> None:
    part = SubsetShards(whole, SubsetConfig(fraction=1.0), "chronological", 0)
    for session in range(len(whole.sessions)):
        ours, theirs = part.fit(session, "chronological"), whole.fit(session, "chronological")
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.scale, theirs.scale, rtol=1e-5)


@pytest.mark.parametrize("what", ["sessions", "subjects", "units"])
def test_more_holds_what_less_held_and_seeds_differ(whole: ShardSet, what: str) -> None:
    def kept(count: int, seed: int) -> set[object]:
        part = SubsetShards(whole, SubsetConfig(**{what: count}), "chronological", seed)
        if what != "units":
            return {entry.id for entry in part.sessions}
        return {tuple(frame) for frame in part.read(0, 0, 50).T}

    for seed in range(3):
        sizes = [kept(count, seed) for count in (1, 2, 3)]
        assert [len(size) for size in sizes] == [1, 2, 3]
        assert sizes[0] < sizes[1] < sizes[2]
    assert len({frozenset(kept(1, seed)) for seed in range(8)}) > 1


def test_units_keep_their_names_and_frames(tmp_path, save_session) -> None:
    path = save_session("named.npz", unit_names=tuple("abcdef"))
    prepare([path], str(tmp_path / "out"), PrepareConfig(), lambda p: [Session.load(p)], run_each=map_here)
    part = SubsetShards(ShardSet.open(str(tmp_path / "out")), SubsetConfig(units=3), "chronological", 1)
    names = part.unit_names(0)
    assert names is not None and len(names) == part.sessions[0].num_units == 3
    traces = Session.load(path).traces
    np.testing.assert_array_equal(part.read(0, 10, 30), traces[10:30, ["abcdef".index(n) for n in names]])


def test_sessions_are_included_by_pattern(whole: ShardSet) -> None:
    part = SubsetShards(whole, SubsetConfig(include=["lab-a/*", "*/three"]), "chronological", 0)
    assert [entry.id for entry in part.sessions] == [entry.id for entry in whole.sessions]
    part = SubsetShards(whole, SubsetConfig(include=["lab-b/*"]), "chronological", 0)
    assert [entry.dataset for entry in part.sessions] == ["lab-b"]


@pytest.mark.parametrize("kept", [{"frames": 40}, {"fraction": 0.4}])
def test_the_score_of_a_forecast_does_not_depend_on_the_subset(whole: ShardSet, kept: dict) -> None:
    """A forecast of the mean of the whole training part, in each one's own normalisation."""
    full = ShardWindows(whole, "chronological", CONTEXT, HORIZON)
    scores = []
    for windows in (full, windows_of(whole, **kept)):

        def forecast(session: int, context: np.ndarray, windows: ShardWindows = windows) -> np.ndarray:
            mean = windows.shards.fit(session, "chronological").apply(
                whole.fit(session, "chronological").mean
            )
            return np.broadcast_to(mean, (len(context), HORIZON, context.shape[2]))

        scored = evaluate({"mean": forecast}, windows, "test", as_scored=windows.as_scored)
        scores.append(scored.summary("mean").values)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-6)


def test_the_same_units_are_scored_however_many_are_kept(whole: ShardSet) -> None:
    found = []
    for units in (3, 4, 5):
        windows = windows_of(whole, units=units, scored_units=3)
        scored = evaluate(fit_baselines(windows), windows, "test", as_scored=windows.as_scored)
        found.append(scored.summary("copy").value("mse"))
    assert found[0] == pytest.approx(found[1]) == pytest.approx(found[2])
    everything = windows_of(whole, units=5)
    scored = evaluate(fit_baselines(everything), everything, "test", as_scored=everything.as_scored)
    assert scored.summary("copy").value("mse") != pytest.approx(found[0])


def test_models_of_shorter_contexts_forecast_the_same_frames(whole: ShardSet) -> None:
    long, short = windows_of(whole), windows_of(whole, context=3)
    for part in ("validation", "test"):
        numbers = all_windows(long, 0, part)
        assert short.num_windows(0, part) == len(numbers)
        context, target, starts = long.read(0, part, numbers)
        less_context, same_target, later = short.read(0, part, numbers)
        np.testing.assert_array_equal(target, same_target)
        np.testing.assert_array_equal(context[:, -3:], less_context)
        np.testing.assert_array_equal(starts + CONTEXT - 3, later)
    assert short.num_windows(0, "train") == long.num_windows(0, "train") + CONTEXT - 3


@pytest.mark.parametrize(
    ("kept", "protocol", "words"),
    [
        ({"frames": 1000}, "chronological", "subset.frames is 1000 and the training part of"),
        ({"units": 6}, "chronological", "has 5 units"),
        ({"sessions": 4}, "chronological", "at most the 3"),
        ({"subjects": 4}, "chronological", "at most the 3"),
        ({"include": ["nobody/*"]}, "chronological", "no session of .* is like 'nobody"),
        ({"frames": 10}, "poco", "protocol poco"),
        ({"frames": 0}, "chronological", "subset.frames is 0"),
        ({"fraction": 1.5}, "chronological", "subset.fraction is 1.5"),
        ({"frames": 5, "fraction": 0.5}, "chronological", "both given"),
        ({"scored_units": 3}, "chronological", "at most as many as are kept"),
        ({"include": []}, "chronological", "subset.include is empty"),
    ],
)
def test_what_cannot_be_kept_is_refused(whole: ShardSet, kept: dict, protocol: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        windows_of(whole, protocol, **kept)
