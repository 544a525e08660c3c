"""Fixtures of the live forecaster's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from realtime_small import Small, build_small, known

from forebrain import realtime
from forebrain.realtime import LiveConfig, LiveForecaster


@pytest.fixture(autouse=True)
def all_on_one_thread(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture
def small() -> Small:
    return build_small(6)


@pytest.fixture
def open_live(small: Small) -> Callable[..., LiveForecaster]:
    """Opens the small model; keyword arguments are those of `LiveConfig`."""

    def open_(**options) -> LiveForecaster:
        return realtime.open(*known(small, "abcdef", rate_hz=5.0), config=LiveConfig(**options))

    return open_
