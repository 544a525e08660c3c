"""Tables of an evaluation: for the terminal (rich), as Markdown and as CSV.

Every table shows the baselines beside the models.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forebrain import console
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.evaluate import Evaluation, require_baselines
from forebrain.scoring.metrics import UNIT_QUANTILES, Scores
from forebrain.scoring.units import TRUSTED, UnitScores
from forebrain.scoring.zapbench import SHOWN_STEPS, ZapbenchScores
from forebrain.scoring.zapbench_frames import HELD_OUT
from forebrain_registry.lines import one_line

Cell = str | int | float | None
_HEADLINE = ("score", "low", "high", "R²", "correlation", "MSE", "MAE")


@dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers are kept whole and rounded only where people read them.

    Attributes:
        name: a short name, fit for a file.
        title: what the table shows.
        columns: the column names.
        rows: cells; None stands for what is undefined.
        digits: behind the point, where people read them.
        keys: how many of the first columns name a row.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    digits: int = 3
    keys: int = 1

    def to_rich(self) -> console.Table:
        """The table for a terminal."""
        left = [column for column, right in enumerate(self.right_aligned()) if not right]
        table = console.Table(*self.columns, title=self.title, keys=self.keys, left=left)
        for row in self.texts():
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """A Markdown table, its columns aligned in the source too."""
        texts = [[self._text(cell).replace("|", "\\|") for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(3, *map(len, column)) for column in zip(*texts, strict=True)]
        right = self.right_aligned()

        def line(cells: Sequence[str]) -> str:
            padded = (
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(cells, widths, right, strict=True)
            )
            return "| " + " | ".join(padded) + " |"

        rule = [
            "-" * (width - 1) + (":" if to_right else "-")
            for width, to_right in zip(widths, right, strict=True)
        ]
        return (
            "\n".join([f"### {one_line(self.title)}", "", line(texts[0]), line(rule), *map(line, texts[1:])])
            + "\n"
        )

    def to_csv(self) -> str:
        """The table as CSV in full precision, with a header; undefined cells are empty."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return stream.getvalue()

    def texts(self) -> list[list[str]]:
        """The rows as people read them."""
        return [[self._text(cell) for cell in row] for row in self.rows]

    def _text(self, cell: Cell) -> str:
        if cell is None:
            return "–"
        return f"{cell:.{self.digits}f}" if isinstance(cell, float) else one_line(str(cell))

    def right_aligned(self) -> list[bool]:
        """For each column whether it holds numbers alone."""
        columns = range(len(self.columns))
        return [all(not isinstance(row[column], str) for row in self.rows) for column in columns]


def overview(evaluation: Evaluation) -> Table:
    """A row for each forecaster: score and interval, MSE, MAE, correlation."""
    names = _forecasters(evaluation)
    summaries = {name: evaluation.summary(name) for name in names}
    first = summaries[names[0]]
    means = {
        "sessions": f"mean over {first.num_sessions} sessions, 95 % interval by bootstrap over sessions",
        "blocks": "one session, 95 % interval by bootstrap over blocks of time",
        "none": "too few windows for an interval",
    }
    return Table(
        name="overview",
        title=f"{evaluation.part}: {means[first.interval]}",
        columns=("forecaster", *_HEADLINE),
        rows=tuple((name, *_headline(summaries[name], evaluation.r2(name))) for name in names),
    )


def intervals(name: str, result: Mapping[str, Any]) -> Table:
    """What intervals cover on the test part, beside the baselines'.

    Args:
        name: of the forecaster.
        result: the block `uncertainty` of result.json.
    """
    return Table(
        name="intervals",
        title="intervals on the test part: part of what came inside, mean width of 80 % intervals",
        columns=("forecaster", "50 %", "80 %", "90 %", "worst tenth, 80 %", "width", "MWQL", "CRPS"),
        rows=tuple(
            (
                label, *(block["coverage"][level] for level in ("0.5", "0.8", "0.9")),
                block["worst_tenth_coverage"]["0.8"], block["width"]["0.8"], block["mwql"], block["crps"],
            )
            for label, block in ((name, result), *result["baselines"].items())
        ),
    )  # fmt: skip


