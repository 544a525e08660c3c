"""`fb.live`: a rig's side of forecasting while recording, and what the forecaster's side is told.

A rig needs no torch: the forecaster's names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from forebrain.realtime.client import Client
from forebrain.realtime.messages import Forecast

if TYPE_CHECKING:
    from forebrain.realtime.forecaster import LiveConfig as LiveConfig
    from forebrain.realtime.forecaster import LiveForecaster as LiveForecaster

__all__ = ["Client", "Forecast", "LiveConfig", "LiveForecaster"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("forebrain.realtime.forecaster"), name)
