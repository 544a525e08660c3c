"""Fixtures of the live forecaster's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from realtime_small import Small, build_small

from forebrain import realtime
from forebrain.realtime import LiveConfig, LiveForecaster


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small() -> Small:
    return build_small(6)


@pytest.fixture
def open_live(small: Small) -> Callable[..., LiveForecaster]:
    """Opens the small model; keyword arguments are those of `LiveConfig`."""

    def open_(**options) -> LiveForecaster:
        return realtime.open(*small, config=LiveConfig(**options), unit_names=list("abcdef"), rate_hz=5.0)

    return open_
