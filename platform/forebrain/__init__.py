"""forebrain: foundation models that forecast brain activity, trained over many animals.

    import forebrain as fb

    backbone = fb.load("worms")               # a published model, see fb.models()
    session = fb.read("worm9.nwb")            # or fb.Session.from_array(dff, rate_hz=30)
    adapted = backbone.adapt(session)
    adapted.forecast(session)                 # a data frame: seconds ahead x units
    adapted.save("worm9")                     # fb.open("worm9") another day

Each name is imported when it is first used, so that `import forebrain` costs nothing. What else is in the
package, room by room, is in docs/development.md.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebrain import live as live
    from forebrain.adaptation.adapted import Adapted as Adapted
    from forebrain.adaptation.backbone import Backbone as Backbone
    from forebrain.errors import ForebrainError as ForebrainError
    from forebrain.front import load as load
    from forebrain.front import models as models
    from forebrain.front import open as open
    from forebrain.front import read as read
    from forebrain.sessions.session import Session as Session
    from forebrain_registry import __version__ as __version__

# Public name -> the module that has it; a module by itself has its own name.
_PUBLIC = {
    "__version__": "forebrain_registry",
    "Adapted": "forebrain.adaptation.adapted",
    "Backbone": "forebrain.adaptation.backbone",
    "ForebrainError": "forebrain.errors",
    "Session": "forebrain.sessions.session",
    "live": "forebrain.live",
    "load": "forebrain.front",
    "models": "forebrain.models",
    "open": "forebrain.front",
    "read": "forebrain.front",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if _PUBLIC[name] == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


class _Package(ModuleType):
    """The package. Its room `models` has the name of a public function, so it can be called as one."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "models" and type(value) is ModuleType:
            value.__class__ = _Models
        super().__setattr__(name, value)


class _Models(ModuleType):
    """The room of models; called, it lists those of a registry."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("forebrain.front").models(*args, **kwargs)


sys.modules[__name__].__class__ = _Package
