"""Benchmarks of the model, of training, adaptation and loading, beside what the machine can do."""
