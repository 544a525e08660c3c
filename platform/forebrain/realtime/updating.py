"""Goes on fitting the interface to the stream, in a process of its own.

The forecaster's process does two things for it, both between frames and neither ever waiting: it copies each
frame into shared memory, and it takes over an interface that lies there ready. The other process fits a
copy to the older part of the frames it sees, and hands it over only if it forecasts the newest part, which
it was not fitted to, better than the interface in use. A process that is stuck or killed costs nothing but
the updates.
"""

from __future__ import annotations

import copy
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.synchronize
import os
import signal
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forebrain.accelerate import accelerate
from forebrain.errors import ConfigError
from forebrain.models.base import Interface, LossName, Model, SessionInput, SessionTarget
from forebrain.realtime.beside import start_beside
from forebrain.realtime.forecaster import LiveForecaster
from forebrain.sessions.preprocessing import Preprocessing
from forebrain.training.optimise import CLIP_NORM, ClippedAdamW

NICENESS = 10
_log = logging.getLogger(__name__)
WEIGHT_DECAY = 1e-2
NEWEST_PART = 0.25  # of the frames seen: what decides whether an update is used


@dataclass(frozen=True)
class UpdateConfig:
    """How the interface is updated while it is in use.

    Attributes:
        every_s: pause between two updates, seconds.
        frames: newest frames that an update is fitted to and judged by.
        steps: optimiser steps of an update.
        batch_size: windows of a step.
        learning_rate: of AdamW.
    """

    every_s: float = 10.0
    frames: int = 2000
    steps: int = 50
    batch_size: int = 8
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("frames", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"update.{name} is {getattr(self, name)}; expected 1 or more.")
        for name in ("every_s", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"update.{name} is {getattr(self, name)}; expected more than 0.")


class _Shared:
    """Memory that both processes see: the newest frames, and one interface that is handed over.

    The two semaphores make the handing over a relay: `wanted` is free while the place is empty, `ready` while
    it holds an interface.
    """

    def __init__(self, context: Any, num_frames: int, interface: Interface) -> None:
        num_units, width = interface.unit.shape
        self.shape = (num_frames, num_units, width)
        self._frames = context.RawArray("f", num_frames * num_units)
        self._segments = context.RawArray("q", num_frames)
        self._count = context.RawValue("q", 0)
        self._unit = context.RawArray("f", num_units * width)
        self._session = context.RawArray("f", len(interface.session))
        self.wanted: multiprocessing.synchronize.Semaphore = context.Semaphore(1)
        self.ready: multiprocessing.synchronize.Semaphore = context.Semaphore(0)

    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """The frames [T, N] and their segments [T]."""
        num_frames, num_units, _ = self.shape
        frames = np.frombuffer(self._frames, np.float32).reshape(num_frames, num_units)
        return frames, np.frombuffer(self._segments, np.int64)

    def interface(self) -> tuple[Tensor, Tensor]:
        """The interface that is handed over: unit [N, d] and session [e]."""
        _, num_units, width = self.shape
        unit, session = (np.frombuffer(each, np.float32) for each in (self._unit, self._session))
        return torch.from_numpy(unit.reshape(num_units, width)), torch.from_numpy(session)

    @property
    def count(self) -> int:
        return self._count.value

    @count.setter
    def count(self, count: int) -> None:
        self._count.value = count


class InterfaceUpdater:
    """Keeps a forecaster's interface fitted to what the units do now.

    Args:
        live: the forecaster; it must be normalised by a fit, which both processes then share.
        config: how.
        loss: what the backbone was trained with, which its description says.

    Raises:
        ConfigError: the forecaster normalises by running statistics, the model has no interface, or the
            frames hold no window.
    """

    def __init__(self, live: LiveForecaster, config: UpdateConfig, loss: LossName) -> None:
        if live.config.normalise != "fit":
            raise ConfigError("an interface is updated only where the stream is normalised by a fit.")
        if not live.interface.unit.numel():
            raise ConfigError("this model keeps nothing of a session, so there is nothing to update.")
        window = live.context + live.horizon
        if config.frames * NEWEST_PART < window:
            raise ConfigError(
                f"update.frames is {config.frames}; expected {int(window / NEWEST_PART)} or more: the newest "
                f"quarter must hold a window of {live.context} + {live.horizon} frames."
            )
        context = multiprocessing.get_context("spawn")
        self._shared = _Shared(context, config.frames, live.interface)
        self._frames, self._segments = self._shared.frames()
        given = (
            copy.deepcopy(live.model),
            copy.deepcopy(live.interface),
            live.preprocessing,
            live.dataset,
            config,
            loss,
        )
        self._process = context.Process(
            target=_update, args=(self._shared, *given), name="live-updates", daemon=True
        )
        self._is_told = False  # that it has ended
        start_beside(self._process)

    def follow(self, live: LiveForecaster) -> None:
        """Shows the newest frame to the other process, and takes over an interface that is ready."""
        slot = self._shared.count % len(self._frames)
        self._frames[slot] = live.frame
        self._segments[slot] = live.segment
        self._shared.count += 1
        if not self.is_alive and not self._is_told:
            self._is_told = True
            _log.warning(
                "the process that updates the interface has ended (exit status %s): forecasts go on with the "
                "interface as it is. Start the forecaster again to have more updates.",
                self._process.exitcode,
            )
        if self._shared.ready.acquire(block=False):
            live.replace_interface(_with(live.interface, self._shared.interface()))
            self._shared.wanted.release()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def close(self) -> None:
        self._process.kill()
        self._process.join()


