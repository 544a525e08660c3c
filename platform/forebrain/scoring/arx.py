"""Rivals that know the inputs: ARX ridge, reduced-rank ARX, and the mean evoked response.

Each forecasts what the frames of the horizon differ by from the last of the context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forebrain.scoring.gram import FeatureBlock, Gram, UnitSums, joined, solve_units
from forebrain.scoring.inputs import InputSource
from forebrain.scoring.protocols import Part
from forebrain.scoring.ridge import principal_components, read_windows
from forebrain.scoring.time_blocks import time_blocks

STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001)
# A level departs where it changes by more than this share of its range within a frame.
JUMP = 0.2

_Key = tuple[bytes, int]  # a kind of departure, and the frames since it
_REST: _Key = (b"", 0)
# (context [B, C, N], start frames [B], inputs of the same windows) -> forecast [B, H, N].
Informed = Callable[[np.ndarray, np.ndarray, InputSource], np.ndarray]


@dataclass(frozen=True)
class ArxConfig:
    """What an ARX ridge reads.

    Attributes:
        differences: newest differences of the unit's own frames, beside its level.
        memory: frames of past input; 0 for none.
        plan: whether it reads the inputs of the horizon.
    """

    differences: int
    memory: int
    plan: bool


def fit_arx(
    source: InputSource, names: Sequence[str], config: ArxConfig, *, rank: int | None = None, session: int = 0
) -> Informed:
    """Ridge for each unit on its own differences, past inputs and the plan, with two penalties.

    They are chosen on the validation part, or on blocks of time of the training part where there is none; the
    weights are fitted on the training part.

    Args:
        source: of the session's windows.
        names: of the inputs.
        config: what it reads.
        rank: components of the population that are forecast in place of units; None for the units.
        session: its number in the source.
    """
    horizon = source.horizon
    num_units = source.sessions[session].num_units
    loadings = np.eye(num_units, dtype=np.float32)
    if rank is not None and rank < num_units:
        loadings = principal_components(source, session, rank)
    memory, after = config.memory, horizon if config.plan else 0
    used = list(names) if memory + after else []

    def inputs(starts: np.ndarray, of: InputSource) -> np.ndarray:
        return of.inputs(session, starts, memory, after, used).reshape(len(starts), -1)

    def own(context: np.ndarray) -> np.ndarray:
        """[B, 1 + Q, N]: the last frame and the newest differences."""
        newest = np.diff(context, axis=1)[:, ::-1][:, : config.differences]
        return np.concatenate([context[:, -1:], newest], axis=1)

    def read(part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        windows = [
            (context @ loadings, target @ loadings, starts)
            for _, context, target, starts in read_windows(source, session, [part])
        ]
        if not windows:
            return None
        context, target, starts = (np.concatenate(each) for each in zip(*windows, strict=True))
        return own(context), inputs(starts, source), target - context[:, -1:], starts

    train, validation = read("train"), read("validation")
    assert train is not None
    mean, spread = train[1].mean(axis=0), train[1].std(axis=0)
    scale = np.where(spread > 0, spread, np.inf).astype(np.float32)

    def blocks(values: np.ndarray) -> list[FeatureBlock]:
        constant = np.ones((len(values), 1), np.float32)
        return [FeatureBlock("input", (values - mean) / scale), FeatureBlock("constant", constant)]

    def gram(windows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], chosen: np.ndarray) -> Gram:
        past, values, change, _ = (each[chosen] for each in windows)
        return _gram(past, change, blocks(values))

    everything = gram(train, np.ones(len(train[3]), bool))
    if validation is not None:
        folds = [(gram(validation, np.ones(len(validation[3]), bool)), everything)]
    else:
        cuts = time_blocks(train[3], source.context + horizon)
        folds = [(gram(train, cut.held_out), gram(train, cut.rest)) for cut in cuts]

    sums = [(UnitSums(held_out), UnitSums(rest)) for held_out, rest in folds]

    def error(strengths: Mapping[str, float]) -> float:
        return sum(held_out.squared_error(*rest.solve(strengths)) for held_out, rest in sums)

    tried = [
        {"level": math.inf, "own": of_own, "input": of_input, "constant": 1e-6}
        for of_own in STRENGTHS
        for of_input in (STRENGTHS if used else (1.0,))
    ]
    weights_own, weights_common = solve_units(everything, min(tried, key=error))

    def forecast(context: np.ndarray, starts: np.ndarray, of: InputSource) -> np.ndarray:
        past = own(context @ loadings)
        change = np.einsum("bpn,nph->bhn", past, weights_own, optimize=True)
        common = joined(blocks(inputs(starts, of)), len(context))
        change += np.einsum("bf,fnh->bhn", common, weights_common, optimize=True)
        found: np.ndarray = context[:, -1:] + (change @ loadings.T).astype(np.float32)
        return found

    return forecast


def _gram(past: np.ndarray, change: np.ndarray, blocks: Sequence[FeatureBlock]) -> Gram:
    """The sums of windows, all P features of past [B, P, N] with weights of each unit."""
    common = joined(blocks, len(past)).astype(np.float64)
    width = past.shape[1]
    columns = np.concatenate([past, change], axis=1).astype(np.float64)
    by_unit = columns.transpose(2, 1, 0)  # [N, P + H, B]
    return Gram(
        widths={block.name: block.values.shape[1] for block in blocks},
        num_windows=len(past),
        pooled=np.zeros((width, columns.shape[1])),
        own=by_unit[:, :width] @ by_unit.transpose(0, 2, 1),
        common=common.T @ common,
        cross=(common.T @ columns.reshape(len(columns), -1))
        .reshape(-1, *columns.shape[1:])
        .transpose(0, 2, 1),
        squares=float(np.square(change).sum(dtype=np.float64)),
    )


def fit_evoked(source: InputSource, names: Sequence[str], memory: int, session: int = 0) -> Informed:
    """The mean evoked response: the mean of all training frames that lie as long after the same departure.

    A departure is a mark of an event, or a level that leaves zero, returns to it, or jumps; those of several
    inputs in one frame are one departure of its own kind.

    Args:
        source: of the session's windows.
        names: of the inputs.
        memory: frames after a departure that are averaged one by one; later ones, and those before any, are
            averaged all together.
        session: its number in the source.
    """
    horizon = source.horizon
    kinds = {each.name: each.kind for each in source.inputs_of(session)}
    is_event = np.array([kinds.get(name) == "event" for name in names], bool)
    windows = list(read_windows(source, session, ["train", "validation"]))
    values = [source.inputs(session, starts, memory + 1, horizon, names) for _, _, _, starts in windows]
    spread = np.concatenate([each.reshape(-1, len(names)) for each in values])
    limits = JUMP * (spread.max(axis=0) - spread.min(axis=0))
    means: dict[_Key, list[np.ndarray | int]] = {}

    def since(inputs: np.ndarray) -> list[list[_Key]]:
        """The latest departure and the frames since it, for the last frame of the context and each after."""
        now, before = inputs[:, 1:], inputs[:, :-1]
        jumps = np.abs(now - before) > limits
        comes, goes = (before == 0) & (now != 0), (before != 0) & (now == 0)
        departs = np.where(is_event, now != 0, jumps | comes | goes)
        signed = np.where(departs, np.where(is_event, 1, np.sign(now - before)), 0).astype(np.int8)
        found = []
        for window, is_departure in zip(signed, departs.any(axis=2), strict=True):
            places = np.flatnonzero(is_departure)
            row: list[_Key] = []
            for frame in range(memory - 1, memory + horizon):
                latest = np.searchsorted(places, frame, side="right") - 1
                lag = frame - places[latest] if latest >= 0 else memory
                row.append((window[places[latest]].tobytes(), int(lag)) if lag < memory else _REST)
            found.append(row)
        return found

    for (_, context, target, _), inputs in zip(windows, values, strict=True):
        frames = np.concatenate([context[:, -1:], target], axis=1)
        for window, row in zip(frames, since(inputs), strict=True):
            for frame, key in zip(window, row, strict=True):
                total = means.setdefault(key, [np.zeros(frames.shape[2]), 0])
                total[0] = total[0] + frame
                total[1] = int(total[1]) + 1
    evoked = {key: np.asarray(total) / count for key, (total, count) in means.items()}

    def forecast(context: np.ndarray, starts: np.ndarray, of: InputSource) -> np.ndarray:
        rows = since(of.inputs(session, starts, memory + 1, horizon, names))
        rest = evoked.get(_REST, np.zeros(context.shape[2]))
        answers = np.array([[evoked.get(key, rest) for key in row] for row in rows])
        found: np.ndarray = context[:, -1:] + (answers[:, 1:] - answers[:, :1]).astype(np.float32)
        return found

    return forecast
