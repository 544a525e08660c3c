"""The catalogue of a registry as a page: every model with its scores, origin, card and animals.

What it knows of animals is in the page, so whether a model has seen one's own is asked without a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from forebrain.errors import ForebrainError
from forebrain.pages import charts
from forebrain.pages.build import picture, write_page
from forebrain.scoring.baselines import BASELINES
from forebrain_registry import Metadata, Metric, Registry, RegistryError, Version
from forebrain_registry.records import CARD, PICTURE

PAGE = "index.html"
_MAX_CARD_CHARS = 6_000
_MAX_FILE_BYTES = 4 * 2**20
_PICTURE_BYTES, _MOST_PICTURE_BYTES, _LEAST_PICTURE_BYTES = 900_000, 90_000, 12_000
_MODEL, _LINEAR, _MEAN, _COPY = "#0072b2", "#4d4d4d", "#ababab", "#8c8c8c"
_COLOURS = dict(zip(("model", *BASELINES), (_MODEL, _COPY, _MEAN, _LINEAR), strict=True))


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue.

    Attributes:
        version: the newest that is not deprecated, or the newest.
        versions: all, the newest first, with their aliases and why they are deprecated.
        lineage: references to what it was made from, the nearest first.
        card: HTML.
        picture: of its forecasts, as the address of an image within the page; "" for none.
        animals: positions in the catalogue's list of animals, of all versions together.
    """

    version: Version
    versions: tuple[tuple[Version, tuple[str, ...], str | None], ...]
    lineage: tuple[str, ...]
    card: Markup
    picture: str
    animals: tuple[int, ...]

    @property
    def metadata(self) -> Metadata:
        return self.version.metadata

    @property
    def deprecated(self) -> str | None:
        """Why, where every version is."""
        return next(why for version, _, why in self.versions if version is self.version)

    def test(self, name: str) -> Metric | None:
        """A figure of the test part over all data."""
        return self.metadata.of_test(name)

    @property
    def score(self) -> Metric | None:
        return self.test("score")

    @property
    def r2(self) -> float | None:
        """Against the units' training means."""
        found = self.test("R2")
        return None if found is None else found.value

    def figures(self) -> list[tuple[str, list[Metric | None]]]:
        """Rows of the table of scores, by part and data set: the model's, and those of the baselines."""
        places = dict.fromkeys((metric.split, metric.dataset) for metric in self.metadata.metrics)
        rows = []
        for split, dataset in places:
            found = {
                metric.name: metric
                for metric in self.metadata.metrics
                if (metric.split, metric.dataset) == (split, dataset)
            }
            names = ("score", *(f"score of {name}" for name in BASELINES))
            rows.append((f"{split}, {dataset or 'all data'}", [found.get(name) for name in names]))
        return rows

    def chart(self) -> Markup:
        """The scores of the test part beside the baselines."""
        rows = []
        for name in ("model", "linear", "copy", "mean"):
            metric = self.test("score" if name == "model" else f"score of {name}")
            if metric is not None:
                dot = charts.Dot(name, _COLOURS[name], metric.value, metric.low, metric.high)
                rows.append((self.version.name if name == "model" else name, [dot]))
        label = "score on the test part (0 = copy, 1 = perfect)"
        return charts.dot_rows(rows, label, width=520, label_width=130) if rows else Markup("")


def write_catalogue(registry: str, out: str, overwrite: bool = False) -> str:
    """Writes the page of a registry.

    Args:
        registry: a folder, s3://bucket/prefix or the address of a web host.
        out: a folder or s3://bucket/folder.
        overwrite: replace the page that is there.

    Returns:
        The page's address.

    Raises:
        ForebrainError: the registry cannot be read, or the page not be written.
    """
    try:
        opened = Registry(registry)
        animals: dict[tuple[str, str, str], int] = {}
        entries = sorted(entries_of(opened, animals), key=lambda entry: entry.version.name)
    except RegistryError as error:
        raise ForebrainError(str(error)) from error
    return write_page(
        out,
        PAGE,
        "registry.html",
        overwrite,
        address=opened.uri,
        entries=entries,
        names={str(version) for entry in entries for version, _, _ in entry.versions},
        animals=[list(animal) for animal in animals],
        seen={entry.version.name: as_ranges(entry.animals) for entry in entries},
        species=sorted({name for entry in entries for name in entry.metadata.species}),
    )


