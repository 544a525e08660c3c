"""How much each member of a stack weighs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from forebrain.scoring.baselines import LinearBaseline, LinearFit
from forebrain.scoring.evaluate import Forecaster
from forebrain.scoring.protocols import Part
from forebrain.scoring.ridge import MAX_CHOICE_ROWS, in_time, num_windows_read, read_windows, spread_evenly
from forebrain.scoring.time_blocks import blocks_of, time_blocks
from forebrain.scoring.window_source import WindowSource

# Penalties on the distance from equal weights, relative to the mean square of a member.
SHRINKAGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
# Where windows are few: training windows on which linear earns a quarter of the weight; what copy has at
# first; the penalty on the distance from such shares. Tried with 48 and 16 frames on recordings cut before
# their test part.
FEW_WINDOWS = 50
COPYS_SHARE = 0.2
FEW_SHRINKAGE = 1.0
FEW_BLOCKS = 4
# Of a bound on a sum of weights among their squared errors.
FIRM = 1e3

# By step: products of members [H, M, M], of members and target [H, M], squares of the target [H].
Sums = tuple[np.ndarray, np.ndarray, np.ndarray]


def weights_of_few(
    source: WindowSource, session: int, linear: LinearBaseline, model: Forecaster | None, is_fitted: bool
) -> list[np.ndarray]:
    """Weights where the validation part is too short to choose them: float32 [H] of linear and of the model.

    Linear's share is a half where it is fitted on many windows and nothing where there are none; the other
    share is the model's. How well both forecast windows that they were not fitted on corrects that: one that
    is no better than copy there begins with nothing. They add up to one at most, since so few windows cannot
    show that more would hold later.

    Args:
        source, session: whose windows train and validate; the test part is never read.
        linear: fitted on the training part.
        model: (session, context [B, C, N]) -> [B, H, N]; None where it is no member.
        is_fitted: the model was trained on the training part too.
    """
    count = source.num_windows(session, "train")
    of_linear = 0.5 * count / (count + FEW_WINDOWS)
    shares = [1.0] if model is None else [of_linear, 1 - of_linear]
    weights = np.repeat(np.array(shares)[:, None], source.horizon, axis=1)
    sums = _not_fitted_on(source, session, linear, model, is_fitted)
    if sums is not None:
        useful = np.array(_alone(sums)) > 0
        weights = _solve(sums, FEW_SHRINKAGE, (1 - COPYS_SHARE) * useful[:, None] * weights, most=1.0)
    return list(weights.astype(np.float32))


def _not_fitted_on(
    source: WindowSource, session: int, linear: LinearBaseline, model: Forecaster | None, is_fitted: bool
) -> Sums | None:
    """Of forecasts by linear and the model of windows that neither was fitted on: those of the validation
    part, and those of each quarter of the training part, linear fitted to the rest of it. None where they
    are fewer than the steps of a forecast."""
    length = source.context + source.horizon
    parts: Sequence[Part] = ("validation",) if is_fitted and model is not None else ("train", "validation")
    found: list[Sums] = []
    num_windows = 0
    for part in parts:
        read = _read(source, session, part, model)
        if read is None:
            continue
        starts, context, target, *known = read
        folds = [(np.ones(len(starts), bool), linear)]
        if part == "train":
            folds = []
            for block in blocks_of(starts, FEW_BLOCKS, length):
                fit = LinearFit(source.context, source.horizon)
                fit.add_session([(context[block.rest], target[block.rest])])
                if fit.gram.any():
                    folds.append((block.held_out, fit.solve()))
        for chosen, fitted in folds:
            last = context[chosen, -1:]
            own = [fitted(session, context[chosen]) - last, *(each[chosen] - last for each in known)]
            found.append(_sums(np.stack(own), target[chosen] - last))
            num_windows += len(last)
    if num_windows < source.horizon:
        return None
    products, moments, squares = (sum(each) for each in zip(*found, strict=True))
    return products, moments, squares


def _read(
    source: WindowSource, session: int, part: Part, model: Forecaster | None
) -> tuple[np.ndarray, ...] | None:
    """Start frames [W], contexts, targets and the model's forecasts [W, ., S] of a part's windows, in time;
    of units spread evenly. None where there are no windows."""
    num_windows, num_units = num_windows_read(source, session, (part,)), source.sessions[session].num_units
    units = spread_evenly(num_units, max(1, MAX_CHOICE_ROWS // max(1, num_windows)))
    kept = []
    for _, context, target, starts in read_windows(source, session, (part,)):
        forecasts = [] if model is None else [model(session, context)]
        kept.append((starts, *(each[..., units] for each in (context, target, *forecasts))))
    if not kept:
        return None
    return in_time(*(np.concatenate(each) for each in zip(*kept, strict=True)))


class Weighing:
    """Normal equations of the weights, by block of time."""

    def __init__(self, departures: np.ndarray, target: np.ndarray, starts: np.ndarray, length: int) -> None:
        """departures [M, W, H, S], target [W, H, S], both less the last frame."""
        self.blocks = time_blocks(starts, length)
        self.whole = _sums(departures, target)
        self.mean_square = float(self.whole[2].sum() / max(target.size, 1))
        self.folds = [
            (_sums(departures, target, block.held_out), _sums(departures, target, block.rest))
            for block in self.blocks
        ]

    def choose(self) -> tuple[float, float]:
        """The shrinkage that forecasts blocks of time best, and the score it has there; infinite where there
        are too few windows for blocks."""
        if not self.folds:
            return math.inf, math.nan
        scores = {shrinkage: self._score(shrinkage) for shrinkage in SHRINKAGES}
        best = max(scores, key=lambda shrinkage: scores[shrinkage])
        return best, scores[best]

    def solve(self, shrinkage: float) -> np.ndarray:
        """Weights [M, H] of all windows."""
        return _solve(self.whole, shrinkage)

    def alone(self) -> list[float]:
        """Each member's own score."""
        return _alone(self.whole)

    def without(self, member: int) -> Weighing:
        """The same without a member; of the last member's absence, copy is left."""
        rest = object.__new__(Weighing)
        rest.blocks, rest.mean_square = self.blocks, self.mean_square

        def drop(sums: Sums) -> Sums:
            products, moments, squares = sums
            products = np.delete(np.delete(products, member, 1), member, 2)
            return products, np.delete(moments, member, 1), squares

        rest.whole = drop(self.whole)
        rest.folds = [(drop(held_out), drop(others)) for held_out, others in self.folds]
        return rest

    def _score(self, shrinkage: float) -> float:
        error = copy = 0.0
        for (products, moments, squares), others in self.folds:
            weights = _solve(others, shrinkage).T  # [H, M]
            error += float(squares.sum() - 2 * (weights * moments).sum())
            error += float(np.einsum("hm,hmk,hk->", weights, products, weights))
            copy += float(squares.sum())
        return score_of(error, copy)


