"""A study's report: one HTML page without anything outside it, the same as Markdown, tables as CSV, and the
trials in TensorBoard's HParams."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console

from forebrain.evaluation.tables import Cell as TableCell
from forebrain.evaluation.tables import Table
from forebrain.scoring.baselines import BASELINES
from forebrain.sealed import plain_json
from forebrain.studies.effects import cells_of, mean_with_interval
from forebrain.studies.kept import RESULTS
from forebrain.studies.remarks import Remarks
from forebrain.studies.study import MODEL, Outcome, left_out
from forebrain_registry.lines import one_line
from forebrain_registry.storage import Folder

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.verdict { font-size: 1.1rem; border-left: 4px solid #0072b2; padding: .3rem 0 .3rem 1rem; margin: 1rem 0 }
.gaps { border-left: 4px solid #d55e00; padding: .1rem 0 .1rem 1rem }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
td, th { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: left } th { border-color: #888 }
td.number, th.number { text-align: right } img { max-width: 100% } .scroll { overflow-x: auto }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; font-size: .8rem } .muted { color: #767676 }
"""


@dataclass(frozen=True)
class Picture:
    """A figure: a name fit for a file, its PNG, and what it shows."""

    name: str
    data: bytes
    caption: str


@dataclass(frozen=True)
class StudyReport:
    """The content of a study's report.

    Attributes:
        title: what was studied.
        verdict: what follows, in sentences.
        pictures, tables: in the order they are read.
        notes: how the numbers came about, a sentence each.
        gaps: trials and sessions without a result, and why, a line each.
        command: the exact command.
        values: everything in numbers, for results.json.
        remarks: what a reader should know before the numbers, a sentence each.
    """

    title: str
    verdict: tuple[str, ...]
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    gaps: tuple[str, ...]
    command: str
    values: dict[str, Any]
    remarks: tuple[str, ...] = ()


def write_report(folder: Folder, report: StudyReport) -> None:
    """Writes report.html, report.md, results.json, and pictures and tables beside them."""
    folder.write("report.html", to_html(report).encode())
    folder.write("report.md", to_markdown(report).encode())
    folder.write(RESULTS, plain_json(report.values))
    for picture in report.pictures:
        folder.write(f"{picture.name}.png", picture.data)
    for table in report.tables:
        folder.write(f"{table.name}.csv", table.to_csv().encode())


def publish(out: str, report: StudyReport, outcomes: Sequence[Outcome], console: Console) -> None:
    """Writes the report and TensorBoard's HParams into the study's folder, and prints what matters."""
    folder, remarks = Folder(out), Remarks(console)
    for outcome in outcomes:
        if outcome.result is not None:
            remarks.run(outcome.result, "trials")
    report = replace(
        report,
        gaps=(*(left_out(folder) or ()), *report.gaps),
        remarks=(*report.remarks, *remarks.versions()),
    )
    write_report(folder, report)
    write_hparams(folder, outcomes)
    for gap in report.gaps:
        console.print(f"without a result: {gap}")
    console.print(report.tables[0].to_rich())
    for sentence in report.verdict:
        console.print(sentence)
    console.print(f"Report: {folder.uri_of('report.html')}")


