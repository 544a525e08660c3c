"""Pages: one file that opens anywhere, asks for nothing, escapes what is hostile, and stays small."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import forebrain as fb
from adaptation.conftest import CONFIG
from forebrain.adaptation.adapted import Adapted
from forebrain.errors import AdaptationError, CheckpointError, ConfigError, ForebrainError
from forebrain.pages import charts
from forebrain.pages.adaptation import write_adaptation
from forebrain.pages.build import picture
from forebrain.pages.catalogue import as_ranges, without_front_matter, write_catalogue
from forebrain.pages.side_by_side import MAX_PICTURED, labels_of, thinned, write_side_by_side
from forebrain_registry import Metadata, Metric, Registry, SeenSession, layout, publish
from pages.conftest import HOSTILE, WEIGHTS

MAX_BYTES = 2_000_000


class Elements(HTMLParser):
    """The tags of a page with their attributes, and what it shows as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(address: str) -> tuple[str, Elements]:
    """A page and its elements, after a look that a browser would fetch nothing for it."""
    path = Path(address)
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < MAX_BYTES, path.stat().st_size
    found = Elements(page)
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "audio", "video"), tag
        for name in ("src", "srcset", "poster", "data", "background"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert not (attributes.get("href") or "#").lower().startswith(("javascript:", "data:")), attributes
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", page)
    assert "default-src 'none'" in page
    scripts = [tag for tag, _ in found.tags if tag == "script"]
    assert len(scripts) == 1
    return page, found


@pytest.mark.parametrize("count", [0, 1, pytest.param(100, marks=pytest.mark.slow)])
def test_a_catalogue_of_none_one_or_a_hundred_models_is_one_small_file(
    count: int, publish_many: Callable[..., Registry], tmp_path: Path
) -> None:
    registry = publish_many(count)
    registry.writer().write(layout.blob_name("ab" * 32), b"")  # of a publisher that was killed
    page, found = checked(write_catalogue(registry.uri, str(tmp_path / "page")))
    models = [attributes for tag, attributes in found.tags if tag == "details"]
    assert len(models) == count
    if count == 0:
        assert "Nothing is published here yet" in found.text
        return
    assert models[0]["data-name"] == "model0" and json.loads(models[0]["data-species"]) == ["celegans"]
    assert f"forebrain adapt --model model0@1 --registry {registry.uri}" in found.text
    animals = json.loads(re.search(r"const ANIMALS = (.*);", page)[1])
    seen = json.loads(re.search(r"const SEEN = (.*);", page)[1])
    who = [animals[at] for first, last in seen["model0"] for at in range(first, last + 1)]
    assert sorted(who) == sorted([f"lab{n % 3}", f"celegans-{n}", "celegans"] for n in range(40))
    if count == 100:
        assert "model3@1 ← model2@1 ← model1@1 ← model0@1" in re.sub(r"\s+", " ", found.text)


def test_rows_of_scores_that_are_left_out_are_counted(
    publish_many: Callable[..., Registry], tmp_path: Path
) -> None:
    scores = [Metric("score", 0.1, dataset=f"lab{number}") for number in range(15)]
    registry = publish_many(1, metrics=tuple(scores))
    _, found = checked(write_catalogue(registry.uri, str(tmp_path / "page")))
    assert "test, lab11" in found.text and "test, lab12" not in found.text
    assert "and 3 more rows, which" in found.text


def test_versions_aliases_and_deprecations_are_shown(
    publish_many: Callable[..., Registry], tmp_path: Path
) -> None:
    publish_many(1)
    registry = publish_many(1, licence="MIT")
    registry.set_alias("model0", "champion", 1)
    registry.deprecate("model0", 2, "trained on the test set")
    text = checked(write_catalogue(registry.uri, str(tmp_path / "page")))[1].text
    assert "champion" in text and "deprecated: trained on the test set" in text and "model0@1" in text


def test_names_that_are_code_stay_text(publish_many: Callable[..., Registry], tmp_path: Path) -> None:
    seen = (SeenSession(HOSTILE, HOSTILE, "one", HOSTILE, 2.0),)
    registry = publish_many(1, sessions=seen, summary=HOSTILE, licence=HOSTILE, parent=None)
    registry.deprecate("model0", 1, HOSTILE)
    _, found = checked(write_catalogue(registry.uri, str(tmp_path / "page")))
    assert found.text.count(HOSTILE) >= 3  # braces too: no template was made of it
    assert not [tag for tag, _ in found.tags if tag == "img"]
    (model,) = [attributes for tag, attributes in found.tags if tag == "details"]
    assert json.loads(model["data-species"]) == [HOSTILE]


def test_a_card_fetches_no_picture_and_runs_nothing(
    registry: Registry, publish_many: Callable[..., Registry], tmp_path: Path
) -> None:
    card = (
        "---\nlicense: mit\n---\n# worms\n\n![x](http://evil/x.png)\n"
        "[a](javascript:alert(1)) <b onclick=alert(1)>b</b>\n" + "long " * 3000
    )
    metadata = Metadata(licence="MIT", config={}, preprocessing={})
    publish(registry, "worms", {"model.safetensors": WEIGHTS, "README.md": card.encode()}, metadata)
    _, found = checked(write_catalogue(registry.uri, str(tmp_path / "page")))
    assert "license: mit" not in found.text and "characters more" in found.text
    assert "![x]" not in found.text and not [tag for tag, _ in found.tags if tag in ("img", "b")]


@pytest.mark.parametrize("count", [0, 1, pytest.param(100, marks=pytest.mark.slow)])
def test_none_one_or_a_hundred_runs_fit_on_a_page(
    count: int, make_run: Callable[..., str], tmp_path: Path
) -> None:
    runs = [make_run(f"run{n}", seed=n, finished=n != 7) for n in range(count)]
    _, found = checked(write_side_by_side(runs, str(tmp_path / "page")))
    boxes = [1 for tag, attributes in found.tags if attributes.get("type") == "checkbox"]
    assert len(boxes) == count
    if count == 0:
        assert "There is no run to show" in found.text
    pictures = [attributes["src"] for tag, attributes in found.tags if tag == "img"]
    assert len(pictures) == 2 * min(count, MAX_PICTURED)
    if count == 100:
        assert "not finished" in found.text


def test_runs_side_by_side_tell_what_differs_and_what_each_scores(
    make_run: Callable[..., str], tmp_path: Path
) -> None:
    runs = [make_run("wide", model={"name": "poco", "width": 96}), make_run("mlp", model={"name": "mlp"})]
    _, found = checked(write_side_by_side(runs, str(tmp_path / "page")))
    text = re.sub(r"\s+", " ", found.text)
    assert "model.width" in text and "model.name" in text and "training.steps" not in text
    assert "POCO" in text and "MLP" in text
    scored = json.loads((Path(runs[0]) / "result.json").read_text())["test"]
    assert f"{scored['score']:.3f}".replace("-", "−") in text
    assert "lab/animal0/one" in text
    shown = {attributes.get("data-series") for tag, attributes in found.tags if tag == "polyline"}
    assert {"0", "1"} <= shown


def test_a_run_of_a_hostile_name_is_shown_as_text(make_run: Callable[..., str], tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "_")
    _, found = checked(write_side_by_side([make_run(name)], str(tmp_path / "page")))
    assert name in found.text


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no run"):
        write_side_by_side([str(tmp_path)], str(tmp_path / "page"))
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    "result", [[], 3, {"test": "x"}, {"test": []}, {"test": {"score": "high"}}, {"test": {"score": 0.2}}]
)
def test_a_damaged_result_is_an_error_that_names_the_run(
    result: object, make_run: Callable[..., str], tmp_path: Path
) -> None:
    runs = [make_run("whole"), make_run("torn")]
    (Path(runs[1]) / "result.json").write_text(json.dumps(result))
    with pytest.raises(CheckpointError, match=r"torn/result\.json: damaged"):
        write_side_by_side(runs, str(tmp_path / "page"))


