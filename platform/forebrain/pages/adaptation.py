"""One adaptation as a page to mail: its verdict, scores, units and pictures, and how to use it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from forebrain import plotting
from forebrain.adaptation.artifact import EVALUATION, RESULT, read_record, read_scores
from forebrain.errors import AdaptationError
from forebrain.pages import charts
from forebrain.pages.build import picture, write_page
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.evaluate import Evaluation
from forebrain.scoring.units import FAVOURS
from forebrain_registry.storage import path_here

_PICTURES = {
    "forecast_traces": "What single neurons did, and what had been forecast",
    "population_raster": "The population: what it did, what had been forecast, and the difference",
}
_PICTURE_BYTES = 420_000
_MAX_UNITS = 400


def write_adaptation(adapted: str, out: str, overwrite: bool = False) -> str:
    """Writes the page of an adaptation.

    Args:
        adapted: its folder.
        out: a folder or s3://bucket/folder.
        overwrite: replace a page of the same name.

    Returns:
        The page's address.

    Raises:
        AdaptationError: there is no adaptation in the folder, or what it holds is damaged.
        ForebrainError: the page cannot be written.
    """
    folder = path_here(adapted)
    content, record = read_record(folder)
    result, evaluation = (read_scores(folder, name, content) for name in (RESULT, EVALUATION))
    try:
        units = _units((evaluation or {}).get("units"))
        names = (record["dataset"], record["subject"], record["session"])
        return write_page(
            out,
            f"{re.sub('[^A-Za-z0-9._-]+', '-', '-'.join(names)).strip('-.')}.html",
            "adapted.html",
            overwrite,
            id="/".join(names),
            record=record,
            result=result,
            horizon=_horizon_text(record),
            chart=_scores(result) if result else Markup(""),
            by_horizon=_by_horizon(Evaluation.from_json(evaluation), record) if evaluation else Markup(""),
            columns=list(units[0]) if units else [],
            units=units[:_MAX_UNITS],
            num_units=len(units),
            favours=FAVOURS,
            pictures=dict(_pictures(folder)),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise AdaptationError(f"{folder}: damaged ({error!r:.200}); adapt again.") from error


def _pictures(folder: Path) -> Iterator[tuple[str, str]]:
    for name, what in _PICTURES.items():
        if (folder / f"{name}.png").exists():
            yield what, picture((folder / f"{name}.png").read_bytes(), _PICTURE_BYTES)


def _units(columns: Mapping[str, Sequence[Any]] | None) -> list[dict[str, Any]]:
    """The rows of the table of units, those first of which more is explained."""
    if columns is None:
        return []
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return sorted(
        rows, key=lambda row: -math.inf if row["explained"] is None else row["explained"], reverse=True
    )


def _horizon_text(record: Mapping[str, Any]) -> str:
    return plotting.duration(record["horizon"], record["rate_hz"])


def _scores(result: Mapping[str, Any]) -> Markup:
    """The adapted model beside all else that was tried."""
    low, high = result["interval"]
    named = {**result["others"], **result["baselines"]}
    rows: list[tuple[str, Sequence[charts.Dot]]] = [
        ("adapted", [charts.Dot("score", plotting.COLOURS["adapted"], result["score"], low, high)])
    ]
    colours = plotting.colours(list(named))
    for name in sorted(named, key=lambda name: -(named[name] if named[name] is not None else -9)):
        rows.append((name, [charts.Dot("score", colours[name], named[name])]))
    return charts.dot_rows(rows, "score on the test part (0 = copy, 1 = perfect)", label_width=150)


def _by_horizon(evaluation: Evaluation, record: Mapping[str, Any]) -> Markup:
    rate_hz = record["rate_hz"]
    lines = []
    names = [name for name in ("copy", "linear") if name in evaluation.scores] + evaluation.models
    colours = plotting.colours(names)
    for name in names:
        value, low, high = evaluation.summary(name).by_step("score")
        ahead = [(step + 1) / (rate_hz or 1) for step in range(len(value))]
        is_adapted = name not in BASELINES and name == evaluation.models[0]
        band = [] if not is_adapted else list(zip(ahead, low.tolist(), high.tolist(), strict=True))
        points = list(zip(ahead, value.tolist(), strict=True))
        lines.append(charts.Line(name, colours[name], points, band, "6 3" if name in BASELINES else ""))
    return charts.line_chart(lines, "seconds ahead" if rate_hz else "frames ahead", "score, test")
