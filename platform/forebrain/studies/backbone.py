"""A backbone to hand out: trained on public recordings, and scored on animals that it was not trained on.

    shards/                        the recordings of the catalogue, prepared
    without-<n>/run-<seed>/        pretraining without the animals of group n, which are then adapted to
    run/                           pretraining on every animal that may train: what is published
    scores/<session>-<seed>.json   an adaptation to a session of an animal that was left out
    study.json                     which sessions these are, and of what content
    result.json, report.md         scores by session, means over animals with intervals

Every file is a step that is not done again, so the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console

from forebrain.adaptation.adapting import (
    VALIDATION_ROWS,
    VALIDATION_WINDOWS,
    default_mode,
    windows_to_score,
)
from forebrain.adaptation.backbone import Backbone
from forebrain.adaptation.comparison import RIVALS, TEST_ROWS, compare
from forebrain.adaptation.description import Description
from forebrain.adaptation.fit import FitConfig
from forebrain.adaptation.publish import PublishConfig, publish_run, require_publishable, say_published
from forebrain.adaptation.recording import prepare_session
from forebrain.adaptation.stacking import linear_on
from forebrain.alone import alone_in
from forebrain.config import one_of
from forebrain.errors import AdaptationError, ConfigError, RecordingError
from forebrain.evaluation.tables import Table
from forebrain.models.base import ModelConfig
from forebrain.models.poco import PocoConfig
from forebrain.models.registry import MODELS
from forebrain.runs.pretrain import check_possible, pretrain
from forebrain.scoring.baselines import CopyBaseline
from forebrain.scoring.evaluate import WINDOWS_PER_SESSION, evaluate
from forebrain.scoring.intervals import LEVEL, percentile_interval, rng_for, session_resamples
from forebrain.scoring.protocols import PARTS, Part
from forebrain.sealed import plain_json, require_numbers
from forebrain.sessions import catalogue
from forebrain.sessions.seen import Named, leak_of
from forebrain.sessions.session import Session, fits, session_key
from forebrain.shards.holdout import HoldoutConfig
from forebrain.shards.index import SessionEntry
from forebrain.shards.options import PrepareConfig
from forebrain.shards.prepare import map_here, prepare
from forebrain.shards.stream import MixtureConfig
from forebrain.studies.kept import claim, opened, read_step, require_unchanged, write_step
from forebrain.studies.remarks import Remarks
from forebrain.training.config import EvaluationConfig, PretrainConfig, TrainingConfig
from forebrain.training.run_folder import RunFolder
from forebrain_registry import Metric
from forebrain_registry.storage import Folder

# What is scored on an animal left out, in the order of tables; `score` is the adapted backbone's.
SCORED = ("score", *RIVALS)
SPLIT = "animals left out"
# In the study's folder, of the run that is published.
RUN = "run"


@dataclass(frozen=True)
class BackboneConfig:
    """A backbone, the recordings that it is made from, and the animals that it is tried on.

    Attributes:
        name: of the model in the registry.
        recordings: names in the catalogue.
        out: folder for data, runs and results.
        left_out: groups of animals, dataset/subject, in which * stands for anything. Each group in turn is
            left out of a run and then adapted to.
        unseen: animals that no run trains on; what is published is adapted to them.
        sessions_each: so many sessions of an animal are adapted to, the first by name. None: all.
        seeds: times that the groups are left out, with other seeds.
        registry: where it is published. None: nowhere.
        licence: of the weights, as SPDX writes it.
        summary: a sentence for lists and the card, before that on the scores.
        model: the backbone.
        training: its optimisation.
        mixture: how data sets are mixed.
        fit: the optimisation of the adaptations.
    """

    name: str
    recordings: list[str]
    out: str
    left_out: list[list[str]] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    sessions_each: int | None = None
    seeds: int = 1
    registry: str | None = None
    licence: str = PublishConfig.licence
    summary: str = ""
    model: ModelConfig = field(default_factory=PocoConfig, metadata=one_of(MODELS))
    training: TrainingConfig = field(default_factory=TrainingConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        for name in ("seeds", "sessions_each"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more.")


@alone_in("out")
def study(config: BackboneConfig, console: Console) -> dict[str, Any]:
    """Does what is not done yet, sums up, and publishes where that is asked.

    Returns:
        What result.json holds.

    Raises:
        ForebrainError: a recording cannot be had or has changed since the study began, an animal is unknown,
            nothing can be published there, or the folder holds results of other settings.
    """
    if config.registry is not None:
        require_publishable(config.name, config.registry)
    out, remarks = Folder(config.out), Remarks(console)
    recordings = [str(catalogue.get(name)) for name in config.recordings]
    read, contents = opened(recordings)
    claim(out, contents, "backbone")
    entries = prepared(recordings, out, remarks)
    sessions = {session.id: session for session, _ in read}
    unchanged = {session.id: (path, contents[session.id]) for session, path in read}
    folds = [
        _fold(config, f"without-{number + 1}/run-{seed}", seed, group, sessions)
        for seed in range(config.seeds)
        for number, group in enumerate(config.left_out)
    ]
    folds.append(_fold(config, RUN, 0, None, sessions))
    _require_apart(folds)
    for fold in folds:
        _find_steps(config, fold, check_possible(fold.run), entries, remarks)
    remarks.note_doubts([([], entries)])  # of names alone; leaks are errors
    if any(fold.sessions for fold in folds) and not any(fold.steps for fold in folds):
        raise ConfigError(f"no session could be scored; nothing was trained.{remarks.first()}")
    rows: list[dict[str, Any]] = []
    for fold in folds:
        if fold.steps or fold is folds[-1]:
            run = pretrained(fold.run, console, remarks)
            rows += _scored(config, fold, run, unchanged, remarks, console)
    if rows and all(row["left_out_because"] is not None for row in rows):
        raise ConfigError(f"no session could be scored.{remarks.first()}")
    metrics = list(metrics_of(rows))
    table = as_table(metrics)
    result = {"name": config.name, "rows": rows, "metrics": [vars(metric) for metric in metrics]}
    result |= remarks.values()
    out.write("result.json", plain_json(result))
    report = [table.to_markdown(), _by_session(rows).to_markdown(), *remarks.lines()]
    out.write("report.md", "\n".join(report).encode())
    console.print(table.to_rich())
    if config.registry is not None:
        summary = " ".join(filter(None, (config.summary, _sentence(metrics))))
        asked = PublishConfig(run, config.name, config.registry, config.licence, summary=summary)
        say_published(*publish_run(asked, metrics), console)
    return result


@dataclass
class _Fold:
    """A run, the sessions of animals that it has not seen, and what is known of their scores.

    Attributes:
        run: what is trained.
        fit: the optimisation of the adaptations to them.
        sessions: to adapt to.
        steps: of those that can be scored, each session with its row, None where it is not scored yet.
    """

    run: PretrainConfig
    fit: FitConfig
    sessions: list[Session]
    steps: list[tuple[Session, dict[str, Any] | None]] = field(default_factory=list)


def _fold(
    config: BackboneConfig,
    place: str,
    seed: int,
    group: Sequence[str] | None,
    sessions: Mapping[str, Session],
) -> _Fold:
    """The run that trains on neither a group of animals nor on those that none trains on; those of the group
    are adapted to or, for None, those that none trains on."""
    evaluation = EvaluationConfig(windows_per_session=128, exact=True, brief=place != RUN)
    run = config_without(
        Folder(config.out), place, [*(group or ()), *config.unseen], seed=seed, model=config.model,
        training=config.training, mixture=config.mixture, evaluation=evaluation,
    )  # fmt: skip
    chosen = list(_chosen(config, config.unseen if group is None else group, sessions))
    return _Fold(run, replace(config.fit, seed=seed), chosen)


def _require_apart(folds: Sequence[_Fold]) -> None:
    """Raises ConfigError if a session would be scored twice with one seed, by two backbones."""
    places: dict[str, str] = {}
    for fold in folds:
        for session in fold.sessions:
            before = places.setdefault(_step_of(session, fold), fold.run.out)
            if before != fold.run.out:
                raise ConfigError(
                    f"{session.id} is left out of both {before} and {fold.run.out}; name its animal in one "
                    "group of left_out, or in unseen."
                )


def config_without(
    out: Folder,
    place: str,
    animals: Sequence[str],
    *,
    seed: int,
    model: ModelConfig,
    training: TrainingConfig,
    mixture: MixtureConfig,
    evaluation: EvaluationConfig,
) -> PretrainConfig:
    """The config of a run on all animals of `out`/shards but some.

    Args:
        out: folder of a study.
        place: of the run in it.
        animals: dataset/subject, in which * stands for anything.
        seed, model, training, mixture, evaluation: of the run.
    """
    return PretrainConfig(
        data=out.uri_of("shards"), out=out.uri_of(place), workers=0, seed=seed, model=model,
        training=training, mixture=mixture, evaluation=evaluation,
        holdout=HoldoutConfig(subjects=list(animals) or None),
    )  # fmt: skip


def pretrained(run: PretrainConfig, console: Console, remarks: Remarks) -> str:
    """The address of a study's run: trained, or gone on with, or found finished."""
    address = pretrain(run, console)
    remarks.run(RunFolder(address).read_result() or {})
    return address


