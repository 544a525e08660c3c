"""A new animal on a published backbone: its interface is fitted, the backbone stays. Never imports Ray.

from forebrain.adaptation import Backbone, open_session

adapted = Backbone.from_registry("worms").adapt(open_session("worm3.npz"))
forecast = adapted.forecast(window)  # [C, N] frames to the next [H, N]
"""

from forebrain.adaptation.artifact import Adapted
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.recording import open_session

__all__ = ["Adapted", "Backbone", "open_session"]
