"""Was adapting worth it? The forecast beside all that the recording gives without the backbone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from forebrain.adaptation.adapting import Mode, Trained, knows_units, train, windows_to_score
from forebrain.adaptation.artifact import Artifact
from forebrain.adaptation.era import fit_era
from forebrain.adaptation.fit import FitConfig, WindowForecaster
from forebrain.adaptation.pretrained import Pretrained
from forebrain.adaptation.progress import Progress, silent
from forebrain.adaptation.recording import Prepared, prepare_session
from forebrain.adaptation.score import Lead
from forebrain.adaptation.stacking import (
    StackForecaster,
    fit_closed_form,
    inputs_to_know,
    is_copy,
    is_stacked,
    linear_on,
    stack_on,
    too_many_inputs,
)
from forebrain.adaptation.verdict import MATTERS, beside_linear, how_far, judge
from forebrain.adaptation.windows import SessionWindows
from forebrain.errors import AdaptationError
from forebrain.evaluation.tables import Table, by_unit
from forebrain.scoring.baselines import BASELINES
from forebrain.scoring.conformal import Calibration
from forebrain.scoring.evaluate import (
    WINDOWS_PER_SESSION,
    Evaluation,
    Forecaster,
    ForecasterInTime,
    baselines,
    evaluate,
)
from forebrain.scoring.evoked import APART, scores_apart
from forebrain.scoring.input_stacks import InputFit, InputForecaster, InputStacks, Known, fit_inputs
from forebrain.scoring.noise import noise_ceiling, noise_variance
from forebrain.scoring.pairs import difference_over_time
from forebrain.scoring.protocols import LABELLED, PARTS, Part
from forebrain.scoring.quantiles import headline
from forebrain.scoring.response import OtherPlan
from forebrain.scoring.ridge import fit_head
from forebrain.scoring.stack import StackFit
from forebrain.scoring.uncertainty import Uncertainty, assess, assess_known
from forebrain.sessions.seen import is_guessed, leak_of
from forebrain.sessions.session import READER_NOTES, Session
from forebrain.shards.fits import persistence_remark

SCRATCH = "from scratch"
NOT_ADAPTED = "not adapted"
# The chosen mode's model without the stack.
ALONE = "backbone alone"
# What a recording can do for itself: the stack with a model that was trained on it alone.
SELF = "self"
# Forecasts that know inputs, by what they know; no rivals of the score, which knows the activity alone.
WITH_INPUTS = {
    "past": "past inputs",
    "plan": "planned inputs",
    "shuffled": "shuffled plan",
    "wrong": "wrong plan",
}
# The recording's own forecasts, in result.json; None of those that were not made.
RIVALS = (*BASELINES, "ridge", "era", SELF)
NOT_KNOWN = (
    "whether the backbone has seen this animal cannot be told, because its identity is guessed; name "
    "dataset, subject and session in a sidecar file"
)
GUESSED = (
    "whether the backbone has seen this animal is not known, because the names of {} of the sessions that it "
    "was trained on were guessed from file names"
)
# How to have what was better than the chosen mode.
INSTEAD = {
    SCRATCH: "--mode scratch --stack false",
    SELF: "--mode scratch",
    NOT_ADAPTED: "--mode none",
    ALONE: "--stack false",
}
# What takes longer than adapting.
DEARER = (SCRATCH, SELF, "era")
TEST_ROWS = 2_000_000
# Steps of era for each of the model's: as many as it needs, and they cost less.
ERA_STEPS = 2
SCORED_PARTS: tuple[Part, ...] = ("validation", "test")


@dataclass(frozen=True, eq=False)
class Comparison:
    """An adaptation beside what else could have been done.

    Attributes:
        backbone: what was adapted.
        prepared: the recording.
        mode: the chosen one.
        trained: what it came to.
        name: of what forecasts, among the forecasters.
        others: what else was trained, by name.
        stack: the weights of the model, linear and their heads; None for the model alone.
        inputs: forecasts that know inputs; None where none are known.
        known: of forecasts that know inputs: `evoked` and `quiet` scores, and the `uncertainty` of those that
            have intervals; None likewise.
        calibration: of its intervals; None where nothing could be calibrated on.
        uncertainty: how right they are on the test part, beside the baselines'; None likewise.
        forecasters: of the activity alone that were scored, by name.
        validation, test: their scores; the test part was looked at once, at the end.
        leak: what the backbone has seen of this animal, in words; None for nothing that is known.
        seconds: wall time of everything.
    """

    backbone: Pretrained
    prepared: Prepared
    mode: Mode
    trained: Trained
    name: str
    others: Mapping[str, Trained]
    stack: StackFit | None
    inputs: InputFit | None
    known: Mapping[str, Any] | None
    calibration: Calibration | None
    uncertainty: Uncertainty | None
    forecasters: Mapping[str, Forecaster]
    validation: Evaluation
    test: Evaluation
    leak: str | None
    seconds: float

    def findings(self) -> list[str]:
        """The findings that a person should know of the recording, a line each."""
        prepared = self.prepared
        found = [str(finding) for finding in prepared.report.findings]
        known = prepared.session.metadata
        found += [known[name] for name in READER_NOTES if name in known]
        if (doubt := self._doubt()) is not None:
            found.append(doubt)
        if self.stack is not None and (remark := too_many_inputs(prepared.session)) is not None:
            found.append(remark)
        remark = persistence_remark(prepared.windows.persistence, prepared.windows.least_persistence)
        if remark is not None and self.backbone.description.model.relative:
            found.append(remark)
        return found

    def lead(self) -> Lead:
        """How far the model is ahead of the best of all else."""
        excluded = (self.name, *WITH_INPUTS.values())
        others = {name: self._score(name) for name in self.test.scores if name not in excluded}
        best = max(others, key=lambda name: others[name])
        own, other = self.test.summary(self.name), self.test.summary(best)
        return Lead(best, *difference_over_time(own, other))

    def verdict(self) -> str:
        """Plain sentences: what makes all doubtful, whether adapting was worth it, the backbone's part."""
        lead, mode = self.lead(), self.mode
        own, other = self._score(self.name), self._score(lead.over)
        if mode == "none":
            beside = f"the best of all else, {lead.over}, {other:.3f}"
            worth = f"No step was taken: it scores {own:.3f} on the test part; {beside}."
        else:
            what = "Training from scratch" if mode == "scratch" else "Adapting"
            instead = INSTEAD.get(lead.over, lead.over)
            worth = judge(lead, own, other, what, instead, lead.over not in DEARER)
        return " ".join(filter(None, (self.far(), worth, self.beside_linear())))

    def advised(self) -> str:
        """The forecaster that the verdict advises."""
        lead = self.lead()
        return lead.over if lead.score <= -MATTERS else self.name

    def far(self) -> str:
        """What is another than the backbone was trained on, in sentences; empty for nothing."""
        if self.mode == "scratch":
            return ""
        species = sorted({seen.species for seen in self.backbone.sessions})
        made = self.prepared.preprocessing
        # Events are binned for every backbone; frames that were held or averaged are of another rate still.
        rate_hz = made.recorded_rate_hz if made.event_rate_hz is None else made.rate_hz
        return how_far(self.prepared.session.species, rate_hz, species, self.backbone.rates_hz)

    def beside_linear(self) -> str:
        """What is to be said of a backbone that is no better than linear; empty for nothing."""
        alone = ALONE if ALONE in self.forecasters else self.name
        if self.mode == "scratch" or not self.backbone.sessions:  # which no backbone was trained on
            return ""
        return beside_linear(self._score(alone), self._score("linear"))

    def units(self) -> Table:
        """How well each unit is forecast, on the test part."""
        session = self.prepared.session
        scores = self.test.scores[self.name][session.id].units
        assert scores is not None, "made from an evaluation of this process"
        return by_unit(
            scores,
            noise_variance(self.prepared.windows),
            session.rate_hz,
            session.unit_names,
            session.brain_regions,
            session.unit_positions,
        )

    def _doubt(self) -> str | None:
        """Why it cannot be told whether the backbone has seen this animal; None where it can."""
        if self.leak is not None:
            return None
        if is_guessed(self.prepared.session):
            return NOT_KNOWN
        return GUESSED.format(self.backbone.guessed) if self.backbone.guessed else None

    def _score(self, name: str) -> float:
        return self.test.summary(name).value("score")

    def result(self) -> dict[str, Any]:
        """The contents of result.json."""
        trained, lead = self.trained, self.lead()
        scores = {name: _plain(self._score(name)) for name in self.test.scores}
        known = (self.name, *RIVALS, *WITH_INPUTS.values())
        others = [name for name in scores if name not in known]
        copy_mse = self.test.summary("copy").value("mse")
        return {
            "score": scores[self.name],
            "interval": [_plain(bound) for bound in self.test.summary(self.name).bounds("score")],
            "baselines": {name: scores.get(name) for name in RIVALS if name != self.name},
            "noise_ceiling": _plain(noise_ceiling(noise_variance(self.prepared.windows), copy_mse)),
            "weights": None if self.stack is None else self.stack.record(),
            "others": {name: scores[name] for name in others},
            "lead": {
                "over": lead.over,
                "score": _plain(lead.score),
                "interval": [_plain(lead.low), _plain(lead.high)],
            },
            "inputs": self._input_scores(scores),
            "score_by_step": _curve(trained),
            "others_by_step": {name: _curve(other) for name, other in self.others.items()},
            "best_step": trained.best_step,
            "seconds": trained.seconds,
            "seconds_in_all": self.seconds,
            "leak": self.leak is not None,
            "leak_note": self.leak or self._doubt(),
            "verdict": self.verdict(),
            "mode": self.mode,
            "model": self.backbone.origin.named,
            "model_deprecated": self.backbone.deprecated,
            "session": self.prepared.session.id,
            "minutes": self.prepared.minutes,
            "validation": self.validation.result(self.name),
            "test": self.test.result(self.name),
            "uncertainty": None if self.uncertainty is None else self.uncertainty.result(self.name),
        }

    def _input_scores(self, scores: Mapping[str, float | None]) -> dict[str, Any] | None:
        """The score by what is known of the inputs, and how that came about."""
        if self.inputs is None:
            return None
        found = {"none": scores[self.name]}
        found |= {key: scores[name] for key, name in WITH_INPUTS.items() if name in scores}
        return {**found, **(self.known or {}), "record": self.inputs.record}

    def artifact(self) -> Artifact:
        """The part of the comparison that is kept."""
        stack = None if self.stack is None else self.stack.stack
        units = self.units()
        columns = dict(zip(units.columns, map(list, zip(*units.rows, strict=True)), strict=True))
        evaluation = {**self.test.to_json(), "units": columns}
        return Artifact.of(
            self.backbone,
            self.prepared,
            self.trained,
            self.mode,
            stack,
            None if self.inputs is None else self.inputs.stacks,
            self.calibration,
            self.result(),
            evaluation,
        )


