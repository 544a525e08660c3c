"""Updates of the interface: better or not at all, and never in the way of a frame."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from realtime_small import CONTEXT, HORIZON, Small, activity

from forebrain import realtime
from forebrain.errors import ConfigError
from forebrain.models.base import LossName, SessionInput
from forebrain.models.baselines.linear import LinearConfig
from forebrain.models.normalisation import InstanceNorm
from forebrain.realtime import LiveForecaster, updating
from forebrain.realtime.updating import CLIP_NORM, InterfaceUpdater, UpdateConfig, _cut, _windows, improved

Open = Callable[..., LiveForecaster]
LENGTH = CONTEXT + HORIZON


def windows(small: Small, num_frames: int, seed: int) -> torch.Tensor:
    frames = small.preprocessing.normalise(activity(num_frames, small.preprocessing, seed))
    return _cut(frames, np.zeros(num_frames, np.int64), LENGTH, step=1)


def error(small: Small, interface, given: torch.Tensor) -> float:
    context, target = given.split([CONTEXT, HORIZON], dim=1)
    with torch.no_grad():
        (forecast,) = small.model([SessionInput(context, interface)])
    return float(((forecast - target) / InstanceNorm.of(context).spread).square().mean())


def test_an_update_is_better_on_frames_that_it_was_not_fitted_to(small: Small) -> None:
    older, newest = windows(small, 150, 1), windows(small, 60, 2)
    small.model.requires_grad_(False)
    before = small.interface.unit.detach().clone()
    config = UpdateConfig(steps=20, learning_rate=1e-2)
    better = improved(small.model, small.interface, None, older, newest, config, "relative", 0)
    assert better is not None
    assert error(small, better, newest) < error(small, small.interface, newest)
    assert torch.equal(small.interface.unit, before)  # the one in use is left as it is


@pytest.mark.parametrize("clip_norm", [CLIP_NORM, 0.02])
@pytest.mark.parametrize("loss", ["relative", "squared"])
def test_its_steps_are_those_of_clipped_adamw_on_the_loss_that_the_backbone_was_trained_with(
    small: Small, loss: LossName, clip_norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updating, "CLIP_NORM", clip_norm)
    older, newest = windows(small, 150, 1), windows(small, 60, 2)
    small.model.requires_grad_(False)
    small.model.eval()
    config = UpdateConfig(steps=3, learning_rate=1e-2)
    better = improved(small.model, small.interface, None, older, newest, config, loss, 0)
    expected = copy.deepcopy(small.interface).requires_grad_(True)
    optimiser = torch.optim.AdamW(expected.parameters(), config.learning_rate, weight_decay=1e-4)
    norms = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(config.steps):
        chosen = torch.randint(len(older), (config.batch_size,), generator=generator)
        context, target = older[chosen].split([CONTEXT, HORIZON], dim=1)
        (forecast,) = small.model([SessionInput(context, expected)])
        optimiser.zero_grad()
        spread = InstanceNorm.of(context).spread if loss == "relative" else 1.0
        ((forecast - target) / spread).square().mean().backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(expected.parameters(), clip_norm)))
        optimiser.step()
    assert clip_norm == CLIP_NORM or max(norms) > 2 * clip_norm
    assert better is not None
    for ours, value in zip(better.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, value, rtol=1e-3, atol=1e-4)


def test_an_update_that_is_no_better_is_none(small: Small) -> None:
    older, newest = windows(small, 100, 1), windows(small, 60, 2)
    small.model.requires_grad_(False)
    # Steps as long as these only do harm.
    spoilt = UpdateConfig(steps=3, learning_rate=1e3)
    assert improved(small.model, small.interface, None, older, newest, spoilt, "relative", 0) is None


def test_no_window_crosses_a_gap() -> None:
    frames = np.arange(40, dtype=np.float32)[:, None]
    segments = np.repeat([0, 1], [15, 25])
    starts = _cut(frames, segments, 10, step=1)[:, 0, 0]
    assert starts.tolist() == [*range(6), *range(15, 31)]


def test_updates_need_a_fit_an_interface_and_enough_frames(small: Small, open_live: Open) -> None:
    with pytest.raises(ConfigError, match="fit"):
        InterfaceUpdater(open_live(normalise="running"), UpdateConfig(), "relative")
    linear = LinearConfig(context=CONTEXT, horizon=HORIZON).build()
    without = realtime.open(linear, linear.new_interface(6), small.preprocessing)
    with pytest.raises(ConfigError, match="nothing to update"):
        InterfaceUpdater(without, UpdateConfig(), "relative")
    with pytest.raises(ConfigError, match="expected 80 or more"):
        InterfaceUpdater(open_live(), UpdateConfig(frames=79), "relative")


def test_a_process_updates_the_interface_and_its_death_costs_nothing_else(
    small: Small, open_live: Open, caplog: pytest.LogCaptureFixture
) -> None:
    live = open_live()
    config = UpdateConfig(every_s=0.02, frames=100, steps=3, batch_size=4, learning_rate=1e-2)
    updater = InterfaceUpdater(live, config, "relative")
    os.kill(
        updater._process.pid, signal.SIGINT
    )  # as a terminal does to all processes; it is not for this one
    frames = activity(300, small.preprocessing)
    deadline = time.monotonic() + 120
    number = 0
    while not live.counts["updates"] and time.monotonic() < deadline:
        live.step(frames[number % 300])
        updater.follow(live)
        number += 1
    assert live.counts["updates"] >= 1
    assert not torch.equal(live.interface.unit, small.interface.unit)

    older, newest = _windows(updater._shared, small.preprocessing, LENGTH)
    held = small.preprocessing.normalise(np.stack([frames[k % 300] for k in range(number - 100, number)]))
    if number >= 100:
        np.testing.assert_array_equal(older[0].numpy(), held[:LENGTH])
        np.testing.assert_array_equal(newest[0].numpy(), held[75 : 75 + LENGTH])

    updater._process.kill()
    updater._process.join()
    for frame in frames[:30]:
        live.step(frame)
        updater.follow(live)
    assert live.source == "model" and not updater.is_alive
    assert caplog.text.count("the process that updates the interface has ended") == 1
    updater.close()
