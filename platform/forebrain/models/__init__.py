"""Forecasting models behind one small contract. torch only: no Ray, no files."""