def entries_of(registry: Registry, animals: dict[tuple[str, str, str], int]) -> Iterator[Entry]:
    """Every model of a registry.

    Args:
        registry: where they are published.
        animals: gets data set, subject and species of every animal that a model was trained on.
    """
    everything = dict(registry.all_versions())
    by_name = {str(version): version for versions in everything.values() for version in versions}
    for name, versions in everything.items():
        deprecated = registry.deprecations(name)
        aliases = registry.aliases(name)
        good = [version for version in versions if version.number not in deprecated]
        newest = (good or versions)[-1]
        seen = dict.fromkeys(
            (session.dataset, session.subject, session.species)
            for version in versions
            for session in version.metadata.sessions
        )
        yield Entry(
            version=newest,
            versions=tuple(
                (
                    version,
                    tuple(alias for alias, number in aliases.items() if number == version.number),
                    deprecated.get(version.number),
                )
                for version in reversed(versions)
            ),
            lineage=tuple(_lineage(newest, by_name)),
            card=card_of(registry, newest),
            picture=picture_of(registry, newest, min(_MOST_PICTURE_BYTES, _PICTURE_BYTES // len(everything))),
            animals=tuple(sorted(animals.setdefault(animal, len(animals)) for animal in seen)),
        )


def picture_of(registry: Registry, version: Version, allowance: int) -> str:
    """The picture of a version's forecasts, where it has one and there is room for it."""
    stored = next((each for each in version.record.files if each.path == PICTURE), None)
    content = bytearray()
    if stored is None or stored.size_bytes > _MAX_FILE_BYTES or allowance < _LEAST_PICTURE_BYTES:
        return ""
    if registry.blob_problem(stored, content.extend):
        return ""
    try:
        return picture(bytes(content), allowance)
    except (OSError, ValueError):  # no picture, whatever its name says
        return ""


def card_of(registry: Registry, version: Version) -> Markup:
    """A version's card as HTML: no picture and no markup of its own, and not at any length."""
    stored = next((each for each in version.record.files if each.path == CARD), None)
    if stored is None:
        return Markup("<p>It has no card.</p>")
    if stored.size_bytes > _MAX_FILE_BYTES:
        return Markup("<p>Its card is too long to be shown here.</p>")
    content = bytearray()
    if problem := registry.blob_problem(stored, content.extend):
        return Markup("<p>Its card {}.</p>").format(problem)
    text = without_front_matter(content.decode("utf-8", "replace"))
    if len(text) > _MAX_CARD_CHARS:
        text = f"{text[:_MAX_CARD_CHARS]}\n\n*and {len(text) - _MAX_CARD_CHARS:,} characters more*"
    # The card is written by whoever publishes. No image of it is fetched, no tag of it is a tag.
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("image", lambda *given: "")
    return Markup(reader.render(text))


def without_front_matter(card: str) -> str:
    """A card without the YAML that it may begin or end with."""
    if card.startswith("---\n") and "\n---\n" in card[4:]:
        card = card[4:].split("\n---\n", 1)[1]
    return card.strip()


def as_ranges(numbers: tuple[int, ...]) -> list[list[int]]:
    """Numbers in rising order as [first, last] of each unbroken run."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs


def _lineage(version: Version, by_name: Mapping[str, Version]) -> Iterator[str]:
    seen: set[str] = set()
    at: Any = version
    while at is not None and at.metadata.parent and at.metadata.parent not in seen:
        seen.add(at.metadata.parent)
        yield at.metadata.parent
        at = by_name.get(at.metadata.parent)