def prepared(recordings: Sequence[str], out: Folder, remarks: Remarks) -> tuple[SessionEntry, ...]:
    """Prepares the recordings of a study in `out`/shards, and remarks which cannot be used, and which hold
    the same numbers.

    Returns:
        The sessions that can.
    """
    found = prepare(
        recordings, out.uri_of("shards"), PrepareConfig(), run_each=map_here, holding="these alone"
    )
    for failure in found.failures:
        remarks.leave_out(failure)
    remarks.note_twins((entry.id, entry.numbers) for entry in found.sessions)
    return found.sessions


def unscorable(
    session: Session,
    model: ModelConfig,
    fit: FitConfig,
    rates_hz: Sequence[float] = (),
    to_rate: bool = False,
    *,
    minutes: float | None = None,
    has_rivals: bool = True,
) -> str | None:
    """Why no backbone of a model can be scored on a session, whatever it learns: known before it is trained.

    Args:
        session: as it was recorded.
        model: of the backbone, which studies train under the usual protocol.
        fit: the optimisation of the adaptation.
        rates_hz, to_rate, minutes: as of `prepare_session`.
        has_rivals: something is trained on it, whose best step is chosen by the validation part.

    Returns:
        None where nothing is known against it.
    """
    asked = PretrainConfig("", "", workers=0, model=model)
    options, loss = asked.prepare, asked.training.resolved(asked.protocol).loss
    description = Description(
        asked.resolved_model(), 1, loss, asked.protocol, options.event_rate_hz, options.resample_hz
    )
    try:
        found = prepare_session(session, description, rates_hz, to_rate, minutes=minutes)
        linear_on(found.windows, fit.seed)
    except (AdaptationError, RecordingError) as error:
        return str(error)
    limits: dict[Part, int] = {"test": windows_to_score(found, WINDOWS_PER_SESSION, TEST_ROWS)}
    if has_rivals and fit.steps and all(found.windows.num_windows(0, part) for part in PARTS):
        limits["validation"] = windows_to_score(found, VALIDATION_WINDOWS, VALIDATION_ROWS)
    for part, limit in limits.items():
        copy = {"copy": CopyBaseline(model.horizon)}
        scored = evaluate(copy, found.windows, part, windows_per_session=limit, seed=fit.seed)
        if not scored.summary("copy").num_sessions:
            return f"session {session.id}: nothing moves in its {part} part."
    return None


