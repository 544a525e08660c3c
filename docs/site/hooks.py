"""Links that leave the documentation: on the site, files of the repository are named and not linked."""

from __future__ import annotations

import re
from typing import Any

# `[text](../platform/x.py)`, and what the site leaves out: `[text](LOG.md)`, `[text](results/x/report.md)`.
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./|LOG\.md|results/)[^)\s]*)\)")


def on_page_markdown(markdown: str, **given: Any) -> str:
    """A page without links to files that are not part of the site."""
    return _OUTSIDE.sub(_named, markdown)


def _named(found: re.Match[str]) -> str:
    text, target = found[1], found[2].removeprefix("../").split("#")[0]
    shown = text.strip("`")
    file = (
        target
        if target.startswith(("platform", "tests", "cluster", "jobs", "README", "CITATION"))
        else f"docs/{target}"
    )
    return f"`{file}`" if shown in file else f"{text} (`{file}`)"
