"""Recordings: reading, checking, repairing. NumPy only: no torch, no Ray."""