def to_html(report: StudyReport) -> str:
    """One page that needs no other file; its pictures are in it."""
    parts = [
        f"<h1>{html.escape(report.title)}</h1>",
        *(f'<p class="verdict">{html.escape(sentence)}</p>' for sentence in report.verdict),
    ]
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in report.remarks]
    if report.gaps:
        items = "".join(f"<li>{html.escape(gap)}</li>" for gap in report.gaps)
        parts.append(f'<div class="gaps"><p>Without a result:</p><ul>{items}</ul></div>')
    for picture in report.pictures:
        data = base64.b64encode(picture.data).decode()
        caption = html.escape(picture.caption)
        parts.append(
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f'<figcaption class="muted">{caption}</figcaption></figure>'
        )
    parts += [_html_table(table) for table in report.tables]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.notes)
    parts.append(f"<h2>How it was done</h2><ul>{notes}</ul><pre>{html.escape(report.command)}</pre>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(report.title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def to_markdown(report: StudyReport) -> str:
    """The report as Markdown, for a repository; its pictures lie beside it."""
    lines = [f"# {one_line(report.title)}", ""]
    for sentence in report.verdict:
        lines += [f"**{one_line(sentence)}**", ""]
    for sentence in report.remarks:
        lines += [one_line(sentence), ""]
    if report.gaps:
        lines += ["Without a result:", "", *(f"- {one_line(gap)}" for gap in report.gaps), ""]
    for picture in report.pictures:
        lines += [f"![{picture.caption}]({picture.name}.png)", ""]
    for table in report.tables:
        lines += [table.to_markdown()]
    lines += ["### How it was done", "", *(f"- {note}" for note in report.notes), ""]
    lines += ["```", report.command, "```", ""]
    return "\n".join(lines)


def _html_table(table: Table) -> str:
    right = table.right_aligned()

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if to_right else ''}>{html.escape(cell)}</{tag}>"
            for cell, to_right in zip(cells, right, strict=True)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.texts())
    return (
        f'<h2>{html.escape(table.title)}</h2><div class="scroll"><table><thead><tr>'
        f"{row(table.columns, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def variants_table(outcomes: Sequence[Outcome], part: str) -> Table:
    """A row for each variant: its score beside the baselines', and what it cost."""
    rows: list[tuple[TableCell, ...]] = []
    for variant in dict.fromkeys(outcome.trial.variant for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.trial.variant == variant]
        results = [outcome.result for outcome in own if outcome.result is not None]
        score, low, high = mean_with_interval(cells_of(own, variant, part))
        baselines = [mean_with_interval(cells_of(own, variant, part, name))[0] for name in BASELINES]
        rows.append(
            (
                variant,
                f"{len(results)} of {len(own)}",
                len({session for _, session in cells_of(own, variant, part)}),
                *map(defined, (score, low, high, *baselines)),
                results[0]["backbone_parameters"] if results else None,
                round(sum(result["seconds"] for result in results)) if results else None,
            )
        )
    return Table(
        "variants",
        f"{part}: mean score over seeds and sessions, 95 % interval, and the baselines on the same windows",
        ("variant", "trials", "sessions", "score", "low", "high", *BASELINES, "parameters", "seconds"),
        tuple(rows),
    )


def trials_table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each trial, those without a result too."""
    rows: list[tuple[TableCell, ...]] = []
    for outcome in outcomes:
        result = outcome.result or {}
        scores = [(result.get(part) or {}).get("score") for part in ("validation", "test")]
        rows.append(
            (outcome.trial.label, outcome.status, *scores, result.get("best_step"), result.get("seconds"))
        )
    return Table(
        "trials",
        "Trials (score over all sessions of each)",
        ("trial", "status", "validation", "test", "best step", "seconds"),
        tuple(rows),
    )


def gaps_of(outcomes: Sequence[Outcome], part: str) -> tuple[str, ...]:
    """Trials without a result, and sessions whose score is undefined, a line each."""
    lines = []
    for outcome in outcomes:
        if outcome.result is None:
            lines.append(f"{outcome.trial.label}: {outcome.status}: {' '.join(outcome.text.split())}")
        elif not outcome.by_session(part):
            lines.append(f"{outcome.trial.label}: finished, and its {part} score is undefined")
        for session in (outcome.result or {}).get(part, {}).get("sessions_without_score", []):
            lines.append(f"{outcome.trial.label}: {session} has no score, because nothing in it moves")
        for session in (outcome.result or {}).get("sessions_not_trained", []):
            lines.append(f"{outcome.trial.label}: {session} has no training window")
    return tuple(lines)


def write_hparams(folder: Folder, outcomes: Sequence[Outcome]) -> None:
    """The finished trials for TensorBoard's HParams: what differs between them, and their scores.

    Where TensorBoard is not installed nothing is written.
    """
    try:
        from forebrain.training.board import Board
    except ImportError:
        return
    folder.remove("tensorboard")
    options = {id(outcome): _flat(outcome.trial.config.identity()) for outcome in outcomes}
    keys = {key for flat in options.values() for key in flat}
    varied = sorted(key for key in keys if len({repr(flat.get(key)) for flat in options.values()}) > 1)
    board = Board(folder.child("tensorboard"))
    for outcome in outcomes:
        if outcome.result is None:
            continue
        flat = options[id(outcome)]
        values = {key: flat.get(key) for key in varied}
        hparams = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in values.items()
        }
        metrics = {
            f"score/{part}": outcome.result[part]["score"]
            for part in ("validation", "test")
            if outcome.result[part]["score"] is not None
        }
        name = outcome.trial.config.out.split("/trials/", 1)[-1]
        board.add_hparams({"variant": outcome.trial.variant, **hparams}, metrics, run_name=name)
    board.close()


def outcome_values(outcomes: Sequence[Outcome], part: str) -> list[dict[str, Any]]:
    """The trials as plain values, for results.json."""
    return [
        {
            "variant": outcome.trial.variant,
            "seed": outcome.trial.seed,
            "target": outcome.trial.target,
            "status": outcome.status,
            "text": outcome.text,
            "part": part,
            "scores": {name: outcome.by_session(part, name) for name in (MODEL, *BASELINES)},
        }
        for outcome in outcomes
    ]


def defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
