"""Ridge regressions of every unit of a session, from sums over windows.

For unit n, step h and window w the residual of a base forecast is

    r[w, h, n] = past[w, n] . shared[h] + past[w, n, :P] . own[n, h] + sum over blocks of common[w] .
    weights[n, h]

`past` are features of the unit, `common` blocks of features that all units have in common. Since the errors
of all windows weigh the same, the products of common features are the same for all units: they are inverted
once, and what a unit costs is a system of P unknowns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

# The unit's level and newest frames before it, which have weights of the unit's own.
OWN_FEATURES = 12
# Penalties, relative to the mean square of a block's features; infinite leaves the block out.
STRENGTHS = (math.inf, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
LEVEL_STRENGTHS = (0.001, 0.03, 0.3)
# Of the other shared weights: the base forecast has seen that past, so there is little to be found.
SHARED_STRENGTH = 1e-3
# Of the largest sum of squares, so that there is a solution for units that never move: zero.
TINY = 1e-6

# Penalties by block of features: `level`, `own`, and the names of common blocks.
Strengths = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class FeatureBlock:
    """Features that all units have in common, with one strength of their penalty.

    Attributes:
        name: for example `population`.
        values: float32 [B, F], of B windows.
    """

    name: str
    values: np.ndarray


@dataclass(eq=False)
class Gram:
    """Sums over windows that the regressions need. Sums of different windows add up.

    Z are the L columns of `past` and then the H of the residual; P the first columns, which have weights of
    each unit; F the common features of all blocks.

    Attributes:
        widths: features of each common block, by name; they lie one after another in F.
        num_windows: summed over.
        pooled: [L, L + H], of past and Z over all units.
        own: [N, P, L + H], of P and Z.
        common: [F, F], of F.
        cross: [F, N, L + H], of F and Z.
        squares: squared residuals, summed over units and steps.
    """

    widths: Mapping[str, int]
    num_windows: float
    pooled: np.ndarray
    own: np.ndarray
    common: np.ndarray
    cross: np.ndarray
    squares: float

    @classmethod
    def of(cls, past: np.ndarray, residual: np.ndarray, blocks: Sequence[FeatureBlock]) -> Self:
        """The sums of a batch of windows.

        Args:
            past: float32 [B, L, N], features of the units.
            residual: float32 [B, H, N].
            blocks: the common features.
        """
        batch, num_past, num_units = past.shape
        common = joined(blocks, batch)
        columns = np.concatenate([past, residual], axis=1)  # [B, L + H, N]
        rows = columns.reshape(batch, columns.shape[1] * num_units)  # there may be no window
        by_unit = np.ascontiguousarray(rows.T).reshape(columns.shape[1], num_units, batch)
        flat = by_unit.reshape(len(by_unit), num_units * batch)  # [L + H, N B]
        own = by_unit[: num_own(num_past)].transpose(1, 0, 2)
        cross = (common.T @ rows).reshape(common.shape[1], columns.shape[1], num_units)
        return cls(
            widths={block.name: block.values.shape[1] for block in blocks},
            num_windows=batch,
            pooled=(flat[:num_past] @ flat.T).astype(np.float64),
            own=np.matmul(own, by_unit.transpose(1, 2, 0)),
            common=(common.T @ common).astype(np.float64),
            cross=cross.transpose(0, 2, 1),
            squares=float(np.square(residual).sum(dtype=np.float64)),
        )

    def plus(self, other: Gram) -> Gram:
        """The sums of both's windows."""
        return self._with(other, 1)

    def less(self, other: Gram) -> Gram:
        """These sums without those of some of their windows."""
        return self._with(other, -1)

    def _with(self, other: Gram, sign: int) -> Gram:
        return Gram(
            self.widths,
            self.num_windows + sign * other.num_windows,
            self.pooled + sign * other.pooled,
            self.own + sign * other.own,
            self.common + sign * other.common,
            self.cross + sign * other.cross,
            self.squares + sign * other.squares,
        )

    def with_drift(self, drift: float, loadings: np.ndarray, units: slice | np.ndarray) -> Gram:
        """The expected sums, had the level of each unit been elsewhere in every window, by chance.

        What forecasts well from a level where it was fitted does not where levels have moved since. Fitted
        with such errors in the level, a weight on it is as large as levels of later frames deserve.

        Args:
            drift: mean square of how far a unit's level may be elsewhere.
            loadings: float32 [units of the session, k], of the components that are the first common features.
            units: of the session, those of these sums.
        """
        added, count = drift * self.num_windows, loadings.shape[1]
        pooled, own, common, cross = (
            each.copy() for each in (self.pooled, self.own, self.common, self.cross)
        )
        pooled[0, 0] += added * len(own)
        own[:, 0, 0] += added
        common[:count, :count] += added * (loadings.T @ loadings)
        cross[:count, :, 0] += added * loadings[units].T
        return replace(self, pooled=pooled, own=own, common=common, cross=cross)

    def after(self, shared: np.ndarray) -> Gram:
        """The sums of the same windows with past cut to its first P columns, and with what shared weights
        [L, H] leave of the residuals."""
        num_past, width = len(self.pooled), self.own.shape[1]

        def left(sums: np.ndarray) -> np.ndarray:
            """[..., P + H] of sums [..., L + H]."""
            moments = sums[..., num_past:] - sums[..., :num_past] @ shared
            return np.concatenate([sums[..., :width], moments], axis=-1)

        return Gram(
            self.widths,
            self.num_windows,
            left(self.pooled[:width]),
            left(self.own),
            self.common,
            left(self.cross),
            self.squares_after(shared),
        )

    def squares_after(self, shared: np.ndarray) -> float:
        """What shared weights [L, H] leave of the squared residuals."""
        num_past = len(self.pooled)
        of_shared = self.pooled[:, :num_past] @ shared - 2 * self.pooled[:, num_past:]
        return self.squares + float(np.sum(shared * of_shared))

    @property
    def names(self) -> tuple[str, ...]:
        """The groups of features that have a strength: `level`, `own`, and each common block."""
        return ("level", "own", *self.widths)


