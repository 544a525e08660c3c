"""Where an interface begins: at random, at the mean of those trained, or where the unit's own past points.

The backbone was trained with the interfaces of other animals. What these have in common is known before the
first step: their mean, and how a unit's embedding follows from simple statistics of its activity, by ridge
regression over all units trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from forebrain.adaptation.description import fill, tensors_of
from forebrain.errors import AdaptationError
from forebrain.models.base import Interface
from forebrain.scoring.window_source import WindowSource, choose_windows

START = "start.safetensors"
StartName = Literal["random", "mean", "regression"]
LAGS = (1, 2, 4, 8)
LONGEST_LAG = 16
NUM_STATISTICS = len(LAGS) + 5
# Of each session, so many windows are looked at; fewer of very many units.
WINDOWS = 256
ROWS = 2_000_000
# Of the squared weights, in units: so many units' worth of evidence for "as the mean".
RIDGE = 100.0


@dataclass(frozen=True, eq=False)
class Start:
    """The common part of the trained interfaces.

    Attributes:
        unit: [d], mean of the units' embeddings.
        session: [e], mean of the sessions' embeddings, each with its data set's added.
        weights: [F, d], from standardised statistics of a unit to its embedding less the mean.
        centre, scale: [F], by which statistics are standardised.
    """

    unit: Tensor
    session: Tensor
    weights: Tensor
    centre: Tensor
    scale: Tensor

    def fill(self, interface: Interface, name: Literal["mean", "regression"], source: WindowSource) -> None:
        """Begins the interface of the only session of a source here."""
        unit = self.unit.expand(source.sessions[0].num_units, -1)
        if name == "regression":
            statistics = (unit_statistics(source, 0) - self.centre) / self.scale
            unit = unit + statistics @ self.weights
        fill(interface, {"unit": unit, "session": self.session}, "start")

    def save(self) -> bytes:
        """A safetensors file, which `load` reads."""
        return safetensors.torch.save(
            {name: getattr(self, name).contiguous() for name in self.__dataclass_fields__}
        )

    @classmethod
    def load(cls, data: bytes, interface: Interface, where: str) -> Start:
        """Reads what `save` gave.

        Args:
            data: the file's.
            interface: any of the model's.
            where: whose it is, for messages.

        Raises:
            AdaptationError: it is of another model or program.
        """
        tensors = tensors_of(data, where)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        width, statistics = interface.unit.shape[1], (NUM_STATISTICS,)
        expected = {
            "unit": (width,), "session": tuple(interface.session.shape), "weights": (NUM_STATISTICS, width),
            "centre": statistics, "scale": statistics,
        }  # fmt: skip
        if found != expected:
            raise AdaptationError(f"{where}: {START} holds {found}; expected {expected}. Update forebrain.")
        return cls(**tensors)

    @classmethod
    def fit(
        cls,
        interfaces: Mapping[str, Interface],
        of_dataset: Mapping[str, Tensor],
        source: WindowSource,
    ) -> Start:
        """Learns from the interfaces of a finished training.

        Args:
            interfaces: by session id.
            of_dataset: the backbone's embeddings of data sets, which it adds to a session's; empty if it
                has none.
            source: the sessions trained on; their training parts are read.
        """
        known = [number for number, info in enumerate(source.sessions) if info.id in interfaces]
        statistics = torch.cat([unit_statistics(source, number) for number in known])
        units, sessions = [], []
        for number in known:
            info = source.sessions[number]
            own = interfaces[info.id]
            units.append(own.unit.detach().cpu())
            shared = of_dataset.get(info.dataset, torch.zeros(()))
            sessions.append((own.session.cpu() + shared.cpu()).detach())
        unit = torch.cat(units)
        centre, scale = statistics.mean(dim=0), statistics.std(dim=0).clamp(min=1e-6)
        x = ((statistics - centre) / scale).double()
        y = (unit - unit.mean(dim=0)).double()
        weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=torch.float64), x.T @ y)
        return cls(unit.mean(dim=0), torch.stack(sessions).mean(dim=0), weights.float(), centre, scale)


def unit_statistics(source: WindowSource, session: int) -> Tensor:
    """Statistics of each unit's activity, from training windows alone: float32 [N, F].

    How fast it moves on each time scale and how far in all, how lopsided and how heavy-tailed its moves are,
    and how much it moves with the population.
    """
    info = source.sessions[session]
    limit = max(16, min(WINDOWS, ROWS // info.num_units))
    chosen = choose_windows(info.id, source.num_windows(session, "train"), limit, seed=0)
    lags = [min(lag, source.context - 1) for lag in (*LAGS, LONGEST_LAG)]
    squares = {lag: np.zeros(info.num_units) for lag in lags}
    cubes, fourths, values, shared = (np.zeros(info.num_units) for _ in range(4))
    common, count = 0.0, 0
    at = lags[len(lags) // 2]
    for window in chosen:
        context, _, starts = source.read(session, "train", np.array([window]))
        if not len(starts):
            continue
        frames = context[0].astype(np.float64)
        for lag in lags:
            squares[lag] += np.square(frames[lag:] - frames[:-lag]).mean(axis=0)
        move = frames[at:] - frames[:-at]
        together = move.mean(axis=1, keepdims=True)
        squared = np.square(move)  # a power is ten times as slow
        cubes += (squared * move).mean(axis=0)
        fourths += np.square(squared).mean(axis=0)
        values += (np.square(frames) * frames).mean(axis=0)
        shared += (move * together).mean(axis=0)
        common += float(np.square(together).mean())
        count += 1
    floor = 1e-6
    means = {lag: square / max(count, 1) + floor for lag, square in squares.items()}
    spread = means[at]
    columns = [np.log(means[lag] / means[lags[-1]]) for lag in lags[:-1]]
    columns += [
        np.log(means[lags[-1]]),
        np.cbrt(cubes / max(count, 1)) / np.sqrt(spread),
        np.log(fourths / max(count, 1) / spread**2 + floor),
        np.cbrt(values / max(count, 1)),
        shared / max(count, 1) / np.sqrt(spread * (common / max(count, 1) + floor)),
    ]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))
