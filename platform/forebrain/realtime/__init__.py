"""Forecasting while the brain is being recorded: frame in, forecast out. Never imports Ray."""

from forebrain.realtime.forecaster import LiveConfig, LiveForecaster, open

__all__ = ["LiveConfig", "LiveForecaster", "open"]