def joined(blocks: Sequence[FeatureBlock], batch: int) -> np.ndarray:
    """The common features of all blocks [B, F]."""
    return np.concatenate([np.zeros((batch, 0), np.float32), *(block.values for block in blocks)], axis=1)


def num_own(num_past: int) -> int:
    """P: how many of L features of the unit, the first, have weights of its own."""
    return min(OWN_FEATURES, num_past)


@dataclass(frozen=True, eq=False)
class Weights:
    """Solutions of the regressions: shared [L, H], own [N, P, H], common [F, N, H]."""

    shared: np.ndarray
    own: np.ndarray
    common: np.ndarray

    def predict(self, past: np.ndarray, blocks: Sequence[FeatureBlock]) -> np.ndarray:
        """The residual [B, H, N] expected of windows with features past [B, L, N] and common blocks."""
        expected = np.matmul(self.shared.T, past)
        own = past[:, : self.own.shape[1]]
        expected = expected + np.einsum("bpn,nph->bhn", own, self.own, optimize=True)
        return expected + _times(joined(blocks, len(past)), self.common).transpose(0, 2, 1)


def solve(gram: Gram, strengths: Strengths) -> Weights:
    """The weights with the least penalised squared error: the shared ones first, then all of each unit's."""
    shared = solve_shared(gram, strengths["level"])
    return Weights(shared, *solve_units(gram.after(shared), strengths))


def solve_shared(gram: Gram, strength: float) -> np.ndarray:
    """The shared weights [L, H], with this strength on the level; zero where it is infinite."""
    num_past = len(gram.pooled)
    square, level = np.trace(gram.pooled[1:, 1:num_past]) / max(num_past - 1, 1), gram.pooled[0, 0]
    if not math.isfinite(strength) or square + level == 0:
        return np.zeros(gram.pooled[:, num_past:].shape)
    penalty = np.full(num_past, SHARED_STRENGTH * square)
    penalty[0] = strength * level
    penalty += TINY * (square + level)
    return np.linalg.solve(gram.pooled[:, :num_past] + np.diag(penalty), gram.pooled[:, num_past:])


def solve_units(gram: Gram, strengths: Strengths) -> tuple[np.ndarray, np.ndarray]:
    """The weights of each unit, own [N, P, H] and common [F, N, H], of a Gram without shared weights."""
    own, common = UnitSums(gram).solve(strengths)
    return own, common.transpose(1, 0, 2)


