"""The order of the data: pure in (sessions, seed, step), exactly once an epoch, the same for any workers."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebrain.errors import ConfigError
from forebrain.shards.order import DataOrder, OrderedSession, dataset_weights, pack
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
    owner = order.ownership(num_workers)
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


def test_a_far_step_costs_what_the_first_costs() -> None:
    many = [OrderedSession(f"s{i:05d}", f"d{i % 20}", 1000 + i, 100 + i % 900) for i in range(10_000)]
    order = DataOrder(many, 64, 0, dataset_weights(many))

    def seconds(step: int) -> float:
        start = time.perf_counter()
        order.batch(step)
        return time.perf_counter() - start

    near = min(seconds(step) for step in range(20))
    far = min(seconds(10**9 + step) for step in range(20))
    assert far < 5 * near + 0.01


def test_eight_workers_get_rows_within_ten_per_cent_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    units = np.rint(rng.lognormal(5, 1, 400)).astype(int) + 5
    sessions = [OrderedSession(f"s{i:03d}", f"d{i % 7}", 2000, int(n)) for i, n in enumerate(units)]
    order = DataOrder(sessions, 128, 0, dataset_weights(sessions))
    owner = order.ownership(8)
    rows = np.zeros(8)
    for step in range(100):
        draws = order.batch(step)
        np.add.at(rows, owner[draws.session], np.array([s.num_units for s in order.sessions])[draws.session])
    assert rows.max() <= 1.1 * rows.mean()


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
