"""The model card: Markdown with the front matter that the Hugging Face Hub reads."""

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


def make_card(name: str, metadata: Metadata) -> str:
    """A card that says what the metadata says."""
    lines = [front_matter(name, metadata), f"# {name}", ""]
    if metadata.summary:
        lines += [metadata.summary, ""]
    lines += [
        "A forebrain backbone: it forecasts neurons' activity. Fit an interface for the neurons of your own "
        "recording to it; the backbone stays as it is. `version.json` beside this card holds the config, the "
        "preprocessing and every session it was trained on.",
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
