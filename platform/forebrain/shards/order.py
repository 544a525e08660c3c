"""The order of the data: the global batch of a step is a pure function of (sessions, seed, step).

An epoch is a line of E draws. A session owns as many consecutive draws as its share, and the line is cut
into `batch_size` strips of K = ceil(E / batch_size) draws. Step j of an epoch takes draw p(j) of every
strip, where p is a permutation of [0, K): each batch samples the line systematically, so every session
gets its share of every batch to within one window, and each draw of the epoch is used exactly once. Where
E is no multiple of the batch size, the missing draws of the last strips make batches a window short
(ceil(batch_size / K) at most) instead of repeating one.

A session's n-th draw, counted over all epochs, is window q(n mod W) of its W windows, where q is a fresh
permutation each time the session has been used up. So each window is used once before any is used again,
whatever the share. There is no state: step 1,000,000,000 costs what step 0 costs.

Which worker computes what is placement and changes no result. Workers own sessions; those too large for one
are split by units over all workers, each of which owns a range of their units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forebrain.errors import ConfigError
from forebrain.shards.permutation import key_of, permute

# In place of an owner: every worker owns a part.
SPLIT = -1
# Rows that the busiest worker may have too many, of its share.
UNEVEN = 0.05
# A session is split where one window has more than this part of a worker's rows of a step: a worker that
# happens to draw two such windows keeps the others waiting. Pieces of few rows are not worth their overhead.
LONG_WINDOW = 1 / 8
LEAST_ROWS = 4096


@dataclass(frozen=True)
class OrderedSession:
    """The facts about a session that the order needs.

    Attributes:
        id: the session's identity; its windows are permuted by it.
        dataset: name of its data set.
        num_windows: training windows.
        num_units: recorded units, each a row of a window where all are forecast.
    """

    id: str
    dataset: str
    num_windows: int
    num_units: int


@dataclass(frozen=True)
class OwnedSession:
    """A session as one worker owns it: units [start, stop), all of them unless it is split."""

    session: OrderedSession
    start: int
    stop: int

    @property
    def is_split(self) -> bool:
        return self.stop - self.start < self.session.num_units

    @property
    def units(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Draws:
    """A part of one global batch, ordered by place in the batch.

    Attributes:
        session: int64 [B], position in the order's list of sessions.
        window: int64 [B], window number within the session.
        batch_size: windows in the whole global batch, over all workers.
        rows: windows x units forecast in the whole global batch, over all workers.
    """

    session: np.ndarray
    window: np.ndarray
    batch_size: int
    rows: int


class DataOrder:
    """The endless sequence of global batches.

    Args:
        sessions: in any order; sorted by id here, so the order does not depend on it.
        batch_size: windows in a global batch.
        seed: another seed is another order.
        weights: share of each data set (see `dataset_weights`), not necessarily normalised.
        num_slots: sessions are packed into this many slots of about equal rows; workers own slots.
        units_per_window: units of a window that are forecast, drawn anew each step; None for all.

    Raises:
        ConfigError: the batch size is not positive.
    """

    def __init__(
        self,
        sessions: Sequence[OrderedSession],
        batch_size: int,
        seed: int,
        weights: dict[str, float],
        num_slots: int = 64,
        units_per_window: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"training.batch_size is {batch_size}; expected 1 or more.")
        self.batch_size, self.seed, self.units_per_window = batch_size, seed, units_per_window
        usable = sorted((s for s in sessions if s.num_windows and weights[s.dataset] > 0), key=lambda s: s.id)
        draws = _draws_each_epoch(usable, weights)
        window_rows = np.array([self._rows(session) for session in usable])
        rows = draws * window_rows
        slot = pack(rows, num_slots)
        along_line = np.lexsort((np.arange(len(usable)), slot))
        self.sessions = [usable[position] for position in along_line]
        self.slot = slot[along_line]
        self.draws_each_epoch = draws[along_line]
        self.rows_each_epoch = rows[along_line]
        self._ends = np.cumsum(self.draws_each_epoch)
        self.epoch_length = int(self._ends[-1])
        self.steps_each_epoch = -(-self.epoch_length // batch_size)
        self._num_windows = np.array([session.num_windows for session in self.sessions])
        self.window_rows = window_rows[along_line]

    def batch(self, step: int, owned: np.ndarray | None = None) -> Draws:
        """The draws of a step, or those among them that a worker owns.

        Args:
            step: 0, 1, 2, ... without end.
            owned: bool [sessions], from `ownership`; None for all.
        """
        epoch, place = divmod(step, self.steps_each_epoch)
        offset = permute(np.array([place]), self.steps_each_epoch, key_of(self.seed, "steps", epoch))[0]
        line = np.arange(self.batch_size, dtype=np.int64) * self.steps_each_epoch + offset
        line = line[line < self.epoch_length]
        session = np.searchsorted(self._ends, line, side="right")
        total = len(session)
        rows = int(self.window_rows[session].sum())
        if owned is not None:
            mine = owned[session]
            session, line = session[mine], line[mine]
        starts = self._ends[session] - self.draws_each_epoch[session]
        number = epoch * self.draws_each_epoch[session] + line - starts  # the session's n-th draw
        return Draws(session, self._windows(session, number), total, rows)

    def forecast_units(self, step: int, session: OrderedSession) -> np.ndarray | None:
        """The units of a session that a step forecasts, sorted int64 [units_per_window]; None for all.

        One from each of as many equal stretches of a circle, turned at random: each unit is as likely as any
        other, and workers that own ranges get equal parts.
        """
        count, num_units = self.units_per_window, session.num_units
        if count is None or count >= num_units:
            return None
        rng = np.random.default_rng(key_of(self.seed, "units", session.id, step))
        edges = np.arange(count + 1) * num_units // count
        return np.sort((rng.integers(edges[:-1], edges[1:]) + rng.integers(num_units)) % num_units)

    def ownership(self, num_workers: int, split_above: int | None = None) -> np.ndarray:
        """Which worker owns each session, int64 [sessions]; SPLIT where all workers own a part.

        Unsplit sessions are packed by rows, in whole slots unless that leaves them uneven.

        Args:
            num_workers: that read together.
            split_above: split the sessions of more units than this. None: those of which one window is too
                large a part of a worker's step, then the largest until no worker has more than
                UNEVEN of its share too many.
        """
        can_split = np.array([session.num_units >= num_workers > 1 for session in self.sessions])
        if split_above is not None:
            num_units = np.array([session.num_units for session in self.sessions])
            return self._placed(can_split & (num_units > split_above), num_workers)
        share = self.rows_each_epoch.sum() / num_workers
        too_long = max(LONG_WINDOW * share / self.steps_each_epoch, LEAST_ROWS)
        split = can_split & (self.window_rows > too_long)
        largest_first = np.argsort(-np.where(can_split, self.rows_each_epoch, 0), kind="stable")
        while True:
            owner = self._placed(split, num_workers)
            rest = largest_first[can_split[largest_first] & ~split[largest_first]]
            if self._excess(owner, num_workers) <= UNEVEN * share or not len(rest):
                return owner
            split[rest[: 1 + np.count_nonzero(split) // 8]] = True

    def owned(self, worker: int, num_workers: int, split_above: int | None = None) -> list[OwnedSession]:
        """The sessions, whole or split, that a worker owns, in the order of `sessions`; arguments as of
        `ownership`."""
        owner = self.ownership(num_workers, split_above)
        whole = [OwnedSession(session, 0, session.num_units) for session in self.sessions]
        parts = [
            OwnedSession(
                session, *(split_edge(session.num_units, edge, num_workers) for edge in (worker, worker + 1))
            )
            for session in self.sessions
        ]
        return [
            part if at == SPLIT else each
            for each, part, at in zip(whole, parts, owner, strict=True)
            if at in (worker, SPLIT)
        ]

    def _rows(self, session: OrderedSession) -> int:
        return min(session.num_units, self.units_per_window or session.num_units)

    def _placed(self, split: np.ndarray, num_workers: int) -> np.ndarray:
        """Owners of the sessions, where some are split."""
        rows = np.where(split, 0, self.rows_each_epoch)
        share = self.rows_each_epoch.sum() / num_workers
        owner = np.zeros(len(rows), dtype=np.int64)
        for slot in (self.slot, np.arange(len(rows))):
            owner = np.where(split, SPLIT, pack(np.bincount(slot, weights=rows), num_workers)[slot])
            if self._excess(owner, num_workers) <= UNEVEN * share:
                break
        return owner

    def _excess(self, owner: np.ndarray, num_workers: int) -> float:
        """Rows an epoch of the busiest worker above the mean."""
        whole = owner != SPLIT
        rows = np.bincount(owner[whole], weights=self.rows_each_epoch[whole], minlength=num_workers)
        return float(rows.max() - rows.mean())

    def _windows(self, session: np.ndarray, number: np.ndarray) -> np.ndarray:
        windows = np.empty_like(number)
        rounds, place = np.divmod(number, self._num_windows[session])
        pairs = np.stack([session, rounds], axis=1)
        for which, use in np.unique(pairs, axis=0):
            mine = (session == which) & (rounds == use)
            keys = key_of(self.seed, self.sessions[which].id, int(use))
            windows[mine] = permute(place[mine], int(self._num_windows[which]), keys)
        return windows


def split_edge(num_units: int, edge: int, num_workers: int) -> int:
    """First unit of worker `edge` where units are split over workers; that of num_workers is num_units."""
    return num_units * edge // num_workers


def dataset_weights(
    sessions: Sequence[OrderedSession], exponent: float = 0.5, largest_share: float = 0.5
) -> dict[str, float]:
    """Share of each data set: windows ** exponent, normalised, none above `largest_share`.

    What the cap takes from a large data set goes to the others in proportion. Exponent 1 without a cap is
    uniform over windows (protocol poco). A cap that cannot hold (fewer than 1 / cap data sets) is relaxed
    to an equal share.

    Raises:
        ConfigError: no session has a window.
    """
    windows: dict[str, int] = {}
    for session in sessions:
        windows[session.dataset] = windows.get(session.dataset, 0) + session.num_windows
    names = [name for name, count in windows.items() if count]
    if not names:
        raise ConfigError("no session has a window to train on; shorten model.context or model.horizon.")
    share = np.array([float(windows[name]) for name in names]) ** exponent
    share /= share.sum()
    cap = max(largest_share, 1 / len(names))
    capped = np.zeros(len(names), dtype=bool)
    while (share > cap + 1e-12).any():
        capped |= share > cap
        free = share[~capped].sum()
        share = np.where(capped, cap, share * (1 - cap * capped.sum()) / max(free, 1e-300))
    return {**dict.fromkeys(windows, 0.0), **dict(zip(names, share.tolist(), strict=True))}


def pack(sizes: np.ndarray, num_bins: int) -> np.ndarray:
    """Bin of each item, int64: the largest first, each into the bin that is least full."""
    bins = np.zeros(num_bins)
    chosen = np.zeros(len(sizes), dtype=np.int64)
    for item in np.argsort(-np.asarray(sizes), kind="stable"):
        chosen[item] = np.argmin(bins)
        bins[chosen[item]] += sizes[item]
    return chosen


def _draws_each_epoch(sessions: Sequence[OrderedSession], weights: dict[str, float]) -> np.ndarray:
    """Draws of each session in an epoch of about as many draws as there are windows, at least one each."""
    windows = np.array([float(session.num_windows) for session in sessions])
    of_dataset: dict[str, float] = {}
    for session in sessions:
        of_dataset[session.dataset] = of_dataset.get(session.dataset, 0.0) + session.num_windows
    total_weight = sum(weights[name] for name in of_dataset)
    share = windows * [weights[s.dataset] / total_weight / of_dataset[s.dataset] for s in sessions]
    return np.maximum(1, np.rint(share * windows.sum())).astype(np.int64)