def compare(
    backbone: Pretrained,
    session: Session,
    mode: Mode,
    config: FitConfig,
    to_rate: bool = False,
    progress: Progress = silent,
    rivals: bool = True,
    *,
    inputs: Sequence[str] | None = None,
    hold_out: Mapping[str, Sequence[float]] | None = None,
    minutes: float | None = None,
) -> Comparison:
    """Adapts a backbone to a recording, and scores what came of it beside all else.

    Args:
        backbone: stays as it is, whatever the mode.
        session: as it was recorded.
        mode: what is trained, see `train`.
        config: the optimisation.
        to_rate: resample where the recording has another rate than the backbone was trained on.
        progress: is told what is being done, and how many of how many steps or windows are done.
        rivals: train what else could have been trained on the recording alone: the same model from random
            weights, on the same windows for as many steps, and era. That takes twice as long again, or
            longer, and is left out with mode none, but for `minutes` and a model that knows nothing of units.
        inputs: names of those that forecasts may know; None for all that can be planned.
        hold_out: values of inputs by name, for protocol `values`.
        minutes: fit to so many minutes before the validation part and to no other frame, see `last_minutes`.

    Raises:
        RecordingError: nothing usable is in the recording.
        AdaptationError: it does not fit the backbone, or nothing moves in one of its parts, so that no score
            exists.
    """
    began = time.perf_counter()
    alone = {"scratch": SCRATCH, "none": NOT_ADAPTED}.get(mode, f"adapted ({mode})")
    steps = 0 if mode == "none" else config.steps

    def following(what: str) -> Callable[[int], None]:
        return lambda step: progress(f"{what}: step", step, steps)

    prepared = prepare_session(session, backbone.description, backbone.rates_hz, to_rate, hold_out, minutes)
    known_inputs = inputs_to_know(prepared.session, inputs, is_stacked(backbone, config))
    windows = prepared.windows
    trained = train(backbone, prepared, mode, config, after_step=following(alone))
    models, others = {alone: trained}, {}
    learnt: dict[str, Forecaster] = {}
    in_time: dict[str, ForecasterInTime] = {}
    can_train = all(windows.num_windows(0, part) for part in ("train", "validation"))
    has_choice = knows_units(backbone.model) or is_copy(backbone)
    if rivals and can_train and not (mode == "none" and minutes is None and has_choice):
        steps = config.steps
        if mode != "scratch" and not is_copy(backbone):
            others[SCRATCH] = train(backbone, prepared, "scratch", config, after_step=following(SCRATCH))
        progress("training era", 0, 1)
        learnt["era"] = fit_era(windows, steps=ERA_STEPS * config.steps, seed=config.seed)
    models |= others
    if mode != "none":
        models[NOT_ADAPTED] = train(backbone, prepared, "none", config)
    forecasters: dict[str, Forecaster] = {
        each: WindowForecaster(made.model, made.interface, config) for each, made in models.items()
    }
    linear, name = linear_on(windows, config.seed), alone
    closed = fit_closed_form(
        backbone,
        forecasters[alone],
        windows,
        linear,
        known_inputs,
        config,
        alone,
        progress,
        is_fitted=trained.best_step > 0,
    )
    if closed.stack is None:
        learnt["ridge"] = fit_head(windows, linear).forecaster(linear)
    else:
        name, stack = f"adapted ({mode})", closed.stack
        stacked: dict[str, Forecaster] = {
            name: StackForecaster(stack.stack, forecasters[alone]),
            "ridge": stack.ridge.forecaster(linear),
        }
        if SCRATCH in others:
            own = stack_on(forecasters[SCRATCH], windows, linear, SELF, progress, is_fitted=True)
            stacked[SELF] = StackForecaster(own.stack, forecasters[SCRATCH])
        if closed.inputs is not None:
            starts = [windows.starts(part) for part in PARTS]
            others_plans = OtherPlan(windows, starts, config.seed)
            weighed = None if is_copy(backbone) else forecasters[alone]
            shuffled = fit_inputs(others_plans, known_inputs, linear, weighed, stack)
            for knowing, fit, source in (
                ("past", closed.inputs, windows),
                ("plan", closed.inputs, windows),
                ("shuffled", shuffled, others_plans),
                ("wrong", closed.inputs, others_plans),
            ):
                if fit.stacks is not None:
                    knows: Known = "past" if knowing == "past" else "plan"
                    in_time[WITH_INPUTS[knowing]] = InputForecaster(
                        fit.stacks, stack.stack, forecasters[alone], source, knows
                    )
        if alone == name:
            forecasters[ALONE] = forecasters.pop(alone)
        forecasters = {**stacked, **forecasters}
    forecasters |= {**baselines(windows, linear), **learnt}
    calibration = closed.calibration
    every: dict[str, Forecaster | ForecasterInTime] = {**forecasters, **in_time}
    limit = None
    if backbone.description.protocol not in LABELLED:
        limit = windows_to_score(prepared, WINDOWS_PER_SESSION, TEST_ROWS)
    validation, test = (
        evaluate(
            every,
            windows,
            part,
            windows_per_session=limit,
            seed=config.seed,
            progress=partial(progress, f"scoring the {part} part: window"),
        )
        for part in SCORED_PARTS
    )
    if not test.summary(name).num_sessions:
        raise AdaptationError(f"session {prepared.session.id}: nothing moves in its test part.")
    uncertainty = None
    if calibration is not None:
        progress("scoring intervals", 0, 1)
        uncertainty = assess(
            name, forecasters[name], windows, calibrations={0: calibration}, windows_per_session=limit,
            seed=config.seed,
        )  # fmt: skip
    known = None
    if closed.inputs is not None and closed.inputs.stacks is not None:
        progress("scoring what inputs are known", 0, 1)
        informed: dict[str, Forecaster | ForecasterInTime] = {"none": forecasters[name]}
        informed |= {key: in_time[each] for key, each in WITH_INPUTS.items() if each in in_time}
        known = _of_known(informed, closed.inputs.stacks, windows, limit, config.seed)
    leak = leak_of(backbone.sessions, session)
    seconds = time.perf_counter() - began
    return Comparison(
        backbone,
        prepared,
        mode,
        trained,
        name,
        others,
        closed.stack,
        closed.inputs,
        known,
        calibration,
        uncertainty,
        forecasters,
        validation,
        test,
        leak,
        seconds,
    )


def _of_known(
    forecasters: Mapping[str, Forecaster | ForecasterInTime],
    stacks: InputStacks,
    windows: SessionWindows,
    limit: int | None,
    seed: int,
) -> dict[str, Any]:
    """Scores of evoked and quiet windows apart, and how right the intervals are, by what is known."""
    apart = scores_apart(
        forecasters, windows, stacks.names, windows.starts("train"), windows_per_session=limit, seed=seed
    )
    uncertainty = {
        each: {
            **headline(
                [assess_known(forecasters[each], calibration, windows, windows_per_session=limit, seed=seed)]
            ),
            "calibrated_on": calibration.record["calibrated_on"],
        }
        for each, calibration in stacks.calibrations.items()
    }
    counts = {"num_evoked": apart["num_evoked"], "num_windows": apart["num_windows"]}
    return {**{which: apart[which] for which in APART}, **counts, "uncertainty": uncertainty}


def _curve(trained: Trained) -> list[dict[str, float | None]]:
    return [{"step": step, "score": _plain(score)} for step, score in trained.score_by_step]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
