"""Evaluation: a forecaster, windows and a part in; scores, tables and pictures out."""