def _update(
    shared: _Shared,
    model: Model,
    interface: Interface,
    preprocessing: Preprocessing,
    dataset: int | None,
    config: UpdateConfig,
    loss: LossName,
) -> None:
    """The other process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the forecaster's end is this one's
    os.nice(NICENESS)
    torch.set_num_threads(1)
    model = accelerate(model.eval().requires_grad_(False), "adapt")
    parent = multiprocessing.parent_process()
    assert parent is not None
    for number in itertools.count():
        if multiprocessing.connection.wait([parent.sentinel], config.every_s):
            return  # it has ended
        windows = _windows(shared, preprocessing, model.config.context + model.config.horizon)
        if windows is None or not shared.wanted.acquire(block=False):
            continue
        better = improved(model, interface, dataset, *windows, config, loss, seed=number)
        if better is None:
            shared.wanted.release()
            continue
        interface = better
        for place, value in zip(shared.interface(), (better.unit, better.session), strict=True):
            place.copy_(value)
        shared.ready.release()


def improved(
    model: Model,
    interface: Interface,
    dataset: int | None,
    older: Tensor,
    newest: Tensor,
    config: UpdateConfig,
    loss: LossName,
    seed: int,
) -> Interface | None:
    """An interface fitted to older windows, or None where it is no better on the newest.

    Args:
        model: the frozen backbone.
        interface: the one in use; it is left as it is.
        dataset: see `SessionInput`.
        older, newest: normalised windows [B, C + H, N].
        config: of the update.
        loss: what the backbone was trained with.
        seed: of the order of windows.
    """
    fitted = copy.deepcopy(interface).requires_grad_(True)
    optimiser = ClippedAdamW([(fitted.parameters(), config.learning_rate)], WEIGHT_DECAY, CLIP_NORM)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.steps):
        chosen = torch.randint(len(older), (config.batch_size,), generator=generator)
        optimiser.clear_gradients()
        entry, target = _told(model, fitted, dataset, older[chosen], loss)
        model.loss([entry], [target]).backward()
        optimiser.step()
    with torch.no_grad():
        of_newest = (_told(model, each, dataset, newest, loss) for each in (interface, fitted))
        before, after = (model.loss([entry], [target]) for entry, target in of_newest)
    return fitted.requires_grad_(False) if after < before else None


def _told(
    model: Model, interface: Interface, dataset: int | None, windows: Tensor, loss: LossName
) -> tuple[SessionInput, SessionTarget]:
    """Windows and what came after them, each missed value with an equal share."""
    context, target = windows.split([model.config.context, model.config.horizon], dim=1)
    entry = SessionInput(context, interface, dataset)
    return entry, SessionTarget.of(entry, target, loss).averaged()


def _windows(shared: _Shared, preprocessing: Preprocessing, length: int) -> tuple[Tensor, Tensor] | None:
    """Normalised windows [B, length, N] of the older frames and of the newest; None before there are any."""
    frames, segments = shared.frames()
    count = shared.count
    order = np.arange(max(0, count - len(frames)), count)
    copied, segment = frames[order % len(frames)], segments[order % len(frames)]
    is_whole = order >= shared.count - len(frames)  # the rest was overwritten while it was copied
    copied, segment = preprocessing.normalise(copied[is_whole]), segment[is_whole]
    cut = len(copied) - int(len(copied) * NEWEST_PART)
    older = _cut(copied[:cut], segment[:cut], length, step=1)
    newest = _cut(copied[cut:], segment[cut:], length, step=max(1, length // 4))
    return (older, newest) if len(older) and len(newest) else None


def _cut(frames: np.ndarray, segments: np.ndarray, length: int, step: int) -> Tensor:
    starts = np.arange(0, len(frames) - length + 1, step)
    starts = starts[segments[starts] == segments[starts + length - 1]]
    return torch.from_numpy(frames[starts[:, None] + np.arange(length)])


@torch.no_grad()
def _with(interface: Interface, values: tuple[Tensor, Tensor]) -> Interface:
    """An interface of the same shape with other values."""
    other = copy.deepcopy(interface).requires_grad_(False)
    for parameter, value in zip((other.unit, other.session), values, strict=True):
        parameter.copy_(value)
    return other
