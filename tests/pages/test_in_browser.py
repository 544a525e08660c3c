"""The pages in a real browser: they fit two widths, do what they promise to a hand, and fetch nothing."""

from __future__ import annotations

import json
import re
import subprocess
import unicodedata
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from chromium_window import CHROMIUM
from forebrain.pages.catalogue import write_catalogue
from forebrain.pages.side_by_side import write_side_by_side
from forebrain_registry import Registry, SeenSession

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fine_pictures")]
# What a hand would do comes before; what then is to be seen is left in the page, and read from it.
REPORT = """
<script>
window.addEventListener("load", () => {
  %s
  const seen = {
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    fetched: performance.getEntriesByType("resource").map((each) => each.name)
      .filter((name) => !name.startsWith("data:")),
    shown: [...document.querySelectorAll("details.model:not(.off)")].map((each) => each.dataset.name),
    flagged: [...document.querySelectorAll(".leak.bad")].map((each) => each.closest("details").dataset.name),
    hidden: [...document.querySelectorAll("[data-series].off")].map((each) => each.dataset.series),
    said: (document.getElementById("said") || {}).textContent,
    pictures: [...document.images].filter((each) => each.complete && each.naturalWidth > 200).length,
  };
  document.body.dataset.seen = JSON.stringify(seen);
});
</script></body>
"""
TYPE = 'for (const [id, text] of %s) { const field = document.getElementById(id); field.value = text; \
field.dispatchEvent(new Event("input")); }'


def look(page: str, width: int, hand: str = "") -> dict[str, Any]:
    """What a browser of a width shows of a page once a hand has done something."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here; Debian's is `apt-get install chromium`")
    path = Path(page)
    copy = path.with_name(f"seen-{width}.html")
    copy.write_text(path.read_text().replace('loading="lazy"', "").replace("</body>", REPORT % hand))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [
        "--virtual-time-budget=5000",
        f"--window-size={width},1000",
        f"--user-data-dir={path.parent}/profile",
    ]
    done = subprocess.run(
        [*command, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=300
    )
    assert not re.findall(r"CONSOLE.*", done.stderr), re.findall(r"CONSOLE.*", done.stderr)
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found is not None, done.stderr[-2000:]
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize("width", [1400, 500])
def test_a_catalogue_is_filtered_and_tells_who_has_seen_an_animal(
    width: int, publish_many: Callable[..., Registry], tmp_path: Path
) -> None:
    page = write_catalogue(publish_many(5).uri, str(tmp_path / "page"))
    seen = look(page, width)
    assert seen["wide"] <= 0 and seen["fetched"] == [] and len(seen["shown"]) == 5 and seen["flagged"] == []
    seen = look(page, width, TYPE % json.dumps([["animal", "lab1/celegans-1"]]))
    assert set(seen["flagged"]) == {"model0", "model4"} == set(seen["shown"][:2])
    assert seen["said"].startswith("2 of the 5 models shown were trained on an animal of that name")
    seen = look(page, width, TYPE % json.dumps([["species", "mouse"], ["rate", "4.6"]]))
    assert seen["shown"] == ["model2"]


def test_an_animal_is_found_however_its_accents_are_written(
    publish_many: Callable[..., Registry], tmp_path: Path
) -> None:
    apart, joined = (unicodedata.normalize(form, "Zoë") for form in ("NFD", "NFC"))
    seen_before = (SeenSession("lab", apart, "day0", "macaque"),)
    registry = publish_many(1, sessions=seen_before, summary=f"of {apart}")
    page = write_catalogue(registry.uri, str(tmp_path / "page"))
    seen = look(page, 1400, TYPE % json.dumps([["animal", joined], ["words", joined]]))
    assert seen["shown"] == seen["flagged"] == ["model0"]


@pytest.mark.parametrize("width", [1400, 500])
def test_a_run_is_hidden_from_the_charts_and_pictures_are_seen(
    width: int, make_run: Callable[..., str], tmp_path: Path
) -> None:
    runs = [make_run("one", seed=1), make_run("two", seed=2)]
    page = write_side_by_side(runs, str(tmp_path / "page"))
    seen = look(page, width, "document.querySelector('input[value=\"1\"]').click();")
    assert seen["wide"] <= 0 and seen["fetched"] == [] and seen["pictures"] == 4
    assert set(seen["hidden"]) == {"1"} and len(seen["hidden"]) > 5
