"""The folder that an adaptation leaves: what forecasts again, and a report of how good it is."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from forebrain.adaptation.artifact import finished, new_folder
from forebrain.adaptation.comparison import Comparison
from forebrain.errors import StorageError
from forebrain.evaluation import figures, tables
from forebrain.evaluation.examples import make_example
from forebrain.evaluation.report import UNITS_SHOWN
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.evoked import EVOKED_SHARE
from forebrain.scoring.units import FAVOURS
from forebrain_registry.lines import one_line
from forebrain_registry.storage import path_here


def save_comparison(comparison: Comparison, out: str | os.PathLike[str]) -> Path:
    """Writes adaptation, result.json, report.md and pictures; the folder appears whole or not at all.

    Raises:
        StorageError: there is something of that name, or the disk is full.
    """
    with new_folder(out) as folder:
        _write(comparison, folder)
    return path_here(out)


def finish_comparison(comparison: Comparison, folder: Path, out: str | os.PathLike[str]) -> None:
    """The same in a folder that was `begun` before the work, which is not lost where that cannot be filled.

    Raises:
        StorageError: it cannot; the error names the folder that has all instead.
    """
    try:
        with finished(folder, out):
            _write(comparison, folder)
    except StorageError as error:
        try:
            own = Path(tempfile.gettempdir(), f"forebrain-{uuid.uuid4().hex[:8]}")
            kept = save_comparison(comparison, own / path_here(out).name)
        except (OSError, StorageError):
            raise error from error.__cause__
        raise StorageError(
            f"{out}: could not be made ({error.__cause__ or error}). Its folder was moved or removed, its "
            "disk unmounted or filled, or something mounted or written there meanwhile. The adaptation is in "
            f"{kept}, whole; move it from there."
        ) from error


def _write(comparison: Comparison, folder: Path) -> None:
    comparison.artifact().write_into(folder)
    (folder / "units.csv").write_text(comparison.units().to_csv(), encoding="utf-8")
    _draw(comparison, folder)
    (folder / "report.md").write_text(_report(comparison), encoding="utf-8")


def _draw(comparison: Comparison, folder: Path) -> None:
    trained, session = comparison.trained, comparison.prepared.session
    curves = {comparison.name: trained.score_by_step}
    curves |= {name: other.score_by_step for name, other in comparison.others.items()}
    levels = {name: comparison.validation.summary(name).value("score") for name in BASELINES}
    figures.score_by_step(curves, levels, f"{session.id}, validation", folder / "score_by_step.png")
    drawn = comparison.advised()
    shown = {name: comparison.forecasters[name] for name in (drawn, "copy")}
    known = {comparison.name: comparison.calibration} if comparison.calibration is not None else {}
    known = {name: each for name, each in known.items() if name in shown}
    example = make_example(shown, comparison.prepared.windows, 0, "test", known)
    names = session.unit_names
    figures.forecast_traces(example, drawn, folder / "forecast_traces.png", names)
    figures.population_raster(example, drawn, example.horizon, folder / "population_raster.png", names)
    figures.score_by_horizon(comparison.test, folder / "score_by_horizon.png")


def _report(comparison: Comparison) -> str:
    backbone, trained, test = comparison.backbone, comparison.trained, comparison.test
    session, config = comparison.prepared.session, trained.model.config
    rate = "unknown rate" if session.rate_hz is None else f"{session.rate_hz:.4g} Hz"
    drawn, minutes = comparison.advised(), comparison.prepared.minutes
    known = "" if minutes is None else f", of which {minutes:.3g} minutes before validation are known"
    lines = [f"# {session.id} on {backbone.origin}", "", f"**{comparison.verdict()}**", ""]
    if comparison.leak:
        lines += [f"**Leak: {comparison.leak}.**", ""]
    if backbone.deprecated is not None:
        lines += [one_line(f"**{backbone.origin} is deprecated: {backbone.deprecated}**"), ""]
    lines += [
        f"{session.num_units} units, {session.num_frames} frames at {rate}; mode "
        f"{comparison.mode}, best after {trained.best_step} of {trained.score_by_step[-1][0]} steps by the "
        f"validation part, which took {trained.seconds:.1f} s. Protocol {backbone.description.protocol}"
        f"{known}; the test part was scored once, at the end.",
        "",
        tables.overview(test).to_markdown(),
        *([f"The pictures show {drawn}, which the verdict advises.", ""] if drawn != comparison.name else []),
        "![score by step](score_by_step.png)",
        "",
        "![forecasts](forecast_traces.png)",
        "",
        "![population](population_raster.png)",
        "",
        "![score by horizon](score_by_horizon.png)",
        "",
        tables.by_horizon(test).to_markdown(),
        f"{FAVOURS} All units are in [units.csv](units.csv).",
        "",
        tables.best_first(comparison.units(), "explained", UNITS_SHOWN).to_markdown(),
        *_inputs(comparison),
        *_intervals(comparison),
        "### What was found in the recording",
        "",
        *(f"- {each}" for each in comparison.findings() or ["nothing"]),
        "",
        "### Forecasting with it",
        "",
        "```python",
        "import forebrain as fb",
        "",
        'adapted = fb.open("this/folder")',
        f"forecast = adapted.forecast(frames)  # the last {config.context} frames [{config.context}, "
        f"{session.num_units}], raw -> [{config.horizon}, {session.num_units}]",
        "```",
        "",
        f"Model: `{backbone.origin.named}`",
    ]
    return "\n".join(lines) + "\n"


def _inputs(comparison: Comparison) -> list[str]:
    """The part of knowing the inputs, evoked and quiet windows apart; nothing where none are known."""
    scores = comparison.result()["inputs"]
    if scores is None or comparison.known is None:
        return []
    return [tables.known_inputs(scores, EVOKED_SHARE).to_markdown()]


def _intervals(comparison: Comparison) -> list[str]:
    """How right intervals are to be as sure as they are; nothing where there are none."""
    result = None if comparison.uncertainty is None else comparison.uncertainty.result(comparison.name)
    if comparison.calibration is None or result is None:
        return []
    note = comparison.calibration.record["note"]
    return [
        tables.intervals(comparison.name, result).to_markdown(),
        f"Calibrated on: {result['calibrated_on']}. {f'{note}. ' if note else ''}"
        "`adapted.forecast(frames, quantiles=[0.1, 0.5, 0.9])` gives them.",
        "",
    ]
