"""The documentation as a site: every page is in its menu, and it builds without a warning."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"


def test_every_page_is_in_the_menu_and_the_menu_names_no_other() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    menu = re.findall(r": ([\w.-]+\.(?:md|ipynb))$", text.split("\nnav:")[1], re.MULTILINE)
    pages = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")}
    assert sorted(menu) == sorted(pages - {"LOG.md"})


def test_links_that_leave_the_site_become_names_of_files() -> None:
    hook = runpy.run_path(str(ROOT / "docs" / "site" / "hooks.py"))["on_page_markdown"]
    assert hook("see [test_plan.py](../tests/jobs/test_plan.py)") == "see `tests/jobs/test_plan.py`"
    assert hook("![a](results/x/y.png)") == "![a](results/x/y.png)"
    assert hook("[findings](LOG.md#one)") == "findings (`docs/LOG.md`)"
    assert (
        hook("[a page](live.md), [out](https://example.org)")
        == "[a page](live.md), [out](https://example.org)"
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if not MKDOCS.exists():
        pytest.skip("the site's own environment is not here; `make docs SERVE=` makes it")
    command = [str(MKDOCS), "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "frames to forecast, at most H" in page and 'Adapted.latest_window"' in page
    assert not re.search(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', page)
