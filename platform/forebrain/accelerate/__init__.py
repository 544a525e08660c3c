"""Executors: faster forms of the models' equations, which science never imports."""
