"""A comparison of runs as a folder: report.md, CSV files, JSON and a picture."""

from __future__ import annotations

import json

import numpy as np

from forebrain.evaluation import figures
from forebrain.evaluation.tables import Cell, Table, or_none
from forebrain.out_folder import COMPARISON
from forebrain.runs.compare import Comparison
from forebrain.scoring.evaluate import Evaluation
from forebrain_registry.storage import Folder, scratch

REPORT = "report.md"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Scores of models x data sets as people read them, the same with all numbers, differences, and scores by
    horizon step.

    Raises:
        ConfigError: a baseline was not evaluated.
    """
    for evaluation in comparison.by_dataset.values():
        evaluation.require_baselines()
    return [_scores(comparison), _numbers(comparison), _differences(comparison), _by_horizon(comparison)]


def _scores(comparison: Comparison) -> Table:
    def cell(evaluation: Evaluation, label: str) -> Cell:
        if label not in evaluation.scores:
            return None
        scores = evaluation.summary(label)
        value, (low, high) = scores.value("score"), scores.bounds("score")
        if not np.isfinite(value):
            return None
        return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else "")

    columns = [
        f"{dataset} ({evaluation.summary('copy').num_sessions} sessions)"
        for dataset, evaluation in comparison.by_dataset.items()
    ]
    return Table(
        name="scores",
        title=f"{comparison.part}: score, mean over sessions [95 % interval by bootstrap over sessions; of "
        "one session over blocks of time]",
        columns=("forecaster", *columns),
        rows=tuple(
            (label, *(cell(evaluation, label) for evaluation in comparison.by_dataset.values()))
            for label in comparison.labels
        ),
    )


def _numbers(comparison: Comparison) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for dataset, evaluation in comparison.by_dataset.items():
        for label in comparison.labels:
            if label in evaluation.scores:
                scores = evaluation.summary(label)
                numbers = [
                    or_none(number)
                    for metric in ("score", "mae")
                    for number in (scores.value(metric), *scores.bounds(metric))
                ]
                rows.append((dataset, scores.num_sessions, scores.num_windows, label, *numbers))
    return Table(
        name="comparison",
        title=f"{comparison.part}: score and mean absolute error, with 95 % intervals",
        columns=(
            "dataset", "sessions", "windows", "forecaster", "score", "score low", "score high", "MAE",
            "MAE low", "MAE high",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def _differences(comparison: Comparison) -> Table:
    return Table(
        name="differences",
        title=f"{comparison.part}: differences in score, paired by session, with 95 % intervals by bootstrap "
        "over sessions",
        columns=("dataset", "forecaster", "less", "difference", "low", "high", "better in", "of sessions"),
        rows=tuple(
            (
                dataset,
                one,
                other,
                *(or_none(number) for number in (found.value, found.low, found.high)),
                found.num_better,
                found.num_sessions,
            )
            for dataset, one, other, found in comparison.differences()
        ),
    )


def _by_horizon(comparison: Comparison) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for dataset, evaluation in comparison.by_dataset.items():
        present = [label for label in comparison.labels if label in evaluation.scores]
        steps = {label: evaluation.summary(label).by_step("score")[0] for label in present}
        for step in range(evaluation.horizon):
            of_step = (or_none(steps[label][step]) if label in steps else None for label in comparison.labels)
            rows.append((dataset, step + 1, *of_step))
    return Table(
        name="by_horizon",
        title=f"{comparison.part}: score by horizon step (frames ahead)",
        columns=("dataset", "step", *comparison.labels),
        rows=tuple(rows),
    )


def write_comparison(comparison: Comparison, out: Folder) -> list[Table]:
    """Writes report.md, comparison.json, a CSV file for each table and comparison.png.

    Returns:
        The tables.

    Raises:
        ConfigError: a baseline was not evaluated; nothing is written.
    """
    made = comparison_tables(comparison)
    out.remove(REPORT)  # so that none is beside the tables of another, whatever ends this
    with scratch() as folder:
        picture = figures.models_by_dataset(
            comparison.by_dataset, comparison.labels, folder / "comparison.png"
        )
        out.write("comparison.png", picture.read_bytes())
    for table in made:
        out.write(f"{table.name}.csv", table.to_csv().encode())
    out.write(COMPARISON, json.dumps(comparison.to_json(), indent=1, allow_nan=False).encode())
    lines = [
        f"# {len(comparison.runs)} models on {comparison.part}",
        "",
        "Score = mean over sessions of 1 - MSE / MSE of copy on the same windows: 0 is copy, 1 is perfect.",
        "",
        "![scores by data set and by horizon](comparison.png)",
        "",
        *(table.to_markdown() for table in made if table.name != "comparison"),
    ]
    out.write(REPORT, "\n".join(lines).encode())
    return made