def animal_of(session: Named) -> str:
    """dataset/subject of a session."""
    return f"{session.dataset}/{session.subject}"


def _chosen(
    config: BackboneConfig, animals: Sequence[str], sessions: Mapping[str, Session]
) -> Iterator[Session]:
    """The sessions of some animals that are adapted to."""
    taken: dict[str, int] = {}
    for _, session in sorted(sessions.items()):
        animal = animal_of(session)
        if any(fits(animal, pattern) for pattern in animals):
            taken[animal] = taken.get(animal, 0) + 1
            if config.sessions_each is None or taken[animal] <= config.sessions_each:
                yield session


def _find_steps(
    config: BackboneConfig,
    fold: _Fold,
    trained_on: set[str],
    entries: Sequence[SessionEntry],
    remarks: Remarks,
) -> None:
    """Finds what of a fold is scored, and what can be.

    Args:
        trained_on: ids of the sessions that its run trains on, of `entries`.

    Raises:
        ConfigError: what is scored is of another fit, or the run trains on an animal that may be one of them.
    """
    place = Folder(config.out).child("scores")
    seen = [entry for entry in entries if entry.id in trained_on]
    rates_hz = sorted({each.rate_hz for each in seen if each.rate_hz is not None})
    for session in fold.sessions:
        if leak := leak_of(seen, session):
            raise ConfigError(f"{session.id}: {leak}; name its animal in left_out or unseen.")
        name = _step_of(session, fold)
        of = {"session": session.id, "species": session.species, "seed": fold.fit.seed}
        row = read_step(place, name, _require_row, of)
        if row is not None and row.get("fit", asdict(fold.fit)) != asdict(fold.fit):
            raise ConfigError(f"{place.uri_of(name)} is of another --fit; give another --out.")
        if row is None:
            why = unscorable(session, config.model, fold.fit, rates_hz, to_rate=True)
            if why is not None:
                remarks.leave_out(why)
                continue
        fold.steps.append((session, row))


def _step_of(session: Session, fold: _Fold) -> str:
    return f"{session_key(session.id)}-{fold.fit.seed}.json"


