"""The model card, Markdown for people, and the front matter that the Hugging Face Hub reads of a card."""

from __future__ import annotations

from typing import Any

from forebrain_registry.records import Metadata

# Identifiers of the Hub's list of licences; any other is given as "other" with its name.
_HUB_LICENCES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0"),
    *("openrail", "unlicense"),
}
_MAX_LISTED = 50


def front_matter(name: str, metadata: Metadata) -> str:
    """The YAML block between `---` lines."""
    import yaml

    licence = metadata.licence.lower()
    head: dict[str, Any] = (
        {"license": licence}
        if licence in _HUB_LICENCES
        else {"license": "other", "license_name": metadata.licence}
    )
    head |= {
        "library_name": "forebrain",
        "pipeline_tag": "time-series-forecasting",
        "tags": list(dict.fromkeys(["neuroscience", *metadata.species, *metadata.tags])),
    }
    if metadata.metrics:
        head["model-index"] = [{"name": name, "results": _results(metadata)}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def make_card(name: str, metadata: Metadata, picture: str | None = None) -> str:
    """A card that says what the metadata says, first of all what the model is for and how good it is.

    Args:
        name: of the model.
        metadata: of the version.
        picture: path of a picture of its forecasts, within the version.
    """
    lines = [f"# {name}", "", _opening(metadata), ""]
    if picture is not None:
        lines += [
            f"![Forecasts of single neurons]({picture})",
            "",
            "*Neurons of a test recording, those of which the model explains most on top: what they did "
            "(black), what the model had said (colour), and the last frame repeated (dashed).*",
            "",
        ]
    lines += [
        "## Use it",
        "",
        "```python",
        "import forebrain as fb",
        "",
        f'backbone = fb.load("{name}", registry="...")',
        'adapted = backbone.adapt(fb.read("recording.nwb"))',
        "```",
        "",
        "Adapting fits a vector for each of your neurons; the backbone stays as it is. `version.json` beside "
        "this card holds the config, the preprocessing and every session that it was trained on.",
        "",
    ]
    if metadata.metrics:
        lines += ["## Scores", "", "| metric | value | interval | split | data |", "|---|---|---|---|---|"]
        for metric in metadata.metrics:
            interval = (
                "" if metric.low is None else f"{metric.low:.3f} to {metric.high:.3f} {metric.interval}"
            )
            cells = (
                metric.name,
                f"{metric.value:.3f}",
                interval.strip(),
                metric.split,
                metric.dataset or "all",
            )
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        lines.append("")
    lines += ["## Trained on", ""]
    lines += [
        f"{len(metadata.sessions)} sessions of {len(metadata.subjects)} subjects; scores on any of them "
        "do not show how it does on new animals.",
        "",
        f"- species: {_listed(metadata.species)}",
        f"- rates: {_listed([f'{rate:g} Hz' for rate in metadata.rates_hz])}",
        f"- datasets: {_listed(metadata.datasets)}",
        f"- subjects: {_listed(metadata.subjects)}",
        "",
        "## Origin",
        "",
        f"- licence: {metadata.licence}",
    ]
    origin = {"parent": metadata.parent, "run": metadata.run_id, "code": metadata.code_version}
    lines += [f"- {what}: {value}" for what, value in origin.items() if value]
    return "\n".join(lines) + "\n"


def _opening(metadata: Metadata) -> str:
    """A paragraph: what it forecasts, what it was trained on, how good it is."""
    rates = metadata.rates_hz
    ends = " to ".join(dict.fromkeys(f"{rate:.3g}" for rate in rates[:1] + rates[-1:]))
    at = f" at {ends} Hz" if rates else ""
    species = ", ".join(metadata.species[:4]) + (" and others" if len(metadata.species) > 4 else "")
    sentences = [
        "A forebrain backbone, which forecasts the activity of single neurons from the recent past of the "
        "whole recorded population.",
    ]
    if metadata.sessions:
        sentences.append(
            f"It was trained on {len(metadata.sessions)} recordings of {len(metadata.subjects)} animals "
            f"({species}){at}."
        )
    score, linear = metadata.of_test(), metadata.of_test("score of linear")
    if score is not None:
        interval = "" if score.low is None else f" (95 % interval {score.low:.3f} to {score.high:.3f})"
        beside = "" if linear is None else f", and a linear map {linear.value:.3f}"
        sentences.append(
            f"On the test part of these recordings it scores {score.value:.3f}{interval}, where repeating "
            f"the last frame scores 0{beside}; 1 is perfect."
        )
    if metadata.summary:
        sentences.append(metadata.summary.rstrip(".") + ".")
    return " ".join(sentences)


def _results(metadata: Metadata) -> list[dict[str, Any]]:
    return [
        {
            "task": {"type": "time-series-forecasting"},
            "dataset": {
                "name": metric.dataset or "all",
                "type": metric.dataset or "all",
                "split": metric.split,
            },
            "metrics": [{"type": metric.name, "value": metric.value}],
        }
        for metric in metadata.metrics
    ]


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return ", ".join(items[:_MAX_LISTED]) + more or "not stated"