class UnitSums:
    """The sums of a Gram without shared weights, unit by unit in double precision: of regressions that are
    solved again and again with other strengths.

    Args:
        gram: that they are of.
    """

    def __init__(self, gram: Gram) -> None:
        self.gram, self.width = gram, gram.own.shape[1]
        self.own = gram.own.astype(np.float64)  # [N, P, P + H]
        self.cross = np.ascontiguousarray(gram.cross.transpose(1, 0, 2), np.float64)  # [N, F, P + H]
        self._squares = np.trace(self.own, axis1=1, axis2=2) / self.width
        self._eliminated: tuple[tuple[float, ...], np.ndarray, np.ndarray, np.ndarray] | None = None

    def solve(self, strengths: Strengths) -> tuple[np.ndarray, np.ndarray]:
        """The weights with the least penalised squared error: own [N, P, H], common [N, F, H]."""
        width = self.width
        used, explained, left = self._without_common(strengths)
        common = np.zeros_like(self.cross[..., width:])
        if not math.isfinite(strengths["own"]):
            common[:, used] = explained[..., width:]
            return np.zeros_like(self.own[..., width:]), common
        penalty = strengths["own"] * self._squares + TINY * max(float(self._squares.max(initial=0)), 1.0)
        system = left[..., :width] + penalty[:, None, None] * np.eye(width)
        own = np.linalg.solve(system, left[..., width:])
        common[:, used] = explained[..., width:] - explained[..., :width] @ own
        return own, common

    def squared_error(self, own: np.ndarray, common: np.ndarray) -> float:
        """The sum of squares left of the residuals once such weights have forecast them."""
        width = self.width
        squares = self.gram.squares + np.sum(own * (self.own[..., :width] @ own - 2 * self.own[..., width:]))
        used = common.any(axis=(0, 2))
        if used.any():
            common, cross = common[:, used], self.cross[:, used]
            gradient = self.gram.common[np.ix_(used, used)] @ common - 2 * cross[..., width:]
            if own.any():
                gradient += 2 * (cross[..., :width] @ own)
            squares += np.sum(common * gradient)
        return float(squares)

    def _without_common(self, strengths: Strengths) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which common features are used, bool [F], what they explain of own features and residuals,
        [N, used, P + H], and the sums of what they leave, [N, P, P + H].

        Kept, since the strength of own features is tried with the others as they are.
        """
        key = tuple(strengths[name] for name in self.gram.widths)
        if self._eliminated is None or self._eliminated[0] != key:
            penalties, used = _common_penalties(self.gram, strengths)
            inverse = np.linalg.inv(self.gram.common[np.ix_(used, used)] + np.diag(penalties[used]))
            cross = self.cross if used.all() else self.cross[:, used]
            explained = inverse @ cross
            left = self.own - cross[..., : self.width].transpose(0, 2, 1) @ explained
            self._eliminated = key, used, explained, left
        return self._eliminated[1:]


def choose_strengths(folds: Sequence[tuple[Gram, Gram]]) -> tuple[dict[str, float], float]:
    """The strengths with which blocks of time are forecast best from the others, one block of features at a
    time.

    Args:
        folds: for each block of time the sums of its windows, and of those that share no frame with it.

    Returns:
        The strengths, and the squared error over that of the base alone, the mean over blocks.
    """
    before = [held_out.squares for held_out, _ in folds]
    strengths = dict.fromkeys(folds[0][0].names, math.inf)
    fitted = {
        level: [solve_shared(rest, level) for _, rest in folds] for level in (math.inf, *LEVEL_STRENGTHS)
    }

    def error(level: float) -> float:
        left = [own.squares_after(shared) for (own, _), shared in zip(folds, fitted[level], strict=True)]
        return _relative(left, before)

    tried = []
    for level in (math.inf, min(LEVEL_STRENGTHS, key=error)):
        without_shared = [
            (held_out.after(shared), rest.after(shared))
            for (held_out, rest), shared in zip(folds, fitted[level], strict=True)
        ]
        tried.append(_choose_of_units(without_shared, {**strengths, "level": level}, before))
    return min(tried, key=lambda found: found[1])


def _choose_of_units(
    folds: Sequence[tuple[Gram, Gram]], strengths: dict[str, float], before: Sequence[float]
) -> tuple[dict[str, float], float]:
    """The best strengths of the units' own weights, and the error that they leave.

    Args:
        folds: as `choose_strengths` has them, without shared weights.
        strengths: to begin with.
        before: squared error of the base on each block.
    """
    sums = [(UnitSums(held_out), UnitSums(rest)) for held_out, rest in folds]
    known: dict[tuple[float, ...], float] = {}

    def error(strengths: Strengths) -> float:
        key = tuple(strengths.values())
        if key not in known:
            after = [held_out.squared_error(*rest.solve(strengths)) for held_out, rest in sums]
            known[key] = _relative(after, before)
        return known[key]

    names = [name for name in strengths if name != "level"]
    for name in names:
        strengths = min(({**strengths, name: value} for value in STRENGTHS), key=error)
    # The first was chosen without the others: once more, among its neighbours.
    place = STRENGTHS.index(strengths[names[0]])
    near = STRENGTHS[max(0, place - 1) : place + 2]
    strengths = min(({**strengths, names[0]: value} for value in near), key=error)
    return strengths, error(strengths)


def _relative(after: Sequence[float], before: Sequence[float]) -> float:
    """Errors over those before, the mean over blocks: one wild block does not outvote the others."""
    return float(np.mean([new / old if old > 0 else 1.0 for new, old in zip(after, before, strict=True)]))


def _common_penalties(gram: Gram, strengths: Strengths) -> tuple[np.ndarray, np.ndarray]:
    """The penalty of each common feature [F], and bool [F]: which are not left out."""
    penalties = np.full(len(gram.common), np.inf)
    first = 0
    for name, width in gram.widths.items():
        of_block = slice(first, first + width)
        square = np.trace(gram.common[of_block, of_block]) / max(width, 1)
        if square > 0:
            penalties[of_block] = strengths[name] * square
        first += width
    return penalties, np.isfinite(penalties)


def _times(matrix: np.ndarray, tensor: np.ndarray) -> np.ndarray:
    """A matrix [G, F] times [F, N, K]."""
    flat = tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))
    product: np.ndarray = (matrix @ flat).reshape(len(matrix), *tensor.shape[1:])
    return product
