"""The stream: the endless, ordered sequence of training batches, of which each worker reads its sessions."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from forebrain.errors import ConfigError
from forebrain.scoring.protocol_defaults import DEFAULTS
from forebrain.shards.order import DataOrder, Draws, OrderedSession, dataset_weights
from forebrain.shards.reader import OnBadShard
from forebrain.shards.windows import ShardWindows


@dataclass(frozen=True)
class MixtureConfig:
    """How data sets are mixed.

    Attributes:
        exponent: a data set's share is its number of windows to this power; 1 is uniform over windows.
            None: 0.5, under protocol poco 1.
        largest_share: no data set gets more than this share. None: 0.5, under protocol poco 1.
        num_slots: sessions are packed into this many slots of about equal rows, which workers own.
        on_bad_shard: what to do about a shard that is missing or damaged: `stop` with an error, or `skip` the
            windows in it and count them. No part of a run's identity.
    """

    exponent: float | None = None
    largest_share: float | None = None
    num_slots: int = 64
    on_bad_shard: OnBadShard = "stop"

    def __post_init__(self) -> None:
        if self.exponent is not None and not 0 <= self.exponent <= 1:
            raise ConfigError(f"mixture.exponent is {self.exponent}; expected 0 to 1.")
        if self.largest_share is not None and not 0 < self.largest_share <= 1:
            raise ConfigError(f"mixture.largest_share is {self.largest_share}; expected above 0, at most 1.")
        if self.num_slots < 1:
            raise ConfigError(f"mixture.num_slots is {self.num_slots}; expected 1 or more.")
        if self.on_bad_shard not in get_args(OnBadShard):
            raise ConfigError(f"mixture.on_bad_shard is {self.on_bad_shard!r}; expected stop or skip.")


@dataclass(frozen=True)
class SessionBatch:
    """Windows of one session in a batch, normalised float32, of the N units that this worker owns.

    Attributes:
        session, dataset: names.
        context: [B, C, N].
        target: [B, H, M], of the units that are forecast.
        forecast_units: int64 [M], which of the N those are; None for all.
        is_split: other workers own further units of the session, and have the same windows of it.
        present: bool [B], which windows are there: the others could not be read, are zeros and do not count.
            None for all.
        inputs: [B, C + H, D], where the stream was asked for D inputs by name; as they were recorded, zeros
            where they are not known.
        known: bool [C + H, D], which inputs of this session are known when a forecast is made.
    """

    session: str
    dataset: str
    context: np.ndarray
    target: np.ndarray
    forecast_units: np.ndarray | None = None
    is_split: bool = False
    present: np.ndarray | None = None
    inputs: np.ndarray | None = None
    known: np.ndarray | None = None

    @property
    def num_skipped(self) -> int:
        return 0 if self.present is None else int(np.count_nonzero(~self.present))


@dataclass(frozen=True)
class Batch:
    """A worker's part of one global batch.

    Attributes:
        step: the step it belongs to.
        groups: the windows, session by session.
        num_windows, num_rows: of the whole global batch, over all workers (rows are windows x units
            forecast), as planned.
        windows_skipped, rows_skipped: of this worker's part, what could not be read; windows of a split
            session are counted by the owner of its first unit.
        wait_s: how long the consumer waited for it.
    """

    step: int
    groups: list[SessionBatch]
    num_windows: int
    num_rows: int
    windows_skipped: int = 0
    rows_skipped: int = 0
    wait_s: float = 0.0


class Stream:
    """Reads batches in the order of `DataOrder`; its whole state is (data, seed, step).

    Args:
        windows: the data under a protocol.
        order: from `build_order`.
        worker, num_workers: which part of each global batch is read here.
        split_above: see `DataOrder.ownership`.
        inputs: names of inputs to give beside the windows; a session has some, all or none of them.

    Attributes:
        owned_sessions: what this worker owns, whole or in part.
    """

    READ_AHEAD = 4
    # Of the time between two batches that the consumer may wait before more is asked for at a time.
    PATIENCE = 0.01

    def __init__(
        self,
        windows: ShardWindows,
        order: DataOrder,
        worker: int = 0,
        num_workers: int = 1,
        split_above: int | None = None,
        inputs: Sequence[str] = (),
    ) -> None:
        self._windows, self._order, self._inputs = windows, order, tuple(inputs)
        position = {entry.id: index for index, entry in enumerate(windows.sessions)}
        self._position = np.array([position[session.id] for session in order.sessions])
        self.owned_sessions = order.owned(worker, num_workers, split_above)
        own = {owned.session.id: owned for owned in self.owned_sessions}
        self._own = {
            which: own[session.id] for which, session in enumerate(order.sessions) if session.id in own
        }
        self._owned = np.isin(np.arange(len(order.sessions)), list(self._own))

    def batch(self, step: int) -> Batch:
        """This worker's part of the global batch of a step."""
        draws = self._order.batch(step, self._owned)
        self._expect(draws)
        return self._read(step, draws)

    def _read(self, step: int, draws: Draws) -> Batch:
        groups, windows_skipped, rows_skipped = [], 0, 0
        for which in np.unique(draws.session):
            session, own = int(self._position[which]), self._own[which]
            numbers = draws.window[draws.session == which]
            context, target, starts = self._windows.read_expected(session, "train", numbers, own.units)
            present = None
            if len(starts) < len(numbers):
                present = np.isin(self._windows.starts(session, "train", numbers), starts)
                context, target = _spread(context, present), _spread(target, present)
            group = replace(self._group(step, which, context, target), present=present)
            if self._inputs:
                values, known = self._windows.read_inputs(session, starts, self._inputs)
                values = values if present is None else _spread(values, present)
                group = replace(group, inputs=values, known=known)
            groups.append(group)
            windows_skipped += group.num_skipped if own.start == 0 else 0
            rows_skipped += group.num_skipped * group.target.shape[2]
        return Batch(step, groups, draws.batch_size, draws.rows, windows_skipped, rows_skipped)

    def _expect(self, draws: Draws) -> None:
        """Says which windows of a step will be read, in the order of reading."""
        if self._windows.shards.fetcher is None:
            return
        for which in np.unique(draws.session):
            numbers = draws.window[draws.session == which]
            session, own = int(self._position[which]), self._own[which]
            self._windows.expect(session, "train", numbers, own.units, self._inputs)

    def stand_in(self, step: int) -> Batch:
        """Zeros in place of a batch that cannot be read: the windows of split sessions, in whose reading
        the other workers wait for this one."""
        draws = self._order.batch(step, self._owned)
        groups = []
        for which in np.unique(draws.session):
            own = self._own[which]
            if own.is_split:
                size, num_units = np.count_nonzero(draws.session == which), own.stop - own.start
                context, target = (
                    np.zeros((size, frames, num_units), dtype=np.float32)
                    for frames in (self._windows.context, self._windows.horizon)
                )
                group = self._group(step, which, context, target)
                if self._inputs:
                    shape = (context.shape[1] + target.shape[1], len(self._inputs))
                    nothing = np.zeros((size, *shape), np.float32)
                    group = replace(group, inputs=nothing, known=np.zeros(shape, bool))
                groups.append(group)
        return Batch(step, groups, draws.batch_size, draws.rows)

    def batches(self, first: int, last: int) -> Generator[Batch]:
        """Batches of steps [first, last), read ahead by a background thread that ends with the iterator.

        An error while reading is raised here, at the step it belongs to.
        """
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=self.READ_AHEAD)
        stop = threading.Event()

        def put(item: Batch | BaseException) -> None:
            while not stop.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def read_ahead() -> None:
            expected: deque[Draws] = deque()
            try:
                for step in range(first, last):
                    while len(expected) <= self.READ_AHEAD and step + len(expected) < last:
                        expected.append(self._order.batch(step + len(expected), self._owned))
                        self._expect(expected[-1])
                    if stop.is_set():
                        return
                    put(self._read(step, expected.popleft()))
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=read_ahead, name="read-ahead", daemon=True)
        thread.start()
        try:
            given = time.perf_counter()
            for step in range(first, last):
                start = time.perf_counter()
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                wait_s = time.perf_counter() - start
                if step >= first + self.READ_AHEAD and wait_s > self.PATIENCE * (start - given):
                    self._windows.shards.hurry()
                given = time.perf_counter()
                yield replace(item, wait_s=wait_s)
        finally:
            stop.set()
            thread.join()
            self._windows.shards.forget_expected()

    def _group(self, step: int, which: int, context: np.ndarray, target: np.ndarray) -> SessionBatch:
        """Windows of the units that this worker owns, context [B, C, N] and target [B, H, N]."""
        own = self._own[which]
        chosen = self._order.forecast_units(step, own.session)
        if chosen is not None:
            chosen = chosen[(own.start <= chosen) & (chosen < own.stop)] - own.start
            target = target[..., chosen]
        return SessionBatch(own.session.id, own.session.dataset, context, target, chosen, own.is_split)


def _spread(windows: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Windows that could be read [b, T, N] in their places among all [B, T, N], zeros in the others."""
    spread = np.zeros((len(present), *windows.shape[1:]), dtype=windows.dtype)
    spread[present] = windows
    return spread


def build_order(
    windows: ShardWindows,
    batch_size: int,
    seed: int,
    mixture: MixtureConfig,
    units_per_window: int | None = None,
) -> DataOrder:
    """The order of a data set's training windows."""
    sessions = [
        OrderedSession(entry.id, entry.dataset, windows.num_windows(index, "train"), entry.num_units)
        for index, entry in enumerate(windows.sessions)
    ]
    defaults = DEFAULTS[windows.protocol]
    exponent = defaults.exponent if mixture.exponent is None else mixture.exponent
    largest_share = defaults.largest_share if mixture.largest_share is None else mixture.largest_share
    weights = dataset_weights(sessions, exponent, largest_share)
    return DataOrder(sessions, batch_size, seed, weights, mixture.num_slots, units_per_window)