def known_inputs(scores: Mapping[str, Any], share: float) -> Table:
    """The score by what is known of the inputs, over all, evoked and quiet windows.

    Args:
        scores: the block `inputs` of result.json.
        share: of its range by which an input changes in an evoked window.
    """
    known = tuple(name for name in ("none", "past", "plan", "shuffled", "wrong") if name in scores)
    counts = {"evoked": scores["num_evoked"], "quiet": scores["num_windows"] - scores["num_evoked"]}
    return Table(
        name="inputs",
        title="score on the test part by what is known of the inputs; in evoked windows an event comes or an "
        f"input changes by more than {share:.0%} of its range in the horizon; `shuffled` and `wrong` have "
        "another window's plan, in training too and in the test alone",
        columns=("windows", "number", *known, "80 % interval of plan"),
        rows=(
            (
                "all", scores["num_windows"], *(scores[name] for name in known),
                scores["uncertainty"].get("plan", {}).get("coverage", {}).get("0.8"),
            ),
            *(
                (which, count, *(scores[which][name] for name in known), None)
                for which, count in counts.items()
            ),
        ),
    )  # fmt: skip


def by_session(evaluation: Evaluation) -> Table:
    """A row for each session: every forecaster's score, and how many windows it stands on."""
    names = _forecasters(evaluation)
    rows: list[tuple[Cell, ...]] = []
    for info in sorted(evaluation.sessions, key=lambda info: info.id):
        available = evaluation.windows_available[info.id]
        scores = [evaluation.scores[name].get(info.id) for name in names]
        scored = scores[0].num_windows if scores[0] else 0
        values = [or_none(one.value("score")) if one else None for one in scores]
        rows.append((info.id, info.species, info.num_units, f"{scored} of {available}", *values))
    return Table(
        name="by_session",
        title=f"{evaluation.part}: score by session",
        columns=("session", "species", "units", "windows", *names),
        rows=tuple(rows),
    )


def by_species(evaluation: Evaluation) -> Table:
    """A row for each species and forecaster."""
    return _by_group(evaluation, "species", lambda name: evaluation.by("species", name))


def by_dataset(evaluation: Evaluation) -> Table:
    """A row for each data set and forecaster."""
    return _by_group(evaluation, "dataset", lambda name: evaluation.by("dataset", name))


def by_horizon(evaluation: Evaluation) -> Table:
    """A row for each horizon step: every forecaster's score."""
    names = _forecasters(evaluation)
    columns = [evaluation.summary(name).by_step("score")[0] for name in names]
    return Table(
        name="by_horizon",
        title=f"{evaluation.part}: score by horizon step (frames ahead)",
        columns=("step", *names),
        rows=tuple((step + 1, *map(or_none, row)) for step, row in enumerate(zip(*columns, strict=True))),
    )


def by_unit_quantile(evaluation: Evaluation) -> Table:
    """A row for each forecaster: quantiles of the scores of single units, averaged over sessions."""
    return Table(
        name="by_unit_quantile",
        title=f"{evaluation.part}: quantiles of the scores of single units (mean over sessions)",
        columns=("forecaster", *(f"{quantile:.0%}" for quantile in UNIT_QUANTILES)),
        rows=tuple(
            (name, *map(or_none, evaluation.summary(name).unit_quantiles))
            for name in _forecasters(evaluation)
        ),
    )


