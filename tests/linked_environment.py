"""Environments with a few of the packages that are installed here, linked and not copied."""

from __future__ import annotations

import importlib.metadata
import venv
from pathlib import Path

from packaging.requirements import Requirement


def environment_of(requirements: list[str], folder: Path) -> Path:
    """Makes an environment that has what is required, and all that this requires, and nothing else.

    Returns:
        Its folder of packages.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for distribution in closure(requirements).values():
        for top in {path.parts[0] for path in distribution.files or [] if path.parts[0] != ".."}:
            if not (site / top).exists() and top != "__pycache__":
                (site / top).symlink_to(distribution.locate_file(top))
    return site


def closure(requirements: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """Installed distributions by name: those required, and all that they require in turn."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        for extra in wanted.extras or {""}:
            key = f"{wanted.name.lower().replace('_', '-')}[{extra}]"
            if key in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
                continue
            found[key] = distribution = importlib.metadata.distribution(wanted.name)
            for text in distribution.requires or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    needed.marker = None
                    waiting.append(needed)
    return found
