"""Comparison models."""