def by_unit(
    units: UnitScores,
    noise_variance: np.ndarray,
    rate_hz: float | None = None,
    names: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    positions: np.ndarray | None = None,
) -> Table:
    """A row for each unit of a session: the variance explained and its noise ceiling, and the score.

    Args:
        units: how well a forecaster does on each.
        noise_variance: [N], of `scoring.noise`, in the units of measure of the scores.
        rate_hz: frames a second; None gives frames in the place of seconds.
        names, regions: [N], where they are known.
        positions: [N, 2 or 3], where they are known.
    """
    count = len(units.r2)
    trusted = units.trusted_frames if rate_hz is None else units.trusted_frames / rate_hz
    columns: dict[str, Sequence[Cell]] = {
        "unit": list(names) if names else [f"unit {n}" for n in range(count)]
    }
    if regions:
        columns["region"] = list(regions)
    if positions is not None:
        columns |= {axis: positions[:, n].tolist() for n, axis in enumerate("xyz"[: positions.shape[1]])}
    columns |= {
        name: [or_none(value) for value in values]
        for name, values in (
            ("explained", units.explained),
            ("noise_ceiling", units.noise_ceiling(noise_variance)),
            ("r2", units.r2),
            ("correlation", units.correlation),
            ("score", units.score),
        )
    }
    columns["trusted_frames" if rate_hz is None else "trusted_seconds"] = trusted.tolist()
    return Table(
        name="by_unit",
        title="single units: explained variance and its noise ceiling, R² about the training mean, "
        f"correlation, score against copy, and how far ahead at least {TRUSTED} is explained",
        columns=tuple(columns),
        rows=tuple(zip(*columns.values(), strict=True)),
    )


def best_first(table: Table, column: str, count: int) -> Table:
    """The rows with the highest values in a column, the highest first."""
    at = table.columns.index(column)

    def value(row: tuple[Cell, ...]) -> float:
        cell = row[at]
        return cell if isinstance(cell, int | float) else -math.inf

    ranked = sorted(table.rows, key=value, reverse=True)
    more = f" (the best {count} of {len(ranked)})" if len(ranked) > count else ""
    return replace(table, title=table.title + more, rows=tuple(ranked[:count]))


def zapbench(scores: Mapping[str, ZapbenchScores]) -> Table:
    """A row for each forecaster: ZAPBench's mean absolute errors at the steps its own tables show.

    Raises:
        ConfigError: a baseline is missing.
    """
    require_baselines(scores, "zapbench")
    any_scores = next(iter(scores.values()))
    return Table(
        name="zapbench",
        title=f"ZAPBench: mean absolute error by step ahead, {any_scores.num_windows:,} windows; mean of the "
        "eight trained conditions, and the held-out one apart",
        columns=("forecaster", *map(str, SHOWN_STEPS), *(f"{HELD_OUT} {step}" for step in SHOWN_STEPS)),
        digits=4,
        rows=tuple(
            (name, *(float(errors[step - 1]) for errors in (one.mean, one.held_out) for step in SHOWN_STEPS))
            for name, one in scores.items()
        ),
    )


def all_tables(evaluation: Evaluation) -> list[Table]:
    """Every table of this file.

    Raises:
        ConfigError: a baseline was not evaluated.
    """
    makers = (overview, by_species, by_dataset, by_session, by_horizon, by_unit_quantile)
    return [make(evaluation) for make in makers]


def _by_group(evaluation: Evaluation, attribute: str, groups_of: Callable[[str], dict[str, Scores]]) -> Table:
    names = _forecasters(evaluation)
    groups = {name: groups_of(name) for name in names}
    return Table(
        name=f"by_{attribute}",
        title=f"{evaluation.part}: by {attribute}",
        keys=2,
        columns=(attribute, "forecaster", "sessions", *_HEADLINE),
        rows=tuple(
            (
                group,
                name,
                groups[name][group].num_sessions,
                *_headline(groups[name][group], evaluation.r2(name, **{attribute: group})),
            )
            for group in groups[names[0]]
            for name in names
        ),
    )


def _forecasters(evaluation: Evaluation) -> list[str]:
    """Names of the models, then of the baselines in their usual order."""
    evaluation.require_baselines()
    return [*evaluation.models, *BASELINES]


def _headline(scores: Scores, r2: float) -> tuple[Cell, ...]:
    low, high = scores.bounds("score")
    cells = (scores.value("score"), low, high, r2, *map(scores.value, ("correlation", "mse", "mae")))
    return tuple(map(or_none, cells))


def or_none(value: float) -> float | None:
    """A number as a cell: None where it is undefined."""
    return float(value) if np.isfinite(value) else None
