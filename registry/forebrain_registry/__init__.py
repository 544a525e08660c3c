"""The model registry: publish, list, pull, verify. Imports neither Ray nor forebrain."""