def test_a_loss_that_is_text_is_left_out_and_said(
    make_run: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run("torn")
    with (Path(run) / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "step", "step": 201, "loss": "low"}\n')
    write_side_by_side([run], str(tmp_path / "page"))
    assert "torn/metrics.jsonl: 1 damaged line is left out" in caplog.text


@pytest.fixture
def adapted(
    publish_backbone: Callable[..., str], registry: Registry, make_adapted: Callable[..., Adapted]
) -> Adapted:
    return make_adapted(fb.load(publish_backbone(), registry=registry.uri))


@pytest.mark.usefixtures("ascii_locale")
def test_an_adaptation_that_was_not_scored_has_a_page(adapted: Adapted, tmp_path: Path) -> None:
    adapted.save(tmp_path / "worm9")
    address = write_adaptation(str(tmp_path / "worm9"), str(tmp_path / "page"))
    assert address.endswith("/lab-worm9-day1.html")
    assert "was not scored" in checked(address)[1].text


def test_an_adaptation_in_one_file_tells_its_verdict_units_and_pictures(
    publish_backbone: Callable[..., str], registry: Registry, walk: Callable, tmp_path: Path
) -> None:
    backbone = fb.load(publish_backbone(), registry=registry.uri)
    session = dataclasses.replace(walk(5, num_frames=400), subject=HOSTILE)
    made = backbone.adapt(session, "none", progress=False)
    made.report(tmp_path / "mine")
    address = write_adaptation(str(tmp_path / "mine"), str(tmp_path / "page"))
    _, found = checked(address)
    assert made.score is not None and made.score.verdict in found.text and HOSTILE in found.text
    assert len([1 for tag, _ in found.tags if tag == "img"]) == 2
    assert re.fullmatch(r"lab-[A-Za-z0-9._-]+-one\.html", Path(address).name)
    assert CONFIG.horizon == 4


def test_what_is_no_adaptation_or_damaged_is_refused(adapted: Adapted, tmp_path: Path) -> None:
    with pytest.raises(AdaptationError, match="no adaptation here"):
        write_adaptation(str(tmp_path), str(tmp_path / "page"))
    folder = adapted.save(tmp_path / "worm9")
    (folder / "evaluation.json").write_text(json.dumps({"units": []}))
    with pytest.raises(AdaptationError, match="damaged"):
        write_adaptation(str(folder), str(tmp_path / "page"))
    (folder / "evaluation.json").unlink()
    record = json.loads((folder / "adaptation.json").read_text())
    del record["horizon"]
    (folder / "adaptation.json").write_text(json.dumps(record))
    with pytest.raises(AdaptationError, match="damaged"):
        write_adaptation(str(folder), str(tmp_path / "page"))


def test_a_page_is_replaced_only_where_that_is_asked_for(
    publish_many: Callable[..., Registry], tmp_path: Path
) -> None:
    out, registry = str(tmp_path / "page"), publish_many(1)
    write_catalogue(registry.uri, out)
    publish_many(2)
    with pytest.raises(ConfigError, match="--overwrite"):
        write_catalogue(registry.uri, out)
    write_catalogue(registry.uri, out, overwrite=True)


def test_a_registry_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ForebrainError, match="there is no registry"):
        write_catalogue(str(tmp_path / "file"), str(tmp_path / "page"))


