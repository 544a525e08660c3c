"""The folder that an adaptation leaves: what forecasts again, and a report of how good it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

from forebrain.adaptation.artifact import new_folder
from forebrain.adaptation.comparison import Comparison
from forebrain.evaluation import figures, tables
from forebrain.evaluation.examples import make_example
from forebrain.scoring.baselines import BASELINES

RESULT = "result.json"
EVALUATION = "evaluation.json"


def save_comparison(comparison: Comparison, out: str | os.PathLike[str]) -> Path:
    """Writes adaptation, result.json, report.md and pictures; the folder appears whole or not at all.

    Raises:
        StorageError: there is something of that name, or the disk is full.
    """
    with new_folder(out) as folder:
        comparison.adaptation.adapted.write_into(folder)
        (folder / RESULT).write_text(json.dumps(comparison.result(), indent=1, allow_nan=False))
        (folder / EVALUATION).write_text(json.dumps(comparison.test.to_json(), allow_nan=False))
        _draw(comparison, folder)
        (folder / "report.md").write_text(_report(comparison), encoding="utf-8")
    return Path(out)


def _draw(comparison: Comparison, folder: Path) -> None:
    trained, session = comparison.adaptation.trained, comparison.adaptation.prepared.session
    curves = {comparison.name: trained.score_by_step}
    curves |= {name: other.score_by_step for name, other in comparison.others.items()}
    levels = {name: comparison.validation.summary(name).value("score") for name in BASELINES}
    figures.score_by_step(curves, levels, f"{session.id}, validation", folder / "score_by_step.png")
    shown = {name: comparison.forecasters[name] for name in (comparison.name, "copy")}
    example = make_example(shown, comparison.adaptation.prepared.windows, 0, "test")
    figures.forecast_traces(example, comparison.name, folder / "forecast_traces.png", session.unit_names)
    figures.population_raster(example, comparison.name, example.horizon, folder / "population_raster.png")
    figures.score_by_horizon(comparison.test, folder / "score_by_horizon.png")


def _report(comparison: Comparison) -> str:
    adaptation, test = comparison.adaptation, comparison.test
    adapted, trained = adaptation.adapted, adaptation.trained
    rate = "unknown rate" if adapted.rate_hz is None else f"{adapted.rate_hz:.4g} Hz"
    lines = [f"# {adaptation.prepared.session.id} on {adapted.origin}", "", f"**{comparison.verdict()}**", ""]
    if comparison.leak:
        lines += [f"**Leak: {comparison.leak}.**", ""]
    lines += [
        f"{adapted.num_units} units, {adaptation.prepared.session.num_frames} frames at {rate}; mode "
        f"{adapted.mode}, best after {trained.best_step} of {trained.score_by_step[-1][0]} steps by the "
        f"validation part, which took {trained.seconds:.1f} s. Protocol {adapted.description.protocol}; the "
        "test part was scored once, at the end.",
        "",
        tables.overview(test).to_markdown(),
        "![score by step](score_by_step.png)",
        "",
        "![forecasts](forecast_traces.png)",
        "",
        "![population](population_raster.png)",
        "",
        "![score by horizon](score_by_horizon.png)",
        "",
        tables.by_horizon(test).to_markdown(),
        "### What was found in the recording",
        "",
        *(f"- {each}" for each in comparison.findings() or ["nothing"]),
        "",
        "### Forecasting with it",
        "",
        "```python",
        "from forebrain.adaptation import Adapted",
        "",
        'adapted = Adapted.load("this/folder")',
        f"forecast = adapted.forecast(frames)  # the last {adapted.context} frames [{adapted.context}, "
        f"{adapted.num_units}], raw -> [{adapted.horizon}, {adapted.num_units}]",
        "```",
        "",
        f"Model: `{adapted.model}`",
    ]
    return "\n".join(lines) + "\n"
