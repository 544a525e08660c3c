"""`fb.live`: a rig's side of forecasting while recording, and what the forecaster's side is told."""

from __future__ import annotations

from forebrain.realtime.client import Client
from forebrain.realtime.forecaster import LiveConfig, LiveForecaster
from forebrain.realtime.messages import Forecast

__all__ = ["Client", "Forecast", "LiveConfig", "LiveForecaster"]