def test_labels_tell_runs_of_one_name_apart() -> None:
    assert labels_of(["/a/x/run", "/a/y/run", "s3://b/z"]) == ["x/run", "y/run", "z"]


def test_long_curves_are_thinned_to_their_mean_and_keep_their_end() -> None:
    points = [(step, float(step)) for step in range(1, 1001)]
    few = thinned(points, 10)
    assert len(few) == 10 and few[0] == (100, 50.5) and few[-1][0] == 1000
    assert thinned(points, 10, mean=False)[-1] == (1000, 1000.0)
    assert thinned([(1, None), (2, 3.0)], 10) == [(2, 3.0)]


def test_numbers_in_runs_are_kept_as_ranges() -> None:
    assert as_ranges((1, 2, 3, 7, 9, 10)) == [[1, 3], [7, 7], [9, 10]] and as_ranges(()) == []


def test_charts_leave_out_what_is_undefined_and_escape_names() -> None:
    line = charts.Line(HOSTILE, "#000", [(0, 1.0), (1, None), (2, float("nan")), (3, 2.0)])
    drawn = charts.line_chart([line], "x", "y")
    assert drawn.count("<polyline") == 1 and "<img" not in drawn
    assert len(re.search(r'points="([^"]*)"', drawn)[1].split()) == 2
    assert "nothing to draw" in charts.dot_rows([("a", [charts.Dot("b", "#000", None)])], "x")
    assert "NaN" not in drawn and "nan" not in drawn


def test_a_picture_is_made_small_enough() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8))
    stream = io.BytesIO()
    noise.save(stream, "PNG")
    assert len(picture(stream.getvalue(), 60_000)) < 61_000 < len(picture(stream.getvalue(), 10**7))


def test_a_card_is_shown_without_its_yaml() -> None:
    assert without_front_matter("---\na: 1\n---\n# T\n---\nx") == "# T\n---\nx"
    assert without_front_matter("# T") == "# T"
