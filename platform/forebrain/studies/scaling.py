"""Scaling: how the score grows with the data, or with the model, and whether a law describes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Console

from forebrain.alone import alone_in
from forebrain.errors import ConfigError
from forebrain.evaluation.tables import Cell, Table
from forebrain.studies import resampling
from forebrain.studies.ablation import report_effects
from forebrain.studies.effects import cells_of, mean_with_interval
from forebrain.studies.figures import curve_figure
from forebrain.studies.laws import Verdict, judge
from forebrain.studies.relatives import ALONE, relative_trials
from forebrain.studies.report import (
    Picture,
    StudyReport,
    defined,
    gaps_of,
    outcome_values,
    publish,
    trials_table,
    variants_table,
)
from forebrain.studies.study import Outcome, conduct, require_results
from forebrain.studies.trials import Trial, Variant, make_trials
from forebrain.training.config import PretrainConfig

Axis = Literal["frames", "fraction", "sessions", "subjects", "units", "model", "context", "relatives"]
_AXIS_NAMES = {
    "frames": "training frames of each session",
    "fraction": "part of each session's training frames",
    "sessions": "sessions trained on",
    "subjects": "subjects trained on",
    "units": "units of each session",
    "model": "backbone parameters",
    "context": "context (frames)",
}


@dataclass(frozen=True)
class ScaleConfig:
    """A study of one axis of size, each size with the same seeds.

    Attributes:
        pretrain: what all trials share. Its `out` is the study's folder, `seed` the first seed.
        axis: what grows. frames, fraction, sessions, subjects, units: of the training data, see the options
            of `pretrain.subset`. model: its width, and in proportion FiLM's width and the latents. context:
            the frames a forecast is made from. relatives: sessions of the same subject, or as many of
            others, beside each session in turn.
        sizes: what to try: numbers of the axis; for fraction, parts up to 1; for relatives, sessions beside.
        num_seeds: seeds of each size. Every seed draws other sessions, subjects or units.
        num_targets: for relatives, sessions that are forecast, at most.
        parallel: trials at once. None: as many as the cluster has room for.
        part: what is reported, validation or test.
    """

    pretrain: PretrainConfig
    axis: Axis
    sizes: list[float]
    num_seeds: int = 2
    num_targets: int = 4
    parallel: int | None = None
    part: Literal["validation", "test"] = "test"

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ConfigError("sizes is empty; expected at least one size to try.")
        if len(set(self.sizes)) < len(self.sizes):
            raise ConfigError(f"sizes is {self.sizes}; expected each size once.")
        if self.axis not in get_args(Axis):
            raise ConfigError(f"axis is {self.axis!r}; expected one of {', '.join(get_args(Axis))}.")
        for size in self.sizes:
            if not size > 0 or (self.axis != "fraction" and size != int(size)):
                raise ConfigError(f"sizes holds {size:g}; expected whole numbers above 0 for {self.axis}.")
        for name in ("num_targets", "parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more.")

    def trials(self, base: PretrainConfig) -> list[Trial]:
        base = dataclasses.replace(base, evaluation=dataclasses.replace(base.evaluation, exact=True))
        if self.axis == "relatives":
            counts = [int(size) for size in sorted(self.sizes)]
            return relative_trials(base, counts, self.num_targets, self.num_seeds)
        return make_trials(base, self.variants(base), self.num_seeds)

    def variants(self, base: PretrainConfig) -> list[Variant]:
        """A variant for each size, the smallest first."""
        sizes = sorted(self.sizes)
        return [
            Variant(f"{self.axis}={size:g}", _overrides(self.axis, size, sizes, base), size) for size in sizes
        ]


def _overrides(axis: Axis, size: float, sizes: Sequence[float], base: PretrainConfig) -> dict[str, Any]:
    count = int(size)
    if axis == "fraction":
        return {"subset.fraction": size}
    if axis == "units":
        return {"subset.units": count, "subset.scored_units": int(sizes[0])}
    if axis == "model":
        dial = {"width": count, "film_width": 8 * count, "num_latents": max(1, count // 16)}
        return {f"model.{name}": value for name, value in dial.items() if hasattr(base.model, name)}
    if axis == "context":
        token_length = getattr(base.model, "token_length", None)
        return {
            "model.context": count,
            "evaluation.longest_context": max(int(sizes[-1]), base.evaluation.longest_context or 0),
            **({} if token_length is None else {"model.token_length": math.gcd(count, token_length)}),
        }
    return {f"subset.{axis}": count}


@alone_in("pretrain.out")
def scale(config: ScaleConfig, console: Console, command: str) -> list[Outcome]:
    """Runs the study, or what is missing of it, and writes its report.

    Args:
        config: what is asked.
        console: where progress is shown.
        command: what was typed, for the report.

    Raises:
        StudyError: no trial has a result; the report says why.
        ForebrainError: something else that the user can mend; finished trials are kept.
    """
    outcomes = conduct(config, console)
    if config.axis == "relatives":
        title = "Data of the same subject or of others"
        report = report_effects(outcomes, ALONE, config.part, command, title)
    else:
        report = report_curve(config, outcomes, command)
    publish(config.pretrain.out, report, outcomes, console)
    require_results(outcomes)
    return outcomes


@dataclass(frozen=True)
class Curve:
    """Scores over sizes of what was scored at every size.

    Attributes:
        sizes: M sizes that have results, ascending.
        cells: K seeds and sessions that have a score at each of them.
        scores: [K, M], the model's.
        linear: [K, M], the linear baseline's.
    """

    sizes: list[float]
    cells: list[resampling.Cell]
    scores: np.ndarray
    linear: np.ndarray

    def by_session(self) -> dict[str, np.ndarray]:
        """Session -> scores [M], averaged over seeds."""
        sessions = sorted({session for _, session in self.cells})
        return {
            session: self.scores[[own == session for _, own in self.cells]].mean(axis=0)
            for session in sessions
        }


def curve_of(outcomes: Sequence[Outcome], variants: Sequence[Variant], axis: Axis, part: str) -> Curve:
    """The scores that can be compared over sizes: of seeds and sessions that have one at every size.

    A size without any result is left out, and with it nothing else; a seed that lacks one size is left out.
    """
    columns = []
    for variant in variants:
        own = [outcome for outcome in outcomes if outcome.trial.variant == variant.name]
        scores = cells_of(own, variant.name, part)
        if scores and variant.size is not None:
            parameters = next(o.result["backbone_parameters"] for o in own if o.result is not None)
            size = float(parameters) if axis == "model" else variant.size
            columns.append((size, scores, cells_of(own, variant.name, part, "linear")))
    columns.sort(key=lambda column: column[0])
    shared = (
        set.intersection(*(set(scores) & set(linear) for _, scores, linear in columns)) if columns else set()
    )
    cells = sorted(shared)

    def table(position: int) -> np.ndarray:
        return np.array([[column[position][cell] for column in columns] for cell in cells])  # type: ignore[index]

    return Curve([column[0] for column in columns], cells, table(1), table(2))


def report_curve(config: ScaleConfig, outcomes: Sequence[Outcome], command: str) -> StudyReport:
    """The report of a study of sizes."""
    axis, part = _AXIS_NAMES[config.axis], config.part
    curve = curve_of(outcomes, config.variants(config.pretrain), config.axis, part)
    tables = (variants_table(outcomes, part), trials_table(outcomes))
    values: dict[str, Any] = {"axis": config.axis, "trials": outcome_values(outcomes, part)}
    gaps = gaps_of(outcomes, part)
    notes = (
        "Score is 1 - MSE / MSE of copy, for each session: 0 is copy, 1 is perfect.",
        "Every size is scored on the same windows, with errors in the units of measure of the whole training "
        "part. Curves and fits are of the seeds and sessions that have a score at every size; the table of "
        "variants is of all.",
        "All sizes train for the same number of steps, so smaller data are seen more often.",
        f"Laws are fitted to errors (1 - score) with a robust loss; {resampling.LEVEL:.0%} intervals come "
        "from a bootstrap over seeds and sessions. A law is believed where, fitted without the largest size, "
        "it predicts that size better than no trend does; of two, the simpler, unless the other predicts it "
        "better. What lies beyond the largest size is extrapolation.",
    )
    if not curve.cells:
        verdict = "No verdict: no seed and session has a score at every size."
        return StudyReport(
            f"Scaling: {axis}", (verdict,), (), tables, notes, gaps, command, values
        )  # fmt: skip
    judged = judge(curve.sizes, curve.scores, curve.cells)
    means = np.array(
        [mean_with_interval(dict(zip(curve.cells, column, strict=True))) for column in curve.scores.T]
    )
    picture = Picture(
        "curve",
        curve_figure(curve.sizes, axis, part, curve.by_session(), means, curve.linear.mean(axis=0), judged),
        f"Score over {axis}. Beyond the largest size the law is extrapolated.",
    )
    num_seeds = len({cell[0] for cell in curve.cells})
    rows: list[tuple[Cell, ...]] = [
        (f"{size:,g}", *map(defined, row), float(linear), 0.0)
        for size, row, linear in zip(curve.sizes, means, curve.linear.mean(axis=0), strict=True)
    ]
    scores = Table(
        "curve",
        f"{part}: {len(curve.by_session())} sessions and {num_seeds} seeds that have a score at every size",
        (axis, "score", "low", "high", "linear", "copy"),
        tuple(rows),
    )
    values |= {
        "sizes": curve.sizes,
        "cells": curve.cells,
        "scores": curve.scores,
        "linear": curve.linear,
        "verdict": judged.law,
        "laws": [
            {
                **{key: value for key, value in asdict(fit).items() if key not in ("law", "curve")},
                "law": fit.law.name,
                "formula": fit.law.formula,
            }
            for fit in judged.fits
        ],
    }
    return StudyReport(
        f"Scaling: {axis}",
        (judged.text,),
        (picture,),
        (scores, *([_laws_table(judged)] if judged.fits else []), *tables),
        notes,
        gaps,
        command,
        values,
    )


def _laws_table(verdict: Verdict) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for fit in verdict.fits:
        parameters = ", ".join(
            f"{name} = {value:.3g} [{low:.3g}, {high:.3g}]"
            for name, value, low, high in zip(
                fit.law.parameters, fit.parameters, fit.low, fit.high, strict=True
            )
        )
        rows.append(
            (fit.law.name, fit.law.formula, parameters, fit.prediction[0], *fit.miss, fit.beats_constant)
        )
    return Table(
        "laws",
        "Laws of the error (1 - score) over size x; the miss is of the largest size's score, predicted from "
        "the smaller ones",
        ("law", "error", "parameters, all sizes", "predicted", "miss", "low", "high", "beats constant"),
        tuple(rows),
    )
