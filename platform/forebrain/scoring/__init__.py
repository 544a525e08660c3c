"""The one scorer: protocols (splits), metrics, intervals. NumPy only."""
