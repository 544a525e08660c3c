"""A new animal on a published backbone: its interface is fitted, the backbone stays. Never imports Ray.

import forebrain as fb

adapted = fb.load("worms").adapt(fb.read("worm3.npz"))
forecast = adapted.forecast(window)  # [C, N] frames to the next [H, N]
"""
