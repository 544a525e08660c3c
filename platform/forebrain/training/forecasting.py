"""A trained backbone as a forecaster that the scorer can call, and how many windows scoring may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from forebrain.models.base import Interface, Model, SessionInput
from forebrain.scoring.window_source import SessionInfo
from forebrain.shards.order import DataOrder
from forebrain.shards.windows import ShardWindows
from forebrain.training.config import PretrainConfig


class ModelForecaster:
    """Calls a backbone with a session's interface: (session, context [B, C, N]) -> forecast [B, H, N].

    Args:
        backbone: the model, or an executor of it; it is put into evaluation mode at each call.
        interfaces: by session id.
        datasets: names in the order of the backbone's data set embedding.
        sessions: what a session number means.
    """

    def __init__(
        self,
        backbone: Model,
        interfaces: Mapping[str, Interface],
        datasets: Sequence[str],
        sessions: Sequence[SessionInfo],
    ) -> None:
        self.backbone, self.interfaces, self.datasets = backbone, interfaces, datasets
        self.sessions = sessions

    @torch.inference_mode()
    def __call__(self, session: int, context: np.ndarray) -> np.ndarray:
        entry = self.sessions[session]
        interface = self.interfaces[entry.id]
        frames = torch.from_numpy(np.ascontiguousarray(context)).to(interface.unit.device)
        self.backbone.eval()
        position = self.datasets.index(entry.dataset) if entry.dataset in self.datasets else None
        (forecast,) = self.backbone.forecast([SessionInput(frames, interface, position)])
        return forecast.float().cpu().numpy()


def affordable_windows(
    windows: ShardWindows, order: DataOrder, config: PretrainConfig, share: float, steps: int | None = None
) -> int | None:
    """Windows a session to score so that scoring takes about `share` of the training it follows.

    A training step costs about three times a forecast of its rows. The number follows from config and data
    alone, so it is the same in every attempt and for any number of workers.

    Args:
        share: of the time of `steps` training steps.
        steps: None for those between two validations; else, at the end, evaluation.exact holds.

    Returns:
        At least 8 and at most evaluation.windows_per_session; None for every window.
    """
    if config.evaluation.full:
        return None
    if config.evaluation.exact and steps is not None:
        return config.evaluation.windows_per_session
    steps = config.training.validate_every if steps is None else steps
    rows_trained = steps * order.rows_each_epoch.sum() / order.steps_each_epoch
    rows_each_window = sum(entry.num_units for entry in windows.sessions)
    affordable = int(3 * share * rows_trained / rows_each_window)
    return max(8, min(config.evaluation.windows_per_session, affordable))
