"""The stream: batches of real windows, the same for any workers, from any step, in order and at once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from forebrain.errors import ShardError
from forebrain.shards.reader import ShardSet
from forebrain.shards.stream import Batch, MixtureConfig, SessionBatch, Stream, build_order
from forebrain.shards.windows import ShardWindows

UNIFORM = MixtureConfig(exponent=1.0, largest_share=1.0)


@pytest.fixture
def windows(small_shards: str) -> ShardWindows:
    return ShardWindows(ShardSet.open(small_shards), "chronological", 12, 4)


def stream(
    windows: ShardWindows,
    worker: int = 0,
    num_workers: int = 1,
    split_above: int | None = 10**9,
    units_per_window: int | None = None,
) -> Stream:
    order = build_order(windows, 8, 0, UNIFORM, units_per_window)
    return Stream(windows, order, worker, num_workers, split_above)


def contents(batches: list[Batch]) -> dict[str, list[bytes]]:
    """Windows by session, as bytes, in a fixed order."""
    found: dict[str, list[bytes]] = {}
    for batch in batches:
        for group in batch.groups:
            joined = np.concatenate([group.context, group.target], axis=1)
            found.setdefault(group.session, []).extend(window.tobytes() for window in joined)
    return {session: sorted(found[session]) for session in sorted(found)}


@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_together_read_what_one_reads(windows: ShardWindows, num_workers: int) -> None:
    alone = stream(windows)
    several = [stream(windows, worker, num_workers) for worker in range(num_workers)]
    for step in (0, 1, 50, 10**9):
        whole = alone.batch(step)
        parts = [each.batch(step) for each in several]
        assert contents(parts) == contents([whole])
        assert {(part.num_windows, part.num_rows) for part in parts} == {(whole.num_windows, whole.num_rows)}
    owned = [own.session.id for each in several for own in each.owned_sessions]
    assert sorted(owned) == sorted(own.session.id for own in alone.owned_sessions)


@pytest.mark.parametrize("units_per_window", [None, 6])
def test_workers_together_read_the_columns_of_split_sessions(
    windows: ShardWindows, units_per_window: int | None
) -> None:
    alone = stream(windows, units_per_window=units_per_window)
    several = [stream(windows, worker, 3, 6, units_per_window) for worker in range(3)]
    num_units = {info.id: info.num_units for info in windows.sessions}
    for step in range(4):
        whole = {group.session: group for group in alone.batch(step).groups}
        pieces: dict[str, list[SessionBatch]] = {}
        for reader in several:
            batch = reader.batch(step)
            assert (batch.num_windows, batch.num_rows) == (
                sum(len(group.context) for group in whole.values()),
                sum(group.target[:, 0].size for group in whole.values()),
            )
            stand_in = {group.session: group for group in reader.stand_in(step).groups}
            for group in batch.groups:
                pieces.setdefault(group.session, []).append(group)
                assert group.is_split == (num_units[group.session] > 6) == (group.session in stand_in)
                if group.is_split:
                    assert stand_in[group.session].context.shape == group.context.shape
                    assert stand_in[group.session].target.shape == group.target.shape
        assert pieces.keys() == whole.keys()
        for name, parts in pieces.items():
            context = np.concatenate([part.context for part in parts], axis=2)
            np.testing.assert_array_equal(context, whole[name].context)
            target = np.concatenate([part.target for part in parts], axis=2)
            np.testing.assert_array_equal(target, whole[name].target)
            if units_per_window is not None and num_units[name] > units_per_window:
                starts = np.cumsum([0, *(part.context.shape[2] for part in parts)])
                chosen = [start + part.forecast_units for start, part in zip(starts, parts, strict=False)]
                np.testing.assert_array_equal(np.concatenate(chosen), whole[name].forecast_units)


def test_an_epoch_holds_every_training_window_exactly_once(windows: ShardWindows) -> None:
    reader = stream(windows)
    order = build_order(windows, 8, 0, UNIFORM)
    used: Counter[tuple[str, bytes]] = Counter()
    for step in range(order.steps_each_epoch):
        for session, items in contents([reader.batch(step)]).items():
            used.update((session, item) for item in items)
    expected: set[tuple[str, bytes]] = set()
    for index, info in enumerate(windows.sessions):
        context, target, _ = windows.read(index, "train", np.arange(windows.num_windows(index, "train")))
        joined = np.concatenate([context, target], axis=1)
        expected |= {(info.id, window.tobytes()) for window in joined}
    assert set(used) == expected
    assert set(used.values()) == {1}


def test_a_resume_goes_on_with_the_very_next_batch(windows: ShardWindows) -> None:
    whole = [contents([batch]) for batch in stream(windows).batches(0, 12)]
    resumed = [contents([batch]) for batch in stream(windows).batches(5, 12)]
    assert resumed == whole[5:]


def test_a_far_step_is_reached_without_those_before_it(windows: ShardWindows) -> None:
    far = contents([stream(windows).batch(10**15)])  # a step a nanosecond would take eleven days
    assert sum(len(each) for each in far.values()) == 8


def test_windows_are_normalised_by_the_training_part_alone(windows: ShardWindows) -> None:
    raw, fit = windows.shards.read(0, 0, 100), windows.shards.fit(0, "chronological")
    context, _, starts = windows.read(0, "train", np.array([0]))
    np.testing.assert_allclose(context[0], fit.apply(raw)[starts[0] : starts[0] + 12], rtol=1e-6)
    entry = windows.shards.sessions[0]
    (fitted,) = entry.fits["chronological"]
    assert fitted == (0, int(entry.num_frames * 0.6))


@pytest.mark.parametrize("protocol", ["chronological", "poco"])
def test_the_mean_forecast_is_the_mean_of_the_training_part(small_shards: str, protocol: str) -> None:
    windows = ShardWindows(ShardSet.open(small_shards), protocol, 12, 4)
    fit = windows.shards.fit(0, protocol)
    frames = int(windows.shards.sessions[0].num_frames * 0.6)
    expected = fit.apply(windows.shards.read(0, 0, frames)).mean(axis=0)
    np.testing.assert_allclose(windows.training_mean(0), expected, atol=1e-5)


def test_reading_ahead_ends_with_its_consumer(windows: ShardWindows) -> None:
    import threading

    batches = stream(windows).batches(0, 10**6)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_a_window_longer_than_the_shards_were_prepared_for_is_refused(small_shards: str) -> None:
    with pytest.raises(ShardError, match="max_window"):
        ShardWindows(ShardSet.open(small_shards), "chronological", 400, 16)


def test_a_value_that_is_not_finite_is_found_before_the_model_sees_it(
    windows: ShardWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_nan(session: int, start: int, stop: int, units: slice) -> np.ndarray:
        frames = np.zeros((stop - start, windows.sessions[session].num_units), dtype=np.float32)
        frames[3, 1] = np.nan
        return frames

    monkeypatch.setattr(windows.shards, "read", with_nan)
    with pytest.raises(ShardError, match=r"lab-.*window at frame \d+ holds a value that is not finite"):
        stream(windows).batch(0)
