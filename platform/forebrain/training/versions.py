"""Versions of what results depend on."""

from __future__ import annotations

import functools
import importlib.metadata
import platform

_PACKAGES = ("forebrain", "torch", "ray", "deepspeed", "webdataset", "numpy", "safetensors")


@functools.cache
def _installed() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed, by name."""
    return dict(_installed())
