"""Forecasting while the brain is being recorded: frame in, forecast out. Never imports Ray.

What needs no model (a rig's client, the page) imports no torch: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebrain.realtime.forecaster import LiveConfig as LiveConfig
    from forebrain.realtime.forecaster import LiveForecaster as LiveForecaster
    from forebrain.realtime.forecaster import open as open

__all__ = ["LiveConfig", "LiveForecaster", "open"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("forebrain.realtime.forecaster"), name)
