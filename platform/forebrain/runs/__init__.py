"""Runs: their folder, pretraining with its evaluation, and what a run came to."""
