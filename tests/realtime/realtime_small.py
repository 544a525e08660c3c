"""A small model with an interface and a fit, as an adaptation would leave them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from forebrain.models.base import Interface
from forebrain.models.poco import Poco, PocoConfig
from forebrain.sessions.preprocessing import Preprocessing

CONTEXT, HORIZON = 16, 4
SMALL = PocoConfig(
    context=CONTEXT, horizon=HORIZON, token_length=8, width=8, num_latents=2, num_heads=1, head_width=8,
    film_width=8, relative=True,
)  # fmt: skip


class Small(NamedTuple):
    model: Poco
    interface: Interface
    preprocessing: Preprocessing


def build_small(num_units: int, seed: int = 0, config: PocoConfig = SMALL) -> Small:
    """A model whose every parameter is drawn at random, so that its forecast is not copy's."""
    torch.manual_seed(seed)
    model, interface = Poco(config), Interface(num_units, config.width)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    rng = np.random.default_rng(seed)
    mean = rng.normal(100, 10, num_units).astype(np.float32)
    scale = rng.uniform(2, 5, num_units).astype(np.float32)
    return Small(model, interface, Preprocessing.of_units(mean, scale))


def activity(num_frames: int, fit: Preprocessing, seed: int = 1) -> np.ndarray:
    """[T, N] smooth activity around the fit's mean, in its scale."""
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=(num_frames, len(fit.mean))).cumsum(axis=0) * 0.3
    walk -= 0.98 * np.minimum.accumulate(np.abs(walk)) * np.sign(walk)
    return (np.tanh(walk) * fit.scale + fit.mean).astype(np.float32)


def known(small: Small, unit_names: str, **more: object) -> Small:
    """The same with a letter as name for each unit, and further attributes of `Preprocessing`."""
    preprocessing = replace(small.preprocessing, unit_names=tuple(unit_names), **more)
    return small._replace(preprocessing=preprocessing)
