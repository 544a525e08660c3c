"""The order of the data: pure in (sessions, seed, step), exactly once an epoch, the same for any workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebrain.errors import ConfigError
from forebrain.shards.order import SPLIT, DataOrder, OrderedSession, dataset_weights, pack
from forebrain.shards.permutation import key_of, permute

SESSIONS = [
    OrderedSession("a/1/1", "a", 101, 40),
    OrderedSession("a/1/2", "a", 57, 12),
    OrderedSession("b/1/1", "b", 260, 9),
    OrderedSession("b/2/1", "b", 1, 300),
    OrderedSession("c/1/1", "c", 0, 5),
]


def uniform(sessions: list[OrderedSession]) -> dict[str, float]:
    return dataset_weights(sessions, exponent=1.0, largest_share=1.0)


def windows_used(order: DataOrder, steps: range) -> Counter:
    used: Counter = Counter()
    for step in steps:
        draws = order.batch(step)
        ids = [order.sessions[position].id for position in draws.session]
        used.update(zip(ids, draws.window.tolist(), strict=True))
    return used


@given(st.integers(1, 3000), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_permutation(length: int, seed: int) -> None:
    values = permute(np.arange(length), length, key_of(seed))
    assert np.array_equal(np.sort(values), np.arange(length))


def test_permutations_of_different_keys_are_unlike_and_look_random() -> None:
    first, second = (permute(np.arange(5000), 5000, key_of(seed)) for seed in (0, 1))
    assert (first == second).mean() < 0.01
    assert abs(np.corrcoef(first, np.arange(5000))[0, 1]) < 0.05
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize("batch_size", [1, 7, 64, 419, 1000])
def test_uniform_epoch_uses_every_window_exactly_once(batch_size: int) -> None:
    order = DataOrder(SESSIONS, batch_size, 3, uniform(SESSIONS))
    for epoch in range(3):
        first = epoch * order.steps_each_epoch
        used = windows_used(order, range(first, first + order.steps_each_epoch))
        assert set(used.values()) == {1}
        assert len(used) == sum(session.num_windows for session in SESSIONS)


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 50), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(1, 40),
)
@settings(max_examples=40, deadline=None)
def test_weighted_order_never_repeats_a_window_before_the_session_is_used_up(entries, batch_size) -> None:
    sessions = [OrderedSession(f"s{i}", f"d{d}", w, n) for i, (w, n, d) in enumerate(entries)]
    order = DataOrder(sessions, batch_size, 0, dataset_weights(sessions))
    used = windows_used(order, range(2 * order.steps_each_epoch))
    for session, draws in zip(order.sessions, order.draws_each_epoch, strict=True):
        counts = [used[session.id, window] for window in range(session.num_windows)]
        assert sum(counts) == 2 * draws
        assert max(counts) - min(counts) <= 1


def test_every_batch_holds_each_session_in_its_share_to_within_one_window() -> None:
    order = DataOrder(SESSIONS, 64, 0, dataset_weights(SESSIONS))
    expected = order.draws_each_epoch / order.steps_each_epoch
    for step in range(50):
        counts = np.bincount(order.batch(step).session, minlength=len(order.sessions))
        assert (np.abs(counts - expected) <= 1).all()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_workers_together_read_the_global_batch_and_nothing_twice(num_workers: int) -> None:
    order = DataOrder(SESSIONS, 32, 5, dataset_weights(SESSIONS))
    owner = order.ownership(num_workers, 10**9)
    for step in (0, 1, 17, 10**9):
        whole = order.batch(step)
        parts = [order.batch(step, owner == worker) for worker in range(num_workers)]
        joined = sorted(
            pair for part in parts for pair in zip(part.session.tolist(), part.window.tolist(), strict=True)
        )
        assert joined == sorted(zip(whole.session.tolist(), whole.window.tolist(), strict=True))
        assert {part.batch_size for part in parts} == {whole.batch_size}
        assert {part.rows for part in parts} == {whole.rows}


def test_the_order_does_not_depend_on_the_listing_and_does_on_the_seed() -> None:
    def batches(sessions: list[OrderedSession], seed: int) -> list:
        order = DataOrder(sessions, 16, seed, dataset_weights(sessions))
        return [
            [(order.sessions[s].id, w) for s, w in zip(d.session, d.window, strict=True)]
            for d in (order.batch(step) for step in range(5))
        ]

    assert batches(SESSIONS, 1) == batches(SESSIONS[::-1], 1)
    assert batches(SESSIONS, 1) != batches(SESSIONS, 2)


def test_a_far_step_is_reached_without_those_before_it() -> None:
    many = [OrderedSession(f"s{i:05d}", f"d{i % 20}", 1000 + i, 100 + i % 900) for i in range(10_000)]
    order = DataOrder(many, 64, 0, dataset_weights(many))
    assert len(order.batch(10**15).window) == 64  # a step a nanosecond would take eleven days


def rows_of_workers(order: DataOrder, num_workers: int, split_above: int | None = None) -> np.ndarray:
    """Rows of each of 100 steps and each worker."""
    owner = order.ownership(num_workers, split_above)
    rows = np.zeros((100, num_workers))
    for step, each in enumerate(rows):
        session = order.batch(step).session
        whole = session[owner[session] != SPLIT]
        np.add.at(each, owner[whole], order.window_rows[whole])
        each += order.window_rows[session[owner[session] == SPLIT]].sum() / num_workers
    return rows


@pytest.mark.parametrize("num_sessions", [20, 100, 400, 2000])
@pytest.mark.parametrize("num_workers", [3, 8, 12])
def test_the_busiest_worker_has_rows_within_ten_per_cent_of_the_mean(
    num_sessions: int, num_workers: int
) -> None:
    rng = np.random.default_rng(num_sessions)
    units = np.exp(rng.uniform(np.log(100), np.log(70_000), num_sessions)).astype(int)
    sessions = [
        OrderedSession(f"s{i:04d}", f"d{i % 7}", int(rng.integers(300, 8000)), int(n))
        for i, n in enumerate(units)
    ]
    order = DataOrder(sessions, 128, 0, dataset_weights(sessions))
    rows = rows_of_workers(order, num_workers)
    assert rows.sum(axis=0).max() <= 1.1 * rows.sum() / num_workers
    if num_sessions == 20 and num_workers > 3:  # a session has more than a worker's share
        unsplit = rows_of_workers(order, num_workers, 10**9)
        assert unsplit.sum(axis=0).max() > 1.1 * unsplit.sum() / num_workers
    if num_sessions == 2000:  # small sessions stay whole
        owner = order.ownership(num_workers)
        assert 0 < (owner == SPLIT).mean() < 0.3
        assert order.window_rows[owner == SPLIT].min() > 4096


def test_owned_ranges_cover_every_unit_once() -> None:
    order = DataOrder(SESSIONS, 32, 5, dataset_weights(SESSIONS))
    for num_workers, split_above in ((1, 0), (4, 10), (20, 0)):
        covered: Counter = Counter()
        for worker in range(num_workers):
            for own in order.owned(worker, num_workers, split_above):
                covered.update((own.session.id, unit) for unit in range(own.start, own.stop))
                assert own.stop > own.start
        assert set(covered.values()) == {1}
        assert len(covered) == sum(session.num_units for session in order.sessions)


def test_units_are_drawn_evenly_anew_each_step_and_count_as_rows() -> None:
    order = DataOrder(SESSIONS, 32, 5, dataset_weights(SESSIONS), units_per_window=30)
    large, small = SESSIONS[0], SESSIONS[1]
    assert order.forecast_units(0, small) is None
    assert order.batch(0).rows == order.window_rows[order.batch(0).session].sum()
    assert sorted(order.window_rows) == [9, 12, 30, 30]
    drawn = [order.forecast_units(step, large) for step in range(2000)]
    assert all(len(np.unique(units)) == 30 and units.max() < 40 for units in drawn)
    assert not np.array_equal(drawn[0], drawn[1])
    again = DataOrder(SESSIONS[::-1], 32, 5, dataset_weights(SESSIONS), units_per_window=30)
    assert np.array_equal(again.forecast_units(7, large), drawn[7])
    share = np.bincount(np.concatenate(drawn), minlength=40) / 2000
    assert np.abs(share - 0.75).max() < 0.05  # five standard deviations


def test_weights_favour_the_small_and_cap_the_large() -> None:
    sessions = [
        OrderedSession(f"{d}", d, w, 1) for d, w in (("huge", 10**6), ("mid", 10**4), ("small", 10**2))
    ]
    share = dataset_weights(sessions, 0.5, 0.5)
    assert share["huge"] == pytest.approx(0.5)
    assert share["mid"] / share["small"] == pytest.approx(10)
    assert sum(share.values()) == pytest.approx(1)
    assert dataset_weights(sessions[:1], 0.5, 0.5) == {"huge": 1.0}


def test_pack_balances() -> None:
    bins = pack(np.array([5, 4, 3, 3, 3]), 2)
    sums = np.bincount(bins, weights=[5, 4, 3, 3, 3])
    assert sorted(sums) == [8, 10]


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no session has a window"):
        dataset_weights(SESSIONS[-1:])
