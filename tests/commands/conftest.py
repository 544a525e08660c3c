"""What adapting is tried on, for the commands that adapt."""

from __future__ import annotations

from adaptation.conftest import description, publish_backbone, registry

__all__ = ["description", "publish_backbone", "registry"]