def _scored(
    config: BackboneConfig,
    fold: _Fold,
    run: str,
    unchanged: Mapping[str, tuple[str, str]],
    remarks: Remarks,
    console: Console,
) -> Iterator[dict[str, Any]]:
    """A row for each session: its backbone adapted, and all that the recording can do for itself."""
    place = Folder(config.out).child("scores")
    backbone: Backbone | None = None
    for session, row in fold.steps:
        name = _step_of(session, fold)
        backbone = backbone or Backbone.from_run(run)
        if row is None:
            row = _adapted(backbone, session, fold.fit)
            require_unchanged(*unchanged[session.id])
            row = write_step(place, name, row)
        if row.get("weights_sha256") != backbone.origin.weights_sha256:
            raise ConfigError(f"{place.uri_of(name)} is of another backbone; give another --out.")
        remarks.step(row)
        if row["left_out_because"] is not None:
            remarks.leave_out(row["left_out_because"])
        else:
            scores = ", ".join(f"{each} {row[each]:.3f}" for each in SCORED)
            console.print(f"{session.id}, seed {fold.fit.seed}: {scores}")
        yield row


def _require_row(row: Mapping[str, Any]) -> None:
    """Raises ValueError or LookupError where a row cannot be summed up."""
    if not isinstance(row["left_out_because"], str | None):
        raise ValueError(f"its left_out_because is {row['left_out_because']!r:.100}; expected text")
    if row["left_out_because"] is None:
        require_numbers(row, SCORED)
        require_numbers(row, ["noise_ceiling"], or_none=True)


def _adapted(backbone: Backbone, session: Session, fit: FitConfig) -> dict[str, Any]:
    """As `forebrain adapt --resample`: without an animal there may be no recording at its rate."""
    torch.set_num_threads(1)
    row: dict[str, Any] = {
        "session": session.id,
        "animal": animal_of(session),
        "species": session.species,
        "seed": fit.seed,
        "fit": asdict(fit),
        "weights_sha256": backbone.origin.weights_sha256,
        "left_out_because": None,
    }
    try:
        comparison = compare(backbone, session, default_mode(backbone.model, None), fit, to_rate=True)
    except (AdaptationError, RecordingError) as error:  # too short to be scored, most often
        return row | {"left_out_because": str(error)}
    result = comparison.result()
    row["rate_hz"] = comparison.prepared.session.rate_hz
    row |= {"score": result["score"], **{name: result["baselines"][name] for name in RIVALS}}
    return row | {name: result[name] for name in ("noise_ceiling", "others", "weights", "seconds")}


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Means over animals, each the mean of its sessions and seeds, and the lead over `self`: of all species
    together, where there are several, and of each."""
    scored = [row for row in rows if row["left_out_because"] is None]
    every = sorted({row["species"] for row in scored})
    for species in ([""] if len(every) > 1 else []) + every:
        of_animal: dict[str, list[list[float]]] = {}
        for row in scored:
            if species in ("", row["species"]):
                values = [float(row[name]) for name in SCORED]
                lead = row["score"] - row["self"]
                animal = row.get("animal") or row["session"].rpartition("/")[0]  # of an earlier version
                of_animal.setdefault(animal, []).append([*values, lead])
        means = np.array([np.mean(values, axis=0) for _, values in sorted(of_animal.items())])
        low, high = percentile_interval(session_resamples(means, rng_for(0, "backbone", species)))
        names = ("score", *(f"score of {name}" for name in RIVALS), "score less that of self")
        words = f"{LEVEL:.0%}, bootstrap over {len(means)} animals"
        for position, name in enumerate(names):
            value, bounds = float(means[:, position].mean()), (float(low[position]), float(high[position]))
            if len(means) > 2:
                yield Metric(name, value, *bounds, words, split=SPLIT, dataset=species)
            else:
                yield Metric(name, value, split=SPLIT, dataset=species)


def as_table(metrics: Sequence[Metric]) -> Table:
    """A row for each species and what was scored."""
    return Table(
        name="animals",
        title="test score on animals that it was not trained on",
        columns=("species", "metric", "value", "low", "high", "interval"),
        rows=tuple(
            (one.dataset or "all", one.name, one.value, one.low, one.high, one.interval) for one in metrics
        ),
    )


def _by_session(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        name="sessions",
        title="test score by session",
        columns=("session", "seed", *SCORED, "noise ceiling"),
        rows=tuple(
            (row["session"], row["seed"], *(row.get(name) for name in SCORED), row.get("noise_ceiling"))
            for row in rows
        ),
    )


def _sentence(metrics: Sequence[Metric]) -> str:
    """The scores in a sentence."""
    value = {(metric.dataset, metric.name): metric.value for metric in metrics}
    said = [
        f"{species or 'all'} {value[species, 'score']:.3f} "
        f"(linear {value[species, 'score of linear']:.3f}, ridge "
        f"{value[species, 'score of ridge']:.3f}, self {value[species, 'score of self']:.3f})"
        for species in sorted({metric.dataset for metric in metrics})
    ]
    return f"Test score on animals left out: {'; '.join(said)}." if said else ""
