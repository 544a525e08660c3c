"""One folder that shows an evaluation: tables as Markdown and CSV, pictures as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from forebrain.evaluation import figures, tables
from forebrain.evaluation.examples import Example
from forebrain.scoring.evaluate import Evaluation
from forebrain.scoring.units import FAVOURS

UNITS_SHOWN = 12


def write_report(
    folder: Path,
    evaluation: Evaluation,
    example: Example,
    model: str,
    unit_names: Sequence[str] | None = None,
    units: tables.Table | None = None,
) -> Path:
    """Writes `report.md`, a CSV file for each table and four pictures into a folder.

    Args:
        folder: made where it is missing; files of the same names are replaced.
        evaluation: with the model and all baselines.
        example: a stretch of one session (`examples.typical_session` names one that flatters nobody).
        model: the forecaster the report is about.
        unit_names: of all units of the example's session, for the pictures; None numbers them.
        units: of the example's session, from `tables.by_unit`; whole as CSV, the best in the report.

    Returns:
        The path of `report.md`.

    Raises:
        ConfigError: a baseline or the model was not evaluated; nothing is written.
    """
    evaluation.require(model)
    made = tables.all_tables(evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    for table in (*made, *([units] if units else [])):
        (folder / f"{table.name}.csv").write_text(table.to_csv(), encoding="utf-8")
    step = example.horizon
    pictures = (
        figures.forecast_traces(example, model, folder / "forecast_traces.png", unit_names),
        figures.population_raster(example, model, step, folder / "population_raster.png", unit_names),
        figures.score_by_horizon(evaluation, folder / "score_by_horizon.png"),
        figures.score_by_session(evaluation, model, folder / "score_by_session.png"),
    )
    scored = sum(scores.num_windows for scores in evaluation.scores[model].values())
    available = sum(evaluation.windows_available.values())
    lines = [
        f"# {model} on {evaluation.part}",
        "",
        f"{scored} of {available} windows scored (seed {evaluation.seed}). Score = mean over sessions of "
        "1 - MSE / MSE of copy: 0 is copy, 1 is perfect.",
        "",
        FAVOURS,
        "",
    ]
    for names, what in (
        (evaluation.without_windows, "without a window in this part"),
        (evaluation.undefined, "in which nothing moves, so without a score"),
    ):
        if names:
            lines += [f"Sessions {what}: {', '.join(names)}.", ""]
    lines += [f"![{picture.stem.replace('_', ' ')}]({picture.name})\n" for picture in pictures]
    if units:
        best = tables.best_first(units, "explained", UNITS_SHOWN)
        made.append(replace(best, title=f"{example.session.id}, {best.title}"))
    report = folder / "report.md"
    text = "\n".join(lines) + "\n" + "\n".join(table.to_markdown() for table in made)
    report.write_text(text, encoding="utf-8")
    return report