def _alone(sums: Sums) -> list[float]:
    """Each member's own score."""
    products, moments, squares = sums
    errors = squares.sum() - 2 * moments.sum(axis=0) + np.einsum("hmm->m", products)
    return [score_of(float(error), float(squares.sum())) for error in errors]


def _sums(departures: np.ndarray, target: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> Sums:
    members, wanted = departures[:, chosen].astype(np.float64), target[chosen].astype(np.float64)
    products = np.einsum("mwhs,kwhs->hmk", members, members, optimize=True)
    moments = np.einsum("mwhs,whs->hm", members, wanted, optimize=True)
    return products, moments, np.einsum("whs,whs->h", wanted, wanted)


def _solve(
    sums: Sums, shrinkage: float, towards: np.ndarray | None = None, most: float = math.inf
) -> np.ndarray:
    """Weights [M, H], none of them negative, shrunk; what they are shrunk to where nothing moves.

    Args:
        sums: of members and target.
        shrinkage: the penalty on the squared distance, relative to the mean square of a member.
        towards: weights [M, H]; None for equal ones.
        most: bound on the sum of a step's weights.
    """
    products, moments, _ = sums
    count = products.shape[1]
    if not count:
        return np.zeros((0, len(products)))
    goal = np.full_like(moments, 1 / count) if towards is None else towards.T
    penalty = shrinkage * np.einsum("hmm->h", products) / count
    penalty = np.where(penalty > 0, penalty, 1.0)[:, None]
    systems, sides = products + penalty[..., None] * np.eye(count), moments + penalty * goal
    weights: np.ndarray = np.linalg.solve(systems, sides[..., None])[..., 0]
    for step in np.flatnonzero((weights < 0).any(axis=1) | (weights.sum(axis=1) > most)):
        root = np.linalg.cholesky(systems[step])
        rows, wanted = root.T, np.linalg.solve(root, sides[step])
        weights[step] = nnls(rows, wanted)[0]
        if weights[step].sum() > most:
            firm = np.full((1, count), FIRM * np.sqrt(np.trace(systems[step])))
            weights[step] = nnls(np.vstack([rows, firm]), np.append(wanted, firm[0, 0] * most))[0]
    return weights.T


def score_of(error: float, copy: float) -> float:
    """1 less the error over that of copy; NaN where nothing moves."""
    return 1 - error / copy if copy > 0 else math.nan
