"""Ablations: what changes when one thing is taken away or replaced."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Console

from forebrain.alone import alone_in
from forebrain.errors import ConfigError
from forebrain.evaluation.tables import Cell, Table
from forebrain.studies.effects import Effect, measure_effects
from forebrain.studies.figures import effects_figure
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

REFERENCE = "reference"
# Trials are compared at the same step on the way, so these may not differ between those that are.
_OF_THE_SCHEDULE = ("training.steps", "training.warmup_steps", "training.validate_every", "training.schedule")


@dataclass(frozen=True)
class AblateConfig:
    """A study of variants of one run, each with the same seeds.

    Attributes:
        pretrain: the run that all are variants of. Its `out` is the study's folder, `seed` the first seed.
        variants: options to replace, by the variant's name: {wide: {model.width: 256}}.
        axes: values to try, by option, one at a time: {model.width: [32, 256]}.
        grid: try every combination of the axes' values instead.
        num_seeds: seeds of each variant.
        parallel: trials at once. None: as many as the cluster has room for.
        early_stopping: stop trials that are behind the others after the same number of steps (ASHA). They
            then have no result, and no part in effects.
        part: what is reported, validation or test.
    """

    pretrain: PretrainConfig
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    grid: bool = False
    num_seeds: int = 2
    parallel: int | None = None
    early_stopping: bool = False
    part: Literal["validation", "test"] = "test"

    def __post_init__(self) -> None:
        if not self.variants and not self.axes:
            raise ConfigError("variants and axes are both empty; expected something to compare.")
        for key, values in self.axes.items():
            if not values:
                raise ConfigError(f"axes: {key} has no values; expected at least one.")
        if self.parallel is not None and self.parallel < 1:
            raise ConfigError(f"parallel is {self.parallel}; expected 1 or more.")
        if self.early_stopping:
            for variant in self.all_variants():
                changed = sorted(set(variant.overrides) & set(_OF_THE_SCHEDULE))
                if changed:
                    raise ConfigError(
                        f"early_stopping compares trials at the same step, and {variant.name!r} changes "
                        f"{', '.join(changed)}; expected early_stopping false, or the same for all."
                    )

    def all_variants(self) -> list[Variant]:
        """The reference first, then the variants, then the axes' values."""
        variants = [Variant(REFERENCE, {})]
        variants += [Variant(name, overrides) for name, overrides in self.variants.items()]
        if self.grid:
            combinations = [
                dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())
            ]
        else:
            combinations = [{key: value} for key, values in self.axes.items() for value in values]
        variants += [Variant(_name(overrides), overrides) for overrides in combinations]
        return variants

    def trials(self, base: PretrainConfig) -> list[Trial]:
        """All trials; a variant that is the reference itself, under another name, is left out."""
        base = dataclasses.replace(base, evaluation=dataclasses.replace(base.evaluation, exact=True))
        trials = make_trials(base, self.all_variants(), self.num_seeds)
        same = {trial.seed: trial.config.identity() for trial in trials if trial.variant == REFERENCE}
        return [
            trial
            for trial in trials
            if trial.variant == REFERENCE or trial.config.identity() != same[trial.seed]
        ]


def _name(overrides: dict[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in overrides.items())


@alone_in("pretrain.out")
def ablate(config: AblateConfig, console: Console, command: str) -> list[Outcome]:
    """Runs the study, or what is missing of it, and writes its report.

    Args:
        config: what is asked.
        console: where progress is shown.
        command: what was typed, for the report.

    Raises:
        StudyError: no trial has a result; the report says why.
        ForebrainError: something else that the user can mend; finished trials are kept.
    """
    outcomes = conduct(config, console, config.early_stopping)
    publish(config.pretrain.out, report_effects(outcomes, REFERENCE, config.part, command), outcomes, console)
    require_results(outcomes)
    return outcomes


def report_effects(
    outcomes: Sequence[Outcome], reference: str, part: str, command: str, title: str = "Ablation"
) -> StudyReport:
    """The report of a study of variants.

    Args:
        outcomes: of all trials.
        reference: the variant that the others are compared with.
        part: validation or test.
        command: what was typed.
        title: what the study is of.
    """
    effects = measure_effects(outcomes, reference, part)
    rows: list[tuple[Cell, ...]] = [
        (
            effect.variant,
            f"{effect.num_seeds} x {effect.num_sessions}",
            effect.score,
            effect.reference,
            *map(defined, effect.difference),
            *(effect.together or (None, None)),
            f"{effect.sessions_better:.0%}",
            "yes" if effect.is_clear else "no",
        )
        for effect in sorted(effects, key=lambda effect: -effect.difference[0])
    ]
    columns = (
        "variant", "seeds x sessions", "score", "reference", "difference", "low", "high", "all low",
        "all high", "sessions ahead", "clear",
    )  # fmt: skip
    about = f"{part}: score less that of the {reference}, paired by seed and session"
    pictures = (
        (Picture("effects", effects_figure(effects, reference, part), f"Effects on the {part} score."),)
        if effects
        else ()
    )
    return StudyReport(
        title,
        (_verdict(effects, reference),),
        pictures,
        (
            Table("effects", about, columns, tuple(rows)),
            variants_table(outcomes, part),
            trials_table(outcomes),
        ),
        (
            "Score is 1 - MSE / MSE of copy, for each session: 0 is copy, 1 is perfect.",
            "Trials of one seed share initial weights, order of the data and scored windows; differences are "
            "of the same seed and session.",
            "Intervals: bootstrap over seeds and sessions together, widened as Student's t for few. All low "
            "and all high hold for all effects together (Bonferroni); clear means that they leave out zero. "
            "With two seeds the scatter between seeds is known only roughly.",
        ),
        gaps_of(outcomes, part),
        command,
        {"reference": reference, "effects": [asdict(effect) for effect in effects],
         "trials": outcome_values(outcomes, part)},
    )  # fmt: skip


def _verdict(effects: Sequence[Effect], reference: str) -> str:
    if not effects:
        return f"Nothing to say: no variant has a seed and session in common with the {reference}."
    clear = sorted((e for e in effects if e.is_clear), key=lambda effect: -abs(effect.difference[0]))
    if not clear:
        one_seed = " One seed cannot show it." if all(e.num_seeds < 2 for e in effects) else ""
        told = f"none of {len(effects)} variants can be told from the {reference}."
        return f"No clear difference: {told}{one_seed}"
    named = "; ".join(f"{e.variant} {e.difference[0]:+.3f}" for e in clear)
    return f"Clearly different from the {reference}, {len(clear)} of {len(effects)} variants: {named}."
